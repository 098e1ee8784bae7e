// Behind which walls a machine's hypervisor runs, and who starts it there: this process, when it
// is root, or the launcher. The one way to a process that all else has.

import Events
import Glibc
import Processes

/// The walls of this host, whoever builds them.
protocol Walls: Sendable {
    /// What does not bound machines here; `nil`: everything does.
    var shortfall: String? { get }
    /// For one machine, with a user of its own.
    func place(for hardware: VirtualHardware) throws(MachineError) -> any MachinePlace
    /// Starts the hypervisor with nothing in it, looks at its process, and ends it.
    @LoopActor
    func look(_ program: HypervisorProgram) async throws(MachineError) -> JailLook
}

/// One machine's place; given back when this is dropped.
protocol MachinePlace: AnyObject, Sendable {
    /// Who works there, where that is known before it starts.
    var owner: Credentials? { get }
    /// What it may take of its host, if the host can see to that.
    var limits: MachineLimits? { get }

    /// - Parameter work: the name of its directory, if it has one.
    @LoopActor
    func start(
        _ request: SpawnRequest, _ name: HypervisorName, work: String?
    ) throws(MachineError) -> any HypervisorChild
}

/// A hypervisor's process; ended when this is dropped.
@LoopActor
protocol HypervisorChild: AnyObject {
    /// 0 and -1 until it has begun.
    var pid: pid_t { get }
    var pidDescriptor: CInt { get }

    func begun(before deadline: ContinuousClock.Instant) async throws(MachineError)
    func kill()
    /// Whether the kernel has ended it because it wanted more memory than its limits; asked when it
    /// has ended.
    var wantedMoreMemory: Bool { get }
    /// Kills it, waits until it is gone, and says what it used; once.
    func end() async -> ChildUsage
}

/// A child of this process.
@LoopActor
final class OwnChild: HypervisorChild {
    let pid: pid_t
    let pidDescriptor: CInt
    private var child: Child?
    /// Until it has ended.
    private var group: MachineGroup?
    private(set) var wantedMoreMemory = false

    init(_ child: consuming Child, in group: MachineGroup? = nil) {
        self.group = group
        pid = child.pid
        pidDescriptor = child.pidDescriptor
        self.child = consume child
    }
    func begun(before deadline: ContinuousClock.Instant) async throws(MachineError) {}
    func kill() { child?.signal(SIGKILL) }
    func end() async -> ChildUsage {
        guard let child = child.take() else { return ChildUsage() }
        let usage = await child.end()
        wantedMoreMemory = group?.wantedMoreMemory ?? false
        group = nil
        return usage
    }
}

extension JailCell: MachinePlace {
    var owner: Credentials? { credentials }
    var limits: MachineLimits? { group?.limits }

    func start(
        _ request: SpawnRequest, _ name: HypervisorName, work: String?
    ) throws(MachineError) -> any HypervisorChild {
        OwnChild(try attempting(Child.spawn(wrap(request, name, work: work))), in: group)
    }
}

extension Jail: Walls {
    func place(for hardware: VirtualHardware) throws(MachineError) -> any MachinePlace {
        try cell(for: hardware)
    }
}

/// The launcher's walls where there is a launcher, else our own.
///
/// - Returns: none when they are off, or why there are none although nobody forbade them.
@LoopActor
func wallsFound(
    _ settings: HostSettings, _ probe: HostProbe, in directory: String
) async throws(MachineError) -> Result<(any Walls)?, MachineError> {
    if let path = settings.launcher {
        let launcher = try Launcher(path, settings, probe)
        let look = try await launcher.look(probe.hypervisor)
        if settings.profile == .production {
            try AcceptedRisks(settings.acceptedRisks).check(
                look.findings + [WorkerPrivileges.ofThisProcess.finding])
        }
        return .success(launcher)
    }
    if settings.profile == .production {
        try AcceptedRisks(settings.acceptedRisks).check([WorkerPrivileges.ofThisProcess.finding])
    }
    return try await Jail.found(settings, probe, in: directory).map { $0 }
}
