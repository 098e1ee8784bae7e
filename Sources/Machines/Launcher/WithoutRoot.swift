// A worker that is started as root and does not stay it: what root is needed for goes to a launcher
// beside it, and then there is no way back.

import CLinux
import Events
import Foundation
import Glibc
import Processes

/// Starts a launcher, and makes this process an ordinary user's.
///
/// - Returns: the settings of a host from now on, and the launcher, which must be kept.
/// - Throws: `hostUnfit` when there is no such user or the launcher cannot be started.
@LoopActor
package func giveUpRoot(
    to user: String, _ settings: HostSettings, ceilings: LauncherCeilings
) async throws(MachineError) -> (settings: HostSettings, launcher: RunningLauncher) {
    guard geteuid() == 0 else {
        throw MachineError(
            .hostUnfit, "worker.user = \(user), but only root can become another user; unset it")
    }
    guard let entry = unsafe getpwnam(user) else {
        throw MachineError(
            .hostUnfit, "worker.user = \(user) is no user of this host; useradd --system \(user)")
    }
    let (uid, gid) = unsafe (entry.pointee.pw_uid, entry.pointee.pw_gid)
    guard uid != 0 else {
        throw MachineError(.hostUnfit, "worker.user = \(user) is root; leave it empty to stay root")
    }
    var settings = settings
    let root = settings.runtimeDirectory
    try makeDirectory(root)
    let socket = "\(root)/.launcher-\(getpid())"
    let listener = unsafe mayfly_messages_listen(socket, uid)
    guard listener >= 0 else { throw MachineError(SystemError("listen on", socket, -listener)) }
    // Reached by this descriptor from now on; the name has done its work.
    let way = unsafe open(socket, openPath | O_CLOEXEC)
    unsafe unlink(socket)
    guard way >= 0 else { throw MachineError(SystemError("open", socket)) }
    let start = try await LauncherStart(
        settings, worker: uid, ceilings: ceilings, listener: Descriptor(listener))
    let launcher = try start.spawn()
    settings.runtimeDirectory = "\(root)/\(user)"
    let own = ["scratch", "floors"].map { "\(settings.stateDirectory)/\($0)" }
    for directory in [settings.runtimeDirectory] + own {
        try makeDirectory(directory, mode: 0o700)
        guard unsafe lchown(directory, uid, gid) == 0 else {
            throw MachineError(SystemError("hand over", directory))
        }
    }
    var groups = [gid_t](repeating: gid, count: 256)
    var count = CInt(groups.count)
    guard unsafe getgrouplist(user, gid, &groups, &count) >= 0 else {
        throw MachineError(.hostUnfit, "\(user) is in more than 256 groups")
    }
    // All threads, for good: there is no saved user to go back to.
    let status = unsafe mayfly_become(uid, gid, groups, Int(count))
    guard status == 0 else { throw MachineError(SystemError("become", user, -status)) }
    // The first thread of a Swift program may have ended for the C library, and not for the kernel:
    // then it stays root, and whoever takes over this process takes that, too.
    guard WorkerPrivileges.ofThisProcess.areNone else {
        throw MachineError(
            .hostUnfit,
            "worker.user = \(user): a thread of this process stays root; start the worker as "
                + "\(user), beside `mayfly launcher --worker \(user)`")
    }
    settings.launcher = "/proc/self/fd/\(way)"
    return (settings, launcher)
}

/// O_PATH of open(2), which the Glibc module does not show.
private let openPath: CInt = 0o10_000_000

/// The socket on which a launcher listens: the one that systemd has opened, or a new one.
package func launcherListener(_ path: String, worker: uid_t) throws(MachineError) -> Descriptor {
    let environment = ProcessInfo.processInfo.environment
    if environment["LISTEN_PID"] == "\(getpid())", environment["LISTEN_FDS"] == "1" {
        let first: CInt = 3
        _ = fcntl(first, F_SETFL, fcntl(first, F_GETFL) | O_NONBLOCK)
        return Descriptor(first)
    }
    let listener = unsafe mayfly_messages_listen(path, worker)
    guard listener >= 0 else { throw MachineError(SystemError("listen on", path, -listener)) }
    return Descriptor(listener)
}

/// The number of a user, by name or as it is.
package func userNumber(_ name: String) throws(MachineError) -> uid_t {
    if let number = uid_t(name) { return number }
    guard let entry = unsafe getpwnam(name) else {
        throw MachineError(
            .hostUnfit, "there is no user \(name); useradd --system \(name)")
    }
    return unsafe entry.pointee.pw_uid
}
