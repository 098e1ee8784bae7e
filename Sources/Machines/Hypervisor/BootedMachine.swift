// A machine that boots its kernel instead of being restored: to build an image, and to measure what
// a restore saves.

import Events
import Glibc
import Processes
import Wire

@LoopActor
struct BootedMachine: ~Copyable {
    let hypervisor: any Hypervisor
    /// Memory files: the guest's memory and device state, once they are saved.
    let memory: Descriptor
    let state: Descriptor
    private let scratch: ScratchDisk.File?

    /// Starts a hypervisor with the kernel and initramfs of the generation in `directory`.
    ///
    /// - Parameters:
    ///   - work: where the hypervisor may have a directory while it runs, without a jail.
    ///   - jail: what its guest does is as hostile as what a job does: packages' own scripts run.
    init(
        _ manifest: Manifest, in directory: String, work: String, program: HypervisorProgram,
        jail: Jail?, mark: String = "MAYFLY_BUILD=1"
    ) throws(MachineError) {
        let rootDisk = try openImageFile("\(directory)/\(manifest.rootDisk.path)")
        let memory = try attempting(Descriptor.memory("mayfly-memory"))
        let state = try attempting(Descriptor.memory("mayfly-state"))
        guard ftruncate(memory.number, off_t(manifest.hardware.memory.bytes)) == 0 else {
            throw MachineError(.hostUnfit, "no memory for the guest: \(errnoText(errno))")
        }
        var parts = MachineParts(
            memory: memory.number, rootDisk: rootDisk.number, state: state.number,
            mark: mark, directory: jail?.machinesDirectory ?? work)
        let cell = try jail?.cell(for: manifest.hardware, isBooting: true)
        parts.cell = cell
        let scratch = try ScratchDisk(of: manifest, in: directory)?.make(
            in: directory,
            owner: cell?.credentials
                ?? HypervisorUser.forAccelerator(manifest.hardware.accelerator))
        parts.scratch = scratch?.number
        let kernel = try openImageFile("\(directory)/\(manifest.kernel.path)")
        let initramfs = try openImageFile("\(directory)/\(manifest.initramfs.path)")
        parts.boot = MachineParts.Boot(
            kernel: kernel.number, initramfs: initramfs.number, commandLine: manifest.commandLine)
        hypervisor = try program.start(manifest.hardware, parts)
        self.memory = memory
        self.state = state
        self.scratch = scratch
    }

    /// Waits for the agent.
    borrowing func session(
        agent: String, before deadline: ContinuousClock.Instant
    ) async throws(MachineError) -> AgentSession {
        try await hypervisor.begin(before: deadline)
        return try await AgentSession.open(hypervisor, agent: agent, before: deadline)
    }
}
