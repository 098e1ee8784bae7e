// One microVM: a hypervisor process, the session with its agent, and who it is. It exists inside
// `withMachine` only, and is destroyed on return, on throw and on cancellation.

import Events
import Glibc
import Wire

/// A restored machine, proven fresh; dropped or destroyed, its process is gone.
@LoopActor
struct Machine: ~Copyable {
    let id: String
    let qemu: QEMU
    let session: AgentSession
    let vsock: VsockContext?
    let facts: MachineFacts
    /// Of its restore; the rest is known when it is gone.
    let timings: MachineTimings

    /// Kills the hypervisor; nothing of the machine is left when this returns.
    consuming func destroy() async -> ChildUsage { await qemu.end() }

    /// Stands still until `resume`; a machine of the warm pool waits so.
    borrowing func pause() async throws(MachineError) {
        try await qemu.pause(before: .now + .seconds(10))
    }
    borrowing func resume() async throws(MachineError) {
        try await qemu.resume(before: .now + .seconds(10))
    }
}

/// A hypervisor process that waits with nothing loaded: spawned off the job's path.
@LoopActor
struct Shell: ~Copyable {
    let qemu: QEMU
    let vsock: VsockContext?
    let image: GoldenImage
    /// Kept open for the process that inherited it.
    let state: Descriptor
    var startedFrom = MachineTimings.Start.spawn

    /// Starts and prepares one for `image`.
    static func spawn(
        for image: GoldenImage, binary: String, mark: String
    ) async throws(MachineError) -> Shell {
        try image.checkRootDisk()
        // A description of its own: reading the state moves its offset.
        let state = try Descriptor.open("/proc/self/fd/\(image.state.number)", O_RDONLY)
        let vsock =
            image.manifest.hardware.transport == "vsock" ? try VsockContext.take() : nil
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
        return Shell(qemu: qemu, vsock: vsock, image: image, state: state)
    }
    consuming func destroy() async { _ = await qemu.end() }
}

/// What PREPARE gives to one machine: never given to another, unless a replay pins it.
struct Freshness: Sendable {
    var entropy: [UInt8]
    var interpreterSeed: [UInt8]
    /// Nanoseconds since 1970 to set instead of the present.
    var pinnedClock: Int64?

    init(pin: Pin?) throws(MachineError) {
        guard let pin else {
            entropy = randomBytes(Limits.entropyByteCount)
            interpreterSeed = randomBytes(Limits.seedByteCount)
            return
        }
        guard pin.entropySeed.count == Limits.entropyByteCount + Limits.seedByteCount else {
            throw MachineError(
                .restoreFailed,
                "the pinned entropy seed has \(pin.entropySeed.count) bytes, not 96; "
                    + "replay without --pinned")
        }
        entropy = Array(pin.entropySeed[..<Limits.entropyByteCount])
        interpreterSeed = Array(pin.entropySeed[Limits.entropyByteCount...])
        pinnedClock = pin.clock
    }
}

/// Nanoseconds since 1970, by the host's clock.
func realtimeNow() -> Int64 {
    var time = timespec()
    unsafe clock_gettime(CLOCK_REALTIME, &time)
    return Int64(time.tv_sec) * 1_000_000_000 + Int64(time.tv_nsec)
}

extension Machine {
    /// Loads the snapshot into a waiting shell, resumes it, and proves it fresh.
    ///
    /// - Throws: `restoreFailed` when a step of PREPARE is not proven; the process is gone then.
    @LoopActor
    static func restore(
        from shell: consuming Shell, freshness: Freshness,
        before deadline: ContinuousClock.Instant
    ) async throws(MachineError) -> Machine {
        let (qemu, image) = (shell.qemu, shell.image)
        var timings = MachineTimings(startedFrom: shell.startedFrom)
        do throws(MachineError) {
            let begin = ContinuousClock.now
            try await qemu.load(state: shell.state.number, before: deadline)
            try await qemu.resume(before: deadline)
            timings.restore = .now - begin
            let id = "m-" + hexText(randomBytes(8))
            let prepared = ContinuousClock.now
            let session = try await AgentSession.open(
                qemu: qemu, contextID: shell.vsock?.id, agent: image.manifest.agent,
                before: deadline)
            let clock = try await session.prepare(
                freshness, id: id, generation: image.manifest.generation, before: deadline)
            timings.prepare = .now - prepared
            let facts = MachineFacts(
                id: id, image: image.manifest.definition.name,
                generation: image.manifest.generation, hypervisor: "qemu",
                accelerator: image.manifest.hardware.accelerator,
                transport: image.manifest.hardware.transport,
                entropySeed: freshness.entropy + freshness.interpreterSeed, clock: clock)
            return Machine(
                id: id, qemu: qemu, session: session, vsock: shell.vsock, facts: facts,
                timings: timings)
        } catch {
            throw await qemu.end(explaining: error)
        }
    }
}
