// How many warm machines there should be, and which of them wait: as many as jobs arrive while one
// is made, within a budget of memory. Holds them and decides; MachineHost+Warm.swift makes them.

import Events
import Foundation
import Glibc

/// `machine.warm.…` of worker.conf.
package struct WarmSettings: Sendable {
    /// What all warm machines of a host may add to its memory; zero: there are none.
    package var memory = ByteCount(bytes: 0)
    /// One that has waited for so long is replaced.
    package var age = Duration.seconds(600)
    package init() {}

    /// No warm machine is taken for lighter than this, whatever it seems to weigh.
    static let leastWeight = ByteCount.mebibytes(32)
    /// How many there can be at most.
    package var countMax: Int { memory.bytes / Self.leastWeight.bytes }
}

/// The most jobs that lately began within the time that making one machine takes.
struct Arrivals {
    /// How long a burst is remembered.
    static let memory = Duration.seconds(300)

    private var recent: [ContinuousClock.Instant] = []
    private var peak = 0
    private var peakAt = ContinuousClock.now

    mutating func note(_ now: ContinuousClock.Instant, within window: Duration) {
        recent.removeAll { $0 + window < now }
        // Enough for every budget, and no more than that is kept.
        if recent.count < 1024 { recent.append(now) }
        if recent.count >= peak(at: now) { (peak, peakAt) = (recent.count, now) }
    }
    func peak(at now: ContinuousClock.Instant) -> Int {
        peakAt + Self.memory < now ? 0 : peak
    }
}

/// The warm machines of one host, by generation.
@LoopActor
struct WarmPool {
    let settings: WarmSettings
    private var waiting: [GenerationIdentity: [WarmMachine]] = [:]
    private var arrivals: [GenerationIdentity: Arrivals] = [:]
    /// Of the last one that was made.
    private var weights: [GenerationIdentity: ByteCount] = [:]
    private var making: [GenerationIdentity: Duration] = [:]
    private var failures = 0
    private var notBefore = ContinuousClock.now

    init(_ settings: WarmSettings) { self.settings = settings }

    var isOn: Bool { settings.memory.bytes > 0 }
    var count: Int { waiting.values.reduce(0) { $0 + $1.count } }
    /// What all of them add to the host's memory.
    var weight: ByteCount {
        ByteCount(bytes: waiting.values.joined().reduce(0) { $0 + $1.weight.bytes })
    }
    var processes: [pid_t] { waiting.values.joined().map(\.pid) }
    func count(of image: GenerationIdentity) -> Int { waiting[image]?.count ?? 0 }

    /// The one that has waited longest, unless there is none that is fit for a job.
    mutating func take(_ image: GenerationIdentity) -> WarmMachine? {
        guard isOn else { return nil }
        let window = making[image] ?? .seconds(1)
        arrivals[image, default: Arrivals()].note(.now, within: window)
        while let first = waiting[image]?.first {
            waiting[image]?.removeFirst()
            // One that died while it waited is no reason to fail the job.
            if !first.hasEnded, !isOld(first) { return first }
        }
        return nil
    }

    /// Whether another one of this generation should be made now.
    func wants(_ image: GenerationIdentity, available: ByteCount) -> Bool {
        guard isOn, .now >= notBefore else { return false }
        let target = max(1, arrivals[image]?.peak(at: .now) ?? 0)
        let weight = weights[image] ?? .mebibytes(96)
        return count(of: image) < target
            && self.weight.bytes + weight.bytes <= settings.memory.bytes
            // Twice, so that it is not ended as soon as it is there.
            && available.bytes > HostMemory.reserve.bytes + 2 * weight.bytes
    }
    mutating func add(_ machine: WarmMachine, _ image: GenerationIdentity, took: Duration) {
        failures = 0
        weights[image] = max(machine.weight, WarmSettings.leastWeight)
        making[image] = took
        waiting[image, default: []].append(machine)
    }
    /// Not again at once: after 10 s, 20 s … 5 min.
    mutating func noteFailure() {
        notBefore = .now + min(.seconds(10) * (1 << min(failures, 5)), .seconds(300))
        failures += 1
    }

    /// Those that have ended or have become too old, and those that are more than wanted.
    mutating func removeUnfit() -> [WarmMachine] {
        var removed: [WarmMachine] = []
        for (image, machines) in waiting {
            var kept: [WarmMachine] = []
            let target = max(1, arrivals[image]?.peak(at: .now) ?? 0)
            for machine in machines.reversed() {
                if machine.hasEnded || isOld(machine) || kept.count >= target {
                    removed.append(machine)
                } else {
                    kept.append(machine)
                }
            }
            waiting[image] = kept.reversed()
        }
        return removed
    }
    /// Any one: the host needs its memory.
    mutating func removeOne() -> WarmMachine? {
        for image in waiting.keys {
            if let machine = waiting[image]?.popLast() { return machine }
        }
        return nil
    }
    mutating func remove(_ image: GenerationIdentity) -> [WarmMachine] {
        arrivals[image] = nil
        weights[image] = nil
        making[image] = nil
        return waiting.removeValue(forKey: image) ?? []
    }
    mutating func removeAll() -> [WarmMachine] {
        defer { waiting = [:] }
        return Array(waiting.values.joined())
    }

    private func isOld(_ machine: WarmMachine) -> Bool {
        machine.since + settings.age < .now
    }
}
