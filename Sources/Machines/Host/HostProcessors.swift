// How much of this host's processors the machines at work want: what they used, and what they would
// have used had they not waited for one. Read from /proc, thread by thread.

import Foundation
import Glibc

/// How many machines may want the processors at once, so that none takes much longer than alone.
package struct ProcessorRoom: Sendable, Equatable {
    /// In processors.
    let limit: Double
    /// What the machines that were measured want, in processors.
    var wanted = 0.0

    /// - Parameter overcommit: how many times the processors that this process may use.
    package init(overcommit: Int, processors: Int = HostProcessors.count) {
        limit = Double(overcommit * processors)
    }

    /// What machines that wait want for their timers is no reason to keep others from the rest.
    private static let slack = 0.25

    /// So many more may begin; one that was not measured yet, and each new one, may want all of its
    /// processors.
    ///
    /// - Parameter each: of one machine.
    package func more(unmeasured: Int, each: Int) -> Int {
        let free = limit - wanted - Double(unmeasured * each)
        return max(0, Int((free / Double(each) + Self.slack).rounded(.down)))
    }
}

package enum HostProcessors {
    /// That this process may use.
    package static let count = max(1, ProcessInfo.processInfo.activeProcessorCount)

    /// The time that the threads of a process ran, and waited for a processor; `nil` when there is
    /// no such process, or the kernel does not count (a build option of it).
    static func wantedTime(of pid: pid_t) -> Duration? {
        var sum: Int64 = 0
        for thread in children(of: "/proc/\(pid)/task") {
            guard let text = kernelText("/proc/\(pid)/task/\(thread)/schedstat") else { continue }
            // Nanoseconds on a processor, nanoseconds on a run queue, time slices.
            let fields = text.split(separator: " ").prefix(2).compactMap { Int64($0) }
            guard fields.count == 2 else { continue }
            sum += fields[0] &+ fields[1]
        }
        return sum > 0 ? .nanoseconds(sum) : nil
    }
}

/// What each machine at work wants, from one look to the next.
struct ProcessorDemand {
    /// A look costs some 50 µs for each machine.
    static let interval = Duration.milliseconds(500)

    private var times: [pid_t: Duration] = [:]
    private var lookedAt: ContinuousClock.Instant?
    /// In processors; who is not in it was seen once at most.
    private(set) var wanted: [pid_t: Double] = [:]

    func isDue(at now: ContinuousClock.Instant) -> Bool {
        lookedAt.map { $0 + Self.interval <= now } ?? true
    }
    mutating func look(_ now: [pid_t: Duration], at instant: ContinuousClock.Instant) {
        let elapsed = lookedAt.map { ($0.duration(to: instant)) / .seconds(1) } ?? 0
        wanted = [:]
        for (pid, time) in now {
            guard elapsed > 0, let before = times[pid] else { continue }
            // A thread that has ended takes its time with it.
            wanted[pid] = max(0, (time - before) / .seconds(1)) / elapsed
        }
        (times, lookedAt) = (now, instant)
    }
    /// A process id may be used again.
    mutating func forget(_ pid: pid_t) {
        times[pid] = nil
        wanted[pid] = nil
    }
}
