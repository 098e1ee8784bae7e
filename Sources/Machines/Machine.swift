// One microVM: a hypervisor process, the session with its agent, and who it is. It exists inside
// `withMachine` only, and is destroyed on return, on throw and on cancellation.

import Events
import Glibc
import Processes
import Wire

/// A restored machine, proven fresh; dropped or destroyed, its process is gone.
@LoopActor
struct Machine: ~Copyable {
    let id: String
    let hypervisor: any Hypervisor
    let session: AgentSession
    var identity: MachineIdentity
    /// Of its restore; the rest is known when it is gone.
    var timings: MachineTimings

    /// Kills the hypervisor; nothing of the machine is left when this returns.
    consuming func destroy() async -> ChildUsage { await hypervisor.end() }

    /// Stands still until `resume`.
    borrowing func pause() async throws(MachineError) {
        try await hypervisor.pause(before: .now + .seconds(10))
    }
    borrowing func resume() async throws(MachineError) {
        try await hypervisor.resume(before: .now + .seconds(10))
    }
}

/// A machine whose job is done: its hypervisor was killed, and the kernel takes it apart.
///
/// Not one more instruction of its guest runs; only its memory may still be there for some
/// milliseconds.
@LoopActor
package final class TerminatingMachine {
    private let hypervisor: any Hypervisor
    private let image: GoldenImage
    private let host: MachineHost
    private let killed = ContinuousClock.now

    init(_ machine: consuming Machine, of image: GoldenImage, on host: MachineHost) {
        hypervisor = machine.hypervisor
        self.image = image
        self.host = host
        hypervisor.process.kill()
    }

    /// Waits until nothing of it is left; how long that took since the kill.
    @discardableResult
    package func gone() async -> Duration {
        _ = await hypervisor.end()
        host.lastMemory = nil  // it has more now
        host.refillLater(image)
        return .now - killed
    }
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

extension Machine {
    /// Loads the snapshot into a waiting standby, resumes it, and proves it fresh.
    ///
    /// - Throws: `restoreFailed` when a step of PREPARE is not proven; the process is gone then.
    @LoopActor
    static func restore(
        from standby: consuming Standby, freshness: Freshness, waited: Duration = .zero,
        before deadline: ContinuousClock.Instant
    ) async throws(MachineError) -> Machine {
        let (hypervisor, image) = (standby.hypervisor, standby.image)
        var timings = MachineTimings(startedFrom: standby.startedFrom)
        do throws(MachineError) {
            let begin = ContinuousClock.now
            try await hypervisor.restore(before: deadline)
            timings.restore = waited + (.now - begin)
            let id = "m-" + hexText(randomBytes(8))
            let prepared = ContinuousClock.now
            let session = try await AgentSession.open(
                hypervisor, agent: image.manifest.agent, before: deadline)
            let clock = try await session.prepare(
                freshness, id: id, generation: image.manifest.generation, before: deadline)
            timings.prepare = .now - prepared
            let identity = MachineIdentity(
                id: id, image: image.manifest.definition.name,
                generation: image.manifest.generation,
                hypervisor: image.manifest.hypervisor,
                accelerator: image.manifest.hardware.accelerator,
                transport: image.manifest.hardware.transport,
                entropySeed: freshness.entropy + freshness.interpreterSeed, clock: clock)
            return Machine(
                id: id, hypervisor: hypervisor, session: session, identity: identity,
                timings: timings)
        } catch {
            throw await hypervisor.end(explaining: error)
        }
    }
}
