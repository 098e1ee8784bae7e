// Random generators inside processes that wait in the snapshot. A browser's library draws from a
// generator of its own in each thread, seeded once: in every clone it would go on with the same
// numbers, whatever the kernel is given. It looks at one page of memory before each draw: one that
// the kernel empties in the child of a fork (MADV_WIPEONFORK). An empty page means a copy of
// itself, and every thread seeds itself anew from the kernel. A clone is such a copy: so we empty
// the page. Source: BoringSSL, crypto/fipsmodule/rand/fork_detect.cc.

import Glibc

/// The pages that would be empty after a fork, of every process.
struct ForkMarks {
    private struct Place {
        var pid: pid_t
        var address: UInt64
        var byteCount: Int
    }
    /// A mark is a page; what is larger is memory of another use.
    private static let byteCountMax: UInt64 = 64 << 10
    private var places: [Place] = []

    /// Looks through all processes: half a second under emulation, so it is done once, before the
    /// snapshot.
    static func find() -> ForkMarks {
        var marks = ForkMarks()
        guard let directory = unsafe opendir("/proc") else { return marks }
        defer { unsafe closedir(directory) }
        while let entry = unsafe readdir(directory) {
            let name = unsafe withUnsafeBytes(of: &entry.pointee.d_name) {
                unsafe String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self)
            }
            guard let pid = pid_t(name), pid != getpid() else { continue }
            marks.add(pid, readWhole("/proc/\(pid)/smaps"))
        }
        return marks
    }

    /// `address-end …`, then lines about that range; `VmFlags` with `wf` is what is looked for.
    private mutating func add(_ pid: pid_t, _ smaps: [UInt8]) {
        var range: (UInt64, UInt64)?
        for line in smaps.split(separator: UInt8(ascii: "\n")) {
            let first = line.prefix { $0 != UInt8(ascii: " ") }
            if first.elementsEqual("VmFlags:".utf8) {
                let flags = line.dropFirst(first.count).split(separator: UInt8(ascii: " "))
                guard let (begin, end) = range, end > begin, end - begin <= Self.byteCountMax,
                    flags.contains(where: { $0.elementsEqual("wf".utf8) })
                else { continue }
                places.append(Place(pid: pid, address: begin, byteCount: Int(end - begin)))
            } else if first.last != UInt8(ascii: ":") {
                let ends = first.split(separator: UInt8(ascii: "-")).map {
                    UInt64(String(decoding: $0, as: UTF8.self), radix: 16)
                }
                range = ends.count == 2 ? ends[0].flatMap { a in ends[1].map { (a, $0) } } : nil
            }
        }
    }

    /// Empties them: from then on no generator goes on where the snapshot left it.
    ///
    /// A process that has ended meanwhile has none.
    func clear() throws(SystemError) {
        for place in places {
            let path = "/proc/\(place.pid)/mem"
            let file = unsafe open(path, O_WRONLY | O_CLOEXEC)
            if file < 0, errno == ENOENT || errno == ESRCH { continue }
            try checkErrno("open \(path)", file)
            defer { close(file) }
            let zeros = [UInt8](repeating: 0, count: place.byteCount)
            let count = unsafe pwrite(
                file, zeros, zeros.count, off_t(truncatingIfNeeded: place.address))
            if count < 0, errno == ESRCH { continue }
            guard count == zeros.count else {
                throw SystemError(what: "empty a page of \(path)", code: count < 0 ? errno : EIO)
            }
        }
    }
}
