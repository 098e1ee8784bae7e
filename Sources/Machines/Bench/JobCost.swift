// What one job costs this host: the processor time of its whole machine, whoever in it used it.
// Called by benches that compare ways of doing the same.

import Events
import Glibc
import Wire

/// One job in a machine of its own, from the start of its hypervisor to its end.
package struct JobCost: Sendable {
    package var report: GuestReport
    /// Processor time of the hypervisor since it was started: guest, emulation and devices.
    package var processor: Duration
    /// Of it: since the machine was ready for its job.
    package var sinceReady: Duration
    /// From READY to the job's end.
    package var wall: Duration
}

extension MachineHost {
    /// Restores a machine for this job alone, runs it, and reads what that cost.
    package func cost(
        of job: GuestJob, image name: String
    ) async throws(MachineError) -> JobCost {
        let image = try await image(name, generation: nil)
        let (cost, _) = try await withMachine(restoring: image) {
            machine throws(MachineError) in
            let pid = machine.hypervisor.pid
            let (before, began) = (try processorTime(of: pid), ContinuousClock.now)
            let report = try await machine.session.run(job)
            let (after, wall) = (try processorTime(of: pid), ContinuousClock.now - began)
            return JobCost(
                report: report, processor: after, sinceReady: after - before, wall: wall)
        }
        return cost
    }
}

/// User and system time of a process and all of its threads so far.
private func processorTime(of pid: pid_t) throws(MachineError) -> Duration {
    let text = kernelText("/proc/\(pid)/stat") ?? ""
    // The name stands in parentheses and may hold blanks; the times are fields 14 and 15.
    let fields = text[(text.lastIndex(of: ")") ?? text.startIndex)...].split(separator: " ")
    guard fields.count > 13, let user = Int64(fields[12]), let system = Int64(fields[13]) else {
        throw MachineError(.machineLost, "the hypervisor's processor time cannot be read")
    }
    let ticks = Int64(max(1, sysconf(CInt(_SC_CLK_TCK))))
    return .milliseconds((user + system) * 1000 / ticks)
}
