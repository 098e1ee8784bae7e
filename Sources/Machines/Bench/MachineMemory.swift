// Where the memory of one machine goes, as the kernel shares it out: read from /proc, for benches.

import Foundation

/// The proportional set size of a hypervisor process and its parts, in MiB.
package struct MachineMemory: Sendable {
    /// Pages of the image's memory that the guest has written: copies of its own.
    package private(set) var guest = 0.0
    /// Guest code translated for this processor; none under KVM.
    package private(set) var code = 0.0
    /// The hypervisor's heap, stacks and relocated pages.
    package private(set) var hypervisor = 0.0
    /// Its share of what machines have in common: the image's memory and program files.
    package private(set) var shared = 0.0
    package var total: Double { guest + code + hypervisor + shared }

    /// `nil` when the process is gone, or belongs to somebody whose memory we may not see.
    package init?(of pid: Int32) {
        guard let text = kernelText("/proc/\(pid)/smaps") else { return nil }
        self.init(smaps: text)
    }

    /// From the text of /proc/PID/smaps; `nil` when there is no mapping in it.
    init?(smaps text: String) {
        var part = \MachineMemory.hypervisor
        var (proportional, anonymous, mappings) = (0.0, 0.0, 0)
        for line in text.utf8.split(separator: UInt8(ascii: "\n")) {
            let words = line.split(separator: UInt8(ascii: " "))
            guard words.count >= 2 else { continue }
            if words[0].last != UInt8(ascii: ":") {
                let path = words.dropFirst(5).map { String(decoding: $0, as: UTF8.self) }.joined()
                mappings += 1
                part =
                    path.contains("mayfly-memory")
                    ? \.guest
                    : path.isEmpty && words[1].contains(UInt8(ascii: "x")) ? \.code : \.hypervisor
                continue
            }
            let mebibytes = (Double(String(decoding: words[1], as: UTF8.self)) ?? 0) / 1024
            switch String(decoding: words[0], as: UTF8.self) {
            case "Pss:": proportional += mebibytes
            case "Anonymous:":
                self[keyPath: part] += mebibytes
                anonymous += mebibytes
            default: continue
            }
        }
        guard mappings > 0 else { return nil }
        // Anonymous pages are the process's alone: it has no children to share them with.
        shared = max(0, proportional - anonymous)
    }
}
