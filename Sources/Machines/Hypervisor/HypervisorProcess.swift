// The operating system's side of a hypervisor: the child, what it and its guest have said, the
// directory that it may have. Ended once, killed and reaped when dropped.

import Events
import Glibc
import Processes

@LoopActor
final class HypervisorProcess {
    /// 0 until it has begun.
    var pid: pid_t { child.pid }
    var pidDescriptor: CInt { child.pidDescriptor }
    private let name: HypervisorName
    private let child: any HypervisorChild
    private var isEnded = false
    /// What the guest's kernel and agent said; read only when something went wrong, and still there
    /// when the process is not.
    private let console: HypervisorLog
    /// What the hypervisor itself said on standard error.
    private let messages: HypervisorLog
    private var directory: MachineDirectory?
    /// Given back when nothing of the process is left.
    private var cell: (any MachinePlace)?

    init(
        _ name: HypervisorName, _ request: SpawnRequest, console: consuming HypervisorLog,
        messages: consuming HypervisorLog, directory: MachineDirectory? = nil,
        cell: (any MachinePlace)? = nil
    ) throws(MachineError) {
        if let cell {
            child = try cell.start(request, name, work: directory?.name)
        } else {
            child = OwnChild(try attempting(Child.spawn(request)))
        }
        self.name = name
        self.console = console
        self.messages = messages
        self.directory = directory
        self.cell = cell
    }

    /// Waits until the process is there, whoever starts it.
    func begun(before deadline: ContinuousClock.Instant) async throws(MachineError) {
        try await child.begun(before: deadline)
    }
    /// Whether the process has ended by itself.
    var hasEnded: Bool {
        guard !isEnded else { return true }
        var poll = pollfd(fd: pidDescriptor, events: Int16(POLLIN), revents: 0)
        return unsafe Glibc.poll(&poll, 1, 0) != 0
    }
    /// Adds to an error what the process and the guest's console say about it; ends the process.
    func end(explaining error: MachineError) async -> MachineError {
        guard error.reason != .cancelled else {
            _ = await end()
            return error
        }
        if error.reason == .machineLost || error.reason == .bootFailed {
            // The connection's end may come a moment before the process's.
            _ = await EventLoop.shared.ready(
                [(pidDescriptor, .read)], before: .now + .milliseconds(200),
                ignoringCancellation: true)
        }
        let hadEnded = hasEnded
        let limits = cell?.limits
        let usage = await end()
        let excess = child.wantedMoreMemory ? limits : nil
        let error = excess.map { Self.excess(of: $0, error.machine) } ?? error
        var words = hadEnded ? ["hypervisor: \(usage.ending)"] : []
        for (name, file) in [
            (name.rawValue, messages.lastLines(5)), ("console", console.lastLines(5)),
        ] where !file.isEmpty {
            words.append("\(name): \(file.joined(separator: " | "))")
        }
        return words.isEmpty
            ? error
            : MachineError(
                error.reason, "\(error) (\(words.joined(separator: "; ")))", error.machine)
    }
    /// The reason of its own that a process has which the kernel ended at its limit.
    private static func excess(
        of limits: MachineLimits, _ machine: MachineIdentity?
    ) -> MachineError {
        MachineError(
            .hypervisorMemory,
            "the kernel ended the hypervisor, which wanted more memory than its machine may take: "
                + "\(limits.memory), its guest's and machine.overhead", machine)
    }
    /// Nothing of the guest runs from now on; `end` waits until the process is gone.
    func kill() { child.kill() }

    /// Kills the process and waits until it is gone, and what it had on disk with it.
    func end() async -> ChildUsage {
        guard !isEnded else { return ChildUsage() }
        isEnded = true
        let usage = await child.end()
        directory = nil
        cell = nil
        return usage
    }
}

/// A directory of one machine: its hypervisor works there, and nobody else gets in.
final class MachineDirectory {
    let path: String
    let name: String
    /// For `SpawnRequest.directory`.
    let file: Descriptor

    /// - Parameter owner: who works there; `nil`: this user.
    init(in directory: String, owner: Credentials?) throws(MachineError) {
        // Closed to everybody else above it too: what stands in it is its owner's to choose.
        try makeDirectory(directory, mode: 0o700)
        name = hexText(randomBytes(8))
        path = "\(directory)/\(name)"
        try makeDirectory(path, mode: 0o700)
        file = try attempting(Descriptor.open(path, O_RDONLY | O_DIRECTORY))
        if let owner, fchown(file.number, owner.user, owner.group) != 0 {
            throw MachineError(.hostUnfit, "cannot hand over \(path): \(errnoText(errno))")
        }
    }
    /// A name in it for what the process finds at `target`.
    func link(_ name: String, to target: String) throws(MachineError) {
        guard unsafe symlinkat(target, file.number, name) == 0 else {
            throw MachineError(.hostUnfit, "cannot link \(path)/\(name): \(errnoText(errno))")
        }
    }
    deinit {
        for name in children(of: path) { unsafe unlinkat(file.number, name, 0) }
        unsafe rmdir(path)
    }
}
