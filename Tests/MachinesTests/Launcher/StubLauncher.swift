// A real launcher with a program of the tests in the hypervisor's place, and a worker's side of the
// conversation, byte by byte.

import CLinux
import Events
import Foundation
import Glibc
import Launch
import Processes
import Testing

@testable import Machines

@LoopActor
final class StubLauncher {
    let stub: JailedStub
    let socket: String
    let firstUser: uid_t
    private var child: Child?
    private let messages: HypervisorLog
    var pid: pid_t

    nonisolated static let isPossible =
        JailedStub.isPossible && JailedStub.program("mayfly-launcher") != nil
    nonisolated static let reason: Comment =
        "needs root, a C compiler, and mayfly-launcher beside the tests"

    /// - Parameters:
    ///   - words: instead of what it is started with otherwise.
    ///   - program: instead of the stub.
    init(
        _ stub: JailedStub, worker: uid_t = 0, firstUser: uid_t? = nil,
        _ words: [String: UInt64] = [:], program: CInt? = nil
    ) throws {
        self.stub = stub
        // A range of this test's own: no sweep of a worker is in the way.
        let first = firstUser ?? 1_950_000_000 + uid_t.random(in: 0..<10_000) * 4096
        self.firstUser = first
        socket = "\(stub.directory)/\(hexText(randomBytes(4))).sock"
        let listener = unsafe mayfly_messages_listen(socket, worker)
        try #require(listener >= 0)
        let listening = Descriptor(listener)
        let directory = try Descriptor.open(stub.directory, O_RDONLY | O_DIRECTORY)
        let slots = try Descriptor.open("\(stub.directory)/users", O_RDWR | O_CREAT)
        let path = try #require(JailedStub.program("mayfly-launcher"))
        var values: [String: UInt64] = [
            "listen": UInt64(listener), "program": UInt64(program ?? stub.program.descriptor),
            "jail": UInt64(stub.jail.programDescriptor), "directory": UInt64(directory.number),
            "slots": UInt64(slots.number), "worker": UInt64(worker), "first-user": UInt64(first),
            "users": 4096, "kvm": 0, "file-size": 1 << 20, "address-space": 4 << 30,
            "memory": 128 << 20, "processors": 200, "machines": 64, "bounds": 0,
        ]
        // As what starts it for a worker does.
        let groups = try? stub.jail.groups.get()
        let group = try groups.map {
            Descriptor.Shared(try Descriptor.open($0.directory, O_RDONLY | O_DIRECTORY))
        }
        if let groups, let group {
            values["groups"] = UInt64(group.number)
            let bits: [String: UInt64] = ["memory": 1, "cpu": 2, "pids": 4]
            values["bounds"] = groups.active.compactMap { bits[$0] }.reduce(0, |)
        }
        values.merge(words) { $1 }
        messages = try HypervisorLog("mayfly-messages")
        var request = SpawnRequest(arguments: [path] + values.map { "\($0.key)=\($0.value)" })
        request.kept = [
            listening.number, program ?? stub.program.descriptor, stub.jail.programDescriptor,
            directory.number, slots.number,
        ]
        request.kept += group.map { [$0.number] } ?? []
        request.mayGainPrivileges = true
        request.standardError = messages.writer.number
        request.fileLimit = 4096
        let child = try Child.spawn(request)
        pid = child.pid
        self.child = consume child
    }

    func signal(_ number: CInt) { child?.signal(number) }
    /// How it ended by itself, and its words.
    func ending() async throws -> (status: Int32, words: String) {
        guard let child = child.take() else { throw LaunchRefusal("it was waited for before") }
        let isOver = await child.hasEnded(within: .seconds(20))
        let usage = await child.end()
        try #require(isOver, "the launcher did not end")
        return (usage.status, messages.lastLines(3).joined(separator: " | "))
    }

    /// A request that it grants: the stub, waiting.
    func request(_ words: [String] = ["stay"]) throws -> LaunchRequest {
        var facts = stat()
        try #require(unsafe fstat(stub.program.descriptor, &facts) == 0)
        return LaunchRequest(
            program: ProgramIdentity(
                device: UInt64(facts.st_dev), inode: UInt64(facts.st_ino),
                changedSeconds: UInt64(bitPattern: Int64(facts.st_ctim.tv_sec)),
                changedNanoseconds: UInt64(bitPattern: Int64(facts.st_ctim.tv_nsec))),
            fileSize: 1 << 20, addressSpace: 4 << 30, memory: 96 << 20, processorPercent: 100,
            kept: [],
            arguments: (["stub"] + words).map { Array($0.utf8) })
    }
    func conversation() throws -> LauncherConversation {
        let connection = unsafe mayfly_messages_connect(socket)
        try #require(connection >= 0, "\(errnoText(-connection))")
        return LauncherConversation(Descriptor(connection))
    }
    /// A machine of it.
    func machine() async throws -> (LauncherConversation, pid: pid_t, user: uid_t) {
        let conversation = try conversation()
        try conversation.send(try request().encoded())
        let reply = await conversation.reply()
        guard case .started(let pid, let user, _)? = reply else {
            throw LaunchRefusal("no machine: \(String(describing: reply))")
        }
        return (conversation, pid_t(bitPattern: pid), user)
    }
}

@LoopActor
final class LauncherConversation {
    private var connection: Descriptor?
    /// Of the machine's process.
    private(set) var process: Descriptor?

    init(_ connection: consuming Descriptor) { self.connection = consume connection }

    private var number: CInt { connection?.number ?? -1 }
    var processNumber: CInt { process?.number ?? -1 }

    func send(_ bytes: [UInt8], _ descriptors: [CInt] = []) throws {
        let sent = unsafe mayfly_send_fds(
            number, bytes, bytes.count, descriptors, descriptors.count)
        try #require(sent == bytes.count, "\(errnoText(-sent))")
    }
    /// The next message; `nil`: none came in 20 s, or the other side is gone.
    func reply() async -> LaunchReply? {
        let number = number
        let readiness = await EventLoop.shared.ready(
            [(number, .read)], before: .now + .seconds(20), ignoringCancellation: true)
        guard readiness != .timedOut else { return nil }
        var bytes = [UInt8](repeating: 0, count: LaunchReply.byteCountMax)
        var (descriptors, count): ([CInt], Int) = ([-1], 0)
        let length = unsafe mayfly_receive(number, &bytes, bytes.count, &descriptors, 1, &count)
        if count == 1 {
            let one = Descriptor(descriptors[0])
            process = consume one
        }
        return length > 0 ? LaunchReply(Array(bytes[..<Int(length)])) : nil
    }
    func close() { connection = nil }
    /// Whether its machine is gone, waiting for that.
    func isMachineGone() async -> Bool {
        let readiness = await EventLoop.shared.ready(
            [(processNumber, .read)], before: .now + .seconds(20), ignoringCancellation: true)
        return readiness != .timedOut
    }
}
