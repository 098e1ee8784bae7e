// A child process: started from a large, threaded program at a constant price, watched by a
// descriptor, killed and reaped when its owner drops it.

import CLinux
import Events
import Glibc

/// Whom a child runs as; only root can choose.
package struct Credentials: Sendable, Equatable {
    package let user: uid_t
    package let group: gid_t
    package init(user: uid_t, group: gid_t) {
        self.user = user
        self.group = group
    }
}

/// How a child is started; every field but the arguments has a safe default.
package struct SpawnRequest: Sendable {
    /// The first is the program's path, and its name.
    package var arguments: [String]
    /// An open program to run instead of what stands at the path; -1: none.
    package var executable: CInt = -1
    package var environment: [String] = []
    /// An open directory to work in; -1: ours.
    package var directory: CInt = -1
    package var standardInput: CInt = -1
    package var standardOutput: CInt = -1
    package var standardError: CInt = -1
    package var kept: [CInt] = []
    package var namespaces: UInt64 = 0
    /// An open control group of version 2 to start it in; -1: ours.
    package var controlGroup: CInt = -1
    package var user: Credentials?
    package var diesWithParent = true
    /// The program itself refuses new privileges, at its own time.
    package var mayGainPrivileges = false
    /// `max`: as many as this process was started with.
    package var fileLimit: UInt64 = 256
    package var fileSizeLimit = UInt64.max
    package var addressSpaceLimit = UInt64.max
    /// Huge pages, even where the program asks for them.
    package var hugePages = true

    package init(arguments: [String]) { self.arguments = arguments }
}

/// What a child used, by the kernel's own count.
package struct ChildUsage: Sendable {
    package let status: Int32
    package let user: Duration
    package let system: Duration
    package let peakByteCount: Int

    package init(
        status: Int32 = 0, user: Duration = .zero, system: Duration = .zero, peakByteCount: Int = 0
    ) {
        self.status = status
        self.user = user
        self.system = system
        self.peakByteCount = peakByteCount
    }

    /// How it ended, for people; 128 and more is a signal.
    package var ending: String {
        status >= 128 ? "killed by signal \(status - 128)" : "exit status \(status)"
    }
}

/// A running child; killed and reaped when dropped.
package struct Child: ~Copyable, Sendable {
    package let pid: pid_t
    package let pidDescriptor: CInt

    /// Starts a program; on the loop's thread, which PR_SET_PDEATHSIG then follows.
    @LoopActor
    package static func spawn(_ request: SpawnRequest) throws(SystemError) -> Child {
        let null = try Descriptor.open("/dev/null", O_RDWR)
        func orNull(_ number: CInt) -> CInt { number < 0 ? null.number : number }
        let fileLimit =
            request.fileLimit == .max ? OpenFileLimit.atStart.soft : request.fileLimit
        var child = unsafe mayfly_child()
        let status = unsafe withCStrings(request.arguments) { arguments in
            unsafe withCStrings(request.environment) { environment in
                unsafe request.kept.withUnsafeBufferPointer { kept in
                    var spec = unsafe mayfly_spawn()
                    unsafe spec.path = UnsafePointer(arguments[0])
                    unsafe spec.executable = request.executable
                    unsafe spec.directory = request.directory
                    unsafe spec.argv = UnsafePointer(arguments)
                    unsafe spec.envp = UnsafePointer(environment)
                    unsafe spec.stdio = (
                        orNull(request.standardInput), orNull(request.standardOutput),
                        orNull(request.standardError)
                    )
                    unsafe spec.keep = kept.baseAddress
                    unsafe spec.keep_count = kept.count
                    unsafe spec.namespaces = request.namespaces
                    unsafe spec.control_group = request.controlGroup
                    unsafe spec.may_gain_privileges = request.mayGainPrivileges ? 1 : 0
                    if let user = request.user {
                        unsafe spec.set_ids = 1
                        unsafe spec.uid = user.user
                        unsafe spec.gid = user.group
                    }
                    unsafe spec.limit_core = 0
                    unsafe spec.limit_files = fileLimit
                    unsafe spec.limit_file_size = request.fileSizeLimit
                    unsafe spec.limit_address_space = request.addressSpaceLimit
                    unsafe spec.limit_processes = UInt64.max
                    unsafe spec.no_huge_pages = request.hugePages ? 0 : 1
                    unsafe spec.die_with_parent = request.diesWithParent ? 1 : 0
                    return unsafe mayfly_spawn(&spec, &child)
                }
            }
        }
        guard status == 0 else {
            let step = unsafe child.failed_step.map { unsafe String(cString: $0) } ?? "start"
            throw SystemError("start (\(step))", request.arguments[0], -status)
        }
        return unsafe Child(pid: child.pid, pidDescriptor: child.pidfd)
    }

    private init(pid: pid_t, pidDescriptor: CInt) {
        self.pid = pid
        self.pidDescriptor = pidDescriptor
    }

    /// What it used, when it has ended; reaps it.
    package borrowing func reap() -> ChildUsage? {
        var (status, user, system, peak): (Int32, Int64, Int64, Int64) = (0, 0, 0, 0)
        guard unsafe mayfly_reap(pidDescriptor, &status, &user, &system, &peak) == 1 else {
            return nil
        }
        return ChildUsage(
            status: status, user: .microseconds(user), system: .microseconds(system),
            peakByteCount: Int(peak) << 10)
    }

    /// Sends a signal to it, and to nobody else.
    package borrowing func signal(_ number: CInt) {
        _ = mayfly_pidfd_signal(pidDescriptor, number)
    }

    /// Kills it, waits until it is gone, and says what it used.
    @LoopActor
    package consuming func end() async -> ChildUsage {
        signal(SIGKILL)
        return await wait()
    }
    /// Waits for its own end.
    @LoopActor
    package consuming func wait() async -> ChildUsage {
        let usage = await waitUntilEnded()
        close(pidDescriptor)
        discard self
        return usage
    }
    /// Whether it has ended before that much time has passed; it is not reaped by this.
    @LoopActor
    package borrowing func hasEnded(within patience: Duration) async -> Bool {
        let readiness = await EventLoop.shared.ready(
            [(pidDescriptor, .read)], before: .now + patience, ignoringCancellation: true)
        return readiness != .timedOut
    }
    @LoopActor
    private borrowing func waitUntilEnded() async -> ChildUsage {
        while true {
            if let usage = reap() { return usage }
            let readiness = await EventLoop.shared.ready(
                [(pidDescriptor, .read)], before: .now + .seconds(10), ignoringCancellation: true)
            // ECHILD: someone else reaped it; then there is nothing left to wait for.
            if readiness != .timedOut, let usage = reap() { return usage }
            if kill(pid, 0) != 0 { return ChildUsage() }
        }
    }

    deinit {
        _ = mayfly_pidfd_signal(pidDescriptor, SIGKILL)
        var (status, user, system, peak): (Int32, Int64, Int64, Int64) = (0, 0, 0, 0)
        // The kill is certain, so this loop ends as soon as the kernel has torn it down.
        while unsafe mayfly_reap(pidDescriptor, &status, &user, &system, &peak) == 0 {
            usleep(500)
        }
        close(pidDescriptor)
    }
}
