// What a killed worker leaves is found by two marks: a locked directory per host process, and the
// directory's name in the environment of every child. The lock says whether the owner lives; the
// kernel drops it with the process, however it died.

import CLinux
import Foundation
import Glibc
import Processes

/// What a sweep removed.
package struct SweepReport: Sendable, Equatable {
    package var processes = 0
    package var directories = 0
    /// Control groups of whole hosts.
    package var groups = 0
}

/// The mark of this process under the runtime directory; removed when dropped.
struct HostMark: ~Copyable {
    static let variable = "MAYFLY_HOST"

    let name: String
    let directory: String
    private let lock: Descriptor

    init(runtimeDirectory: String) throws(MachineError) {
        guard isTrusted(runtimeDirectory), isTrusted("\(runtimeDirectory)/hosts") else {
            throw MachineError(
                .hostUnfit,
                "others than root can write \(runtimeDirectory), and root ends what its files "
                    + "name; set runtime.directory to a directory of root's alone")
        }
        let name = "\(getpid())-\(hexText(randomBytes(6)))"
        let directory = "\(runtimeDirectory)/hosts/\(name)"
        try makeDirectory("\(runtimeDirectory)/hosts", mode: 0o755)
        // Locked under a hidden name and then renamed: no sweep can see it unlocked.
        let hidden = "\(runtimeDirectory)/hosts/.\(name)"
        try makeDirectory(hidden, mode: 0o700)
        let lock = try attempting(Descriptor.open("\(hidden)/lock", O_RDWR | O_CREAT))
        guard mayfly_try_lock(lock.number) == 0, unsafe rename(hidden, directory) == 0 else {
            throw MachineError(.hostUnfit, "cannot lock \(hidden): \(errnoText(errno))")
        }
        self.name = name
        self.directory = directory
        self.lock = lock
    }
    deinit { try? FileManager.default.removeItem(atPath: directory) }

    /// The program that this process becomes holds the lock from then on.
    var inherited: CInt { lock.number }

    /// Of hypervisors that need a directory each; swept with the mark.
    var machinesDirectory: String { "\(directory)/machines" }
    var environment: String { "\(Self.variable)=\(name)" }
}

/// Root believes only what root alone has written: a sweep kills whatever is named there.
private func isTrusted(_ directory: String) -> Bool {
    guard geteuid() == 0 else { return true }
    var status = stat()
    guard unsafe lstat(directory, &status) == 0 else { return errno == ENOENT }
    return status.st_mode & S_IFMT == S_IFDIR && status.st_uid == 0 && status.st_mode & 0o022 == 0
}

/// Removes what hosts that are no longer alive left under `runtimeDirectory`, and processes of
/// machines' users whose worker is gone; blocking.
func sweepDeadHosts(
    runtimeDirectory: String, users first: uid_t = HostSettings.firstJailUser
) -> SweepReport {
    var report = SweepReport()
    // A hypervisor that was taken over can wipe the mark from its memory, but not its user.
    report.processes += JailUsers.killAbandoned(from: first)
    let root = "\(runtimeDirectory)/hosts"
    guard isTrusted(runtimeDirectory), isTrusted(root) else { return report }
    for name in children(of: root) {
        let directory = "\(root)/\(name)"
        guard isAbandoned(directory, name) else { continue }
        report.processes += killMarked(name)
        if let group = kernelText("\(directory)/\(ControlGroups.noteName)"),
            group.hasSuffix("/mayfly-\(name)")
        {
            // Found again by the next sweep while something of it is left.
            guard removeControlGroup(group) else { continue }
            report.groups += 1
        }
        if (try? FileManager.default.removeItem(atPath: directory)) != nil {
            report.directories += 1
        }
    }
    return report
}

private func isAbandoned(_ directory: String, _ name: String) -> Bool {
    // A hidden directory is one that its host is about to lock: while that process lives, even a
    // look at the lock could be in its way.
    if name.hasPrefix("."), let owner = owner(of: name), kill(owner, 0) == 0 || errno != ESRCH {
        return false
    }
    do throws(SystemError) {
        let lock = try Descriptor.open("\(directory)/lock", O_RDWR)
        return mayfly_try_lock(lock.number) == 0
    } catch {
        // No lock file: a host that died between mkdir and open, once its process is gone. A lock
        // that cannot be looked at, for want of a descriptor for example, says nothing.
        guard error.code == ENOENT, let owner = owner(of: name) else { return false }
        return kill(owner, 0) != 0 && errno == ESRCH
    }
}
private func owner(of name: String) -> pid_t? {
    pid_t(name.drop { $0 == "." }.prefix { $0.isNumber }).flatMap { $0 > 0 ? $0 : nil }
}

/// Kills, by descriptor, every process that carries the mark, and waits until they are gone.
private func killMarked(_ name: String) -> Int {
    let mark = Array("\(HostMark.variable)=\(name)".utf8)
    var killed: [Descriptorless] = []
    for entry in children(of: "/proc") {
        guard let pid = pid_t(entry), pid != getpid() else { continue }
        let descriptor = mayfly_pidfd_open(pid)
        guard descriptor >= 0 else { continue }
        // Looked at after the descriptor was opened: the number cannot be someone else's by now.
        let environment = FileManager.default.contents(atPath: "/proc/\(pid)/environ") ?? Data()
        let isMarked = environment.split(separator: 0).contains { Array($0) == mark }
        if isMarked, mayfly_pidfd_signal(descriptor, SIGKILL) == 0 {
            killed.append(Descriptorless(pid: pid))
        }
        close(descriptor)
    }
    for process in killed { process.waitUntilGone() }
    return killed.count
}

/// A killed process that is not our child: its end shows in /proc only.
private struct Descriptorless {
    let pid: pid_t
    func waitUntilGone() {
        for _ in 0..<2000 {
            guard kill(pid, 0) == 0 else { return }
            let status = kernelText("/proc/\(pid)/stat") ?? ""
            if status.contains(") Z ") { return }
            usleep(1000)
        }
    }
}
