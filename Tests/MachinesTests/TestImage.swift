// The golden image that the tests with real machines restore: the one that scripts/test built. They
// run unchanged wherever it was built: emulation and virtio-serial, or KVM and vsock.

import Events
import Foundation
import Glibc
import Testing

@testable import Machines

/// Everything that restores real machines, one test after the other: some of them count processes.
@Suite("With real machines", .enabled(if: TestImage.isThere, TestImage.reason), .serialized)
struct RealMachineTests {}

enum TestImage {
    static let name = ProcessInfo.processInfo.environment["MAYFLY_TEST_IMAGE"] ?? "code"
    static let stateDirectory =
        ProcessInfo.processInfo.environment["MAYFLY_STATE_DIRECTORY"]
        ?? (geteuid() == 0
            ? "/var/lib/mayfly"
            : NSHomeDirectory() + "/.local/state/mayfly")

    /// Whose image: what the environment says, or what a worker would take here.
    static let hypervisor =
        ProcessInfo.processInfo.environment["MAYFLY_TEST_HYPERVISOR"]
        .flatMap(HypervisorName.init) ?? .qemu
    private static func current(of name: String) -> String {
        ImageStore(stateDirectory: stateDirectory).currentLink(of: name, for: hypervisor)
    }
    static func isThere(_ name: String) -> Bool {
        FileManager.default.fileExists(atPath: "\(current(of: name))/manifest.json")
    }

    static let isThere = isThere(name)
    static let reason: Comment = "no golden image here; scripts/test builds it"

    /// What the image was built for; the tests that need more than this host has are skipped by it.
    private static let manifest = FileManager.default
        .contents(atPath: "\(current(of: name))/manifest.json")
        .flatMap { try? JSONDecoder().decode(Manifest.self, from: $0) }
    static let isUnderKVM = manifest?.hardware.accelerator == .kvm
    static let noKVM: Comment = "no KVM here; scripts/lab test runs it"
    /// Of the kind that anybody on the host can connect to.
    static let isOverVsock = manifest?.hardware.transport == .vsock && hypervisor == .qemu
    static let hasVsock = unsafe access(VsockContext.device, R_OK | W_OK) == 0
    static let noVsock: Comment =
        hypervisor == .firecracker
        ? "nobody but its worker can connect to a machine of Firecracker's"
        : "no \(VsockContext.device) here; scripts/lab test runs it"
    /// The guest agent beside the program that scripts/test and scripts/lab name.
    static let agent = ProcessInfo.processInfo.environment["MAYFLY_TEST_PROGRAM"].map {
        ($0 as NSString).deletingLastPathComponent + "/mayfly-agent"
    }

    static var settings: HostSettings {
        var settings = HostSettings(
            stateDirectory: stateDirectory,
            runtimeDirectory: NSTemporaryDirectory() + "mayfly-run-\(getpid())")
        settings.standbys = 1
        settings.hypervisor = hypervisor
        // As the worker does; where it cannot be built, these tests shall not pass without it.
        settings.jail = geteuid() == 0 ? .on : nil
        settings.jailBinary = agent.map {
            ($0 as NSString).deletingLastPathComponent + "/mayfly-jail"
        }
        return settings
    }

    /// Verified and loaded once for all tests of this process.
    @LoopActor
    static func host() async throws -> MachineHost {
        if let started { return try await started.value }
        let task = Task { @LoopActor () async throws -> MachineHost in
            let host = try await MachineHost.start(settings)
            // It lives as long as this process: nobody closes it.
            atexit {
                if let own = ControlGroups.own()?.directory {
                    for name in children(of: own) where name.hasPrefix("mayfly-\(getpid())-") {
                        _ = removeControlGroup("\(own)/\(name)")
                    }
                }
                try? FileManager.default.removeItem(
                    atPath: TestImage.settings.runtimeDirectory)
            }
            try await host.prepare(images: [name])
            return host
        }
        started = task
        return try await task.value
    }
    @LoopActor private static var started: Task<MachineHost, any Error>?

    /// Whether the image parks this interpreter.
    @LoopActor
    static func parks(_ interpreter: String) async throws -> Bool {
        try await host().image(name, generation: nil).manifest.definition.interpreters
            .contains(interpreter)
    }

    /// Runs one job and fails the test when our side of it went wrong.
    @LoopActor
    static func run(
        _ program: GuestJob.Program, timeout: Duration = .seconds(60),
        _ change: @Sendable (inout GuestJob) -> Void = { _ in }
    ) async throws -> MachineRun {
        var job = GuestJob(program: program, timeout: timeout)
        change(&job)
        return try await host().run(job, image: name)
    }
    static func text(_ output: CapturedOutput) -> String {
        String(decoding: output.bytes, as: UTF8.self)
    }
}

/// Processes that carry a host's mark: its standbys and machines.
@LoopActor
func hypervisors(of host: MachineHost) -> Set<Int32> {
    let mark = Array(host.mark.environment.utf8)
    return Set(
        children(of: "/proc").compactMap(Int32.init).filter { pid in
            let environment = FileManager.default.contents(atPath: "/proc/\(pid)/environ")
            return environment?.split(separator: 0).contains { Array($0) == mark } == true
        })
}

/// Children of this process that are hypervisors now.
func hypervisors() -> Set<Int32> {
    var found: Set<Int32> = []
    for entry in children(of: "/proc") {
        guard let pid = Int32(entry),
            let status = try? String(contentsOfFile: "/proc/\(pid)/stat", encoding: .utf8),
            status.contains("(qemu-system") || status.contains("(firecracker"),
            !status.contains(") Z "),
            status.split(separator: " ").dropFirst(3).first == Substring("\(getpid())")
        else { continue }
        found.insert(pid)
    }
    return found
}
