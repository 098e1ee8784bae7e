// A hypervisor that has been started ahead of a job: the start-up is off the job's path.

import Events
import Glibc
import Processes

/// A hypervisor process that waits with nothing loaded: spawned off the job's path.
@LoopActor
struct Standby: ~Copyable {
    let hypervisor: any Hypervisor
    let image: GoldenImage
    /// Kept open for the process that inherited it.
    let state: Descriptor
    private let scratch: ScratchDisk.File?
    var startedFrom = MachineTimings.Start.spawn

    /// Descriptors of this process that one takes, over vsock; without it one less.
    static let descriptorCount = 9

    /// Starts and prepares one for `image`.
    static func spawn(
        for image: GoldenImage, isForWarm: Bool, program: HypervisorProgram,
        mark: borrowing HostMark, walls: (any Walls)?, scratchDirectory: String
    ) async throws(MachineError) -> Standby {
        guard OpenFileLimit.hasRoom(for: descriptorCount) else {
            throw MachineError(SystemError("start", "a machine", EMFILE))
        }
        try await image.checkRootDisk()
        // A description of its own: reading the state moves its offset.
        let path = "/proc/self/fd/\(image.state.number)"
        let state = try attempting(Descriptor.open(path, O_RDONLY))
        let hardware = image.manifest.hardware
        let cell = try walls?.place(for: hardware)
        let scratch = try image.scratch?.make(
            in: scratchDirectory,
            owner: cell?.owner ?? HypervisorUser.forAccelerator(hardware.accelerator))
        var parts = MachineParts(
            memory: image.memory.number, rootDisk: image.rootDisk.number, state: state.number,
            mark: mark.environment, directory: mark.machinesDirectory,
            isForWarm: isForWarm)
        parts.scratch = scratch?.number
        parts.cell = cell
        let hypervisor = try program.start(hardware, parts)
        do throws(MachineError) {
            try await hypervisor.begin(before: .now + .seconds(30))
        } catch {
            throw await hypervisor.end(explaining: error)
        }
        return Standby(hypervisor: hypervisor, image: image, state: state, scratch: scratch)
    }
    consuming func destroy() async { _ = await hypervisor.end() }
}
