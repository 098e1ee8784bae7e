// A worker's life: slots that claim and attempt until the queue drains, and beside them the
// signals, the stops and the sweep. Called by `mayfly worker`; every part is a child task of one
// scope.

import Jobs
import Logging
import Machines

/// What every attempt needs: the machines, the kinds, the blobs, and the board of stops.
struct Workshop: Sendable {
    let host: MachineHost
    let kinds: Kinds
    let blobs: any BlobSource
    let stops: StopBoard

    /// One line per attempt.
    func note(_ outcome: Outcome, _ settlement: Settlement, _ metadata: Logger.Metadata) {
        var metadata = metadata
        metadata["outcome"] = "\(outcome.word)"
        metadata["settlement"] = "\(settlement.word)"
        if let machine = outcome.machine { metadata["machine.id"] = "\(machine)" }
        if let message = outcome.message { metadata["error"] = "\(message)" }
        Logger.current.info("attempt ended", metadata: metadata)
    }
}

/// N slots, one host, one queue.
struct Supervisor: Sendable {
    let workshop: Workshop
    let slotCount: Int
    let drainTimeout: Duration
    /// Dead workers' machines must not wait for a restart of this one.
    static let sweepInterval = Duration.seconds(30)

    /// Works until a signal has drained the queue and every claim is settled.
    func run(_ queue: Queue, signals: AsyncStream<Int32>) async {
        await withTaskGroup(of: Bool.self) { parts in
            parts.addTask {
                await slots(queue)
                return true
            }
            parts.addTask {
                await passOnStops(queue)
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
            for await isOver in parts where isOver { parts.cancelAll() }
        }
    }

    /// Demand equals free slots by construction: a slot asks for a job when it has none.
    private func slots(_ queue: Queue) async {
        await withDiscardingTaskGroup { slots in
            for _ in 0..<slotCount {
                slots.addTask {
                    while let claim = await queue.next() { await attempt(claim, in: workshop) }
                }
            }
        }
    }

    private func passOnStops(_ queue: Queue) async {
        for await stop in queue.stops {
            Logger.current.info(
                "an attempt must stop", metadata: ["token": "\(stop.token)", "why": "\(stop.why)"])
            workshop.stops.stop(stop.token, .cancelled)
        }
    }

    /// First signal: no new jobs, running ones may finish.
    ///
    /// Second, or the deadline: give them back.
    private func obey(_ signals: AsyncStream<Int32>, _ queue: Queue) async {
        guard await signals.first(where: { _ in true }) != nil else { return }
        Logger.current.notice(
            "draining: no new jobs; a second signal gives running ones back",
            metadata: [
                "running": "\(workshop.stops.count)", "timeout": "\(drainTimeout.settingText)",
            ])
        await queue.drain()
        await withTaskGroup(of: Void.self) { group in
            group.addTask { _ = await signals.first { _ in true } }
            group.addTask { try? await ContinuousClock().sleep(for: drainTimeout) }
            await group.next()
            group.cancelAll()
        }
        guard !Task.isCancelled else { return }  // every slot has finished by itself
        Logger.current.notice(
            "giving back what still runs", metadata: ["running": "\(workshop.stops.count)"])
        workshop.stops.shutDown()
    }

    private func sweep() async {
        while (try? await ContinuousClock().sleep(for: Self.sweepInterval)) != nil {
            let report = await workshop.host.sweep()
            guard report.processes + report.directories > 0 else { continue }
            Logger.current.notice(
                "removed what a dead worker left",
                metadata: [
                    "processes": "\(report.processes)", "directories": "\(report.directories)",
                ])
        }
    }
}

extension Settlement {
    /// For the log.
    var word: String {
        switch self {
        case .stored(let state): state
        case .retried: "retried"
        case .givenBack: "given back"
        case .fenced: "fenced"
        }
    }
}
