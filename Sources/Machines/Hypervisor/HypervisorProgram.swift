// The hypervisor that the host was probed with, held open: every machine is started from this very
// file, whatever a package upgrade puts in its place meanwhile.

import Events
import Glibc
import Processes

/// An open program file, and what it is.
final class HypervisorProgram: Sendable {
    let name: HypervisorName
    /// Where it stood when it was opened; its name in the process list.
    let path: String
    /// What a snapshot made by it is bound to.
    let version: String
    /// Why a machine of it cannot be paused and resumed; `nil` when it can.
    let pauseObstacle: Obstacle?
    private let file: Descriptor
    /// For `SpawnRequest.executable`.
    var descriptor: CInt { file.number }

    init(
        _ name: HypervisorName, _ file: consuming ProgramFile, version: String,
        pauseObstacle: Obstacle? = nil
    ) {
        self.name = name
        path = file.path
        self.version = version
        self.pauseObstacle = pauseObstacle
        self.file = file.take()
    }

    /// Whether the path still names the open file.
    var isInPlace: Bool { isSameFile(descriptor, path) }
    /// Whether it is a program itself, and not a script that may run any.
    var isELF: Bool { hasMagicOfELF(descriptor) }

    /// Starts a process for one machine; `begin` is its first call.
    @LoopActor
    func start(
        _ hardware: VirtualHardware, _ parts: MachineParts
    ) throws(MachineError) -> any Hypervisor {
        switch name {
        case .qemu: try QEMU(program: self, hardware: hardware, parts: parts)
        case .firecracker: try Firecracker(program: self, hardware: hardware, parts: parts)
        }
    }
}

/// A program that was found and opened before it is asked what it is.
struct ProgramFile: ~Copyable {
    let path: String
    private let file: Descriptor

    /// - Throws: `hostUnfit` with `remedy` when there is no such program.
    init(_ name: String, remedy: String) throws(MachineError) {
        guard let path = findProgram(name) else {
            throw MachineError(.hostUnfit, "\(name) is not installed; \(remedy)")
        }
        let file = try attempting(Descriptor.open(path, O_RDONLY))
        self.path = path
        self.file = file
    }
    var descriptor: CInt { file.number }
    /// Whether it is a program itself, and not a script that may run any.
    var isELF: Bool { hasMagicOfELF(descriptor) }
    /// Whether the path still names the open file.
    var isInPlace: Bool { isSameFile(descriptor, path) }
    consuming func take() -> Descriptor { file }
}

private func isSameFile(_ descriptor: CInt, _ path: String) -> Bool {
    var (open, named) = (stat(), stat())
    guard unsafe fstat(descriptor, &open) == 0, unsafe stat(path, &named) == 0 else {
        return false
    }
    return open.st_dev == named.st_dev && open.st_ino == named.st_ino
        && open.st_ctim.tv_sec == named.st_ctim.tv_sec
        && open.st_ctim.tv_nsec == named.st_ctim.tv_nsec
}

private func hasMagicOfELF(_ descriptor: CInt) -> Bool {
    var magic: [UInt8] = [0, 0, 0, 0]
    return unsafe pread(descriptor, &magic, 4, 0) == 4 && magic == [0x7F, 0x45, 0x4C, 0x46]
}
