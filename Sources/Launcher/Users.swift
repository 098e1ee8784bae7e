// Users of machines: one for each that lives, taken by locking its byte of a file, as workers that
// are root do. The kernel lets the lock go when its holder ends, however that ends.

import CLinux
import Glibc

struct Users {
    private let setup: Setup
    /// Opened by this process: its locks are nobody else's.
    private let file: CInt

    /// `nil` when the file cannot be opened.
    init?(_ setup: Setup) {
        self.setup = setup
        file = unsafe open("/proc/self/fd/\(setup.slots)", O_RDWR | O_CLOEXEC)
        if file < 0 { return nil }
    }

    /// One that nobody on this host has, from the `hint`-th on; held until this process ends.
    func take(hint: uid_t) -> uid_t? {
        for step in 0..<setup.userCount {
            let user = setup.firstUser + (hint % setup.userCount + step) % setup.userCount
            if mayfly_lock_byte(file, Int64(user)) == 0 { return user }
        }
        return nil
    }

    /// Does that unless somebody has the user; nobody gets it meanwhile.
    func whileHeld(_ user: uid_t, _ body: () -> Void) {
        guard user >= setup.firstUser, user - setup.firstUser < setup.userCount,
            mayfly_lock_byte(file, Int64(user)) == 0
        else { return }
        body()
        _ = mayfly_unlock_byte(file, Int64(user))
    }

    /// Kills what runs as one of these users while nobody holds it, and removes its control group.
    func killAbandoned() {
        defer { Groups(setup)?.removeAbandoned(self) }
        guard let directory = unsafe opendir("/proc") else { return }
        defer { unsafe closedir(directory) }
        while let entry = unsafe readdir(directory) {
            let name = unsafe withUnsafePointer(to: &entry.pointee.d_name) {
                unsafe String(cString: UnsafeRawPointer($0).assumingMemoryBound(to: CChar.self))
            }
            guard let pid = pid_t(name) else { continue }
            let process = mayfly_pidfd_open(pid)
            guard process >= 0 else { continue }
            defer { close(process) }
            // Looked at after it was opened: the number cannot be another's by now.
            guard let user = realUser(of: pid) else { continue }
            // Until it is gone, so that no machine begins as its user.
            whileHeld(user) {
                _ = mayfly_pidfd_signal(process, SIGKILL)
                var ended = pollfd(fd: process, events: Int16(POLLIN), revents: 0)
                unsafe poll(&ended, 1, 2000)
            }
        }
    }
    private func realUser(of pid: pid_t) -> uid_t? {
        let file = unsafe open("/proc/\(pid)/status", O_RDONLY | O_CLOEXEC)
        guard file >= 0 else { return nil }
        defer { close(file) }
        var bytes = [UInt8](repeating: 0, count: 4096)
        let count = unsafe read(file, &bytes, bytes.count)
        guard count > 0 else { return nil }
        for line in bytes[..<count].split(separator: 0x0A) where line.starts(with: "Uid:".utf8) {
            let number = line.dropFirst(4).drop { $0 == 0x09 || $0 == 0x20 }
                .prefix { (0x30...0x39).contains($0) }
            return uid_t(String(decoding: number, as: UTF8.self))
        }
        return nil
    }
}
