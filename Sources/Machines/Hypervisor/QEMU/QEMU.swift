// The QEMU driver: one `microvm` process per machine, told everything on its command line, over
// inherited descriptors only. No listening path, no writable file, no network card.
//
// The same devices in the same order for build and restore: microvm promises nothing else.

import CLinux
import Events
import Glibc
import Processes
import StrictJSON
import Wire

/// A started QEMU with its monitor and the agent's port.
@LoopActor
final class QEMU: Hypervisor {
    let process: HypervisorProcess
    let monitor: QMP
    private let parts: MachineParts
    private var port: ByteStream?
    /// The machine's own, where its transport is `vsock`.
    let vsock: VsockContext?
    /// Measured are 1.4 GiB, 1 GiB of it for translated code.
    private static let addressSpaceOverhead: UInt64 = 3 << 30

    init(
        program: HypervisorProgram, hardware: VirtualHardware, parts: MachineParts
    ) throws(MachineError) {
        let monitorPair = try attempting(SocketPair())
        let portPair = try attempting(SocketPair())
        // A machine that may write a whole disk could fill memory files, too.
        let isFileBounded = hardware.scratch == nil
        let console = try isFileBounded ? HypervisorLog("mayfly-console") : HypervisorLog()
        let messages = try isFileBounded ? HypervisorLog("mayfly-messages") : HypervisorLog()
        vsock = hardware.transport == .vsock ? try VsockContext.take() : nil
        let arguments = Self.arguments(
            hardware, parts, vsock, monitor: monitorPair.theirs.number,
            port: portPair.theirs.number, console: console.writer.number)
        var request = SpawnRequest(
            program, arguments, hardware, parts, overhead: Self.addressSpaceOverhead)
        // Rounding up to 2 MiB would cost each machine that; QEMU asks for it everywhere.
        request.hugePages = parts.boot != nil || parts.isForWarm
        // Arenas of its own for each thread would cost every machine megabytes that it frees.
        request.environment.append("MALLOC_ARENA_MAX=1")
        request.kept += [
            monitorPair.theirs.number, portPair.theirs.number, console.writer.number,
        ]
        if let vsock { request.kept.append(vsock.descriptor.number) }
        // A guest can make QEMU print without end; the worker's own log must not suffer from that.
        request.standardError = messages.writer.number
        process = try HypervisorProcess(
            .qemu, request, console: console, messages: messages, cell: parts.cell)
        monitor = QMP(ByteStream(monitorPair.take()))
        port = ByteStream(portPair.take())
        self.parts = parts
    }

    func takeAgentWay() throws(MachineError) -> AgentWay {
        guard let port = port.take() else {
            throw MachineError(.restoreFailed, "the agent's port was taken before")
        }
        return vsock.map { .vsock(contextID: $0.id, port: port) } ?? .port(port)
    }

    /// Migrations ignore the memory, which is shared or copied on write, and report their end.
    func begin(before deadline: ContinuousClock.Instant) async throws(MachineError) {
        try await process.begun(before: deadline)
        let capabilities: JSON = [
            ["capability": "x-ignore-shared", "state": true],
            ["capability": "events", "state": true],
        ]
        try await monitor.negotiate(
            [("migrate-set-capabilities", ["capabilities": capabilities])], before: deadline)
    }
    func restore(before deadline: ContinuousClock.Instant) async throws(MachineError) {
        try await monitor.command(
            "migrate-incoming", ["uri": .string("fd:\(parts.state)")], before: deadline)
        try await migrated(before: deadline)
        try await resume(before: deadline)
    }
    func save(before deadline: ContinuousClock.Instant) async throws(MachineError) {
        try await monitor.command(
            "getfd", ["fdname": "state"], passing: parts.state, before: deadline)
        try await monitor.command("migrate", ["uri": "fd:state"], before: deadline)
        try await migrated(before: deadline)
    }
    func resume(before deadline: ContinuousClock.Instant) async throws(MachineError) {
        try await monitor.command("cont", before: deadline)
    }
    func pause(before deadline: ContinuousClock.Instant) async throws(MachineError) {
        try await monitor.command("stop", before: deadline)
    }
    private func migrated(before deadline: ContinuousClock.Instant) async throws(MachineError) {
        try await monitor.event("MIGRATION", before: deadline) { data in
            data["status"]?.string == "completed"
        }
    }

    /// How much translated code a machine keeps under emulation, in MiB; then it begins anew, with
    /// nothing.
    ///
    /// QEMU's own limit is 1 GiB, and a boot needs much of it at once. A small Python job has
    /// 24 MiB translated, of which much runs once: 12 save memory, and such a job takes as long as
    /// with 16. A rehearsal and its job need 40, and what is thrown away between them was
    /// rehearsed for nothing. Programs as large as an office, which need machines to match, take
    /// 1.7 times the processor time with 16; more than 64 gains nothing.
    private static func accelerator(
        _ hardware: VirtualHardware, _ parts: MachineParts
    ) -> String {
        let isLarge = parts.isForWarm || hardware.memory >= .gibibytes(1)
        return switch hardware.accelerator {
        case .kvm: "kvm"
        case .tcg where parts.boot != nil: "tcg"
        case .tcg: "tcg,tb-size=\(isLarge ? 64 : 12)"
        }
    }

    private static func processor(_ hardware: VirtualHardware) -> String {
        if hardware.accelerator == .kvm { return "host" }
        return switch hardware.emulated ?? .max {
        case .max: "max"
        case .amd: "max,vendor=AuthenticAMD"
        case .intel: "max,vendor=GenuineIntel"
        case .amdWithoutRDRAND: "max,vendor=AuthenticAMD,rdrand=off,rdseed=off"
        case .intelWithoutRDRAND: "max,vendor=GenuineIntel,rdrand=off,rdseed=off"
        }
    }

    private static func arguments(
        _ hardware: VirtualHardware, _ parts: MachineParts, _ vsock: VsockContext?,
        monitor: CInt, port: CInt, console: CInt
    ) -> [String] {
        let memory = "\(hardware.memory.bytes)"
        let sharing = parts.boot == nil ? "off" : "on"
        var arguments = [
            "-M", "microvm,acpi=on,rtc=on,pit=on,pic=on,isa-serial=on,memory-backend=memory",
            "-accel", accelerator(hardware, parts),
            "-cpu", processor(hardware),
            "-smp", "\(hardware.vCPUCount)", "-m", "\(hardware.memory.bytes >> 20)M",
            "-object",
            "memory-backend-file,id=memory,size=\(memory),"
                + "mem-path=\(parts.path(of: parts.memory)),share=\(sharing)",
            "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
            "-add-fd", "fd=\(console),set=2",
            // What may be a pipe cannot be made empty, which is what QEMU does otherwise.
            "-chardev", "file,id=console,path=/dev/fdset/2,append=on", "-serial", "chardev:console",
            "-add-fd", "fd=\(parts.rootDisk),set=1",
            "-drive",
            "if=none,id=root,file=/dev/fdset/1,format=raw,readonly=on,cache=writeback,"
                + "aio=threads,file.locking=off",
            "-device", "virtio-blk-device,drive=root",
        ]
        if let scratch = parts.scratch {
            // A host's disk that is full is an error in the guest, and no reason to stand still.
            arguments += [
                "-add-fd", "fd=\(scratch),set=3",
                "-drive",
                "if=none,id=scratch,file=/dev/fdset/3,format=raw,cache=writeback,aio=threads,"
                    + "file.locking=off,auto-read-only=off,werror=report,rerror=report,"
                    + "discard=unmap",
                "-device", "virtio-blk-device,drive=scratch",
            ]
        }
        arguments += [
            "-device", "virtio-serial-device,max_ports=2",
            "-chardev", "socket,id=agent,fd=\(port)",
            "-device", "virtserialport,chardev=agent,name=mayfly.agent",
            "-chardev", "socket,id=monitor,fd=\(monitor)",
            "-mon", "chardev=monitor,mode=control",
            "-sandbox",
            "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
        ]
        if let vsock {
            arguments += [
                "-device",
                "vhost-vsock-device,guest-cid=\(vsock.id),vhostfd=\(vsock.descriptor.number)",
            ]
        }
        if let boot = parts.boot {
            arguments += [
                "-kernel", parts.path(of: boot.kernel), "-initrd", parts.path(of: boot.initramfs),
                "-append", boot.commandLine,
            ]
        } else {
            arguments += ["-incoming", "defer"]
        }
        return arguments
    }

    /// What a snapshot depends on beside the files: devices and their order, and the protocol that
    /// its agent speaks.
    nonisolated static let deviceModel = "microvm-1, wire \(Limits.version)"
}
