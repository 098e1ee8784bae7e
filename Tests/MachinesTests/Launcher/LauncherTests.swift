// The launcher as a worker that was taken over would treat it, and its machines when anything dies.

import CLinux
import Events
import Foundation
import Glibc
import Launch
import Processes
import Testing

@testable import Machines

@Suite("The launcher", .enabled(if: StubLauncher.isPossible, StubLauncher.reason), .serialized)
@LoopActor
struct LauncherTests {
    private func parent(of pid: pid_t) -> pid_t? {
        kernelText("/proc/\(pid)/status")?.split(separator: "\n")
            .first { $0.hasPrefix("PPid:") }
            .flatMap { pid_t($0.dropFirst(5).filter(\.isNumber)) }
    }
    private func refusal(_ reply: LaunchReply?) -> String {
        if case .refused(let refusal)? = reply { return refusal.description }
        return "not refused: \(String(describing: reply))"
    }
    private func processes(of launcher: StubLauncher) -> [String] {
        children(of: "/proc").filter { entry in
            guard let pid = pid_t(entry) else { return false }
            // One that is dead and not yet collected has nothing left.
            guard kernelText("/proc/\(pid)/stat")?.contains(") Z ") == false else { return false }
            return WorkerPrivileges(of: "\(pid)").map {
                $0.user >= launcher.firstUser && $0.user < launcher.firstUser + 4096
            } ?? false
        }
    }

    /// Until no more than that is left of its machines, for a while.
    private func settle(_ launcher: StubLauncher, at count: Int = 0) async throws {
        let deadline = ContinuousClock.now + .seconds(20)
        while processes(of: launcher).count > count, .now < deadline {
            try await Task.sleep(for: .milliseconds(20))
        }
    }

    @Test func `makes a machine behind every layer, and ends it with the connection`() async throws
    {
        let launcher = try StubLauncher(try await JailedStub())
        let pair = try SocketPair()
        let conversation = try launcher.conversation()
        var request = try launcher.request()
        request.standard = [false, true, false]
        try conversation.send(request.encoded(), [pair.theirs.number])
        guard case .started(let number, let user, _)? = await conversation.reply() else {
            Issue.record("it did not start")
            return
        }
        let pid = pid_t(bitPattern: number)
        // The stub says that it is there: the jail is complete by then.
        let end = await EventLoop.shared.ready(
            [(pair.ours.number, .read)], before: .now + .seconds(20), ignoringCancellation: true)
        try #require(end != .timedOut)
        let look = JailLook(
            at: pid, user: user, .failure(MachineError(.hostUnfit, "the launcher makes none")))
        let off = look.findings.filter { $0.state == .off }.map(\.name)
        #expect(off.filter { !["hardening.cgroup", "hardening.landlock"].contains($0) } == [])
        #expect((launcher.firstUser..<(launcher.firstUser + 4096)).contains(user))
        // Nothing of anybody's environment, and no descriptor that was not sent.
        let environment = kernelText("/proc/\(pid)/environ") ?? ""
        #expect(environment == "MALLOC_ARENA_MAX=1\0")
        #expect(children(of: "/proc/\(pid)/fd") == ["0", "1", "2"])
        conversation.close()
        #expect(await conversation.isMachineGone())
    }

    /// A connection ends when nobody has its other end: here the machine does.
    @Test func `ends a machine with the process that asked for it, whoever has the connection`()
        async throws
    {
        let launcher = try StubLauncher(try await JailedStub())
        var request = try launcher.request()
        request.kept = [3]
        let script = """
            import socket, sys, time
            asker = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            asker.connect(sys.argv[1])
            socket.send_fds(asker, [bytes.fromhex(sys.argv[2])], [asker.fileno()])
            time.sleep(600)
            """
        let asker = try Child.spawn(
            SpawnRequest(arguments: [
                "/usr/bin/python3", "-c", script, launcher.socket, hexText(request.encoded()),
            ]))
        let deadline = ContinuousClock.now + .seconds(20)
        while processes(of: launcher).isEmpty, .now < deadline {
            try await Task.sleep(for: .milliseconds(20))
        }
        #expect(processes(of: launcher) != [])
        _ = await asker.end()
        try await settle(launcher)
        #expect(processes(of: launcher) == [])
    }

    @Test func `gives a machine its descriptors at the numbers that were asked for`() async throws {
        let launcher = try StubLauncher(try await JailedStub())
        for number in [UInt32(3), 17, 2000] {
            let memory = try Descriptor.memory("mayfly-test")
            let conversation = try launcher.conversation()
            var request = try launcher.request(["use_descriptor", "\(number)"])
            request.kept = [number]
            try conversation.send(request.encoded(), [memory.number])
            _ = await conversation.reply()
            guard case .ended(let ending)? = await conversation.reply() else {
                Issue.record("it did not end")
                return
            }
            #expect(ending.status == 0, "descriptor \(number)")
        }
    }

    @Test func `takes its machines with it when it is killed, and frees their users`() async throws
    {
        let stub = try await JailedStub()
        let launcher = try StubLauncher(stub)
        let (one, _, user) = try await launcher.machine()
        let (other, _, _) = try await launcher.machine()
        launcher.signal(SIGKILL)
        #expect(await one.isMachineGone())
        #expect(await other.isMachineGone())
        #expect(await one.reply() == nil)
        // Its successor begins with nothing left, and may use the same users.
        let next = try StubLauncher(stub, firstUser: launcher.firstUser, ["users": 1])
        let (again, _, same) = try await next.machine()
        #expect(same == launcher.firstUser && user != uid_t.max)
        again.close()
        #expect(await again.isMachineGone())
    }

    @Test func `ends a machine whose process of its own was killed, and leaves nobody of its user`()
        async throws
    {
        let launcher = try StubLauncher(try await JailedStub())
        let (conversation, pid, _) = try await launcher.machine()
        let service = try #require(parent(of: pid))
        #expect(service != launcher.pid && parent(of: service) == launcher.pid)
        kill(service, SIGKILL)
        #expect(await conversation.isMachineGone())
        try await settle(launcher)
        #expect(processes(of: launcher) == [])
        let (next, _, _) = try await launcher.machine()
        next.close()
        #expect(await next.isMachineGone())
    }

    @Test func `gives no two machines one user, of two launchers beside each other either`()
        async throws
    {
        let stub = try await JailedStub()
        let one = try StubLauncher(stub, ["users": 6])
        let other = try StubLauncher(stub, firstUser: one.firstUser, ["users": 6])
        var open: [LauncherConversation] = []
        var users: Set<uid_t> = []
        for launcher in [one, other, one, other, one, other] {
            let (conversation, _, user) = try await launcher.machine()
            open.append(conversation)
            users.insert(user)
        }
        #expect(users.count == 6)
        let late = try one.conversation()
        try late.send(try one.request().encoded())
        #expect(refusal(await late.reply()).contains("are taken"))
        for conversation in open { conversation.close() }
    }

    @Test func `refuses what is beyond its bounds, in words`() async throws {
        let launcher = try StubLauncher(try await JailedStub())
        let good = try launcher.request()
        var cases: [(LaunchRequest, String)] = []
        func add(_ words: String, _ change: (inout LaunchRequest) -> Void) {
            var request = good
            change(&request)
            cases.append((request, words))
        }
        add("ceiling") { $0.addressSpace = 5 << 30 }
        add("ceiling") { $0.addressSpace = .max }
        add("ceiling") { $0.fileSize = 2 << 20 }
        add("ceiling") { $0.memory = 129 << 20 }
        add("ceiling") { $0.processorPercent = 201 }
        add("no memory or no processor") { $0.memory = 0 }
        add("no memory or no processor") { $0.processorPercent = 0 }
        add("another hypervisor") { $0.program.inode += 1 }
        add("another hypervisor") { $0.program.changedNanoseconds += 1 }
        add("0 descriptors came, not 1") { $0.kept = [5] }
        add("no number for a descriptor") { $0.kept = [2] }
        add("or is there twice") { $0.kept = [9, 9] }
        add("no arguments") { $0.arguments = [] }
        add("zero byte") { $0.arguments = [[0x61, 0, 0x62]] }
        for (request, words) in cases {
            let conversation = try launcher.conversation()
            try conversation.send(request.encoded())
            let found = refusal(await conversation.reply())
            #expect(found.contains(words), "\(found)")
        }
        for (bytes, words) in [
            ([UInt8]("hello".utf8), "none of this version"),
            (Array(good.encoded().dropLast()), "is cut"),
            (good.encoded() + [0], "after its end"),
        ] {
            let conversation = try launcher.conversation()
            try conversation.send(bytes)
            let found = refusal(await conversation.reply())
            #expect(!found.hasPrefix("not refused") && found.contains(words), "\(found)")
        }
        // Descriptors that nobody asked for.
        let conversation = try launcher.conversation()
        try conversation.send(good.encoded(), [0])
        #expect(refusal(await conversation.reply()).contains("1 descriptors came, not 0"))
        #expect(processes(of: launcher) == [])
    }

    @Test func `ends a machine at a second request, and one whose worker hung up before it began`()
        async throws
    {
        let launcher = try StubLauncher(try await JailedStub())
        let (twice, _, _) = try await launcher.machine()
        try twice.send(try launcher.request().encoded())
        #expect(await twice.isMachineGone())
        for _ in 0..<50 {
            let early = try launcher.conversation()
            try early.send(try launcher.request().encoded())
            early.close()
        }
        // Its turn comes after all of theirs, which may not have begun when this asks.
        let (conversation, _, _) = try await launcher.machine()
        try await settle(launcher, at: 1)
        #expect(processes(of: launcher).count == 1)
        conversation.close()
        try await settle(launcher)
        #expect(processes(of: launcher).isEmpty)
    }

    @Test func `serves others while some say nothing, and no more at once than it was told`()
        async throws
    {
        let launcher = try StubLauncher(try await JailedStub(), ["machines": 9])
        var silent: [LauncherConversation] = []
        for _ in 0..<8 { silent.append(try launcher.conversation()) }
        let (conversation, _, _) = try await launcher.machine()
        let late = try launcher.conversation()
        // It is refused before it has asked for anything.
        #expect(refusal(await late.reply()).contains("all 9 machines"))
        // Who says nothing loses its place.
        #expect(refusal(await silent[0].reply()).contains("no request came"))
        // The process that told it has yet to end.
        let deadline = ContinuousClock.now + .seconds(20)
        var found: LauncherConversation?
        while found == nil, .now < deadline { found = try? await launcher.machine().0 }
        let after = try #require(found)
        conversation.close()
        after.close()
    }

    @Test(
        .enabled(
            if: FileManager.default.isExecutableFile(atPath: "/usr/bin/python3"), "needs python3"))
    func `serves nobody but its worker, whatever the socket's mode says`() async throws {
        let launcher = try StubLauncher(try await JailedStub(), worker: 65_534)
        let script = """
            import socket, sys
            s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            s.connect(sys.argv[1])
            print(s.recv(1024))
            """
        // Not one that is another user's alone.
        let python = "/usr/bin/python3"
        func ask() async throws -> String {
            let said = try await runTool([
                "setpriv", "--reuid=12345", "--regid=12345", "--clear-groups", python, "-c",
                script, launcher.socket,
            ])
            return said.output
        }
        // The way there is closed as well; open it, so that its mode is what refuses.
        try #require(unsafe chmod(launcher.stub.directory, 0o755) == 0)
        #expect(try await ask().contains("PermissionError"))
        try #require(unsafe chmod(launcher.socket, 0o666) == 0)
        #expect(try await ask().contains("user 12345 is not the worker of this launcher"))
    }

    @Test func `does not start with users that may be somebody, or with what others can write`()
        async throws
    {
        let stub = try await JailedStub()
        for (words, sentence) in [
            (["first-user": UInt64(0)], "first-user=0 is out of bounds"),
            (["first-user": 1000], "first-user=1000 is out of bounds"),
            (["first-user": UInt64(UInt32.max)], "is out of bounds"),
            (["users": 1 << 20], "users=1048576 is out of bounds"),
            (["program": 2], "program=2 is out of bounds"), (["other": 1], "other=1 is not one of"),
        ] {
            let (status, said) = try await StubLauncher(stub, words).ending()
            #expect(status == 125 && said.contains(sentence), "\(said)")
        }
        let path = "\(stub.directory)/other"
        try writeFile(path, Array("program".utf8), mode: 0o777)
        let writable = try Descriptor.open(path, O_RDONLY)
        let (status, said) = try await StubLauncher(stub, program: writable.number).ending()
        #expect(status == 125 && said.contains("can be written by others than root"), "\(said)")
    }

    @Test func `makes no machine of a program that became writable for others`() async throws {
        let stub = try await JailedStub()
        let launcher = try StubLauncher(stub)
        let (conversation, _, _) = try await launcher.machine()
        conversation.close()
        try #require(fchmod(stub.program.descriptor, 0o777) == 0)
        let late = try launcher.conversation()
        try late.send(try launcher.request().encoded())
        #expect(refusal(await late.reply()).contains("can be written by others than root"))
    }
}
