// The QEMU that the host was probed with, held open: every machine is started from this very file,
// whatever a package upgrade puts in its place meanwhile.

import Glibc
import Processes

/// An open program file.
final class QEMUBinary: Sendable {
    /// Where it stood when it was opened; its name in the process list.
    let path: String
    private let file: Descriptor
    /// For `SpawnRequest.executable`.
    var descriptor: CInt { file.number }

    /// - Throws: `hostUnfit` when there is no such program.
    init(_ name: String) throws(MachineError) {
        guard let path = findProgram(name) else {
            throw MachineError(
                .hostUnfit,
                "\(name) is not installed; install qemu-system-x86 or set machine.qemu.binary")
        }
        self.path = path
        file = try attempting(Descriptor.open(path, O_RDONLY))
    }

    /// Whether it is a program itself, and not a script that may run any.
    var isELF: Bool {
        var magic: [UInt8] = [0, 0, 0, 0]
        return unsafe pread(descriptor, &magic, 4, 0) == 4 && magic == [0x7F, 0x45, 0x4C, 0x46]
    }

    /// Whether the path still names the open file.
    var isInPlace: Bool {
        var (open, named) = (stat(), stat())
        guard unsafe fstat(descriptor, &open) == 0, unsafe stat(path, &named) == 0 else {
            return false
        }
        return open.st_dev == named.st_dev && open.st_ino == named.st_ino
            && open.st_ctim.tv_sec == named.st_ctim.tv_sec
            && open.st_ctim.tv_nsec == named.st_ctim.tv_nsec
    }
}
