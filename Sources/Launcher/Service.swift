// One connection, in a process of its own: one request, one machine, its end. Whatever the worker
// sends or leaves out, however slowly, it is this process that waits, and no other machine. When
// the connection ends, so does the machine; when this process is killed, the kernel kills it.

import CLinux
import Glibc
import Launch

struct Service {
    private let setup: Setup
    private let connection: CInt
    /// A connection that says nothing holds its place no longer than this, in milliseconds.
    private static let patience: CInt = 5000
    /// Nor longer than this before it has a machine, in seconds: to close what a worker sent can
    /// take as long as the worker likes.
    static let limit: CUnsignedInt = 30

    init(_ setup: Setup, _ connection: CInt) {
        self.setup = setup
        self.connection = connection
    }

    /// - Parameter hint: where to begin to look for a free user.
    func run(hint: uid_t) -> Never {
        alarm(Self.limit)
        // A connection ends when nobody has its other end, and the machine could be given that: so
        // the process that asked is watched, too.
        let asker = mayfly_peer_process(connection)
        guard asker >= 0 else { refuse("whoever asked is gone: \(reason(-asker))") }
        guard waits(for: connection, Self.patience) else { refuse("no request came") }
        let (request, descriptors) = receive()
        if let problem = problem(with: request, descriptors) { refuse(problem) }
        guard let users = Users(setup) else { refuse("the file of users cannot be opened") }
        guard let user = users.take(hint: hint) else {
            refuse("all \(setup.userCount) users from \(setup.firstUser) on are taken")
        }
        let group = group(for: user, request)
        var child = unsafe mayfly_child()
        let status = unsafe Jailed(setup, request, descriptors, user, group ?? -1).spawn(&child)
        guard status == 0 else {
            _ = Groups(setup)?.remove(user)
            let step = unsafe child.failed_step.map { unsafe String(cString: $0) } ?? "start"
            refuse("cannot start mayfly-jail (\(step)): \(reason(-status))")
        }
        let (pid, process) = unsafe (child.pid, child.pidfd)
        for descriptor in descriptors { close(descriptor) }
        if let group { close(group) }
        alarm(0)
        send(
            .started(
                pid: UInt32(bitPattern: pid), user: user, bounds: group == nil ? [] : setup.bounds),
            with: [process])
        watch(process, of: asker, user)
    }
    /// Where there are control groups, no machine is started without one.
    private func group(for user: uid_t, _ request: LaunchRequest) -> CInt? {
        guard let groups = Groups(setup) else { return nil }
        let (group, step) = groups.make(user, request)
        guard group >= 0 else {
            refuse("cannot \(step) the control group of user \(user): \(reason(-group))")
        }
        return group
    }

    // MARK: The request

    private func receive() -> (LaunchRequest, [CInt]) {
        var bytes = [UInt8](repeating: 0, count: LaunchRequest.byteCountMax)
        var descriptors = [CInt](repeating: -1, count: LaunchRequest.keptMax + 3)
        var count = 0
        let length = unsafe mayfly_receive(
            connection, &bytes, bytes.count, &descriptors, descriptors.count, &count)
        // The worker is gone.
        if length == 0 { _exit(0) }
        guard length > 0 else { refuse("the request cannot be received: \(reason(-length))") }
        do throws(LaunchRefusal) {
            let request = try LaunchRequest(Array(bytes[..<Int(length)]))
            return (request, Array(descriptors[..<count]))
        } catch { refuse(error.description) }
    }

    private func problem(with request: LaunchRequest, _ descriptors: [CInt]) -> String? {
        guard descriptors.count == request.descriptorCount else {
            return "\(descriptors.count) descriptors came, not \(request.descriptorCount)"
        }
        guard request.fileSize <= setup.fileSizeMax else {
            return "files of \(request.fileSize) bytes are above the launcher's ceiling of "
                + "\(setup.fileSizeMax)"
        }
        guard request.addressSpace <= setup.addressSpaceMax else {
            return "an address space of \(request.addressSpace) bytes is above the launcher's "
                + "ceiling of \(setup.addressSpaceMax)"
        }
        guard request.memory <= setup.memoryMax else {
            return "\(request.memory) bytes of memory are above the launcher's ceiling of "
                + "\(setup.memoryMax)"
        }
        guard request.processorPercent <= setup.processorPercentMax else {
            return "\(request.processorPercent) % of a processor are above the launcher's ceiling "
                + "of \(setup.processorPercentMax)"
        }
        if let weakness = setup.weakness { return weakness }
        var facts = stat()
        guard unsafe fstat(setup.program, &facts) == 0 else { return "the hypervisor is not open" }
        let own = ProgramIdentity(
            device: UInt64(facts.st_dev), inode: UInt64(facts.st_ino),
            changedSeconds: UInt64(bitPattern: Int64(facts.st_ctim.tv_sec)),
            changedNanoseconds: UInt64(bitPattern: Int64(facts.st_ctim.tv_nsec)))
        guard own == request.program else {
            return "the worker found another hypervisor than the launcher was started with; "
                + "restart the launcher after an upgrade"
        }
        return nil
    }

    // MARK: The machine's life

    /// Until the process has ended, which it does at the latest when the connection does, or the
    /// process that asked for it.
    private func watch(_ process: CInt, of asker: CInt, _ user: uid_t) -> Never {
        var isConnected = true
        while true {
            var waited = [
                pollfd(fd: process, events: Int16(POLLIN), revents: 0),
                // A negative number is passed over.
                pollfd(fd: isConnected ? connection : -1, events: Int16(POLLIN), revents: 0),
                pollfd(fd: isConnected ? asker : -1, events: Int16(POLLIN), revents: 0),
            ]
            guard unsafe poll(&waited, 3, -1) > 0 else { continue }
            if waited[0].revents != 0, var ending = reap(process) {
                let groups = Groups(setup)
                ending.wantedMoreMemory = groups?.wantedMoreMemory(user) ?? false
                send(.ended(ending))
                // Its user stays taken until then.
                _ = groups?.remove(user)
                _exit(0)
            }
            if waited[1].revents != 0 || waited[2].revents != 0 {
                // Whatever it says: there is nothing else to ask for than the end.
                isConnected = false
                _ = mayfly_pidfd_signal(process, SIGKILL)
            }
        }
    }
    private func reap(_ process: CInt) -> LaunchReply.Ending? {
        var (status, user, system, peak): (CInt, Int64, Int64, Int64) = (0, 0, 0, 0)
        guard unsafe mayfly_reap(process, &status, &user, &system, &peak) != 0 else { return nil }
        return LaunchReply.Ending(
            status: UInt32(clamping: status), userMicroseconds: UInt64(clamping: user),
            systemMicroseconds: UInt64(clamping: system), peakKibibytes: UInt64(clamping: peak),
            wantedMoreMemory: false)
    }

    // MARK: Answers

    private func waits(for descriptor: CInt, _ milliseconds: CInt) -> Bool {
        var waited = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
        return unsafe poll(&waited, 1, milliseconds) == 1
    }
    /// A worker that is gone, or does not read, misses it.
    private func send(_ reply: LaunchReply, with descriptors: [CInt] = []) {
        let bytes = reply.encoded()
        _ = unsafe mayfly_send_fds(
            connection, bytes, bytes.count, descriptors, descriptors.count)
    }
    private func refuse(_ words: String) -> Never {
        send(.refused(LaunchRefusal(words)))
        _exit(0)
    }
}
