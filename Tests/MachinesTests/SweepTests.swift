// What a killed host leaves is gone after a sweep, and nothing else is.

import Events
import Foundation
import Glibc
import Processes
import Testing

@testable import Machines

@Suite("A sweep")
struct SweepTests {
    /// Of users that nobody else's machines have: a sweep ends what others left, too.
    private func sweep(_ directory: String) -> SweepReport {
        sweepDeadHosts(runtimeDirectory: directory, users: 1_970_000_000)
    }

    @Test func `leaves a living host alone`() throws {
        let runtime = try TemporaryDirectory()
        let mark = try HostMark(runtimeDirectory: runtime.path)
        #expect(sweep(runtime.path) == SweepReport())
        #expect(FileManager.default.fileExists(atPath: mark.directory))
    }

    @Test func `removes a dead host's directory and kills what carries its mark`() async throws {
        let runtime = try TemporaryDirectory()
        // A host that is gone: its directory stands, nobody holds the lock.
        let name = "1-deadbeef"
        try makeDirectory("\(runtime.path)/hosts/\(name)")
        try writeFile("\(runtime.path)/hosts/\(name)/lock", [], mode: 0o600)
        let (orphan, bystander) = try await spawnSleepers(mark: name)
        let report = sweep(runtime.path)
        #expect(report == SweepReport(processes: 1, directories: 1))
        #expect(!FileManager.default.fileExists(atPath: "\(runtime.path)/hosts/\(name)"))
        #expect(kill(bystander, 0) == 0)
        let orphanState = try? String(contentsOfFile: "/proc/\(orphan)/stat", encoding: .utf8)
        #expect(orphanState.map { $0.contains(") Z ") } ?? true)
        await Sleepers.shared.end()
    }

    @Test(.enabled(if: geteuid() == 0, "needs root"))
    func `of root ends nothing that others than root have named`() async throws {
        let runtime = try TemporaryDirectory()
        let name = "1-deadbeef"
        try makeDirectory("\(runtime.path)/hosts/\(name)")
        try writeFile("\(runtime.path)/hosts/\(name)/lock", [], mode: 0o600)
        let group = try TemporaryDirectory()
        try writeFile("\(group.path)/cgroup.kill", [], mode: 0o600)
        try writeFile(
            "\(runtime.path)/hosts/\(name)/cgroup", Array(group.path.utf8), mode: 0o600)
        try #require(unsafe chown(runtime.path, 65_534, 65_534) == 0)
        let (orphan, _) = try await spawnSleepers(mark: name)
        #expect(sweep(runtime.path) == SweepReport())
        #expect(kill(orphan, 0) == 0)
        #expect { _ = try HostMark(runtimeDirectory: runtime.path) } throws: {
            "\($0)".contains("set runtime.directory to a directory of root's alone")
        }
        // A group that is not the host's own is left alone even there.
        try #require(unsafe chown(runtime.path, 0, 0) == 0)
        #expect(sweep(runtime.path) == SweepReport(processes: 1, directories: 1))
        #expect(FileManager.default.contents(atPath: "\(group.path)/cgroup.kill") == Data())
        await Sleepers.shared.end()
    }

    @Test func `leaves a host alone whose lock it cannot look at`() throws {
        let runtime = try TemporaryDirectory()
        // No process has this number: the kernel's largest is below it.
        let hosts = ["4194305-locked", "4194305-died"].map { "\(runtime.path)/hosts/\($0)" }
        for directory in hosts { try makeDirectory(directory) }
        #expect(unsafe symlink("lock", "\(hosts[0])/lock") == 0)
        #expect(sweep(runtime.path) == SweepReport(directories: 1))
        #expect(hosts.map { FileManager.default.fileExists(atPath: $0) } == [true, false])
    }

    @Test func `finds nothing when there is nothing`() throws {
        let runtime = try TemporaryDirectory()
        #expect(sweep(runtime.path + "/none") == SweepReport())
    }

    @LoopActor
    private func spawnSleepers(mark: String) throws -> (pid_t, pid_t) {
        var request = SpawnRequest(arguments: ["/bin/sleep", "600"])
        request.environment = ["\(HostMark.variable)=\(mark)"]
        let orphan = try Child.spawn(request)
        request.environment = ["\(HostMark.variable)=\(mark)x"]
        let bystander = try Child.spawn(request)
        let pids = (orphan.pid, bystander.pid)
        Sleepers.shared.keep(orphan)
        Sleepers.shared.keep(bystander)
        return pids
    }
}

/// Holds children for the length of a test.
@LoopActor
final class Sleepers {
    static let shared = Sleepers()
    private final class Box {
        var child: Child?
        init(_ child: consuming Child) { self.child = consume child }
    }
    private var boxes: [Box] = []
    func keep(_ child: consuming Child) { boxes.append(Box(child)) }
    func end() async {
        let ending = boxes
        boxes = []
        for box in ending {
            if let child = box.child.take() { _ = await child.end() }
        }
    }
}
