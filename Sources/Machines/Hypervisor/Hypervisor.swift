// What every hypervisor does for a machine, named once: start, boot, restore, pause, save, reach
// the agent, end. QEMU/ and Firecracker/ are the drivers; nobody else asks which one it is.

import CLinux
import Events
import Glibc
import Processes
import Wire

/// A hypervisor process with one machine, or with nothing loaded yet.
@LoopActor
protocol Hypervisor: AnyObject {
    var process: HypervisorProcess { get }

    /// Waits until it takes commands; a machine with `MachineParts.boot` then boots.
    func begin(before deadline: ContinuousClock.Instant) async throws(MachineError)
    /// Loads the snapshot into a process that was started without `boot`, and lets it run.
    func restore(before deadline: ContinuousClock.Instant) async throws(MachineError)
    /// Stands still until `resume`; `HypervisorProgram.pauseObstacle` says where that cannot be.
    func pause(before deadline: ContinuousClock.Instant) async throws(MachineError)
    func resume(before deadline: ContinuousClock.Instant) async throws(MachineError)
    /// Writes a paused machine's memory and device state into the memory files of its parts.
    func save(before deadline: ContinuousClock.Instant) async throws(MachineError)
    /// The way to the agent; taken once.
    func takeAgentWay() throws(MachineError) -> AgentWay
}

extension Hypervisor {
    var pid: pid_t { process.pid }
    var pidDescriptor: CInt { process.pidDescriptor }
    var hasEnded: Bool { process.hasEnded }
    func end(explaining error: MachineError) async -> MachineError {
        await process.end(explaining: error)
    }
    func end() async -> ChildUsage { await process.end() }
}

/// How the worker reaches the agent of one machine.
enum AgentWay {
    /// A port that nobody else has: it carries the session.
    case port(ByteStream)
    /// AF_VSOCK, where anybody may connect: the agent is told over the port whom to expect.
    case vsock(contextID: UInt32, port: ByteStream)
    /// A Unix socket that nobody else can reach, behind which the agent listens since its boot.
    case socket(FirecrackerSocket)
}

/// What the hypervisor is started with; everything that a snapshot depends on.
struct VirtualHardware: Sendable, Hashable, Codable {
    var vCPUCount: Int
    var memory: ByteCount
    var accelerator: Accelerator
    /// Decides which device carries the session.
    var transport: Transport
    /// Of the disk that each machine has for itself; `nil`: none.
    var scratch: ByteCount?
    /// As `HostProfile.emulated`; absent where it is QEMU's choice, as in every manifest before.
    var emulated: EmulatedProcessor?
}

/// The files of one machine, open.
struct MachineParts {
    /// A memory file: shared with the guest or written by `save` when booting, else copied on
    /// write.
    var memory: CInt
    var rootDisk: CInt
    /// The machine's own disk, where its hardware has one.
    var scratch: CInt?
    /// A memory file: the device state to restore or, when booting, to be saved; its offset moves.
    var state: CInt
    /// `HostMark.environment` of the owner, for the sweep.
    var mark: String
    /// Where a hypervisor that needs a directory makes one; it goes with the process.
    var directory: String
    /// Its place behind the second wall; `nil`: there is none.
    var cell: (any MachinePlace)?
    /// It will wait warm, within a budget: what makes it quick may cost memory.
    var isForWarm = false
    /// Booting rather than restoring.
    var boot: Boot?

    /// Where the hypervisor finds a descriptor of its own by name.
    func path(of descriptor: CInt) -> String {
        cell == nil ? "/proc/self/fd/\(descriptor)" : "/fd/\(descriptor)"
    }

    struct Boot {
        /// Open files, like the others.
        var kernel: CInt
        var initramfs: CInt
        var commandLine: String
    }
}

extension SpawnRequest {
    /// What every hypervisor is started with, whatever its command line.
    ///
    /// - Parameter overhead: bytes of address space beyond the guest's memory.
    init(
        _ program: HypervisorProgram, _ arguments: [String], _ hardware: VirtualHardware,
        _ parts: MachineParts, overhead: UInt64
    ) {
        self.init(arguments: [program.path] + arguments)
        environment = [parts.mark]
        // The program itself for a script, whose interpreter opens it by this number.
        kept = [parts.memory, parts.rootDisk, parts.state, program.descriptor]
        if let scratch = parts.scratch { kept.append(scratch) }
        if let boot = parts.boot { kept += [boot.kernel, boot.initramfs] }
        executable = program.descriptor
        // It allocates what a guest's device requests ask for; without a bound that is the host's
        // memory.
        addressSpaceLimit = UInt64(hardware.memory.bytes) + overhead
        // Making them needs root.
        namespaces = geteuid() == 0 ? mayfly_ns_net | mayfly_ns_ipc | mayfly_ns_uts : 0
        user = parts.cell?.owner ?? HypervisorUser.forAccelerator(hardware.accelerator)
        // A machine's writable files are its logs; while an image is built, the memory files too.
        fileSizeLimit = UInt64(
            max(
                parts.boot == nil ? HypervisorLog.byteCount : hardware.memory.bytes,
                hardware.scratch?.bytes ?? 0))
    }
}
