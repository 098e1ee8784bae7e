// The second wall around a hypervisor, as the worker sees it: the program that builds it, what is
// prepared once for all machines of this host, and the request for one. The wall itself is built
// by mayfly-jail, step by step in Sources/Jail/main.swift.

import CLinux
import Events
import Foundation
import Glibc
import Processes
import Synchronization

/// Whether machines are jailed.
package enum JailUse: String, Sendable, CaseIterable {
    /// No jail is an error.
    case on
    case off
}

/// Everything that the jails of this host share.
final class Jail: Sendable {
    private let program: Descriptor
    /// The host's mark: what the jail binds stands below it.
    private let directory: Descriptor
    private let users: JailUsers
    /// For whoever starts it instead of us.
    var programDescriptor: CInt { program.number }
    let accelerator: Accelerator
    /// What bounds its machines; or why nothing does.
    let groups: Result<ControlGroups, MachineError>
    private let settings: HostSettings
    /// Not 0: a test watches system calls of what is started from now on, as `Recording` of
    /// mayfly-jail; no setting leads here.
    let recording = Atomic(0)
    /// Of hypervisors that need a directory each.
    let machinesDirectory: String
    private let roots: String

    /// Holds nobody yet: ``makeRoot(of:)`` comes before the first machine.
    ///
    /// - Throws: why machines cannot be jailed here, with what would change that.
    @LoopActor
    init(
        _ settings: HostSettings, _ probe: HostProbe, in directory: String
    ) throws(MachineError) {
        guard geteuid() == 0 else {
            throw MachineError(
                .hostUnfit,
                "only root can build it; run the worker as root, or beside a launcher"
            )
        }
        guard probe.hypervisor.isELF else {
            throw MachineError(
                .hostUnfit,
                "\(probe.hypervisor.path) is a script, and the jail holds no shell to run it; name "
                    + "the program itself with machine.\(probe.hypervisor.name.rawValue).binary")
        }
        program = try Self.program(settings)
        self.settings = settings
        users = try JailUsers(first: settings.jailUsers)
        accelerator = probe.profile.accelerator
        roots = "\(directory)/roots"
        machinesDirectory = "\(directory)/machines"
        self.directory = try attempting(Descriptor.open(directory, O_RDONLY | O_DIRECTORY))
        do throws(MachineError) {
            groups = .success(try ControlGroups(of: directory, disk: settings.stateDirectory))
        } catch { groups = .failure(error) }
    }
    /// The directory that its machines take for all there is, and where they get their own.
    @LoopActor
    func makeRoot(of hypervisor: HypervisorProgram) async throws(MachineError) {
        // Its owner alone gets in, from outside; from inside of a jail there is no outside.
        try makeDirectory(roots, mode: 0o700)
        try makeDirectory(machinesDirectory, mode: 0o700)
        try await JailRoot.make("\(roots)/\(hypervisor.name.rawValue)", of: hypervisor, accelerator)
    }
    /// What does not bound machines here; `nil`: everything does.
    var shortfall: String? {
        switch groups {
        case .success(let groups): groups.shortfall
        case .failure(let error): "no control group bounds a machine: \(error)"
        }
    }

    private static func program(_ settings: HostSettings) throws(MachineError) -> Descriptor {
        let own = (try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe"))
        let beside = ((own ?? "") as NSString).deletingLastPathComponent + "/mayfly-jail"
        let path = settings.jailBinary ?? beside
        let file: Descriptor
        do throws(SystemError) { file = try Descriptor.open(path, O_RDONLY) } catch {
            throw MachineError(
                .hostUnfit,
                "\(error); build it with `swift build -c release` or name it with "
                    + "machine.jail.binary")
        }
        guard try FileIdentity(of: file.number).isOurs else {
            throw MachineError(
                .hostUnfit, "\(path) can be written by others than root; chmod go-w \(path)")
        }
        return file
    }

    /// A place for one machine, with a user and a control group of its own.
    func cell(
        for hardware: VirtualHardware, isBooting: Bool = false
    ) throws(MachineError) -> JailCell {
        try cell(MachineLimits(hardware, isBooting: isBooting, settings))
    }
    func cell(
        _ limits: MachineLimits, without layers: Set<JailLayer> = []
    ) throws(MachineError) -> JailCell {
        let groups = layers.contains(.group) ? nil : try? groups.get()
        let group = try groups?.make(limits)
        return JailCell(self, user: try users.take(), group: group, without: layers)
    }
    fileprivate func give(back user: uid_t) { users.give(back: user) }

    /// The same program, behind the wall.
    ///
    /// - Parameter work: the name of its directory, if it has one.
    fileprivate func wrap(
        _ request: SpawnRequest, _ hypervisor: HypervisorName, _ cell: JailCell, work: String?
    ) -> SpawnRequest {
        var words = [
            "mayfly-jail", "hypervisor=\(hypervisor.rawValue)", "program=\(request.executable)",
            "kvm=\(accelerator == .kvm ? 1 : 0)", "user=\(cell.user)",
            "file-size=\(request.fileSizeLimit)", "address-space=\(request.addressSpaceLimit)",
            "processes=\(MachineLimits.threads)",
        ]
        let recording = recording.load(ordering: .relaxed)
        if recording != 0 { words.append("record=\(recording)") }
        words += Set(request.kept).subtracting([request.executable]).sorted().map { "keep=\($0)" }
        if accelerator == .kvm, let group = HypervisorUser.deviceGroup {
            words.append("device-group=\(group)")
        }
        if let work, let number = UInt64(work, radix: 16) { words.append("work=\(number)") }
        words += cell.layersLeftOut.sorted { $0.rawValue < $1.rawValue }
            .map { "without=\($0.rawValue)" }
        var jailed = request
        jailed.arguments = words + ["--"] + request.arguments
        jailed.executable = program.number
        jailed.kept.append(request.executable)
        jailed.directory = directory.number
        // The jail's own steps, which come later than these would.
        jailed.user = nil
        jailed.mayGainPrivileges = true
        (jailed.fileLimit, jailed.fileSizeLimit, jailed.addressSpaceLimit) = (.max, .max, .max)
        jailed.namespaces = cell.namespaces
        jailed.controlGroup = cell.group?.descriptor ?? -1
        return jailed
    }
}

/// A step of the jail that a test leaves out to show what it holds; as `Layer` of mayfly-jail, and
/// the namespaces and the control group, which are made before it runs.
enum JailLayer: String, CaseIterable {
    case root, descriptors, limits, user, capabilities, privileges, landlock, filter
    case processes, network, ipc, hostName = "host-name", controlGroup = "control-group"
    /// The control group that bounds it; `controlGroup` is what it sees of them.
    case group

    fileprivate var isStepOfProgram: Bool { namespace == nil && self != .group }

    fileprivate var namespace: UInt64? {
        switch self {
        case .processes: mayfly_ns_pid
        case .network: mayfly_ns_net
        case .ipc: mayfly_ns_ipc
        case .hostName: mayfly_ns_uts
        case .controlGroup: mayfly_ns_cgroup
        default: nil
        }
    }
}

/// One machine's place: its user id is nobody else's until this is dropped.
final class JailCell: Sendable {
    let user: uid_t
    let group: MachineGroup?
    private let jail: Jail
    private let without: Set<JailLayer>

    /// - Parameter without: nothing but a test leaves a layer out; no setting leads here.
    fileprivate init(
        _ jail: Jail, user: uid_t, group: MachineGroup?, without: Set<JailLayer>
    ) {
        self.jail = jail
        self.user = user
        self.group = group
        self.without = without
    }
    deinit { jail.give(back: user) }

    var credentials: Credentials { Credentials(user: user, group: user) }

    func wrap(
        _ request: SpawnRequest, _ hypervisor: HypervisorName, work: String? = nil
    ) -> SpawnRequest {
        jail.wrap(request, hypervisor, self, work: work)
    }
    fileprivate var layersLeftOut: Set<JailLayer> { without.filter(\.isStepOfProgram) }
    fileprivate var namespaces: UInt64 {
        JailLayer.allCases.filter { !without.contains($0) }.compactMap(\.namespace).reduce(0, |)
    }
}
