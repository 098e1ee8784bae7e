// The loopback ways to the network: what programs send to the proxy and to the resolver becomes
// streams to the host, and back. A dumb pipe: it reads no request, knows no rule and decides
// nothing. Owned by Agent; a program that opens connections without end waits in front of it.

import CGuest
import Glibc
import Wire

/// The listeners, which a snapshot holds, and what was accepted, which it never does.
struct Network: ~Copyable {
    /// Where every program finds its proxy.
    static let proxy = "http://127.0.0.1:\(proxyPort)"
    private static let proxyPort: UInt16 = 3128
    private static let namesPort: UInt16 = 53
    /// A few connections wait in the kernel while all streams are in use; the rest wait in their
    /// programs.
    private static let backlog: CInt = 16
    /// At one look, so that a flood of connections holds up nothing else.
    private static let acceptedAtOnce = 4

    private var listeners: [(file: CInt, service: NetworkService)] = []
    private var questions: Questions
    private var connections: [Connection] = []
    private var buffer = [UInt8](repeating: 0, count: Limits.networkCredit)

    /// Listens on the loopback; on ::1, too, where the kernel has it.
    init() throws(SystemError) {
        var listeners: [(file: CInt, service: NetworkService)] = []
        for (port, service) in [(Self.proxyPort, NetworkService.proxy), (Self.namesPort, .names)] {
            let file = try check(
                "listen on 127.0.0.1:\(port)", mayfly_guest_listen(0, port, Self.backlog))
            listeners.append((file, service))
            let other = mayfly_guest_listen(1, port, Self.backlog)
            if other >= 0 { listeners.append((other, service)) }
        }
        let socket = try check(
            "take questions on 127.0.0.1:53", mayfly_guest_questions(Self.namesPort))
        self.listeners = listeners
        questions = Questions(socket)
    }

    // MARK: The agent's loop

    /// `mayRead`: what programs send can go on to the host.
    func addInterest(to set: inout PollSet, _ connection: GuestConnection, mayRead: Bool) {
        // Whoever may not reach the network is turned away at once; whoever may, waits for a place.
        if !connection.allowsNetwork || connection.mayOpen {
            for listener in listeners { set.add(listener.file, POLLIN) }
        }
        set.add(questions.socket, POLLIN)
        for one in connections {
            let reads =
                mayRead && !one.isProgramFinal && connection.networkCapacity(of: one.stream) > 0
            let events = (reads ? POLLIN : 0) | (one.hasUnwritten ? POLLOUT : 0)
            // A descriptor without a wish would still tell of its peer's end, again and again.
            if events != 0 { set.add(one.file, events) }
        }
    }

    mutating func advance(
        _ set: inout PollSet, _ connection: inout GuestConnection, mayRead: Bool
    ) throws(WireError) {
        for listener in listeners where set.take(listener.file) {
            try accept(listener.file, listener.service, &connection)
        }
        if set.take(questions.socket) { try questions.read(&buffer, &connection) }
        for index in connections.indices where set.take(connections[index].file) {
            try connections[index].flush(&connection)
            if mayRead { try connections[index].read(&buffer, &connection) }
        }
        try closeEnded(&connection)
    }

    private mutating func accept(
        _ listener: CInt, _ service: NetworkService, _ connection: inout GuestConnection
    ) throws(WireError) {
        for _ in 0..<Self.acceptedAtOnce where !connection.allowsNetwork || connection.mayOpen {
            let file = mayfly_guest_accept(listener)
            guard file >= 0 else { return }
            guard let stream = try connection.open(service) else {
                mayfly_guest_reset(file)
                continue
            }
            connections.append(Connection(file: file, stream: stream))
        }
    }

    // MARK: The host

    mutating func take(
        _ bytes: [UInt8], isFinal: Bool, _ stream: UInt32, _ connection: inout GuestConnection
    ) throws(WireError) {
        if stream == questions.stream {
            return try questions.take(bytes, isFinal: isFinal, &connection)
        }
        guard let index = connections.firstIndex(where: { $0.stream == stream }) else { return }
        connections[index].take(bytes, isFinal: isFinal)
        try connections[index].flush(&connection)
        try closeEnded(&connection)
    }
    mutating func closed(
        _ stream: UInt32, _ connection: inout GuestConnection
    ) throws(WireError) {
        if stream == questions.stream { return try questions.close(&connection) }
        guard let index = connections.firstIndex(where: { $0.stream == stream }) else { return }
        connections[index].hostClosed()
        try closeEnded(&connection)
    }

    /// A program has ended: nothing of it stays, and nothing of it waits for the next one.
    mutating func end(_ connection: inout GuestConnection) throws(WireError) {
        for one in connections {
            mayfly_guest_reset(one.file)
            try connection.closeNetwork(one.stream)
        }
        connections.removeAll()
        try questions.close(&connection)
        questions.drain(&buffer)
        for listener in listeners {
            for _ in 0...Int(Self.backlog) {
                let file = mayfly_guest_accept(listener.file)
                guard file >= 0 else { break }
                mayfly_guest_reset(file)
            }
        }
    }

    private mutating func closeEnded(_ connection: inout GuestConnection) throws(WireError) {
        for index in connections.indices.reversed() {
            let one = connections[index]
            guard one.isOver else { continue }
            if one.isBroken { mayfly_guest_reset(one.file) } else { close(one.file) }
            try connection.closeNetwork(one.stream)
            connections.remove(at: index)
        }
    }
}

/// One connection of a program's, and its stream.
private struct Connection {
    let file: CInt
    let stream: UInt32
    /// What the host has sent and the program has not taken: its credit at most.
    private var unwritten: [UInt8] = []
    private var unwrittenStart = 0
    /// The program sends no more; the host sends no more.
    private(set) var isProgramFinal = false
    private var isHostFinal = false
    private var isHostClosed = false
    /// What was on its way is lost, and the program shall see that.
    private(set) var isBroken = false

    init(file: CInt, stream: UInt32) {
        self.file = file
        self.stream = stream
    }
    var hasUnwritten: Bool { unwrittenStart < unwritten.count }
    var isOver: Bool {
        isBroken || isHostFinal && !hasUnwritten && (isProgramFinal || isHostClosed)
    }

    mutating func read(
        _ buffer: inout [UInt8], _ connection: inout GuestConnection
    ) throws(WireError) {
        let capacity = connection.networkCapacity(of: stream)
        guard capacity > 0, !isProgramFinal, !isBroken else { return }
        let count = unsafe Glibc.read(file, &buffer, min(capacity, buffer.count))
        if count < 0 {
            if errno != EAGAIN, errno != EINTR { isBroken = true }
            return
        }
        isProgramFinal = count == 0
        try connection.sendNetwork(
            buffer.span.extracting(0..<count), on: stream, isFinal: isProgramFinal)
    }
    mutating func take(_ bytes: [UInt8], isFinal: Bool) {
        if !hasUnwritten { (unwritten, unwrittenStart) = ([], 0) }
        unwritten.append(contentsOf: bytes)
        if isFinal { isHostFinal = true }
    }
    mutating func flush(_ connection: inout GuestConnection) throws(WireError) {
        guard !isBroken else { return }
        while hasUnwritten {
            let count = unsafe unwritten.withUnsafeBytes {
                unsafe send(
                    file, $0.baseAddress?.advanced(by: unwrittenStart), $0.count - unwrittenStart,
                    CInt(MSG_NOSIGNAL))
            }
            if count < 0, errno == EAGAIN || errno == EINTR { return }
            guard count > 0 else {
                isBroken = true
                return
            }
            unwrittenStart += count
            try connection.releaseNetwork(count, of: stream)
        }
        if isHostFinal { shutdown(file, CInt(SHUT_WR)) }
    }
    mutating func hostClosed() {
        isHostClosed = true
        if !isHostFinal { isBroken = true }
    }
}
