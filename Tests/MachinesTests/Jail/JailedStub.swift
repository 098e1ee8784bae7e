// A program of the tests in a hypervisor's place, behind the same wall: how it is started, and what
// became of what it tried.

import CLinux
import Events
import Foundation
import Glibc
import Processes
import Testing

@testable import Machines

/// What an attempt came to.
enum AttemptEnd: Equatable {
    case could
    case refused
    /// The wall was not built, or the stub does not know the attempt: the test is wrong.
    case failed(String)
}

@LoopActor
final class JailedStub {
    nonisolated static let isPossible = geteuid() == 0 && compiler != nil
    private nonisolated static let compiler = findProgram("cc") ?? findProgram("clang")
    nonisolated static let reason: Comment =
        "needs root, and a C compiler for the program in the jail"

    let program: HypervisorProgram
    let jail: Jail
    let directory: String

    init() async throws {
        directory = NSTemporaryDirectory() + "mayfly-jail-\(hexText(randomBytes(6)))"
        try makeDirectory(directory, mode: 0o700)
        let source = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
            .deletingLastPathComponent().deletingLastPathComponent()
            .appendingPathComponent("JailStub/main.c").path
        // Not by the package: what it links starts with Swift's runtime, which wants /proc.
        let compiled = try await runTool([
            Self.compiler ?? "cc", "-static", "-O1", "-pthread", "-o", "\(directory)/stub", source,
        ])
        try #require(compiled.status == 0, "\(compiled.output)")
        program = HypervisorProgram(
            .qemu, try ProgramFile("\(directory)/stub", remedy: "cc made it"), version: "stub")
        var settings = HostSettings(stateDirectory: directory, runtimeDirectory: directory)
        settings.jailBinary = Self.program("mayfly-jail")
        let profile = HostProfile(
            hypervisor: .qemu, hypervisorVersion: "stub", processor: try Processor.current(),
            accelerator: .tcg, transport: .virtioSerial)
        let probe = HostProbe(hypervisor: program, profile: profile, fallbacks: [])
        jail = try await Jail(settings, probe, in: directory)
    }
    deinit { try? FileManager.default.removeItem(atPath: directory) }

    /// A program that was built beside the tests.
    nonisolated static func program(_ name: String) -> String? {
        let own = try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")
        return [own, Bundle.main.executablePath, TestImage.agent].compactMap(\.self)
            .map { ($0 as NSString).deletingLastPathComponent + "/\(name)" }
            .first { FileManager.default.isExecutableFile(atPath: $0) }
    }

    private func request(_ words: [String], kept: [CInt]) -> SpawnRequest {
        var request = SpawnRequest(arguments: ["stub"] + words)
        request.executable = program.descriptor
        request.kept = kept + [program.descriptor]
        (request.fileSizeLimit, request.addressSpaceLimit) = (1 << 20, 4 << 30)
        return request
    }

    /// Starts it; it lives as long as what is returned.
    func start(
        _ words: [String], without layers: Set<JailLayer> = [], kept: [CInt] = [],
        unasked: [CInt] = [], output: CInt = -1, errors: CInt = -1
    ) throws -> JailedChild {
        let cell = try jail.cell(without: layers)
        var jailed = cell.wrap(request(words, kept: kept), .qemu)
        jailed.kept += unasked
        jailed.standardOutput = output
        jailed.standardError = errors
        return JailedChild(child: try Child.spawn(jailed), cell: cell)
    }

    func attempt(
        _ words: [String], without layers: Set<JailLayer> = [], kept: [CInt] = [],
        unasked: [CInt] = []
    ) async throws -> AttemptEnd {
        let errors = try HypervisorLog("mayfly-messages")
        let jailed = try start(
            words, without: layers, kept: kept, unasked: unasked, errors: errors.writer.number)
        let cell = jailed.cell
        let end = await end(of: jailed.take())
        _ = cell.user  // until here nobody else has its user
        if case .failed(let words) = end {
            return .failed("\(words): \(errors.lastLines(3).joined(separator: " | "))")
        }
        return end
    }
    /// The same outside of any wall, as root.
    func attemptFree(_ words: [String]) async throws -> AttemptEnd {
        await end(of: try Child.spawn(request(words, kept: [])))
    }
    private func end(of child: consuming Child) async -> AttemptEnd {
        let isOver = await child.hasEnded(within: .seconds(20))
        let usage = await child.end()
        guard isOver else { return .failed("it did not end") }
        return switch usage.status {
        case 0: .could
        case 1, 128 + SIGSYS: .refused
        default: .failed(usage.ending)
        }
    }
}

/// It, and the place that is its alone.
struct JailedChild: ~Copyable {
    let child: Child
    let cell: JailCell
    consuming func take() -> Child { child }
}

/// A directory of a test, gone with it.
struct ScratchPlace: ~Copyable {
    let path = NSTemporaryDirectory() + "mayfly-test-\(hexText(randomBytes(6)))"
    init() throws { try makeDirectory(path) }
    deinit { try? FileManager.default.removeItem(atPath: path) }
}
