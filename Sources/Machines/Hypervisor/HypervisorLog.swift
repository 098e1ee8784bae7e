// What one hypervisor writes, bounded: the guest's console, and its own messages. Read when
// something went wrong. Costs nothing while nobody asks, survives the hypervisor, and can be
// filled, but no more.

import CLinux
import Glibc
import Processes

/// The first 64 KiB of what is written to `writer`; what comes later is lost.
struct HypervisorLog: ~Copyable {
    /// The hypervisor's file size limit, and what a pipe holds.
    static let byteCount = 64 << 10

    private let reader: Descriptor
    private let isPipe: Bool
    /// For the hypervisor.
    let writer: Descriptor

    /// A memory file: QEMU takes a descriptor of an fdset only when it is open for writing and
    /// nothing else.
    init(_ name: String) throws(MachineError) {
        let file = try attempting(Descriptor.memory(name))
        let path = "/proc/self/fd/\(file.number)"
        writer = try attempting(Descriptor.open(path, O_WRONLY))
        reader = file
        isPipe = false
    }
    /// A pipe that nobody reads: Firecracker ends itself when a file of its reaches the limit.
    init() throws(MachineError) {
        var pair: [CInt] = [-1, -1]
        let status = unsafe mayfly_pipe(&pair)
        guard status == 0 else { throw MachineError(SystemError("make", "a pipe", -status)) }
        reader = Descriptor(pair[0])
        writer = Descriptor(pair[1])
        isPipe = true
    }

    /// The last lines of it, each cut to 300 bytes; of a pipe they come once.
    ///
    /// A guest writes what it likes there, so this works on a few bytes of it, and on bytes: what
    /// looks like one character may be thousands.
    func lastLines(_ count: Int) -> [String] {
        lastBytes().split { $0 == 0x0A || $0 == 0x0D }
            .suffix(count).map { String(decoding: $0.prefix(300), as: UTF8.self) }
    }
    private func lastBytes() -> ArraySlice<UInt8> {
        let kept = 8 << 10
        if isPipe {
            var bytes = [UInt8](repeating: 0, count: Self.byteCount)
            let count = unsafe read(reader.number, &bytes, bytes.count)
            return bytes.prefix(max(0, count)).suffix(kept)
        }
        let size = max(0, Int(lseek(reader.number, 0, SEEK_END)))
        var bytes = [UInt8](repeating: 0, count: min(size, kept))
        let count = unsafe pread(reader.number, &bytes, bytes.count, off_t(size - bytes.count))
        return bytes.prefix(max(0, count))
    }
}
