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
    nonisolated static let isPossible = geteuid() == 0 && (made ?? compiler) != nil
    /// Whether groups of version 2 have what bounds a machine.
    nonisolated static let hasControlGroups = {
        let directory = ControlGroups.own()?.directory ?? ""
        let names = kernelText("\(directory)/cgroup.controllers") ?? ""
        return ControlGroups.needed.isSubset(
            of: Set(
                names.split { $0 == " " || $0 == "\n" }
                    .map(String.init)))
    }()
    nonisolated static let noControlGroups: Comment =
        "no control groups of version 2 here; scripts/lab test runs it"
    /// Where it was compiled elsewhere, as for the lab.
    private nonisolated static let made = findProgram("jail-stub")
    private nonisolated static let compiler = findProgram("cc") ?? findProgram("clang")
    nonisolated static let reason: Comment =
        "needs root, and a C compiler for the program in the jail"

    /// Far more than it needs, and less than some attempts want.
    static let limits = MachineLimits(memory: .mebibytes(96), processorPercent: 100)
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
        let compile = [Self.compiler ?? "cc", "-static", "-O1", "-pthread", source, "-o"]
        let compiled = try await runTool(
            (Self.made.map { ["cp", $0] } ?? compile) + ["\(directory)/stub"])
        try #require(compiled.status == 0, "\(compiled.output)")
        program = HypervisorProgram(
            .qemu, try ProgramFile("\(directory)/stub", remedy: "cc made it"), version: "stub")
        var settings = HostSettings(stateDirectory: directory, runtimeDirectory: directory)
        settings.jailBinary = Self.program("mayfly-jail")
        let profile = HostProfile(
            hypervisor: .qemu, hypervisorVersion: "stub", processor: try Processor.current(),
            accelerator: .tcg, transport: .virtioSerial)
        let probe = HostProbe(hypervisor: program, profile: profile, fallbacks: [])
        jail = try Jail(settings, probe, in: directory)
        try await jail.makeRoot(of: program)
    }
    deinit { try? FileManager.default.removeItem(atPath: directory) }

    /// A program that was built beside the tests.
    nonisolated static func program(_ name: String) -> String? {
        let own = try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")
        return [own, Bundle.main.executablePath, TestImage.agent].compactMap(\.self)
            .map { ($0 as NSString).deletingLastPathComponent + "/\(name)" }
            .first { FileManager.default.isExecutableFile(atPath: $0) }
    }

    func request(_ words: [String], kept: [CInt]) -> SpawnRequest {
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
        let cell = try jail.cell(Self.limits, without: layers)
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
        // The last: by the kernel, at the limit of its control group.
        case 1, 128 + SIGSYS, 128 + SIGKILL: .refused
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
    let path: String
    init(in directory: String = NSTemporaryDirectory()) throws {
        let name = "mayfly-test-\(hexText(randomBytes(6)))"
        path = (directory as NSString).appendingPathComponent(name)
        try makeDirectory(path)
    }
    deinit { try? FileManager.default.removeItem(atPath: path) }
}
