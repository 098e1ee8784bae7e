// How fast the queue is on a given server: `mayfly bench queue` prints these rows. It works in a
// queue of its own name, on real tables, with real commits, and cancels what it leaves behind.

import Postgres

/// One line of the result; what does not apply is nil.
package struct BenchRow: Sendable, Equatable {
    package let name: String
    package let batch: Int
    package let jobsPerSecond: Double?
    package let p50, p95, p99: Duration?
}

package enum Bench {
    private static let kind = "mayfly-bench"
    private static let idleQueue = "mayfly-bench-idle"

    /// Runs for about `seconds` per row.
    package static func queue(
        _ settings: ConnectionSettings, seconds: Double = 2
    ) async throws(JobsError) -> [BenchRow] {
        try await withConnection(settings) { connection throws(JobsError) in
            try await Migrations.check(connection)
            return try await translated { () async throws(PostgresError) in
                var rows = [try await single(connection, seconds)]
                for batch in [100, 1000] { rows.append(try await bulk(connection, batch, seconds)) }
                for batch in [1, 10, 50, 100, 500] {
                    rows.append(try await claimAndSettle(connection, batch, seconds))
                }
                rows.append(try await latency(connection, settings, seconds))
                try await connection.run(
                    """
                    select mayfly.cancel(id) from mayfly.list('queued', \(kind),
                        limit_rows => 1000000)
                    """
                )
                return rows
            }
        }
    }

    private static func single(
        _ connection: Connection, _ seconds: Double
    ) async throws(PostgresError) -> BenchRow {
        var tally = Tally("enqueue, one per call", batch: 1, seconds)
        while tally.goesOn {
            try await connection.run(
                "select mayfly.enqueue(\(kind), '{\"n\": 1}', queue => \(kind))")
            tally.add(1)
        }
        return tally.row
    }

    private static func bulk(
        _ connection: Connection, _ batch: Int, _ seconds: Double
    ) async throws(PostgresError) -> BenchRow {
        var tally = Tally("enqueue_many", batch: batch, seconds)
        while tally.goesOn {
            try await fill(connection, batch)
            tally.add(batch)
        }
        return tally.row
    }

    private static func fill(_ connection: Connection, _ count: Int) async throws(PostgresError) {
        try await connection.run(
            """
            select count(*) from mayfly.enqueue_many((
                select jsonb_agg(jsonb_build_object('kind', \(kind)::text, 'queue', \(kind)::text,
                    'payload', jsonb_build_object('n', n)))
                from generate_series(1, \(count)) n))
            """)
    }

    private static func claimAndSettle(
        _ connection: Connection, _ batch: Int, _ seconds: Double
    ) async throws(PostgresError) -> BenchRow {
        let worker = try await register(connection)
        var tally = Tally("claim and settle", batch: batch, seconds)
        while tally.goesOn {
            let claimed = try await claim(connection, worker, batch)
            if claimed.count < batch {
                tally.pause()
                for _ in 0..<5 { try await fill(connection, 2000) }
                tally.resume()
            }
            guard claimed.count > 0 else { continue }
            let settlements = (0..<claimed.count).map { settlement(claimed, $0, worker) }
            try await connection.run(settlements)
            tally.add(claimed.count)
        }
        try await leave(connection, worker)
        return tally.row
    }

    private typealias Registration = Queue.Registration

    private static func register(
        _ connection: Connection
    ) async throws(PostgresError) -> Registration {
        let rows = try await connection.run(
            """
            select worker, secret from mayfly.register('bench', '', \([kind]), \([kind]), 1, '1 h')
            """)
        return Registration(
            worker: rows.integer(0, "worker") ?? 0, secret: rows.string(0, "secret"))
    }
    private static func leave(
        _ connection: Connection, _ me: Registration
    ) async throws(PostgresError) {
        try await connection.run("select mayfly.leave(\(me.worker), \(me.secret))")
    }
    private static func claim(
        _ connection: Connection, _ me: Registration, _ want: Int, from queue: String = kind
    ) async throws(PostgresError) -> Rows {
        try await connection.run(
            """
            select id, token, payload
            from mayfly.claim(\(me.worker), \(me.secret), \([queue]), \([kind]), \(want))
            """)
    }
    private static func settlement(_ claimed: Rows, _ row: Int, _ me: Registration) -> Statement {
        let (id, token) = (claimed.integer(row, "id"), claimed.integer(row, "token"))
        return
            """
            select mayfly.settle(\(me.worker), \(me.secret), \(id), \(token), 'succeeded',
                result => '{"exit_code": 0}')
            """
    }

    /// From the answer to an enqueue until an idle worker, woken by the notification, has the job.
    private static func latency(
        _ producer: Connection, _ settings: ConnectionSettings, _ seconds: Double
    ) async throws(PostgresError) -> BenchRow {
        let waiter = try await Connection(settings)
        let worker = try await register(waiter)
        let channel = try await NotificationChannel.workers(waiter)
        let found = try await waiter.withNotifications(on: [channel]) {
            notes async throws(PostgresError) in
            var tally = Tally("", batch: 1, seconds)
            var found: [Duration] = []
            var arrivals = notes.makeAsyncIterator()
            while tally.goesOn {
                try await waiter.run(
                    """
                    select mayfly.arm_bell(\(worker.worker), \(worker.secret), \([idleQueue]),
                        '10 s')
                    """)
                try await producer.run(
                    "select mayfly.enqueue(\(kind), '{}', queue => \(idleQueue))")
                let committed = ContinuousClock.now
                guard await arrivals.next() != nil else { break }
                let claimed = try await claim(waiter, worker, 1, from: idleQueue)
                found.append(ContinuousClock.now - committed)
                if claimed.count > 0 { try await waiter.run(settlement(claimed, 0, worker)) }
                tally.add(1)
            }
            return found.sorted()
        }
        try await leave(waiter, worker)
        await waiter.close()
        func quantile(_ share: Double) -> Duration? {
            found.isEmpty ? nil : found[min(found.count - 1, Int(Double(found.count) * share))]
        }
        return BenchRow(
            name: "commit to claimed, idle", batch: 1, jobsPerSecond: nil,
            p50: quantile(0.5), p95: quantile(0.95), p99: quantile(0.99))
    }
}

/// Counts jobs against a clock that can be stopped.
private struct Tally {
    let name: String
    let batch: Int
    private let limit: Duration
    private var count = 0
    private var since: ContinuousClock.Instant? = .now
    private var spent: Duration = .zero

    init(_ name: String, batch: Int, _ seconds: Double) {
        self.name = name
        self.batch = batch
        limit = .seconds(seconds)
    }
    var elapsed: Duration { spent + (since.map { ContinuousClock.now - $0 } ?? .zero) }
    var goesOn: Bool { elapsed < limit }
    mutating func add(_ jobs: Int) { count += jobs }
    mutating func pause() {
        spent = elapsed
        since = nil
    }
    mutating func resume() { since = .now }
    var row: BenchRow {
        BenchRow(
            name: name, batch: batch, jobsPerSecond: Double(count) / (elapsed / .seconds(1)),
            p50: nil, p95: nil, p99: nil)
    }
}
