// What processes of this host use: workers, their hypervisors, PostgreSQL. Read from /proc, for the
// bench; what cannot be seen is said, not guessed.

import Foundation
import Glibc

/// One process, by the kernel's own count.
struct HostProcess {
    let pid: Int32
    let parent: Int32
    let name: String
    /// Its own processor time, in milliseconds.
    let own: Double
    /// That of children that it has waited for, in milliseconds.
    let ofChildren: Double

    /// `nil` when there is no such process.
    init?(_ pid: Int32) {
        guard let text = try? String(contentsOfFile: "/proc/\(pid)/stat", encoding: .utf8),
            let begin = text.firstIndex(of: "("), let end = text.lastIndex(of: ")")
        else { return nil }
        // After the name: state, parent, …; the times are fields 14 to 17 of proc(5).
        let fields = text[text.index(after: end)...].split(separator: " ")
        let ticks = fields.compactMap { Double($0) }
        guard fields.count > 15, ticks.count > 14 else { return nil }
        let unit = 1000 / Double(sysconf(CInt(_SC_CLK_TCK)))
        func time(_ field: Int) -> Double { (Double(fields[field]) ?? 0) * unit }
        self.pid = pid
        parent = Int32(fields[1]) ?? 0
        name = String(text[text.index(after: begin)..<end])
        own = time(11) + time(12)
        ofChildren = time(13) + time(14)
    }

    static func all() -> [HostProcess] {
        let entries = (try? FileManager.default.contentsOfDirectory(atPath: "/proc")) ?? []
        return entries.compactMap(Int32.init).compactMap { HostProcess($0) }
    }
    static func children(of parents: [Int32]) -> [HostProcess] {
        all().filter { parents.contains($0.parent) }
    }
}

/// The processor time that jobs cost on this host, in milliseconds.
struct ProcessorTime {
    var worker = 0.0
    var hypervisor = 0.0
    /// Of the server and all its backends; `nil` when it runs elsewhere.
    var postgres: Double?

    init(workers: [Int32], server: Int32?) {
        for pid in workers {
            guard let process = HostProcess(pid) else { continue }
            worker += process.own
            hypervisor += process.ofChildren
        }
        hypervisor += HostProcess.children(of: workers).reduce(0) { $0 + $1.own + $1.ofChildren }
        guard let server, let process = HostProcess(server) else { return }
        postgres =
            HostProcess.children(of: [server])
            .reduce(process.own + process.ofChildren) { $0 + $1.own + $1.ofChildren }
    }
}
