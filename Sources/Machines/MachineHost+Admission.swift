// Whether this host can take one more machine: whether it fits into the memory, whatever those at
// work will still take, and whether the processors are not wanted by too many already.

import Events
import Glibc

/// How many more machines a host can take, and what there is least of.
package struct HostRoom: Sendable, Equatable {
    package enum Bound: Sendable { case memory, processors }
    package let count: Int
    package let bound: Bound
}

extension MachineHost {
    /// How long what the kernel said of memory is taken for true.
    private nonisolated static let memoryInterval = Duration.milliseconds(100)

    /// How many more machines this host has room for beside `running`.
    package func room(beside running: Int) async -> HostRoom {
        let memory = await memoryRoom(beside: running)
        guard memory > 0, let processors = await processorRoom(beside: running),
            processors < memory
        else { return HostRoom(count: memory, bound: .memory) }
        return HostRoom(count: processors, bound: .processors)
    }

    // MARK: Memory

    /// If each machine uses all that it may; warm ones are ended first.
    private func memoryRoom(beside running: Int) async -> Int {
        let memory = images.values.map(\.manifest.definition.memory).max() ?? .mebibytes(512)
        let (available, taken) = await memoryNow()
        var room = MachineRoom(
            total: HostMemory.total, reserve: HostMemory.reserve,
            available: ByteCount(bytes: available.bytes + warmPool.weight.bytes), memory: memory)
        room.taken = taken
        let more = room.more(beside: running)
        // Nobody shall wait longer than need be.
        if more == 0 { lastMemory = nil }
        return more
    }

    private func memoryNow() async -> (available: ByteCount, taken: ByteCount) {
        if let last = lastMemory, last.at + Self.memoryInterval > .now {
            return (last.available, last.taken)
        }
        let pids = working
        let now = await besideTheLoop(ifMany: pids) {
            let taken = pids.reduce(0) { $0 + (anonymousMemory(of: $1)?.bytes ?? 0) }
            return (HostMemory.available, ByteCount(bytes: taken))
        }
        lastMemory = (now.0, now.1, .now)
        return now
    }

    // MARK: Processors

    /// `nil`: no limit.
    ///
    /// A host that has no job always takes one.
    private func processorRoom(beside running: Int) async -> Int? {
        guard settings.overcommit > 0 else { return nil }
        // Which image comes next is not known: the smallest, for what is too many is measured soon.
        let counts = images.values.map(\.manifest.definition.vCPUCount)
        let (each, most) = (counts.min() ?? 1, counts.max() ?? 1)
        var room = ProcessorRoom(overcommit: settings.overcommit)
        // Nothing need be measured while all could want all that they may.
        if room.more(unmeasured: running, each: each) > 0 {
            return room.more(unmeasured: running, each: each)
        }
        await lookAtProcessors()
        let wanted = working.compactMap { demand.wanted[$0].map { min($0, Double(most)) } }
        room.wanted = wanted.reduce(0, +)
        let more = room.more(unmeasured: max(0, running - wanted.count), each: each)
        return running == 0 ? max(1, more) : more
    }
    private func lookAtProcessors() async {
        guard demand.isDue(at: .now) else { return }
        let pids = working
        // A line for each thread, and how many of those a hypervisor has its guest decides.
        let (times, now) = await offload {
            var times: [pid_t: Duration] = [:]
            for pid in pids { times[pid] = HostProcessors.wantedTime(of: pid) }
            return (times, ContinuousClock.now)
        }
        // Who asks twice at once looks twice; the second look would span nothing.
        if demand.isDue(at: .now) { demand.look(times, at: now) }
    }
}

/// A look at a process takes some 20 µs, and a thread of its own for it more than three of them.
private func besideTheLoop<Value: Sendable>(
    ifMany processes: Set<pid_t>, _ body: @escaping @Sendable () -> Value
) async -> Value {
    processes.count > 8 ? await offload(body) : body()
}

/// Pages that a process has for itself, from a list that is cheaper than that of its mappings.
func anonymousMemory(of pid: Int32) -> ByteCount? {
    kibibytes(named: "RssAnon:", in: kernelText("/proc/\(pid)/status") ?? "")
}
