// Users of machines: numbers that belong to nobody, one for each machine that lives, so that no
// two of a host share one. Whoever has a number holds a lock on its byte of one file, which the
// kernel lets go when that process ends, however it ended: there is nothing to clean up.

import CLinux
import Foundation
import Glibc
import Processes
import Synchronization

/// The range of user ids, and which of them this process has.
final class JailUsers: Sendable {
    static let count = 4096
    /// For all workers of a host, whatever their runtime directories: user ids are the host's.
    static let lockFile = "/run/mayfly/users"

    let range: Range<uid_t>
    private let file: Descriptor
    private struct State {
        var taken: Set<uid_t> = []
        var next: uid_t
    }
    private let state: Mutex<State>

    /// - Throws: `hostUnfit` when the lock file cannot be made.
    init(first: uid_t) throws(MachineError) {
        range = first..<(first + uid_t(Self.count))
        try makeDirectory((Self.lockFile as NSString).deletingLastPathComponent)
        file = try attempting(Descriptor.open(Self.lockFile, O_RDWR | O_CREAT | O_NOFOLLOW))
        state = Mutex(State(next: first))
    }

    /// One that nobody on this host has; the longest unused of this process's comes last.
    func take() throws(MachineError) -> uid_t {
        let user = state.withLock { state -> uid_t? in
            for _ in range {
                let user = state.next
                state.next = user + 1 == range.upperBound ? range.lowerBound : user + 1
                // Its own lock would not keep this process out.
                guard !state.taken.contains(user) else { continue }
                guard mayfly_lock_byte(file.number, Int64(user)) == 0 else { continue }
                state.taken.insert(user)
                return user
            }
            return nil
        }
        guard let user else {
            throw MachineError(
                .hostUnfit,
                "all \(Self.count) user ids from \(range.lowerBound) on are taken; "
                    + "run fewer machines, or set machine.jail.users")
        }
        return user
    }

    /// The next machine may have it: nothing of the last one is left.
    func give(back user: uid_t) {
        state.withLock { state in
            _ = mayfly_unlock_byte(file.number, Int64(user))
            state.taken.remove(user)
        }
    }

    /// Kills what runs as one of these users while nobody holds it.
    ///
    /// Who starts a machine locks its user before, so that no living worker's is ever found free.
    static func killAbandoned(from first: uid_t) -> Int {
        guard let file = try? Descriptor.open(lockFile, O_RDWR | O_NOFOLLOW) else { return 0 }
        var killed = 0
        for entry in children(of: "/proc") {
            guard let pid = pid_t(entry) else { continue }
            let process = mayfly_pidfd_open(pid)
            guard process >= 0 else { continue }
            defer { close(process) }
            // Of the process that the descriptor holds: the number cannot be another's by now.
            guard let user = realUser(of: pid), user >= first, user - first < uid_t(count),
                mayfly_lock_byte(file.number, Int64(user)) == 0
            else { continue }
            if mayfly_pidfd_signal(process, SIGKILL) == 0 { killed += 1 }
            // Held until it is gone, so that no machine begins as its user meanwhile.
            for _ in 0..<2000 where kill(pid, 0) == 0 { usleep(1000) }
            _ = mayfly_unlock_byte(file.number, Int64(user))
        }
        return killed
    }
    private static func realUser(of pid: pid_t) -> uid_t? {
        let status = kernelText("/proc/\(pid)/status") ?? ""
        guard let line = status.split(separator: "\n").first(where: { $0.hasPrefix("Uid:") })
        else { return nil }
        return line.split(separator: "\t").dropFirst().first.flatMap { uid_t($0) }
    }
}
