// Warm machines of a host: made in the background, one at a time and only while a processor is
// free; taken by the next job; ended first when memory is short. A job that finds none, or one
// that is not what it should be, takes the way by a standby.

import Events
import Logging

extension MachineHost {
    /// A claimed machine, or `nil`: then there is none, or it was lost and a standby must do.
    func takeWarm(
        _ image: GoldenImage, since begin: ContinuousClock.Instant
    ) async throws(MachineError) -> Machine? {
        guard isInUse(image), let warm = warmPool.take(image.identity) else { return nil }
        do throws(MachineError) {
            return try await warm.claim(
                waited: .now - begin, before: .now + Self.warmTimeout)
        } catch {
            guard error.reason != .cancelled else { throw error }
            Logger.current.notice("a warm machine was lost", metadata: ["error": "\(error)"])
            return nil
        }
    }

    /// Ends warm machines that are too old, too many or too much, and has new ones made.
    ///
    /// Every 2 s in a worker.
    package func tendWarmMachines() async {
        guard warmPool.isOn, !isClosed else { return }
        for machine in warmPool.removeUnfit() { await machine.destroy() }
        while HostMemory.available < HostMemory.reserve, let machine = warmPool.removeOne() {
            Logger.current.notice("memory is short: a warm machine was ended")
            await machine.destroy()
        }
        for image in images.values { refillLater(image) }
    }

    /// Makes what is wanted of this image, until it is there or something else needs the host.
    func fillWarm(of image: GoldenImage) async {
        guard canKeepWarm else { return }
        while !isClosed, !isMakingWarm, isInUse(image), machineCount < HostProcessors.count,
            warmPool.wants(image.identity, available: HostMemory.available)
        {
            isMakingWarm = true
            defer { isMakingWarm = false }
            let begin = ContinuousClock.now
            do throws(MachineError) {
                let machine = try await makeWarm(of: image)
                if isClosed || !isInUse(image) {
                    await machine.destroy()
                } else {
                    warmPool.add(machine, image.identity, took: .now - begin)
                }
            } catch {
                warmPool.noteFailure()
                guard error.reason != .cancelled else { return }
                Logger.current.warning("no warm machine", metadata: ["error": "\(error)"])
                return
            }
        }
    }
    func makeWarm(of image: GoldenImage) async throws(MachineError) -> WarmMachine {
        try await WarmMachine.make(from: try await spawnStandby(of: image, forWarm: true))
    }

    /// What cannot be paused cannot wait.
    var canKeepWarm: Bool { probe.hypervisor.pauseObstacle == nil }

    /// How many machines wait warm, of every image.
    package var warmCount: Int { warmPool.count }

    /// From the claim to READY; what takes longer is slower than a standby.
    private nonisolated static let warmTimeout = Duration.seconds(5)
}
