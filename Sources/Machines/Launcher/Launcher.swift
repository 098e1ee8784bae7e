// The launcher as the worker sees it: a socket, and one connection for each machine. With it the
// worker needs no privileges, and has none when it parses what guests say.

import CLinux
import Events
import Glibc
import Launch
import Processes
import Synchronization

/// The walls that the launcher builds.
final class Launcher: Walls {
    /// Where the launcher of the systemd units listens.
    static let standardPath = "/run/mayfly-launcher.sock"

    fileprivate let path: String
    private let program: ProgramIdentity
    private let settings: HostSettings
    /// What the launcher said when a machine was last started; `nil`: none was.
    private let bounds = Mutex<LaunchBounds?>(nil)
    let accelerator: Accelerator

    /// - Throws: `hostUnfit` where machines cannot be launched.
    init(
        _ path: String, _ settings: HostSettings, _ probe: HostProbe
    ) throws(MachineError) {
        guard probe.hypervisor.name == .qemu else {
            throw MachineError(
                .hostUnfit,
                "the launcher makes machines of QEMU only: the sockets of a Firecracker are its "
                    + "own user's; set machine.hypervisor = qemu, or machine.launcher = none")
        }
        self.path = path
        self.settings = settings
        accelerator = probe.profile.accelerator
        var facts = stat()
        guard unsafe fstat(probe.hypervisor.descriptor, &facts) == 0 else {
            throw MachineError(SystemError("look at", probe.hypervisor.path))
        }
        program = ProgramIdentity(
            device: UInt64(facts.st_dev), inode: UInt64(facts.st_ino),
            changedSeconds: UInt64(bitPattern: Int64(facts.st_ctim.tv_sec)),
            changedNanoseconds: UInt64(bitPattern: Int64(facts.st_ctim.tv_nsec)))
    }

    /// `look` has asked by the time that anybody wants to know.
    var shortfall: String? {
        let bounds = bounds.withLock { $0 } ?? []
        let controllers: [(LaunchBounds, String)] = [
            (.memory, "memory"), (.processors, "cpu"), (.threads, "pids"),
        ]
        let active = Set(controllers.filter { bounds.contains($0.0) }.map(\.1))
        return ControlGroups.shortfall(where: active, Self.remedy)
    }
    /// Where the launcher makes no control groups, or less than it should.
    private static let remedy =
        "the launcher has no control groups of version 2 with such controllers; boot with "
        + "systemd.unified_cgroup_hierarchy=1, and run the launcher as a service with Delegate=yes"

    func place(for hardware: VirtualHardware) -> any MachinePlace {
        LauncherPlace(self, MachineLimits(hardware, isBooting: false, settings))
    }
    fileprivate func note(_ bounds: LaunchBounds) { self.bounds.withLock { $0 = bounds } }

    /// Asks for a machine; `begun` of what is returned waits for the answer.
    @LoopActor
    fileprivate func start(
        _ request: SpawnRequest, _ limits: MachineLimits
    ) throws(MachineError) -> LaunchedChild {
        let kept = Set(request.kept).subtracting([request.executable]).sorted()
        var message = LaunchRequest(
            program: program, fileSize: request.fileSizeLimit,
            addressSpace: request.addressSpaceLimit, memory: UInt64(clamping: limits.memory.bytes),
            processorPercent: UInt32(clamping: limits.processorPercent),
            kept: kept.map { UInt32(bitPattern: $0) },
            arguments: request.arguments.map { Array($0.utf8) })
        message.hugePages = request.hugePages
        let standard = [request.standardInput, request.standardOutput, request.standardError]
        message.standard = standard.map { $0 >= 0 }
        let connection = unsafe mayfly_messages_connect(path)
        guard connection >= 0 else { throw Self.refusal(path, -connection) }
        let owned = Descriptor(connection)
        let bytes = message.encoded()
        let descriptors = standard.filter { $0 >= 0 } + kept
        let sent = unsafe mayfly_send_fds(
            connection, bytes, bytes.count, descriptors, descriptors.count)
        // One that is gone already has said why: that is read as any other answer.
        guard sent == bytes.count || sent == -EPIPE || sent == -ECONNRESET else {
            throw Self.refusal(path, sent < 0 ? -sent : EMSGSIZE)
        }
        return LaunchedChild(owned, self)
    }
    private static func refusal(_ path: String, _ code: CInt) -> MachineError {
        let remedy =
            switch code {
            case ENOENT, ECONNREFUSED: "start it: systemctl start mayfly-launcher.socket"
            case EACCES, EPERM: "run the worker as the user that the launcher serves"
            case EAGAIN: "it does not answer; look at mayfly-launcher.service"
            default: "look at mayfly-launcher.service"
            }
        return MachineError(
            .hostUnfit,
            "cannot ask the launcher at \(path): \(errnoText(code)); \(remedy)")
    }

    @LoopActor
    func look(_ program: HypervisorProgram) async throws(MachineError) -> JailLook {
        let messages = try HypervisorLog("mayfly-messages")
        let monitor = try attempting(SocketPair())
        let request = program.trialRequest(
            accelerator, monitor: monitor.theirs.number, messages: messages.writer.number,
            addressSpace: 3 << 30)
        // Large enough to start in, and no more.
        let child = try start(
            request, MachineLimits(memory: .mebibytes(512), processorPercent: 200))
        do throws(MachineError) {
            try await child.begun(before: .now + .seconds(30))
        } catch {
            _ = await child.end()
            throw error
        }
        // It greets when everything is loaded.
        let readiness = await EventLoop.shared.ready(
            [(monitor.ours.number, .read), (child.pidDescriptor, .read)],
            before: .now + .seconds(30))
        var greeting = pollfd(fd: monitor.ours.number, events: Int16(POLLIN), revents: 0)
        let count = unsafe poll(&greeting, 1, 0)
        let isUp =
            readiness != .timedOut && count == 1
            && greeting.revents & Int16(POLLIN) != 0
        let look = JailLook(
            at: child.pid, user: child.user,
            .failure(MachineError(.hostUnfit, Self.remedy)))
        let usage = await child.end()
        guard isUp else {
            throw MachineError(
                .hostUnfit,
                "\(program.path) does not run behind the launcher's jail (\(usage.ending)): "
                    + messages.lastLines(3).joined(separator: " | "))
        }
        return look
    }
}

/// Its user is the launcher's to choose.
private final class LauncherPlace: MachinePlace {
    private let launcher: Launcher
    var owner: Credentials? { nil }
    private let bounds: MachineLimits
    var limits: MachineLimits? { bounds }

    init(_ launcher: Launcher, _ bounds: MachineLimits) {
        self.launcher = launcher
        self.bounds = bounds
    }

    func start(
        _ request: SpawnRequest, _ name: HypervisorName, work: String?
    ) throws(MachineError) -> any HypervisorChild { try launcher.start(request, bounds) }
}

/// A machine's process that the launcher started; its end is the connection's end.
@LoopActor
final class LaunchedChild: HypervisorChild {
    private let connection: Descriptor
    private let launcher: Launcher
    private(set) var wantedMoreMemory = false
    private var process: Descriptor?
    private(set) var pid: pid_t = 0
    private(set) var user: uid_t = .max
    var pidDescriptor: CInt { process?.number ?? -1 }

    fileprivate init(_ connection: consuming Descriptor, _ launcher: Launcher) {
        self.connection = connection
        self.launcher = launcher
    }

    func begun(before deadline: ContinuousClock.Instant) async throws(MachineError) {
        guard process == nil else { return }
        while true {
            switch receive() {
            case .started(let pid, let user, let bounds)?:
                guard process != nil else { throw lost("sent no descriptor of the machine") }
                self.pid = pid_t(truncatingIfNeeded: pid)
                self.user = user
                launcher.note(bounds)
                return
            case .refused(let refusal)?:
                throw MachineError(.hostUnfit, "the launcher refuses a machine: \(refusal)")
            case .ended?: throw lost("says that the machine has ended before it began")
            case nil where isOver: throw lost("ended before it answered")
            case nil: break
            }
            switch await EventLoop.shared.ready([(connection.number, .read)], before: deadline) {
            case .timedOut: throw lost("did not answer in time")
            case .cancelled:
                throw MachineError(.cancelled, "stopped while a machine was being launched")
            default: continue
            }
        }
    }
    private func lost(_ words: String) -> MachineError {
        MachineError(.hostUnfit, "the launcher at \(launcher.path) \(words); look at its log")
    }

    /// Nobody but the launcher may send it a signal: its user is another.
    func kill() { shutdown(connection.number, CInt(SHUT_WR)) }

    func end() async -> ChildUsage {
        kill()
        while true {
            let reply = receive()
            if case .ended(let ending)? = reply {
                wantedMoreMemory = ending.wantedMoreMemory
                return ChildUsage(
                    status: Int32(clamping: ending.status),
                    user: .microseconds(Int64(clamping: ending.userMicroseconds)),
                    system: .microseconds(Int64(clamping: ending.systemMicroseconds)),
                    peakByteCount: Int(clamping: ending.peakKibibytes) << 10)
            }
            if case .refused? = reply { return ChildUsage() }
            if isOver { break }
            if reply == nil {
                _ = await EventLoop.shared.ready(
                    [(connection.number, .read)], before: .now + .seconds(10),
                    ignoringCancellation: true)
            }
        }
        // Nobody is left to tell; the kernel has killed it, and says when it is gone.
        if pidDescriptor >= 0 {
            _ = await EventLoop.shared.ready(
                [(pidDescriptor, .read)], before: .now + .seconds(10),
                ignoringCancellation: true)
        }
        return ChildUsage(status: 128 + SIGKILL)
    }

    /// The other side is gone.
    private var isOver = false

    /// The next message; `nil`: none has come yet, or none will.
    private func receive() -> LaunchReply? {
        var bytes = [UInt8](repeating: 0, count: LaunchReply.byteCountMax)
        var (descriptors, count): ([CInt], Int) = ([-1], 0)
        let length = unsafe mayfly_receive(
            connection.number, &bytes, bytes.count, &descriptors, 1, &count)
        if length == -EAGAIN { return nil }
        guard length > 0, let reply = LaunchReply(Array(bytes[..<Int(length)])) else {
            isOver = true
            return nil
        }
        if count == 1 {
            let descriptor = Descriptor(descriptors[0])
            if case .started = reply { process = consume descriptor }
        }
        return reply
    }
}
