// A worker's life: slots that claim and attempt until the queue drains; beside them the signals,
// the host's health and the sweep. Called by `mayfly worker`; every part is a child task of one
// scope.

import Events
import Jobs
import Logging
import Machines

/// N slots, one host, one queue.
struct Supervisor: Sendable {
    let context: WorkerContext
    /// What must be restorable before this host claims anything.
    let images: [String]
    let slotCount: Int
    let drainTimeout: Duration
    /// Dead workers' machines must not wait for a restart of this one.
    static let sweepInterval = Duration.seconds(30)
    /// How soon a new generation of an image is taken up.
    static let imageInterval = Duration.seconds(2)
    /// How soon a warm machine is ended that is too old, too many or too much.
    static let warmInterval = Duration.seconds(2)

    /// Works until a signal has drained the queue and every claim is settled.
    func run(_ queue: Queue, signals: AsyncStream<Int32>) async {
        await withTaskGroup(of: Bool.self) { parts in
            parts.addTask {
                await slots(queue)
                return true
            }
            parts.addTask {
                await context.health.watch(queue) { () async throws(MachineError) in
                    for image in images { _ = try await context.host.restoreOnce(image: image) }
                }
                return false
            }
            parts.addTask {
                await obey(signals, queue)
                return false
            }
            parts.addTask {
                await sweep()
                return false
            }
            parts.addTask {
                await takeUpImages()
                return false
            }
            parts.addTask {
                await tendWarmMachines()
                return false
            }
            for await isOver in parts where isOver { parts.cancelAll() }
        }
    }

    /// Demand equals free slots by construction: a slot asks for a job when it has none.
    private func slots(_ queue: Queue) async {
        await withDiscardingTaskGroup { slots in
            for _ in 0..<slotCount {
                // On the loop's thread, where queue and machines are: a change of threads, of
                // which an attempt would have dozens, costs more than most of its steps.
                slots.addTask(executorPreference: EventLoop.shared) { await slot(queue) }
            }
        }
    }
    @LoopActor
    private func slot(_ queue: Queue) async {
        while let claim = await queue.next() { await attempt(claim, in: context) }
    }

    /// First signal: no new jobs, running ones may finish.
    ///
    /// Second, or the deadline: give them back.
    private func obey(_ signals: AsyncStream<Int32>, _ queue: Queue) async {
        guard await signals.first(where: { _ in true }) != nil else { return }
        let running = await queue.heldCount
        Logger.current.notice(
            "draining: no new jobs; a second signal gives running ones back",
            metadata: [
                "running": "\(running)", "timeout": "\(drainTimeout.settingText)",
            ])
        await queue.drain()
        await withTaskGroup(of: Void.self) { group in
            group.addTask { _ = await signals.first { _ in true } }
            group.addTask { try? await ContinuousClock().sleep(for: drainTimeout) }
            await group.next()
            group.cancelAll()
        }
        guard !Task.isCancelled else { return }  // every slot has finished by itself
        let left = await queue.heldCount
        Logger.current.notice(
            "giving back what still runs", metadata: ["running": "\(left)"])
        await queue.interruptAll()
    }

    /// A build beside this worker needs no restart of it.
    private func takeUpImages() async {
        while (try? await ContinuousClock().sleep(for: Self.imageInterval)) != nil {
            await context.host.takeUpImages()
        }
    }

    private func tendWarmMachines() async {
        while (try? await ContinuousClock().sleep(for: Self.warmInterval)) != nil {
            await context.host.tendWarmMachines()
        }
    }

    private func sweep() async {
        while (try? await ContinuousClock().sleep(for: Self.sweepInterval)) != nil {
            let report = await context.host.sweep()
            guard report.processes + report.directories > 0 else { continue }
            Logger.current.notice(
                "removed what a dead worker left",
                metadata: [
                    "processes": "\(report.processes)", "directories": "\(report.directories)",
                ])
        }
    }
}
