// Control groups of machines, by version 2: each has one, named after its user, made before its
// process is and gone with it. They stand in a directory of this launcher's alone, which whoever
// started it has made and opened; the next launcher's sweep removes that.

import CLinux
import Glibc
import Launch

struct Groups {
    private let setup: Setup
    private let directory: CInt
    /// Threads of one hypervisor: 64 for its disks' requests at worst, its processors, its loops.
    static let threads = 128
    /// How long what was killed may take until it is gone, in milliseconds.
    private static let patience = 2000

    /// `nil` where there are none.
    init?(_ setup: Setup) {
        guard let directory = setup.groups else { return nil }
        self.setup = setup
        self.directory = directory
    }

    /// Files of a group, and what is written to them.
    private func values(of request: LaunchRequest) -> [(bound: LaunchBounds, file: String, String)]
    {
        var values: [(bound: LaunchBounds, file: String, String)] = [
            (.memory, "memory.max", "\(request.memory)"),
            // What does not fit ends; it does not slow the host down instead.
            (.memory, "memory.swap.max", "0"),
            // All threads at once: half a hypervisor is none.
            (.memory, "memory.oom.group", "1"),
            (.processors, "cpu.max", "\(UInt64(request.processorPercent) * 1000) 100000"),
            (.threads, "pids.max", "\(Self.threads)"),
        ]
        if let disk = setup.disk {
            values.append(
                (
                    .disk, "io.max",
                    "\(disk.major):\(disk.minor) rbps=\(disk.rate) wbps=\(disk.rate)"
                ))
        }
        return values
    }

    /// The group of a user that this process holds, with nothing in it yet: a descriptor of it, or
    /// a negative error code and what could not be done.
    func make(_ user: uid_t, _ request: LaunchRequest) -> (group: CInt, step: String) {
        // Of a machine whose service was killed.
        guard remove(user) else { return (-EBUSY, "empty") }
        let name = "\(user)"
        guard unsafe mkdirat(directory, name, 0o755) == 0 else { return (-errno, "make") }
        let group = unsafe openat(directory, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard group >= 0 else { return (-errno, "open") }
        for (bound, file, value) in values(of: request) where setup.bounds.contains(bound) {
            let code = write(value, to: file, in: group)
            // A kernel without swap has nothing to refuse.
            if code == ENOENT, file == "memory.swap.max" { continue }
            guard code == 0 else {
                close(group)
                _ = remove(user)
                return (-code, "write \(file) in")
            }
        }
        return (group, "")
    }
    /// - Returns: 0, or the kernel's error code.
    private func write(_ text: String, to name: String, in group: CInt) -> CInt {
        let file = unsafe openat(group, name, O_WRONLY | O_CLOEXEC)
        guard file >= 0 else { return errno }
        defer { close(file) }
        let bytes = Array(text.utf8)
        return unsafe Glibc.write(file, bytes, bytes.count) == bytes.count ? 0 : errno
    }

    /// Whether the kernel has ended its processes because they wanted more than that.
    func wantedMoreMemory(_ user: uid_t) -> Bool {
        let file = unsafe openat(directory, "\(user)/memory.events", O_RDONLY | O_CLOEXEC)
        guard file >= 0 else { return false }
        defer { close(file) }
        var bytes = [UInt8](repeating: 0, count: 1024)
        let count = unsafe read(file, &bytes, bytes.count)
        guard count > 0 else { return false }
        return bytes[..<count].split(separator: 0x0A).contains { line in
            line.starts(with: "oom_kill ".utf8) && !line.elementsEqual("oom_kill 0".utf8)
        }
    }

    /// Ends whatever is in the group of a user that this process holds, and removes it.
    ///
    /// - Returns: whether nothing of it is left.
    func remove(_ user: uid_t) -> Bool {
        let name = "\(user)"
        for attempt in 0..<Self.patience {
            guard unsafe unlinkat(directory, name, AT_REMOVEDIR) != 0, errno != ENOENT else {
                return true
            }
            if attempt == 0 {
                let group = unsafe openat(directory, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
                guard group >= 0 else { continue }
                _ = write("1", to: "cgroup.kill", in: group)
                close(group)
            }
            usleep(1000)
        }
        return false
    }

    /// Removes the groups of users that nobody holds.
    func removeAbandoned(_ users: Users) {
        let own = unsafe openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard own >= 0, let listing = unsafe fdopendir(own) else { return }
        defer { unsafe closedir(listing) }
        while let entry = unsafe readdir(listing) {
            let name = unsafe withUnsafePointer(to: &entry.pointee.d_name) {
                unsafe String(cString: UnsafeRawPointer($0).assumingMemoryBound(to: CChar.self))
            }
            // The kernel's own files are none.
            guard let user = uid_t(name) else { continue }
            users.whileHeld(user) { _ = remove(user) }
        }
    }
}
