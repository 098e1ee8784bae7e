// How many files this process may open: raised at the start to what the system allows, because each
// machine takes several; programs that we run get back what we were started with.

import CLinux

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
}
