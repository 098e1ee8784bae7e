// Control groups of machines that the launcher starts.

import CLinux
import Events
import Foundation
import Glibc
import Launch
import Processes
import Testing

@testable import Machines

@Suite(
    "A control group of the launcher's", .enabled(if: StubLauncher.isPossible, StubLauncher.reason),
    .serialized)
@LoopActor
struct LauncherGroupTests {
    private nonisolated static let hasGroups: Bool = ControlGroups.own() != nil
    private nonisolated static let none: Comment = "no control groups of version 2 at all"

    private func value(_ file: String, _ directory: String) -> String? {
        kernelText("\(directory)/\(file)")?.trimmed
    }
    private func gone(_ path: String) async throws -> Bool {
        let deadline = ContinuousClock.now + .seconds(20)
        while FileManager.default.fileExists(atPath: path) {
            guard .now < deadline else { return false }
            try await Task.sleep(for: .milliseconds(10))
        }
        return true
    }

    @Test(.enabled(if: hasGroups, none))
    func `holds a machine under its user's number, and goes with it`() async throws {
        let launcher = try StubLauncher(try await JailedStub())
        let groups = try launcher.stub.jail.groups.get().directory
        let (conversation, pid, user) = try await launcher.machine()
        let path = try #require(ControlGroups.directory(of: pid))
        #expect(path == "\(groups)/\(user)")
        #expect(kernelText("\(path)/cgroup.procs") == "\(pid)\n")
        // The launcher itself, and what serves the connection, are not in it.
        #expect(ControlGroups.directory(of: launcher.pid) == ControlGroups.own()?.directory)
        conversation.close()
        #expect(await conversation.isMachineGone())
        #expect(try await gone(path))
    }

    @Test(.enabled(if: hasGroups, none))
    func `is removed when what served its machine was killed, and by the next launcher`()
        async throws
    {
        let stub = try await JailedStub()
        let launcher = try StubLauncher(stub)
        let (conversation, pid, _) = try await launcher.machine()
        let path = try #require(ControlGroups.directory(of: pid))
        let parent = kernelText("/proc/\(pid)/status")?.split(separator: "\n")
            .first { $0.hasPrefix("PPid:") }?.dropFirst(5).filter(\.isNumber)
        let service = try #require(parent.flatMap { pid_t($0) })
        try #require(service != launcher.pid)
        kill(service, SIGKILL)
        #expect(await conversation.isMachineGone())
        #expect(try await gone(path))
        let (other, next, _) = try await launcher.machine()
        let left = try #require(ControlGroups.directory(of: next))
        launcher.signal(SIGKILL)
        #expect(await other.isMachineGone())
        let successor = try StubLauncher(stub, firstUser: launcher.firstUser)
        #expect(try await gone(left))
        let (last, _, _) = try await successor.machine()
        last.close()
        #expect(await last.isMachineGone())
    }

    @Test(.enabled(if: JailedStub.hasControlGroups, JailedStub.noControlGroups))
    func `has the bounds that the worker asked for, and tells it of them`() async throws {
        let launcher = try StubLauncher(try await JailedStub())
        let conversation = try launcher.conversation()
        var request = try launcher.request()
        (request.memory, request.processorPercent) = (64 << 20, 150)
        try conversation.send(request.encoded())
        guard case .started(let number, _, let bounds)? = await conversation.reply() else {
            Issue.record("it did not start")
            return
        }
        #expect(bounds == [.memory, .processors, .threads])
        let path = try #require(ControlGroups.directory(of: pid_t(bitPattern: number)))
        #expect(value("memory.max", path) == "\(64 << 20)")
        #expect(["0", nil].contains(value("memory.swap.max", path)))
        #expect(value("memory.oom.group", path) == "1")
        #expect(value("cpu.max", path) == "150000 100000")
        #expect(value("pids.max", path) == "128")
        conversation.close()
        #expect(await conversation.isMachineGone())
    }

    @Test(.enabled(if: JailedStub.hasControlGroups, JailedStub.noControlGroups))
    func `ends a machine that wants more memory, says so, and ends no other`() async throws {
        let launcher = try StubLauncher(try await JailedStub())
        let (healthy, _, _) = try await launcher.machine()
        let greedy = try launcher.conversation()
        try greedy.send(try launcher.request(["touch_memory"]).encoded())
        _ = await greedy.reply()
        guard case .ended(let ending)? = await greedy.reply() else {
            Issue.record("it did not end")
            return
        }
        #expect(ending.wantedMoreMemory && ending.status == UInt32(128 + SIGKILL))
        let killed = try launcher.conversation()
        try killed.send(try launcher.request(["nothing"]).encoded())
        _ = await killed.reply()
        guard case .ended(let other)? = await killed.reply() else {
            Issue.record("the other did not end")
            return
        }
        #expect(!other.wantedMoreMemory)
        #expect(!(await isOver(healthy.processNumber)))
        healthy.close()
    }
    private func isOver(_ process: CInt) async -> Bool {
        var waited = pollfd(fd: process, events: Int16(POLLIN), revents: 0)
        return unsafe poll(&waited, 1, 0) != 0
    }
}
