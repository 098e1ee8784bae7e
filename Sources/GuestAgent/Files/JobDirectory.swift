// The job's directory and the files that go into it and come out of it. A job may have made
// anything in there: each open stays beneath /work, follows no link, and takes regular files only.

import CGuest
import CLinux
import Glibc
import Wire

enum JobDirectory {
    /// Empties what jobs can write; /var/tmp is /tmp.
    static func clear() throws(SystemError) {
        for path in [Boot.work, "/tmp", "/dev/shm"] {
            try check("empty \(path)", unsafe mayfly_guest_empty_directory(path))
        }
    }

    static func open(_ name: String, _ flags: CInt) throws(SystemError) -> CInt {
        let root = try openFile(Boot.work, O_RDONLY | O_DIRECTORY)
        defer { close(root) }
        // A FIFO must not make us wait.
        let all = flags | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC
        return try check("open \(name)", unsafe mayfly_open_beneath(root, name, all, 0o644))
    }

    /// Makes the directories in front of a name, for the job.
    static func makeParents(of name: String) throws(SystemError) {
        var parent = try openFile(Boot.work, O_RDONLY | O_DIRECTORY)
        defer { close(parent) }
        for segment in GuestPath.segments(of: name).dropLast() {
            if unsafe mkdirat(parent, segment, 0o755) == 0 {
                _ = unsafe fchownat(
                    parent, segment, Account.user, Account.group, AT_SYMLINK_NOFOLLOW)
            }
            let next = try check(
                "open \(segment)",
                unsafe mayfly_open_beneath(parent, segment, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0))
            close(parent)
            parent = next
        }
    }
}
