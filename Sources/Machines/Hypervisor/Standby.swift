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
    var startedFrom = MachineTimings.Start.spawn

    /// Starts and prepares one for `image`.
    static func spawn(
        for image: GoldenImage, isForWarm: Bool, program: HypervisorProgram,
        mark: borrowing HostMark
    ) async throws(MachineError) -> Standby {
        try await image.checkRootDisk()
        // A description of its own: reading the state moves its offset.
        let path = "/proc/self/fd/\(image.state.number)"
        let state = try attempting(Descriptor.open(path, O_RDONLY))
        let parts = MachineParts(
            memory: image.memory.number, rootDisk: image.rootDisk.number, state: state.number,
            mark: mark.environment, directory: mark.machinesDirectory,
            isForWarm: isForWarm)
        let hypervisor = try program.start(image.manifest.hardware, parts)
        do throws(MachineError) {
            try await hypervisor.begin(before: .now + .seconds(30))
        } catch {
            throw await hypervisor.end(explaining: error)
        }
        return Standby(hypervisor: hypervisor, image: image, state: state)
    }
    consuming func destroy() async { _ = await hypervisor.end() }
}
