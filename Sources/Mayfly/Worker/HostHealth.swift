// A host that knows when it is ill: it counts its own losses in a row, stops claiming after a few,
// tries with growing pauses to restore a machine, and claims again when one was restored. Fed by
// every attempt; its `watch` is a part of the worker's life. Knows neither SQL nor hypervisors.

import Jobs
import Logging
import Machines
import Synchronization

/// Whether this host can run jobs, as far as its last attempts and probes tell.
final class HostHealth: Sendable {
    /// So many losses in a row are the host's, not the jobs'.
    static let lossesInARowMax = 3
    /// The first probe comes at once: a job that kills its machines must not stop a good host.
    static let firstPause = Duration.seconds(1)
    static let longestPause = Duration.seconds(60)

    private enum State {
        /// It has lost this many attempts since the last thing that worked.
        case well(lossesInARow: Int)
        case ill(lastLoss: String)
    }
    private struct Memory {
        var state = State.well(lossesInARow: 0)
        var isProven = true
    }
    private let memory = Mutex(Memory())
    /// Rings when the state may have become ill.
    private let (alarms, alarm) = AsyncStream.makeStream(
        of: Void.self, bufferingPolicy: .bufferingNewest(1))

    /// Takes note of how an attempt ended.
    ///
    /// - Returns: the outcome, which says of a loss whether this host had been proven since the
    ///   loss before: only then it speaks against the job.
    func observe(_ outcome: Outcome) -> Outcome {
        switch outcome {
        case .succeeded, .failed(_, _?):  // a machine ran to the job's own end
            recover()
            return outcome
        case .lost(let failure, let report) where failure.reason.isOfHost:
            let (wasProven, isIll) = memory.withLock { memory in
                defer { memory.isProven = false }
                switch memory.state {
                case .well(let losses) where losses + 1 < Self.lossesInARowMax:
                    memory.state = .well(lossesInARow: losses + 1)
                    return (memory.isProven, false)
                case .well, .ill:
                    memory.state = .ill(lastLoss: failure.description)
                    return (memory.isProven, true)
                }
            }
            if isIll { alarm.yield() }
            var report = report ?? Report()
            report.isHostProven = wasProven
            return .lost(failure, report)
        case .lost, .failed(_, nil), .interrupted, .cancelled: return outcome
        }
    }

    /// A machine was restored, or a job ran to its own end.
    func recover() {
        memory.withLock { $0 = Memory() }
    }

    /// Why the host is ill; `nil` when it is well.
    var illness: String? {
        memory.withLock { memory in
            if case .ill(let lastLoss) = memory.state { lastLoss } else { nil }
        }
    }

    /// Stops claims while the host is ill, and probes until it is well; until cancelled.
    ///
    /// - Parameter probe: restores one machine and destroys it.
    func watch(
        _ queue: Queue, longestPause: Duration = HostHealth.longestPause,
        probe: () async throws(MachineError) -> Void
    ) async {
        for await _ in alarms {
            guard let lastLoss = illness else { continue }
            await queue.suspend()
            await queue.reportHealth(.ill, note: lastLoss)
            Logger.current.error(
                "this host is ill: too many losses in a row; it claims no jobs until a probe works",
                metadata: ["error": "\(lastLoss)"])
            guard await probeUntilWell(longestPause, probe) else { return }
            await queue.reportHealth(.ok, note: nil)
            await queue.resume()
            Logger.current.notice("this host is well again: a machine was restored; it claims jobs")
        }
    }

    /// False when cancelled first.
    private func probeUntilWell(
        _ longestPause: Duration, _ probe: () async throws(MachineError) -> Void
    ) async -> Bool {
        var pause = Self.firstPause
        while true {
            do throws(MachineError) {
                try await probe()
                recover()
                return true
            } catch {
                Logger.current.warning(
                    "this host is still ill",
                    metadata: ["error": "\(error)", "next.probe.in": "\(pause)"])
            }
            guard (try? await ContinuousClock().sleep(for: pause)) != nil else { return false }
            pause = min(pause * 2, longestPause)
        }
    }
}

extension Reason {
    /// Whether a loss for this reason says something about the host.
    ///
    /// A missing key does not: which key a secret names is its producer's word.
    fileprivate var isOfHost: Bool {
        switch self {
        case .machineLost, .restoreFailed, .imageMissing: true
        default: false
        }
    }
}
