// The Firecracker driver: one process per machine, in a directory of its own, told everything over
// its API socket there. A snapshot holds the names of its files relative to that directory, so that
// every clone finds its own.

import CLinux
import Events
import Glibc
import Processes
import StrictJSON
import Wire

/// A started Firecracker with its API.
@LoopActor
final class Firecracker: Hypervisor {
    let process: HypervisorProcess
    private let program: HypervisorProgram
    private let hardware: VirtualHardware
    private let boot: MachineParts.Boot?
    private let api: FirecrackerAPI
    private var agent: FirecrackerSocket?
    /// Measured are 60 MiB.
    private static let addressSpaceOverhead: UInt64 = 1 << 30

    /// The names in its directory.
    enum Name {
        static let api = "api.sock"
        static let vsock = "v.sock"
        static let memory = "memory"
        static let state = "state"
        static let rootDisk = "root"
        static let scratch = "scratch"
        static let kernel = "kernel"
        static let initramfs = "initramfs"
    }

    init(
        program: HypervisorProgram, hardware: VirtualHardware, parts: MachineParts
    ) throws(MachineError) {
        let console = try HypervisorLog()
        let messages = try HypervisorLog()
        var request = SpawnRequest(
            // Its own messages share the console: no more of them than say what is wrong.
            program, ["--api-sock", Name.api, "--id", "mayfly", "--level", "Warn"], hardware, parts,
            overhead: Self.addressSpaceOverhead)
        request.standardOutput = console.writer.number
        request.standardError = messages.writer.number
        // Its own signal handler ends it at this limit, which a restore reaches when it is zero.
        request.fileSizeLimit = UInt64(
            max(hardware.memory.bytes, hardware.scratch?.bytes ?? 0))
        let directory = try MachineDirectory(in: parts.directory, owner: request.user)
        request.directory = directory.file.number
        try directory.link(Name.memory, to: parts.path(of: parts.memory))
        try directory.link(Name.state, to: parts.path(of: parts.state))
        try directory.link(Name.rootDisk, to: parts.path(of: parts.rootDisk))
        if let scratch = parts.scratch {
            try directory.link(Name.scratch, to: parts.path(of: scratch))
        }
        if let boot = parts.boot {
            try directory.link(Name.kernel, to: parts.path(of: boot.kernel))
            try directory.link(Name.initramfs, to: parts.path(of: boot.initramfs))
        }
        let owner = request.user?.user ?? geteuid()
        api = FirecrackerAPI(FirecrackerSocket(Name.api, in: directory, owner: owner))
        agent = FirecrackerSocket(Name.vsock, in: directory, owner: owner)
        process = try HypervisorProcess(
            .firecracker, request, console: console, messages: messages, directory: directory,
            cell: parts.cell)
        self.program = program
        self.hardware = hardware
        boot = parts.boot
    }

    func takeAgentWay() throws(MachineError) -> AgentWay {
        guard let agent = agent.take() else {
            throw MachineError(.restoreFailed, "the agent's socket was taken before")
        }
        return .socket(agent)
    }

    func begin(before deadline: ContinuousClock.Instant) async throws(MachineError) {
        try await process.begun(before: deadline)
        try await api.connect(watching: pidDescriptor, before: deadline)
        guard let boot else { return }
        try await api.put(
            "/machine-config",
            [
                "vcpu_count": .number(hardware.vCPUCount),
                "mem_size_mib": .number(hardware.memory.bytes >> 20),
                // So that the first snapshot can leave out what the guest never wrote.
                "track_dirty_pages": true,
            ], before: deadline)
        try await api.put(
            "/boot-source",
            [
                "kernel_image_path": .string(Name.kernel),
                "initrd_path": .string(Name.initramfs), "boot_args": .string(boot.commandLine),
            ], before: deadline)
        try await api.put(
            "/drives/root",
            [
                "drive_id": "root", "path_on_host": .string(Name.rootDisk),
                "is_root_device": false, "is_read_only": true,
            ], before: deadline)
        if hardware.scratch != nil {
            try await api.put(
                "/drives/scratch",
                [
                    "drive_id": "scratch", "path_on_host": .string(Name.scratch),
                    "is_root_device": false, "is_read_only": false,
                ], before: deadline)
        }
        // The context id means nothing outside of the machine: every clone may have the same.
        try await api.put(
            "/vsock", ["guest_cid": 3, "uds_path": .string(Name.vsock)], before: deadline)
        try await api.put("/actions", ["action_type": "InstanceStart"], before: deadline)
    }
    func restore(before deadline: ContinuousClock.Instant) async throws(MachineError) {
        let memory: JSON = ["backend_type": "File", "backend_path": .string(Name.memory)]
        try await api.put(
            "/snapshot/load",
            ["snapshot_path": .string(Name.state), "mem_backend": memory, "resume_vm": true],
            before: deadline)
    }
    func save(before deadline: ContinuousClock.Instant) async throws(MachineError) {
        try await api.put(
            "/snapshot/create",
            [
                "snapshot_type": "Diff", "snapshot_path": .string(Name.state),
                "mem_file_path": .string(Name.memory),
            ], before: deadline)
    }
    func resume(before deadline: ContinuousClock.Instant) async throws(MachineError) {
        if let obstacle = program.pauseObstacle {
            throw MachineError(.hostUnfit, "\(obstacle.found); \(obstacle.remedy)")
        }
        try await api.patch("/vm", ["state": "Resumed"], before: deadline)
    }
    func pause(before deadline: ContinuousClock.Instant) async throws(MachineError) {
        try await api.patch("/vm", ["state": "Paused"], before: deadline)
    }

    /// What a snapshot depends on beside the files, and the protocol that its agent speaks.
    nonisolated static let deviceModel = "firecracker-1, wire \(Limits.version)"
    /// Where the agent listens since its boot.
    nonisolated static let agentPort: UInt32 = 1024
}
