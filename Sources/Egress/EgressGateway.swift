// One job's network: whatever its guest asks for passes here, is decided, counted and recorded. The
// guest's agent carries bytes and decides nothing, so that a hostile one has no more power than a
// hostile client.

import Events
import Glibc
import Processes

/// What a stream of the guest speaks.
package enum EgressService: Sendable {
    /// What a client says to an HTTP proxy, or to a SOCKS5 server; told apart by the first byte.
    case proxy
    /// DNS messages, each behind its length in two bytes, as DNS over TCP.
    case names
}

/// One job's network.
///
/// Lives on the loop. Costs nothing but its memory until a stream comes.
@LoopActor
package final class EgressGateway {
    let policy: EgressPolicy
    let resolver: Resolver
    let limits: EgressLimits
    /// `nil`: this host ends and begins no TLS.
    let tls: EgressTLS?

    private var connections: [Int: (connection: EgressConnection, task: Task<Void, Never>)] = [:]
    private var lastConnection = 0
    private var isClosed = false
    private var records = RecordList()
    /// Connections of the whole job.
    private var connectionCount = 0
    private var bytesSent: UInt64 = 0
    private var bytesReceived: UInt64 = 0
    /// When the next connection would be due at the even rate, were there no burst.
    private var due = ContinuousClock.now

    package init(
        policy: EgressPolicy, resolver: Resolver, limits: EgressLimits, tls: EgressTLS? = nil
    ) {
        self.policy = policy
        self.resolver = resolver
        self.limits = limits
        self.tls = tls
    }

    /// Serves one stream of the guest until it ends.
    ///
    /// - Parameter descriptor: a connected stream socket, whose other end is pumped to and from the
    ///   guest. It is made non-blocking, and closed when the stream is done.
    package func serve(_ descriptor: consuming Descriptor, as service: EgressService) {
        guard !isClosed else { return }
        guard connections.count < limits.connectionsAtOnce else {
            var record = EgressRecord()
            record.verdict = .denied
            record.reason = .tooManyConnections
            record.started = wallClock()
            add(record)
            return
        }
        lastConnection += 1
        let id = lastConnection
        let connection = EgressConnection(of: self, client: EgressSocket(descriptor))
        let task = Task { @LoopActor in
            await connection.run(as: service)
            connections[id] = nil
        }
        connections[id] = (connection, task)
    }
    /// The decisions since the last call, each once: of connections that have ended, and of queries
    /// for names that were refused.
    ///
    /// Those that are alike are one record with their count. No more than
    /// ``EgressLimits/records``; a last one with ``EgressReason/moreRecords`` counts the rest.
    ///
    /// - Parameter isAll: also what connections have done that are still open, which their own
    ///   records then add to: a worker that is lost takes little with it.
    package func takeRecords(withOpen isAll: Bool = false) -> [EgressRecord] {
        if isAll {
            for (connection, _) in connections.values {
                if let part = connection.takeProgress() { add(part) }
            }
        }
        return records.take()
    }

    /// Ends every connection, and waits for nothing: from here on no byte goes either way.
    package func close() {
        isClosed = true
        for (connection, task) in connections.values {
            connection.cut()
            task.cancel()
        }
        connections = [:]
    }

    // MARK: For its connections

    func add(_ record: EgressRecord) { records.add(record, limit: limits.records) }

    /// Waits for a place in the job's even rate.
    func takeTurn() async throws(EgressRefusal) {
        let interval = Duration.seconds(1) / max(1, limits.connectionsPerSecond)
        let now = ContinuousClock.now
        due = max(due, now) + interval
        let start = due - interval * max(1, limits.connectionsAtOnce)
        guard start > now else { return }
        if case .cancelled = await EventLoop.shared.ready([], before: start) {
            throw EgressRefusal(.jobEnded, "the job is over")
        }
    }
    /// Counts a connection that is allowed.
    func countConnection() throws(EgressRefusal) {
        guard connectionCount < limits.connections else {
            throw EgressRefusal(
                .tooManyConnections,
                "this job has made all of its \(limits.connections) connections")
        }
        connectionCount += 1
    }
    /// Counts bytes, and says how many are left each way.
    func count(
        sent: Int, received: Int
    ) throws(EgressRefusal) -> (sent: UInt64, received: UInt64) {
        bytesSent += UInt64(sent)
        bytesReceived += UInt64(received)
        guard bytesSent < limits.bytesSent else {
            throw EgressRefusal(
                .byteLimit, "this job has sent all of its \(limits.bytesSent) bytes")
        }
        guard bytesReceived < limits.bytesReceived else {
            throw EgressRefusal(
                .byteLimit, "this job has received all of its \(limits.bytesReceived) bytes")
        }
        return (limits.bytesSent - bytesSent, limits.bytesReceived - bytesReceived)
    }
}

/// Nanoseconds since 1970.
func wallClock() -> Int64 {
    var time = timespec()
    unsafe clock_gettime(CLOCK_REALTIME, &time)
    return Int64(time.tv_sec) * 1_000_000_000 + Int64(time.tv_nsec)
}

/// Records in the order of their first, those that are alike as one.
private struct RecordList {
    private struct Key: Hashable {
        let host: String
        let port: UInt16
        let request: [String]
        let address: String?
        let verdict: EgressVerdict
        let reason: EgressReason?
    }
    private var list: [EgressRecord] = []
    private var places: [Key: Int] = [:]
    private var untold: EgressRecord?

    mutating func add(_ record: EgressRecord, limit: Int) {
        let key = Key(
            host: record.host, port: record.port,
            request: [record.method, record.path, record.capability], address: record.address,
            verdict: record.verdict, reason: record.reason)
        if let place = places[key] {
            list[place].merge(record)
        } else if list.count < limit {
            places[key] = list.count
            list.append(record)
        } else if untold == nil {
            var first = record
            (first.host, first.port, first.address, first.rule) = ("", 0, nil, nil)
            (first.method, first.path, first.capability) = ("", "", "")
            (first.verdict, first.reason) = (.failed, .moreRecords)
            untold = first
        } else {
            untold?.merge(record)
        }
    }
    mutating func take() -> [EgressRecord] {
        defer { self = RecordList() }
        return list + (untold.map { [$0] } ?? [])
    }
}

extension EgressRecord {
    fileprivate mutating func merge(_ other: EgressRecord) {
        count += other.count
        bytesSent += other.bytesSent
        bytesReceived += other.bytesReceived
        duration += other.duration
    }
}
