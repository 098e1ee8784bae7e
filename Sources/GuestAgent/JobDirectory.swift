// The job's directory and the files that go into it and come out of it. A task may have made
// anything in there: each open stays beneath /work, follows no link, and takes regular files only.

import CGuest
import CLinux
import Glibc
import Wire

enum JobDirectory {
    /// How much of a hostile tree LIST looks at.
    private static let visitLimit = 50_000

    /// Empties what tasks can write; /var/tmp is /tmp.
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

    /// Makes the directories in front of a name, for the task.
    static func makeParents(of name: String) throws(SystemError) {
        var parent = try openFile(Boot.work, O_RDONLY | O_DIRECTORY)
        defer { close(parent) }
        for segment in name.split(separator: "/").dropLast().map(String.init) {
            if unsafe mkdirat(parent, segment, 0o755) == 0 {
                _ = unsafe fchownat(
                    parent, segment, Account.user, Account.user, AT_SYMLINK_NOFOLLOW)
            }
            let next = try check(
                "open \(segment)",
                unsafe mayfly_open_beneath(parent, segment, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0))
            close(parent)
            parent = next
        }
    }

    // MARK: LIST

    static func list(_ request: ListRequest) -> GuestMessage {
        var walk = Walk(
            globs: request.patterns.compactMap { try? GuestGlob($0) },
            limit: Int(request.maximumEntries), visits: visitLimit)
        let root = unsafe Glibc.open(Boot.work, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        if root >= 0 { walk.visit(root, "", depth: 1) }
        walk.files.sort { $0.name < $1.name }
        return .listed(walk.files, isTruncated: walk.isTruncated)
    }

    private struct Walk {
        let globs: [GuestGlob]
        let limit: Int
        var visits: Int
        /// What the frame still has room for.
        var room = Limits.payloadByteCount - 16
        var files: [ListedFile] = []
        var isTruncated = false

        /// Takes `directory` and closes it.
        mutating func visit(_ directory: CInt, _ prefix: String, depth: Int) {
            guard let stream = unsafe fdopendir(directory) else {
                close(directory)
                return
            }
            defer { unsafe closedir(stream) }
            while !isTruncated, let entry = unsafe readdir(stream) {
                let segment = unsafe withUnsafePointer(to: entry.pointee.d_name) {
                    unsafe String(
                        validatingCString: UnsafeRawPointer($0).assumingMemoryBound(
                            to: CChar.self))
                }
                guard let segment, segment != ".", segment != ".." else { continue }
                visits -= 1
                guard visits > 0 else {
                    isTruncated = true
                    return
                }
                let path = prefix + segment
                var status = stat()
                guard
                    unsafe fstatat(directory, segment, &status, AT_SYMLINK_NOFOLLOW) == 0
                else { continue }
                switch status.st_mode & S_IFMT {
                case S_IFREG: add(path, status.st_size)
                case S_IFDIR where depth < Limits.pathSegments:
                    let flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC
                    let child = unsafe openat(directory, segment, flags)
                    if child >= 0 { visit(child, path + "/", depth: depth + 1) }
                default: break
                }
            }
        }
        private mutating func add(_ path: String, _ size: off_t) {
            // A name that the protocol cannot carry cannot be asked for either.
            guard globs.contains(where: { $0.matches(path) }), GuestPath.isValid(path) else {
                return
            }
            let cost = path.utf8.count + 10
            guard files.count < limit, cost <= room else {
                isTruncated = true
                return
            }
            room -= cost
            files.append(ListedFile(name: path, byteCount: UInt64(size)))
        }
    }
}
