// Who is served, and by how many processes at once.

import CLinux
import Glibc
import Launch

struct Listener {
    private let setup: Setup
    /// Readable when a child has ended.
    private let childEnds: CInt
    private var childCount = 0
    private var acceptedCount: uid_t = 0

    init(_ setup: Setup) {
        self.setup = setup
        childEnds = mayfly_child_ends()
        if childEnds < 0 { end("cannot watch children: \(reason(-childEnds))") }
    }

    mutating func run() -> Never {
        while true {
            var waited = [
                pollfd(fd: setup.listener, events: Int16(POLLIN), revents: 0),
                pollfd(fd: childEnds, events: Int16(POLLIN), revents: 0),
            ]
            guard unsafe poll(&waited, 2, -1) > 0 else { continue }
            if waited[1].revents != 0 { collect() }
            if waited[0].revents != 0 { accept() }
        }
    }

    private mutating func accept() {
        let connection = mayfly_accept(setup.listener)
        guard connection >= 0 else {
            // Too many files or no memory: it waits there until there is room.
            if connection != -EAGAIN, connection != -EINTR { usleep(20_000) }
            return
        }
        defer { close(connection) }
        var user = uid_t.max
        guard unsafe mayfly_peer_user(connection, &user) == 0,
            user == setup.worker || user == 0
        else {
            return refuse(connection, "user \(user) is not the worker of this launcher")
        }
        guard childCount < setup.machinesMax else {
            return refuse(connection, "all \(setup.machinesMax) machines of this host are in use")
        }
        acceptedCount &+= 1
        let child = mayfly_fork()
        if child == 0 {
            close(setup.listener)
            close(childEnds)
            Service(setup, connection).run(hint: acceptedCount)
        }
        guard child > 0 else {
            return refuse(connection, "no process can be made: \(reason(-child))")
        }
        childCount += 1
    }
    private func refuse(_ connection: CInt, _ words: String) {
        let bytes = LaunchReply.refused(LaunchRefusal(words)).encoded()
        _ = unsafe mayfly_send_fds(connection, bytes, bytes.count, nil, 0)
        // A request that was not read would take the words with it when this end goes away.
        var byte: UInt8 = 0
        _ = unsafe recv(connection, &byte, 1, CInt(MSG_DONTWAIT))
    }

    private mutating func collect() {
        mayfly_child_ends_clear(childEnds)
        var (isOrderly, anyKilled): (CInt, Bool) = (0, false)
        while unsafe mayfly_next_ended(&isOrderly) > 0 {
            childCount = max(0, childCount - 1)
            anyKilled = anyKilled || isOrderly == 0
        }
        if anyKilled { sweep() }
    }
    /// A service that was killed leaves its machine to the kernel; what escaped that goes here.
    private mutating func sweep() {
        let child = mayfly_fork()
        if child > 0 { childCount += 1 }
        guard child == 0 else { return }
        Users(setup)?.killAbandoned()
        _exit(0)
    }
}
