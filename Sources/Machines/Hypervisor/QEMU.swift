// The QEMU driver: one `microvm` process per machine, told everything on its command line, over
// inherited descriptors only. No listening path, no writable file, no network card.
//
// The same devices in the same order for build and restore: microvm promises nothing else.

import CLinux
import Events
import Glibc
import Processes
import Wire

/// What the hypervisor is started with; everything that a snapshot depends on.
struct VirtualHardware: Sendable, Hashable, Codable {
    var vCPUCount: Int
    var memory: ByteCount
    var accelerator: Accelerator
    /// Decides whether a vhost-vsock device is present.
    var transport: Transport
}

/// The files of one image, open.
struct MachineParts {
    var memory: CInt
    var rootDisk: CInt
    /// The device state to restore, a description of its own (its offset moves); -1 when booting.
    var state: CInt = -1
    var isMemoryShared: Bool
    /// `HostMark.environment` of the owner, for the sweep.
    var mark: String
    /// A taken CID and its /dev/vhost-vsock, where the transport is `vsock`.
    var vsock: (descriptor: CInt, contextID: UInt32)?
    /// Booting rather than restoring: kernel, initramfs and kernel command line.
    var boot: (kernel: String, initramfs: String, commandLine: String)?
}

/// A started QEMU with its monitor and the agent's port; killed when dropped.
@LoopActor
final class QEMU {
    let pid: pid_t
    let pidDescriptor: CInt
    let monitor: QMP
    private var child: Child?
    private var port: ByteStream?
    /// What the guest's kernel and agent said; read only when something went wrong, and still there
    /// when the process is not.
    private let console: MemoryLog
    /// What QEMU itself said on standard error.
    private let messages: MemoryLog
    /// Beyond the guest's memory: measured are 1.4 GiB, 1 GiB of it for translated code.
    ///
    /// QEMU allocates what a guest's device requests ask for; without a bound that is the host's
    /// memory.
    private static let addressSpaceOverhead: UInt64 = 3 << 30

    init(
        binary: QEMUBinary, hardware: VirtualHardware, parts: MachineParts
    ) throws(MachineError) {
        let monitorPair = try attempting(SocketPair())
        let portPair = try attempting(SocketPair())
        console = try MemoryLog("mayfly-console")
        messages = try MemoryLog("mayfly-messages")
        var request = SpawnRequest(
            arguments: [binary.path]
                + Self.arguments(
                    hardware, parts, monitor: monitorPair.theirs.number,
                    port: portPair.theirs.number, console: console.writer.number))
        // Arenas of its own for each thread would cost every machine megabytes that it frees.
        request.environment = [parts.mark, "MALLOC_ARENA_MAX=1"]
        request.kept = [
            parts.memory, parts.rootDisk, monitorPair.theirs.number, portPair.theirs.number,
            console.writer.number,
            // For a script, whose interpreter opens it by this number.
            binary.descriptor,
        ]
        request.executable = binary.descriptor
        if parts.state >= 0 { request.kept.append(parts.state) }
        if let vsock = parts.vsock { request.kept.append(vsock.descriptor) }
        // A guest can make QEMU print without end; the worker's own log must not suffer from that.
        request.standardError = messages.writer.number
        request.addressSpaceLimit = UInt64(hardware.memory.bytes) + Self.addressSpaceOverhead
        // Making them needs root.
        request.namespaces = geteuid() == 0 ? mayfly_ns_net | mayfly_ns_ipc | mayfly_ns_uts : 0
        request.user = HypervisorUser.forAccelerator(hardware.accelerator)
        // A machine's writable files are its console and its messages; while an image is built, the
        // device state too, which is smaller than the memory.
        request.fileSizeLimit = UInt64(
            parts.isMemoryShared ? hardware.memory.bytes : MemoryLog.byteCount)
        let child = try attempting(Child.spawn(request))
        pid = child.pid
        pidDescriptor = child.pidDescriptor
        self.child = consume child
        monitor = QMP(ByteStream(monitorPair.take()))
        port = ByteStream(portPair.take())
    }

    /// The agent's virtio-serial port; taken once.
    func takePort() -> ByteStream? {
        defer { port = nil }
        return port
    }

    /// Loads device state into a process started without `boot`; afterwards it stands still.
    func load(state: CInt, before deadline: ContinuousClock.Instant) async throws(MachineError) {
        try await monitor.command(
            "migrate-incoming", ["uri": "fd:\(state)"], before: deadline)
        try await monitor.event("MIGRATION", before: deadline) { data in
            (data["status"] as? String) == "completed"
        }
    }
    /// Ignores shared memory in the state, and reports the end of a load as an event.
    func prepareMigration(before deadline: ContinuousClock.Instant) async throws(MachineError) {
        try await monitor.command(
            "migrate-set-capabilities",
            [
                "capabilities": [
                    ["capability": "x-ignore-shared", "state": true],
                    ["capability": "events", "state": true],
                ]
            ], before: deadline)
    }
    /// Writes the stopped machine's device state to `file`.
    func save(to file: CInt, before deadline: ContinuousClock.Instant) async throws(MachineError) {
        try await monitor.command(
            "getfd", ["fdname": "state"], passing: file, before: deadline)
        try await monitor.command("migrate", ["uri": "fd:state"], before: deadline)
        try await monitor.event("MIGRATION", before: deadline) { data in
            (data["status"] as? String) == "completed"
        }
    }
    func resume(before deadline: ContinuousClock.Instant) async throws(MachineError) {
        try await monitor.command("cont", before: deadline)
    }
    func pause(before deadline: ContinuousClock.Instant) async throws(MachineError) {
        try await monitor.command("stop", before: deadline)
    }
    /// Whether the process has ended by itself.
    var hasEnded: Bool {
        guard child != nil else { return true }
        var poll = pollfd(fd: pidDescriptor, events: Int16(POLLIN), revents: 0)
        return unsafe Glibc.poll(&poll, 1, 0) != 0
    }
    /// Adds to an error what the process and the guest's console say about it; ends the process.
    func end(explaining error: MachineError) async -> MachineError {
        guard error.reason != .cancelled else {
            _ = await end()
            return error
        }
        if error.reason == .machineLost || error.reason == .bootFailed {
            // The connection's end may come a moment before the process's.
            _ = await EventLoop.shared.ready(
                [(pidDescriptor, .read)], before: .now + .milliseconds(200),
                ignoringCancellation: true)
        }
        let hadEnded = hasEnded
        let usage = await end()
        var words = hadEnded ? ["hypervisor: \(usage.ending)"] : []
        for (name, file) in [("qemu", messages.lastLines(5)), ("console", console.lastLines(5))]
        where !file.isEmpty {
            words.append("\(name): \(file.joined(separator: " | "))")
        }
        return words.isEmpty
            ? error
            : MachineError(
                error.reason, "\(error) (\(words.joined(separator: "; ")))", error.machine)
    }
    /// Kills the process and waits until it is gone.
    func end() async -> ChildUsage {
        guard let child = child.take() else { return ChildUsage() }
        return await child.end()
    }

    /// How much translated code a restored machine keeps under emulation, in MiB; then it begins
    /// anew.
    ///
    /// QEMU's own limit is 1 GiB, and a boot needs much of it at once.
    private static let translatedCode = 16

    private static func accelerator(_ accelerator: Accelerator, isBooting: Bool) -> String {
        switch accelerator {
        case .kvm: "kvm"
        case .tcg: isBooting ? "tcg" : "tcg,tb-size=\(translatedCode)"
        }
    }

    private static func arguments(
        _ hardware: VirtualHardware, _ parts: MachineParts, monitor: CInt, port: CInt,
        console: CInt
    ) -> [String] {
        let memory = "\(hardware.memory.bytes)"
        let sharing = parts.isMemoryShared ? "on" : "off"
        var arguments = [
            "-M", "microvm,acpi=on,rtc=on,pit=on,pic=on,isa-serial=on,memory-backend=memory",
            "-accel", accelerator(hardware.accelerator, isBooting: parts.boot != nil),
            "-cpu", hardware.accelerator == .kvm ? "host" : "max",
            "-smp", "\(hardware.vCPUCount)", "-m", "\(hardware.memory.bytes >> 20)M",
            "-object",
            "memory-backend-file,id=memory,size=\(memory),"
                + "mem-path=/proc/self/fd/\(parts.memory),share=\(sharing)",
            "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
            "-add-fd", "fd=\(console),set=2",
            "-chardev", "file,id=console,path=/dev/fdset/2", "-serial", "chardev:console",
            "-add-fd", "fd=\(parts.rootDisk),set=1",
            "-drive",
            "if=none,id=root,file=/dev/fdset/1,format=raw,readonly=on,cache=writeback,"
                + "aio=threads,file.locking=off",
            "-device", "virtio-blk-device,drive=root",
            "-device", "virtio-serial-device,max_ports=2",
            "-chardev", "socket,id=agent,fd=\(port)",
            "-device", "virtserialport,chardev=agent,name=mayfly.agent",
            "-chardev", "socket,id=monitor,fd=\(monitor)",
            "-mon", "chardev=monitor,mode=control",
            "-sandbox",
            "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
        ]
        if let vsock = parts.vsock {
            arguments += [
                "-device",
                "vhost-vsock-device,guest-cid=\(vsock.contextID),vhostfd=\(vsock.descriptor)",
            ]
        }
        if let boot = parts.boot {
            arguments += [
                "-kernel", boot.kernel, "-initrd", boot.initramfs, "-append", boot.commandLine,
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
