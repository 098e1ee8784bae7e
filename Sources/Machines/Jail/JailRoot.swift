// What a jailed hypervisor finds in its root directory: the shared libraries and firmware that it
// opens, copied once when the host starts, so that no package upgrade changes them under a program
// that was proven. What it opens is found by asking the dynamic loader, not by a list.

import Events
import Foundation
import Glibc
import Processes

enum JailRoot {
    /// Mount points and the way to `/usr/share`, which QEMU spells by `/usr/bin/..`.
    private static let directories = ["dev", "fd", "work", "usr/bin"]

    /// Makes the root of `program` at `path`.
    ///
    /// - Parameter accelerator: loads a module of its own.
    @LoopActor
    static func make(
        _ path: String, of program: HypervisorProgram, _ accelerator: Accelerator
    ) async throws(MachineError) {
        for name in directories { try makeDirectory("\(path)/\(name)") }
        try writeFile("\(path)/dev/kvm", [], mode: 0o444)
        var files = try await libraries(of: program, accelerator)
        if program.name == .qemu { files += try await firmware(of: program) }
        for file in Set(files) { try copy(file, below: path) }
    }

    /// Copied as what it is, at the name by which it is opened.
    private static func copy(_ file: String, below root: String) throws(MachineError) {
        guard let bytes = FileManager.default.contents(atPath: file) else {
            throw MachineError(
                .hostUnfit,
                "cannot read \(file), which the hypervisor needs; install its package "
                    + "again")
        }
        let place = root + file
        try makeDirectory((place as NSString).deletingLastPathComponent)
        let copy = try attempting(
            Descriptor.open(place, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW))
        try write([UInt8](bytes), to: copy, place)
        // The loader itself must be executable.
        guard fchmod(copy.number, 0o555) == 0 else {
            throw MachineError(SystemError("finish", place))
        }
    }

    /// Everything that the dynamic loader runs the initialization of, modules of QEMU included.
    @LoopActor
    private static func libraries(
        of program: HypervisorProgram, _ accelerator: Accelerator
    ) async throws(MachineError) -> [String] {
        var request = ProgramRequest([program.path] + program.trialArguments(accelerator))
        request.executable = program.descriptor
        request.environment = ["LD_DEBUG": "files"]
        request.input = Array("quit\n".utf8)
        request.deadline = .now + .seconds(60)
        let said = try await runTool(request)
        let marker = "calling init: "
        return said.output.split(separator: "\n").compactMap { line in
            line.range(of: marker).map { String(line[$0.upperBound...]) }
        }
        .filter { $0.hasPrefix("/") }.map(withoutParents)
    }

    /// `/usr/bin/../lib` is `/usr/lib`; links stay as they are, because they are opened by name.
    private static func withoutParents(_ path: String) -> String {
        path.split(separator: "/").reduce(into: [Substring]()) { parts, part in
            if part == ".." { _ = parts.popLast() } else if part != "." { parts.append(part) }
        }.reduce("") { "\($0)/\($1)" }
    }

    /// The machine type's firmware, in the first of QEMU's own directories that has it.
    @LoopActor
    private static func firmware(
        of program: HypervisorProgram
    ) async throws(MachineError) -> [String] {
        var request = ProgramRequest([program.path, "-L", "help"])
        request.executable = program.descriptor
        request.deadline = .now + .seconds(60)
        let directories = try await runTool(request).output.split(separator: "\n").map {
            withoutParents(String($0))
        }
        let names = ["bios-microvm.bin", "qboot.rom", "linuxboot_dma.bin"]
        return names.compactMap { name in
            directories.map { "\($0)/\(name)" }.first {
                FileManager.default.fileExists(atPath: $0)
            }
        }
    }
}

extension HypervisorProgram {
    /// Starts it as a machine would, with nothing in it.
    ///
    /// QEMU greets on its monitor and waits;
    /// Firecracker says its version.
    ///
    /// - Parameter monitor: a socket; -1: standard input and output.
    func trialArguments(_ accelerator: Accelerator, monitor: CInt = -1) -> [String] {
        switch name {
        case .qemu:
            [
                "-M", "microvm", "-accel", accelerator.rawValue, "-m", "16M", "-nodefaults",
                "-no-user-config", "-display", "none", "-S",
            ]
                + (monitor < 0
                    ? ["-monitor", "stdio"]
                    : [
                        "-chardev", "socket,id=monitor,fd=\(monitor)", "-monitor",
                        "chardev:monitor",
                    ])
        case .firecracker: ["--version"]
        }
    }

    /// A hypervisor to look at: it says on `monitor` that it is up.
    func trialRequest(
        _ accelerator: Accelerator, monitor: CInt, messages: CInt, addressSpace: UInt64
    ) -> SpawnRequest {
        var request = SpawnRequest(
            arguments: [path] + trialArguments(accelerator, monitor: monitor))
        request.executable = descriptor
        request.kept = [descriptor, monitor]
        request.standardError = messages
        (request.fileSizeLimit, request.addressSpaceLimit) = (1 << 20, addressSpace)
        return request
    }
}
