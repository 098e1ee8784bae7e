// The console of one guest, in memory: written by its hypervisor, read by us when something went
// wrong. Costs nothing while nobody asks, survives the hypervisor, and can be filled, but no more.

import Glibc
import Processes

/// A memory file; the hypervisor's file size limit is its bound, and what comes later is lost.
struct ConsoleFile: ~Copyable {
    /// The limit of a machine that runs jobs.
    static let byteCount = 64 << 10

    private let file: Descriptor
    /// For the hypervisor: QEMU takes a descriptor of an fdset only when it is open for writing
    /// and nothing else.
    let writer: Descriptor

    init() throws(MachineError) {
        let file = try attempting(Descriptor.memory("mayfly-console"))
        let path = "/proc/self/fd/\(file.number)"
        writer = try attempting(Descriptor.open(path, O_WRONLY))
        self.file = file
    }

    /// The last lines, each cut to 300 bytes.
    ///
    /// A guest writes what it likes there, so this works on a few bytes of it, and on bytes: what
    /// looks like one character may be thousands.
    func lastLines(_ count: Int) -> [String] {
        let size = max(0, Int(lseek(file.number, 0, SEEK_END)))
        var bytes = [UInt8](repeating: 0, count: min(size, 8 << 10))
        let read = unsafe pread(file.number, &bytes, bytes.count, off_t(size - bytes.count))
        return bytes.prefix(max(0, read)).split { $0 == 0x0A || $0 == 0x0D }
            .suffix(count).map { String(decoding: $0.prefix(300), as: UTF8.self) }
    }
}
