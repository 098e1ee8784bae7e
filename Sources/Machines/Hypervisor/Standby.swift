// A hypervisor that has been started ahead of a job: the start-up is off the job's path.

import Events
import Glibc
import Processes

/// A hypervisor process that waits with nothing loaded: spawned off the job's path.
@LoopActor
struct Standby: ~Copyable {
    let qemu: QEMU
    let vsock: VsockContext?
    let image: GoldenImage
    /// Kept open for the process that inherited it.
    let state: Descriptor
    var startedFrom = MachineTimings.Start.spawn

    /// Starts and prepares one for `image`.
    static func spawn(
        for image: GoldenImage, binary: QEMUBinary, mark: String
    ) async throws(MachineError) -> Standby {
        try await image.checkRootDisk()
        // A description of its own: reading the state moves its offset.
        let path = "/proc/self/fd/\(image.state.number)"
        let state = try attempting(Descriptor.open(path, O_RDONLY))
        let vsock =
            image.manifest.hardware.transport == .vsock ? try VsockContext.take() : nil
        var parts = MachineParts(
            memory: image.memory.number, rootDisk: image.rootDisk.number, state: state.number,
            isMemoryShared: false, mark: mark)
        if let vsock { parts.vsock = (vsock.descriptor.number, vsock.id) }
        let qemu = try QEMU(binary: binary, hardware: image.manifest.hardware, parts: parts)
        let deadline = ContinuousClock.now + .seconds(30)
        do {
            try await qemu.monitor.negotiate(before: deadline)
            try await qemu.prepareMigration(before: deadline)
        } catch {
            throw await qemu.end(explaining: error)
        }
        return Standby(qemu: qemu, vsock: vsock, image: image, state: state)
    }
    consuming func destroy() async { _ = await qemu.end() }
}
