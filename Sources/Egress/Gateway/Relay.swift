// Bytes both ways between a guest's stream and a server. Each side is read only as fast as the
// other takes it; all relays of the process share one turn on the loop.

import Events
import Glibc

/// One direction.
@LoopActor
final class Flow {
    let from: EgressSocket
    let to: EgressSocket
    var filter: (any FlowFilter)?
    /// What a filter has let through and the receiver has not taken yet.
    private var pending: [UInt8]
    private var start = 0
    /// The receiver would not take what the sender has.
    private var isBlocked = false
    private var isRead = false
    /// The filter has said so: the sender may say more, but nobody listens.
    private var isComplete = false
    private(set) var isDone = false
    /// Done, and the receiver may hear more.
    var isDoneWithMore: Bool { isDone && isComplete }
    /// Whether anything went to the receiver.
    private(set) var hasSent = false

    init(
        from: EgressSocket, to: EgressSocket, filter: (any FlowFilter)?, sending first: [UInt8] = []
    ) {
        self.from = from
        self.to = to
        self.filter = filter
        pending = first
    }
    var hasPending: Bool { isBlocked || start < pending.count }
    var wantsRead: Bool { !isRead && !hasPending }
    var mayEnd: Bool { isRead }

    /// Bytes that came before the flow began.
    func accept(_ bytes: [UInt8]) throws(EgressRefusal) {
        guard var filter else {
            pending += bytes
            return
        }
        // Held once, so that what it keeps grows in place.
        self.filter = nil
        let state = try filter.take(bytes, into: &pending)
        self.filter = state == .open ? nil : filter
        if state == .complete { (isRead, isComplete) = (true, true) }
    }
    /// Does what can be done without waiting, one slice at most.
    ///
    /// - Parameter limit: how many bytes may be read.
    /// - Returns: bytes read, and whether anything happened.
    func step(limit: UInt64) throws(EgressRefusal) -> (read: Int, hasMoved: Bool) {
        if start < pending.count {
            guard let count = to.write(pending[start...]) else { throw Self.lost }
            start += count
            hasSent = hasSent || count > 0
            if start == pending.count {
                pending = []
                start = 0
            }
            return (0, count > 0)
        }
        if isRead {
            guard !isDone else { return (0, false) }
            isDone = true
            // To some servers a client that has ended its way has given up.
            if !isComplete { to.endWriting() }
            return (0, true)
        }
        let limit = Int(clamping: limit)
        guard filter == nil else { return try stepFiltered(limit) }
        isBlocked = false
        switch from.move(to: to, atMost: limit) {
        case .bytes(let count, let isBlocked):
            self.isBlocked = isBlocked
            hasSent = true
            return (count, count > 0)
        case .nothingYet: return (0, false)
        case .ended:
            isRead = true
            return (0, true)
        case .lost: throw Self.lost
        }
    }
    private func stepFiltered(
        _ limit: Int
    ) throws(EgressRefusal) -> (read: Int, hasMoved: Bool) {
        let (received, bytes) = from.read(atMost: min(limit, Self.filteredByteCount))
        switch received {
        case .bytes(let count):
            try accept(bytes)
            return (count, true)
        case .nothingYet: return (0, false)
        case .lost: throw Self.lost
        case .ended:
            isComplete = try filter?.end(into: &pending) == .complete
            if !isComplete { filter = nil }
            isRead = true
            return (0, true)
        }
    }
    /// What is read at once where a filter looks at it: held here until the receiver takes it.
    private static let filteredByteCount = 16 << 10
    private static let lost = EgressRefusal(.connectionLost, "the connection was lost")
}

/// A connection under way.
@LoopActor
struct Relay {
    /// All relays of all jobs together get half a millisecond, then everybody else has a turn.
    private static let turn = LoopTurn()

    let up: Flow
    let down: Flow
    /// When the connection ends whatever it does.
    let end: ContinuousClock.Instant
    /// For what the client's filter waits for, once it does.
    let requestTime: Duration
    let idleTime: Duration
    /// Bytes that may still be read each way; called with what was read.
    let account:
        @LoopActor (_ sent: Int, _ received: Int) throws(EgressRefusal) -> (
            sent: UInt64, received: UInt64
        )

    /// Relays until both ways have ended, or, for one exchange, the server's has.
    ///
    /// - Throws: ``EgressRefusal`` for every other end.
    func run(untilServerEnds: Bool) async throws(EgressRefusal) {
        var left = try account(0, 0)
        var lastMoved = ContinuousClock.now
        var requestEnd: ContinuousClock.Instant?
        while !(down.isDone && (up.isDone || untilServerEnds)) {
            let now = await Self.turn.take()
            if Task.isCancelled { throw EgressRefusal(.jobEnded, "the job is over") }
            // However busy the other direction is, and however slowly this one goes on.
            let isExpecting = up.filter?.isExpecting == true
            requestEnd = isExpecting ? requestEnd ?? now + requestTime : nil
            if let requestEnd, now >= requestEnd { throw Self.unspoken }
            guard now < end else { throw Self.late }
            let sent = try up.step(limit: left.sent)
            let received = try down.step(limit: left.received)
            if sent.hasMoved || received.hasMoved {
                left = try account(sent.read, received.read)
                lastMoved = now
                continue
            }
            try await wait(until: min(end, lastMoved + idleTime, requestEnd ?? end))
        }
    }
    private func wait(until deadline: ContinuousClock.Instant) async throws(EgressRefusal) {
        var client: EventLoop.Interest = []
        var server: EventLoop.Interest = []
        if up.wantsRead { client.insert(.read) }
        if down.hasPending { client.insert(.write) }
        if down.wantsRead { server.insert(.read) }
        if up.hasPending { server.insert(.write) }
        var watched: [(CInt, EventLoop.Interest)] = []
        // Also for nothing: that a client has gone for good is always told.
        if !client.isEmpty || (up.mayEnd && !down.isDone) {
            watched.append((up.from.number, client))
        }
        if !server.isEmpty { watched.append((up.to.number, server)) }
        switch await EventLoop.shared.ready(watched, before: deadline) {
        case .ready(let descriptor, let seen):
            if descriptor == up.from.number, client.isEmpty,
                seen.rawValue & (EventLoop.Interest.hangUp | EventLoop.Interest.error) != 0
            {
                throw EgressRefusal(.connectionLost, "the client has gone")
            }
        case .cancelled: throw EgressRefusal(.jobEnded, "the job is over")
        case .timedOut:
            // The other two ends are found by the next round.
            guard ContinuousClock.now < end, up.filter?.isExpecting != true else { return }
            throw EgressRefusal(.idleLimit, "nothing was sent either way for \(idleTime)")
        }
    }
    private static let unspoken = EgressRefusal(
        .timeLimit, "the client did not say in time whom it means to speak to (TLS)")
    private static let late = EgressRefusal(.timeLimit, "the connection was open for too long")
}

extension EventLoop.Interest {
    /// epoll's EPOLLERR and EPOLLHUP, which are told unasked.
    fileprivate static let error: UInt32 = 8
    fileprivate static let hangUp: UInt32 = 16
}
