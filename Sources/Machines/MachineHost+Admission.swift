// Whether one more machine fits into this host's memory, whatever those at work will still take.

import Events

extension MachineHost {
    /// How long what the kernel said is taken for true.
    private nonisolated static let memoryInterval = Duration.milliseconds(100)

    /// How many more machines this host has room for beside `running`, if each uses all that it
    /// may; warm ones are ended first.
    package func room(beside running: Int) async -> Int {
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
        let now = await offload {
            let taken = pids.reduce(0) { $0 + (anonymousMemory(of: $1)?.bytes ?? 0) }
            return (HostMemory.available, ByteCount(bytes: taken))
        }
        lastMemory = (now.0, now.1, .now)
        return now
    }
}

/// Pages that a process has for itself, from a list that is cheaper than that of its mappings.
private func anonymousMemory(of pid: Int32) -> ByteCount? {
    kibibytes(named: "RssAnon:", in: kernelText("/proc/\(pid)/status") ?? "")
}
