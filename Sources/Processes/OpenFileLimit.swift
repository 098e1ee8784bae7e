// How many files this process may open: raised at the start to what the system allows, because each
// machine takes several; programs that we run get back what we were started with. The last few are
// kept for the runtime, which ends the process when it cannot open a file.

import CLinux
import Glibc

/// RLIMIT_NOFILE of this process.
package struct OpenFileLimit: Sendable, Equatable {
    package let soft: UInt64
    package let hard: UInt64

    package static var current: OpenFileLimit {
        var (soft, hard): (UInt64, UInt64) = (0, 0)
        unsafe mayfly_file_limit(&soft, &hard)
        return OpenFileLimit(soft: soft, hard: hard)
    }
    /// As it was when it was first asked for, which `raise` does before it changes anything.
    package static let atStart = current

    /// Raises the soft limit to the hard one; answers what holds now.
    @discardableResult
    package static func raise() -> OpenFileLimit {
        let before = atStart
        mayfly_set_file_limit(before.hard)
        return current
    }

    /// What is left for connections, and for libdispatch: it opens a file of /proc when tasks wait
    /// for a thread, and ends the process when it cannot (src/event/workqueue.c of its sources).
    package static let reserve = 24
    /// No higher number is looked at: the kernel makes room up to the number that is asked for.
    private static let highest = 4096

    /// Whether so many more descriptors leave the reserve untouched.
    package static func hasRoom(for count: Int) -> Bool {
        let soft = Int(clamping: current.soft)
        // The kernel gives the lowest number that is free: while this one is, so is all above it.
        let place = min(soft - reserve - count, highest)
        guard place > 2 else { return false }
        let found = fcntl(0, F_DUPFD_CLOEXEC, CInt(place))
        if found >= 0 { close(found) }
        if found == CInt(place) { return true }
        // It is taken, as after a time when there were more: counted, which costs more.
        guard let open = openCount else { return false }
        return open + count + reserve <= soft
    }
    /// `nil`: not even that can be looked at.
    private static var openCount: Int? {
        guard let directory = unsafe opendir("/proc/self/fd") else { return nil }
        defer { unsafe closedir(directory) }
        var count = 0
        while unsafe readdir(directory) != nil { count += 1 }
        return count - 3  // two of them are directories' own names, one is this descriptor
    }
}
