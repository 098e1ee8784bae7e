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
    /// Accepted when no process could be made for it; nobody else is until there is one.
    private var waiting: CInt?
    /// Beside machines: sweeps, and those who say no.
    private static let othersMax = 64

    init(_ setup: Setup) {
        self.setup = setup
        childEnds = mayfly_child_ends()
        if childEnds < 0 { end("cannot watch children: \(reason(-childEnds))") }
    }

    mutating func run() -> Never {
        while true {
            let accepts = waiting == nil && childCount < setup.machinesMax + Self.othersMax
            var waited = [
                // A negative number is passed over.
                pollfd(fd: accepts ? setup.listener : -1, events: Int16(POLLIN), revents: 0),
                pollfd(fd: childEnds, events: Int16(POLLIN), revents: 0),
            ]
            let count = unsafe poll(&waited, 2, waiting == nil ? -1 : 20)
            if count > 0, waited[1].revents != 0 { collect() }
            if let connection = waiting { answer(connection) }
            if count > 0, waited[0].revents != 0 { accept() }
        }
    }

    private mutating func accept() {
        let connection = mayfly_accept(setup.listener)
        guard connection >= 0 else {
            // Too many files or no memory: it waits there until there is room.
            if connection != -EAGAIN, connection != -EINTR { usleep(20_000) }
            return
        }
        answer(connection)
    }
    /// Has a process of its own say yes or no.
    ///
    /// This one reads nothing, and is never the last that has the connection: to drop a message
    /// closes the descriptors in it, and the close of a socket may take as long as its owner likes.
    private mutating func answer(_ connection: CInt) {
        var gate: [CInt] = [-1, -1]
        guard unsafe mayfly_gate(&gate) == 0 else {
            waiting = connection
            return
        }
        acceptedCount &+= 1
        let child = mayfly_fork()
        if child == 0 {
            close(setup.listener)
            close(childEnds)
            close(gate[1])
            var byte: UInt8 = 0
            _ = unsafe read(gate[0], &byte, 1)
            close(gate[0])
            if let words = objection(to: connection) { refuse(connection, words) }
            Service(setup, connection).run(hint: acceptedCount)
        }
        close(gate[0])
        if child > 0 {
            close(connection)
            childCount += 1
        }
        waiting = child > 0 ? nil : connection
        close(gate[1])
    }
    /// Why this one is not served, where `childCount` is what it was before it came.
    private func objection(to connection: CInt) -> String? {
        var user = uid_t.max
        guard unsafe mayfly_peer_user(connection, &user) == 0,
            user == setup.worker || user == 0
        else { return "user \(user) is not the worker of this launcher" }
        guard childCount < setup.machinesMax else {
            return "all \(setup.machinesMax) machines of this host are in use"
        }
        return nil
    }
    private func refuse(_ connection: CInt, _ words: String) -> Never {
        alarm(Service.limit)
        let bytes = LaunchReply.refused(LaunchRefusal(words)).encoded()
        _ = unsafe mayfly_send_fds(connection, bytes, bytes.count, nil, 0)
        // A request that was not read would take the words with it when this end goes away.
        var byte: UInt8 = 0
        _ = unsafe recv(connection, &byte, 1, CInt(MSG_DONTWAIT))
        _exit(0)
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
