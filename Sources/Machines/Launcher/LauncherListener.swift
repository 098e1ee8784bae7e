// Whom a launcher serves, and on which socket it listens. Called by `mayfly launcher`.

import CLinux
import Foundation
import Glibc
import Processes

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
