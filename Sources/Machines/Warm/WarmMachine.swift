// A warm machine: restored, prepared with entropy of its own, rehearsed, weighed and paused before
// there is a job for it. At the claim it runs again and is prepared anew, and from then on it is a
// machine like any other. How many there are is WarmPool's to say.

import Events
import Foundation
import Glibc

/// A machine that waits for its one job; taken once, and gone when it is dropped.
@LoopActor
final class WarmMachine {
    private var machine: Machine?
    let pid: pid_t
    let since = ContinuousClock.now
    /// What it adds to the host's memory: pages that it shares with nobody.
    let weight: ByteCount

    private init(_ machine: consuming Machine, weight: ByteCount) {
        pid = machine.hypervisor.pid
        self.machine = consume machine
        self.weight = weight
    }

    /// Restores and rehearses one from a hypervisor with nothing loaded.
    ///
    /// - Throws: why it is of no use; nothing of it is left then.
    static func make(from standby: consuming Standby) async throws(MachineError) -> WarmMachine {
        let pid = standby.hypervisor.pid
        let deadline = ContinuousClock.now + .seconds(60)
        setNiceness(of: pid, 10)
        let machine = try await Machine.restore(
            from: standby, freshness: Freshness(pin: nil), before: deadline)
        do throws(MachineError) {
            try await machine.session.rehearse(before: deadline)
            try await machine.pause()
        } catch { throw await machine.hypervisor.end(explaining: error) }
        setNiceness(of: pid, 0)
        // Golden memory is a private mapping: what a machine has of its own is anonymous.
        return WarmMachine(machine, weight: anonymousMemory(of: pid) ?? .mebibytes(96))
    }

    var hasEnded: Bool { machine?.hypervisor.hasEnded ?? true }

    /// Lets it run again and makes it its job's own.
    ///
    /// - Throws: why it is no machine for a job; nothing of it is left then.
    func claim(
        waited: Duration = .zero, before deadline: ContinuousClock.Instant
    ) async throws(MachineError) -> Machine {
        guard var machine = machine.take() else {
            throw MachineError(.machineLost, "a warm machine was taken twice")
        }
        do throws(MachineError) {
            try await machine.claim(waited: waited, before: deadline)
        } catch { throw await machine.hypervisor.end(explaining: error) }
        return machine
    }
    func destroy() async {
        if let machine = machine.take() { _ = await machine.destroy() }
    }
}

extension Machine {
    /// Resumes it and proves it fresh once more: with other entropy, and with the present time.
    fileprivate mutating func claim(
        waited: Duration, before deadline: ContinuousClock.Instant
    ) async throws(MachineError) {
        let begin = ContinuousClock.now
        timings = MachineTimings(startedFrom: .warm)
        try await hypervisor.resume(before: deadline)
        timings.restore = waited + (.now - begin)
        let resumed = ContinuousClock.now
        let freshness = try Freshness(pin: nil)
        identity.clock = try await session.prepare(
            freshness, id: id, generation: identity.generation, before: deadline)
        identity.entropySeed = freshness.entropy + freshness.interpreterSeed
        timings.prepare = .now - resumed
    }
}

/// A line of /proc: the name with its colon, a number, kB.
func kibibytes(named name: String, in text: String) -> ByteCount? {
    // By bytes: as characters the same takes ten times as long, and this is asked for each job.
    for line in text.utf8.split(separator: UInt8(ascii: "\n")) where line.starts(with: name.utf8) {
        let digits = UInt8(ascii: "0")...UInt8(ascii: "9")
        let number = line.drop { !digits.contains($0) }.prefix { digits.contains($0) }
        return Int(Substring(number)).map(ByteCount.kibibytes)
    }
    return nil
}

/// Steps behind everything that works for a job, or back in line.
///
/// Without root a process could not be put back in line, so it is left there.
private func setNiceness(of pid: pid_t, _ value: Int32) {
    guard geteuid() == 0 else { return }
    for thread in children(of: "/proc/\(pid)/task").compactMap(UInt32.init) {
        _ = setpriority(__priority_which_t(PRIO_PROCESS.rawValue), thread, value)
    }
}
