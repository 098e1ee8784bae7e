// Owners of the two things the kernel gives us: descriptors and children. Small, so that their
// `deinit` is the whole story; machines are made of them.

import CLinux
import Events
import Glibc

/// An open descriptor, closed exactly once.
struct Descriptor: ~Copyable {
    let number: CInt
    init(_ number: CInt) { self.number = number }
    deinit { close(number) }

    /// Opens a path, close-on-exec.
    static func open(
        _ path: String, _ flags: CInt, mode: mode_t = 0o600
    ) throws(MachineError) -> Descriptor {
        let number = unsafe Glibc.open(path, flags | O_CLOEXEC, mode)
        guard number >= 0 else {
            throw MachineError(.hostUnfit, "cannot open \(path): \(errnoText(errno))")
        }
        return Descriptor(number)
    }
    /// A close-on-exec memory file.
    static func memory(_ name: String) throws(MachineError) -> Descriptor {
        let number = unsafe mayfly_memfd(name)
        guard number >= 0 else {
            throw MachineError(.hostUnfit, "no memory file for \(name): \(errnoText(-number))")
        }
        return Descriptor(number)
    }
}

/// A connected pair: `ours` is non-blocking and stays here, `theirs` goes to a child.
struct SocketPair: ~Copyable {
    let ours: Descriptor
    let theirs: Descriptor

    init() throws(MachineError) {
        var pair: [CInt] = [-1, -1]
        let status = unsafe mayfly_socketpair(&pair)
        guard status == 0 else {
            throw MachineError(.hostUnfit, "no socket pair: \(errnoText(-status))")
        }
        ours = Descriptor(pair[0])
        theirs = Descriptor(pair[1])
    }
    consuming func take() -> Descriptor { ours }
}

/// How a child is started; every field but the path and the arguments has a safe default.
struct SpawnRequest {
    var arguments: [String]
    var environment: [String] = []
    var standardInput: CInt = -1
    var standardOutput: CInt = -1
    var standardError: CInt = -1
    var kept: [CInt] = []
    var namespaces: UInt64 = 0
    /// Dropped to; only root can.
    var user: HypervisorUser?
    var diesWithParent = true
    var fileLimit: UInt64 = 256
    var fileSizeLimit = UInt64.max
}

/// What a child used, by the kernel's own count.
struct ChildUsage: Sendable {
    var status: Int32 = 0
    var user = Duration.zero
    var system = Duration.zero
    var peakMemory = ByteCount(bytes: 0)

    /// How a child ended, for people; 128 and more is a signal.
    static func words(_ status: Int32) -> String {
        status >= 128 ? "killed by signal \(status - 128)" : "exit status \(status)"
    }
}

/// A running child; killed and reaped when dropped.
struct Child: ~Copyable {
    let pid: pid_t
    let pidDescriptor: CInt

    /// Starts a program; on the loop's thread, which PR_SET_PDEATHSIG then follows.
    @LoopActor
    static func spawn(_ request: SpawnRequest) throws(MachineError) -> Child {
        let null = try Descriptor.open("/dev/null", O_RDWR)
        func orNull(_ number: CInt) -> CInt { number < 0 ? null.number : number }
        var child = unsafe mayfly_child()
        let status = unsafe withCStrings(request.arguments) { arguments in
            unsafe withCStrings(request.environment) { environment in
                unsafe request.kept.withUnsafeBufferPointer { kept in
                    var spec = unsafe mayfly_spawn()
                    unsafe spec.path = UnsafePointer(arguments[0])
                    unsafe spec.argv = UnsafePointer(arguments)
                    unsafe spec.envp = UnsafePointer(environment)
                    unsafe spec.stdio = (
                        orNull(request.standardInput), orNull(request.standardOutput),
                        orNull(request.standardError)
                    )
                    unsafe spec.keep = kept.baseAddress
                    unsafe spec.keep_count = kept.count
                    unsafe spec.namespaces = request.namespaces
                    if let user = request.user {
                        unsafe spec.set_ids = 1
                        unsafe spec.uid = user.user
                        unsafe spec.gid = user.group
                    }
                    unsafe spec.limit_core = 0
                    unsafe spec.limit_files = request.fileLimit
                    unsafe spec.limit_file_size = request.fileSizeLimit
                    unsafe spec.limit_processes = UInt64.max
                    unsafe spec.die_with_parent = request.diesWithParent ? 1 : 0
                    return unsafe mayfly_spawn(&spec, &child)
                }
            }
        }
        guard status == 0 else {
            let step = unsafe child.failed_step.map { unsafe String(cString: $0) } ?? "start"
            throw MachineError(
                .hostUnfit,
                "cannot start \(request.arguments[0]) (\(step)): \(errnoText(-status))")
        }
        return unsafe Child(pid: child.pid, pidDescriptor: child.pidfd)
    }

    private init(pid: pid_t, pidDescriptor: CInt) {
        self.pid = pid
        self.pidDescriptor = pidDescriptor
    }

    /// What it used, when it has ended; reaps it.
    borrowing func reap() -> ChildUsage? {
        var (status, user, system, peak): (Int32, Int64, Int64, Int64) = (0, 0, 0, 0)
        guard unsafe mayfly_reap(pidDescriptor, &status, &user, &system, &peak) == 1 else {
            return nil
        }
        return ChildUsage(
            status: status, user: .microseconds(user), system: .microseconds(system),
            peakMemory: .kibibytes(Int(peak)))
    }

    /// Kills it, waits until it is gone, and says what it used.
    @LoopActor
    consuming func end() async -> ChildUsage {
        _ = mayfly_pidfd_signal(pidDescriptor, SIGKILL)
        let usage = await waitUntilEnded()
        close(pidDescriptor)
        discard self
        return usage
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
    /// Waits for its own end.
    @LoopActor
    consuming func wait() async -> ChildUsage {
        let usage = await waitUntilEnded()
        close(pidDescriptor)
        discard self
        return usage
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

func errnoText(_ code: CInt) -> String { unsafe String(cString: strerror(code)) }

/// A NULL-terminated array of C strings for the length of `body`.
func withCStrings<Value>(
    _ strings: [String],
    _ body: (UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>) -> Value
) -> Value {
    var pointers = unsafe strings.map { unsafe strdup($0) }
    unsafe pointers.append(nil)
    defer { unsafe pointers.forEach { unsafe free($0) } }
    // SAFETY: the copies live until the `defer` above.
    return unsafe pointers.withUnsafeMutableBufferPointer { buffer in
        guard let base = buffer.baseAddress else { preconditionFailure("never empty") }
        return unsafe body(base)
    }
}
