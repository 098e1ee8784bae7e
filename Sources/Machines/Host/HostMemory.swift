// How much memory this host has for machines, and how much is left of it. Read from /proc and from
// this process's control group, whose limit may be lower: machines are in the same one.

import Glibc

/// What the kernel says about memory.
package enum HostMemory {
    /// Of the host, or what its control group may have.
    package static let total: ByteCount = {
        let all = host("MemTotal:") ?? .gibibytes(4)
        return min(all, ControlGroup.own?.limit ?? all)
    }()
    /// Machines leave so much to everything else: an eighth.
    static let reserve = ByteCount(bytes: total.bytes / 8)

    /// What could be used without swapping; everything when the kernel does not say it.
    package static var available: ByteCount {
        min(host("MemAvailable:") ?? total, ControlGroup.own?.available ?? total)
    }

    private static func host(_ name: String) -> ByteCount? {
        kibibytes(named: name, in: kernelText("/proc/meminfo") ?? "")
    }
}

/// How many machines a host can have without ever needing more memory than there is.
package struct MachineRoom: Sendable, Equatable {
    /// A machine whose guest has written all of its memory needs so much beside that.
    private static let overhead = ByteCount.mebibytes(64)

    package var total, reserve, available: ByteCount
    /// Of one machine.
    package var worst: ByteCount

    /// - Parameter memory: of a guest.
    init(total: ByteCount, reserve: ByteCount, available: ByteCount, memory: ByteCount) {
        (self.total, self.reserve, self.available) = (total, reserve, available)
        worst = ByteCount(bytes: memory.bytes + Self.overhead.bytes)
    }
    /// This host's, now.
    package init(memory: ByteCount) {
        self.init(
            total: HostMemory.total, reserve: HostMemory.reserve, available: HostMemory.available,
            memory: memory)
    }

    /// So many at once, if each uses all that it may.
    package var most: Int { max(0, total.bytes - reserve.bytes) / worst.bytes }
    /// So many more may begin beside `running`; what others on this host use counts as well.
    package func more(beside running: Int) -> Int {
        max(0, min(most - running, (available.bytes - reserve.bytes) / worst.bytes))
    }
}

/// A control group with a limit, version 2.
private struct ControlGroup {
    let path: String

    /// This process's own, unless it may have everything.
    static let own: ControlGroup? = {
        let text = kernelText("/proc/self/cgroup") ?? ""
        guard let line = text.split(separator: "\n").first(where: { $0.hasPrefix("0::/") })
        else { return nil }
        let group = ControlGroup(path: "/sys/fs/cgroup" + line.dropFirst(3))
        return group.limit == nil ? nil : group
    }()

    var limit: ByteCount? { number("memory.max") }
    /// Files of the page cache can be had back.
    var available: ByteCount? {
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
