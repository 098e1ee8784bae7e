// How much memory this host has for machines, and how much is left of it. Read from /proc and from
// this process's control group, whose limit may be lower: machines are in the same one.

import Glibc

/// What the kernel says about memory.
package enum HostMemory {
    /// Of the host, or what its control group may have.
    package static let total: ByteCount = {
        let all = host("MemTotal:") ?? .gibibytes(4)
        return min(all, ControlGroup.limit ?? all)
    }()
    /// Machines leave so much to everything else: an eighth.
    static let reserve = ByteCount(bytes: total.bytes / 8)

    /// What could be used without swapping; everything when the kernel does not say it.
    package static var available: ByteCount {
        min(host("MemAvailable:") ?? total, ControlGroup.available ?? total)
    }

    private static func host(_ name: String) -> ByteCount? {
        kibibytes(named: name, in: kernelText("/proc/meminfo") ?? "")
    }
}

/// How many machines a host can have without ever needing more memory than there is.
package struct MachineRoom: Sendable, Equatable {
    /// What a machine may need beside its guest's memory: under emulation 64 MiB of translated
    /// code, and QEMU itself.
    private static let overhead = ByteCount.mebibytes(96)

    var total, reserve, available: ByteCount
    /// What the machines at work have of their own by now.
    var taken = ByteCount(bytes: 0)
    /// Of one machine.
    let worst: ByteCount

    /// - Parameter memory: of a guest.
    init(total: ByteCount, reserve: ByteCount, available: ByteCount, memory: ByteCount) {
        (self.total, self.reserve, self.available) = (total, reserve, available)
        worst = ByteCount(bytes: memory.bytes + Self.overhead.bytes)
    }
    /// This host's, now, without any machine at work.
    package init(memory: ByteCount) {
        self.init(
            total: HostMemory.total, reserve: HostMemory.reserve, available: HostMemory.available,
            memory: memory)
    }

    /// So many at once, if each uses all that it may.
    package var most: Int { max(0, total.bytes - reserve.bytes) / worst.bytes }
    /// So many more may begin beside `running`, which may still take what they have not taken yet.
    package func more(beside running: Int) -> Int {
        let promised = max(0, running * worst.bytes - taken.bytes)
        return max(
            0, min(most - running, (available.bytes - reserve.bytes - promised) / worst.bytes))
    }
}

/// A control group with a limit, version 2.
private struct ControlGroup {
    let path: String

    /// This process's own and those around it, as far as they have a limit.
    private static let limited: [ControlGroup] = {
        let text = kernelText("/proc/self/cgroup") ?? ""
        guard let line = text.split(separator: "\n").first(where: { $0.hasPrefix("0::/") })
        else { return [] }
        var names = line.dropFirst(4).split(separator: "/")
        var groups: [ControlGroup] = []
        while !names.isEmpty {
            groups.append(ControlGroup(path: "/sys/fs/cgroup/" + names.joined(separator: "/")))
            names.removeLast()
        }
        return groups.filter { $0.limit != nil }
    }()
    static var limit: ByteCount? { limited.compactMap(\.limit).min() }
    static var available: ByteCount? { limited.compactMap(\.available).min() }

    private var limit: ByteCount? { number("memory.max") }
    /// Files of the page cache can be had back.
    private var available: ByteCount? {
        guard let limit, let current = number("memory.current") else { return nil }
        let text = kernelText("\(path)/memory.stat") ?? ""
        let files = text.split(separator: "\n").reduce(0) { sum, line in
            let words = line.split(separator: " ")
            guard words.count == 2, words[0] == "inactive_file" || words[0] == "active_file"
            else { return sum }
            return sum + (Int(words[1]) ?? 0)
        }
        return ByteCount(bytes: max(0, limit.bytes - current.bytes + files))
    }
    private func number(_ name: String) -> ByteCount? {
        let text = (kernelText("\(path)/\(name)") ?? "").split(separator: "\n").first
        return text.flatMap { Int($0) }.map { ByteCount(bytes: $0) }
    }
}
