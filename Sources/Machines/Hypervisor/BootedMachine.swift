// A machine that boots its kernel instead of being restored: to build an image, and to measure what
// a restore saves.

import Events
import Processes
import Wire

@LoopActor
struct BootedMachine {
    let qemu: QEMU
    private let vsock: VsockContext?

    /// Starts QEMU with the kernel and initramfs of a generation; `memory` is written by the guest.
    init(
        _ manifest: Manifest, in directory: String, memory: CInt, binary: QEMUBinary
    ) throws(MachineError) {
        let rootDisk = try openImageFile("\(directory)/\(manifest.rootDisk.path)")
        vsock = manifest.hardware.transport == .vsock ? try VsockContext.take() : nil
        var parts = MachineParts(
            memory: memory, rootDisk: rootDisk.number, isMemoryShared: true, mark: "MAYFLY_BUILD=1")
        parts.boot = (
            "\(directory)/\(manifest.kernel.path)", "\(directory)/\(manifest.initramfs.path)",
            manifest.commandLine
        )
        if let vsock { parts.vsock = (vsock.descriptor.number, vsock.id) }
        qemu = try QEMU(
            binary: binary, hardware: manifest.hardware, parts: parts)
    }

    /// Waits for the agent.
    func session(
        agent: String, before deadline: ContinuousClock.Instant
    ) async throws(MachineError) -> AgentSession {
        try await qemu.monitor.negotiate(before: deadline)
        return try await AgentSession.open(
            qemu: qemu, contextID: vsock?.id, agent: agent, before: deadline)
    }
}
