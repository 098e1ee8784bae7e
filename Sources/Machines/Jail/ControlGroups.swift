// Control groups of version 2: what all processes of one machine may take of the host's memory,
// processors, threads and disk. Each machine has a group of its own, made before its hypervisor is
// started into it and removed with it. They stand below the worker's own group, which has to be
// the worker's alone: a systemd service with Delegate=yes. What is missing is said by name.

import CLinux
import Foundation
import Glibc
import Processes
import Synchronization

/// What one machine may take of its host.
struct MachineLimits: Sendable, Equatable {
    /// Of its guest, its hypervisor, and what the kernel keeps for them.
    var memory: ByteCount
    /// Of processors' time: 100 is one of them, all of the time.
    var processorPercent: Int
    /// Bytes of its disks' device a second, read and written each; `nil`: as many as it can.
    var diskRate: ByteCount?
    /// Of one hypervisor: 64 for its disks' requests at worst, its processors, its loops.
    static let threads = 128

    /// - Parameter overhead: of its hypervisor, beside the guest's memory.
    init(_ hardware: VirtualHardware, isBooting: Bool, _ settings: HostSettings) {
        // A boot under emulation keeps as much translated code as QEMU wants: 1 GiB.
        let code = isBooting && hardware.accelerator == .tcg ? 1 << 30 : 0
        memory = ByteCount(
            bytes: hardware.memory.bytes + settings.machineOverhead.bytes + code)
        // Its guest's, and one for disks and ports.
        processorPercent = 100 * (hardware.vCPUCount + 1)
        diskRate = settings.diskRate.bytes > 0 ? settings.diskRate : nil
    }
    init(memory: ByteCount, processorPercent: Int) {
        (self.memory, self.processorPercent) = (memory, processorPercent)
    }

    /// Files of a group, what is written to them, and the controller that they belong to.
    fileprivate func values(device: String?) -> [(controller: String, file: String, value: String)]
    {
        var values = [
            ("memory", "memory.max", "\(memory.bytes)"),
            // What does not fit ends; it does not slow the host down instead.
            ("memory", "memory.swap.max", "0"),
            // All threads at once: half a hypervisor is none.
            ("memory", "memory.oom.group", "1"),
            ("cpu", "cpu.max", "\(processorPercent * 1000) 100000"),
            ("pids", "pids.max", "\(Self.threads)"),
        ]
        if let device, let rate = diskRate {
            values.append(("io", "io.max", "\(device) rbps=\(rate.bytes) wbps=\(rate.bytes)"))
        }
        return values
    }
}

/// The groups of one host's machines.
final class ControlGroups: Sendable {
    /// Those without which a machine counts as unbounded.
    static let needed: Set = ["memory", "cpu", "pids"]
    private static let wanted = ["memory", "cpu", "pids", "io"]
    /// The worker itself, when it has to make room for its machines.
    private static let workerName = "mayfly-worker"
    /// In the host's directory: where its groups are, for the sweep.
    static let noteName = "cgroup"

    let directory: String
    /// Controllers that bound its machines.
    let active: Set<String>
    /// MAJOR:MINOR of the disk that scratch disks stand on.
    let device: String?
    /// Groups that something was still in, such as the kernel's half of a vsock.
    private let leftovers = Mutex<[String]>([])

    /// - Parameters:
    ///   - host: the host's directory, by whose name the groups are known.
    ///   - disk: a directory on the disk that machines use.
    /// - Throws: `hostUnfit` with the reason why there can be none.
    init(of host: String, disk: String) throws(MachineError) {
        let base = try Self.base()
        active = try Self.enable(in: base)
        device = active.contains("io") ? blockDevice(of: disk) : nil
        directory = "\(base)/mayfly-\((host as NSString).lastPathComponent)"
        // Before there is anything to be found by it.
        try writeFile("\(host)/\(Self.noteName)", Array(directory.utf8), mode: 0o600)
        guard unsafe mkdir(directory, 0o755) == 0 else {
            throw MachineError(SystemError("make the control group", directory))
        }
        for name in active.sorted() {
            let code = writeControl("+\(name)", to: "\(directory)/cgroup.subtree_control")
            guard code == 0 else {
                unsafe rmdir(directory)
                throw MachineError(SystemError("hand on \(name) in", directory, code))
            }
        }
    }
    deinit { _ = removeControlGroup(directory) }

    /// What does not bound machines here, for the worker's first lines; `nil`: all of it does.
    var shortfall: String? { Self.shortfall(where: active, Self.remedy) }
    static func shortfall(where active: Set<String>, _ remedy: String) -> String? {
        let missing = needed.subtracting(active).sorted()
        guard !missing.isEmpty else { return nil }
        let what = ["cpu": "processor time", "memory": "memory", "pids": "threads"]
        return "no control group bounds a machine's "
            + "\(missing.compactMap { what[$0] }.joined(separator: ", ")): \(remedy)"
    }
    /// Where no controllers are handed out.
    static let remedy =
        "control groups of version 2 have no such controllers here; boot with "
        + "systemd.unified_cgroup_hierarchy=1, and run the worker as a service with Delegate=yes"

    /// Of all machines together.
    func boundAll(to memory: ByteCount) throws(MachineError) {
        guard active.contains("memory") else { return }
        let code = writeControl("\(memory.bytes)", to: "\(directory)/memory.max")
        guard code == 0 else {
            throw MachineError(SystemError("bound the memory of", directory, code))
        }
    }

    /// A new group, with nothing in it yet.
    func make(_ limits: MachineLimits) throws(MachineError) -> MachineGroup {
        removeLeftovers()
        let path = "\(directory)/\(hexText(randomBytes(8)))"
        guard unsafe mkdir(path, 0o755) == 0 else {
            throw MachineError(SystemError("make the control group", path))
        }
        do throws(MachineError) {
            for (controller, file, value) in limits.values(device: device)
            where active.contains(controller) {
                let code = writeControl(value, to: "\(path)/\(file)")
                // A kernel without swap has nothing to refuse.
                if code == ENOENT, file == "memory.swap.max" { continue }
                guard code == 0 else {
                    throw MachineError(SystemError("write \(value) to", "\(path)/\(file)", code))
                }
            }
            let file = try attempting(Descriptor.open(path, O_RDONLY | O_DIRECTORY))
            return MachineGroup(path, file, limits, of: self)
        } catch {
            unsafe rmdir(path)
            throw error
        }
    }
    fileprivate func remove(_ path: String) {
        guard unsafe rmdir(path) != 0, errno != ENOENT else { return }
        leftovers.withLock { $0.append(path) }
    }
    /// What could not be removed before.
    func removeLeftovers() {
        leftovers.withLock { paths in
            paths.removeAll { unsafe rmdir($0) == 0 || errno == ENOENT }
        }
    }
}

/// One machine's group; removed when dropped, or as soon as nothing is in it any more.
final class MachineGroup: Sendable {
    let path: String
    let limits: MachineLimits
    private let file: Descriptor
    private let groups: ControlGroups

    fileprivate init(
        _ path: String, _ file: consuming Descriptor, _ limits: MachineLimits,
        of groups: ControlGroups
    ) {
        self.path = path
        self.limits = limits
        self.file = file
        self.groups = groups
    }
    deinit { groups.remove(path) }

    /// For `SpawnRequest.controlGroup`.
    var descriptor: CInt { file.number }

    /// Whether the kernel has ended its processes because they wanted more memory than that.
    var wantedMoreMemory: Bool {
        let events = (kernelText("\(path)/memory.events") ?? "").split(separator: "\n")
        return events.contains { $0.hasPrefix("oom_kill ") && $0 != "oom_kill 0" }
    }
}

// MARK: Where they stand

extension ControlGroups {
    /// Where control groups of version 2 are mounted, and which directory there is this process's.
    static func own() -> (mountPoint: String, directory: String)? {
        let mounts = (kernelText("/proc/self/mountinfo") ?? "").split(separator: "\n")
        let path = (kernelText("/proc/self/cgroup") ?? "").split(separator: "\n")
            .first { $0.hasPrefix("0::/") }?.dropFirst(3)
        guard let path, !path.contains("/..") else { return nil }
        for mount in mounts {
            let parts = mount.split(separator: " ")
            guard let dash = parts.firstIndex(of: "-"), dash + 1 < parts.count, dash > 5,
                parts[dash + 1] == "cgroup2"
            else { continue }
            let root = parts[3] == "/" ? "" : String(parts[3])
            guard path == root || path.hasPrefix("\(root)/") else { continue }
            let below = String(path.dropFirst(root.count))
            let mountPoint = String(parts[4])
            return (mountPoint, below == "/" ? mountPoint : mountPoint + below)
        }
        return nil
    }
    /// The group of a process, as a directory.
    static func directory(of pid: pid_t) -> String? {
        guard let own = own(), let mine = kernelText("/proc/self/cgroup"),
            let theirs = kernelText("/proc/\(pid)/cgroup")
        else { return nil }
        func path(_ text: String) -> String? {
            text.split(separator: "\n").first { $0.hasPrefix("0::/") }.map {
                $0.dropFirst(3) == "/" ? "" : String($0.dropFirst(3))
            }
        }
        guard let mine = path(mine), let theirs = path(theirs), own.directory.hasSuffix(mine)
        else { return nil }
        return own.directory.dropLast(mine.count) + theirs
    }

    private static func base() throws(MachineError) -> String {
        guard let own = own() else {
            throw MachineError(
                .hostUnfit,
                "no file system of control groups of version 2 shows this process's; boot with "
                    + "systemd.unified_cgroup_hierarchy=1")
        }
        let suffix = "/\(workerName)"
        return own.directory.hasSuffix(suffix)
            ? String(own.directory.dropLast(suffix.count)) : own.directory
    }

    /// Hands the controllers on to the groups in `base`; which of them are.
    private static func enable(in base: String) throws(MachineError) -> Set<String> {
        func names(_ file: String) -> Set<String> {
            let text = kernelText("\(base)/\(file)") ?? ""
            return Set(text.split(whereSeparator: \.isWhitespace).map(String.init))
        }
        let available = names("cgroup.controllers")
        let lacking = wanted.filter(available.contains)
            .filter { !names("cgroup.subtree_control").contains($0) }
        guard !lacking.isEmpty else {
            return names("cgroup.subtree_control").intersection(wanted)
        }
        // Only the hierarchy's root may have processes beside groups that are bounded.
        if unsafe access("\(base)/cgroup.type", F_OK) == 0 { try makeRoom(in: base) }
        for name in lacking {
            _ = writeControl("+\(name)", to: "\(base)/cgroup.subtree_control")
        }
        return names("cgroup.subtree_control").intersection(wanted)
    }
    /// Moves this process into a group of its own beside those of its machines.
    private static func makeRoom(in base: String) throws(MachineError) {
        let processes = (kernelText("\(base)/cgroup.procs") ?? "").split(separator: "\n")
        guard processes.allSatisfy({ pid_t($0) == getpid() }) else {
            throw MachineError(
                .hostUnfit,
                "the control group \(base) holds other processes beside this one; run the worker "
                    + "as a service of its own with Delegate=yes")
        }
        guard !processes.isEmpty else { return }
        let own = "\(base)/\(workerName)"
        guard unsafe mkdir(own, 0o755) == 0 || errno == EEXIST else {
            throw MachineError(SystemError("make the control group", own))
        }
        let code = writeControl("\(getpid())", to: "\(own)/cgroup.procs")
        guard code == 0 else { throw MachineError(SystemError("move to", own, code)) }
    }
}

/// Ends what is in a group of a host and in the groups below it, and removes them; blocking.
///
/// - Returns: whether nothing of it is left.
func removeControlGroup(_ path: String) -> Bool {
    // What may have been started into it and not been seen by any other means.
    _ = writeControl("1", to: "\(path)/cgroup.kill")
    for _ in 0..<2000 {
        // The kernel's own files have a point in their names.
        for name in children(of: path) where !name.contains(".") { unsafe rmdir("\(path)/\(name)") }
        if unsafe rmdir(path) == 0 || errno == ENOENT { return true }
        usleep(1000)
    }
    return false
}

/// - Returns: 0, or the kernel's error code.
private func writeControl(_ text: String, to path: String) -> CInt {
    let file = unsafe open(path, O_WRONLY | O_CLOEXEC)
    guard file >= 0 else { return errno }
    defer { close(file) }
    let bytes = Array(text.utf8)
    return unsafe write(file, bytes, bytes.count) == bytes.count ? 0 : errno
}

/// MAJOR:MINOR of the whole disk that a directory stands on; `nil`: it stands on none.
private func blockDevice(of directory: String) -> String? {
    var status = stat()
    guard unsafe stat(directory, &status) == 0 else { return nil }
    let device = UInt64(status.st_dev)
    let (major, minor) = ((device >> 8) & 0xFFF, (device & 0xFF) | ((device >> 12) & 0xFFF00))
    let place = "/sys/dev/block/\(major):\(minor)"
    guard unsafe access(place, F_OK) == 0 else { return nil }
    // A part of a disk is bounded as the disk.
    guard unsafe access("\(place)/partition", F_OK) == 0 else { return "\(major):\(minor)" }
    return kernelText("\(place)/../dev")?.trimmed
}
