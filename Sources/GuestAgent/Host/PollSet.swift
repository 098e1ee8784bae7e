// The descriptors of one poll(2).

import Glibc

/// Rebuilt for each wait: there are few.
struct PollSet: ~Copyable {
    private var entries: [pollfd] = []

    mutating func removeAll() { entries.removeAll(keepingCapacity: true) }
    mutating func add(_ file: CInt, _ events: CInt) {
        if file >= 0 { entries.append(pollfd(fd: file, events: Int16(events), revents: 0)) }
    }
    mutating func wait(milliseconds: CInt) {
        _ = unsafe poll(&entries, nfds_t(entries.count), milliseconds)
    }
    func has(_ file: CInt) -> Bool {
        for entry in entries where entry.fd == file { return entry.revents != 0 }
        return false
    }
    mutating func clear(_ file: CInt) {
        for index in entries.indices where entries[index].fd == file {
            entries[index].revents = 0
        }
    }
    /// As `has`, once.
    mutating func take(_ file: CInt) -> Bool {
        guard has(file) else { return false }
        clear(file)
        return true
    }
}
