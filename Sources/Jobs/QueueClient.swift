// The queue as people and backends see it: enqueue, list, show, cancel, replay, wait, pause,
// numbers; blobs are in QueueClient+Blobs.swift. Called by the commands of the program; each call
// is one function of the schema.

import Postgres

/// A job to be put into the queue; nil leaves the default to the database.
package struct NewJob: Sendable {
    package var kind: String
    /// A JSON object, as text.
    package var payload: String
    package var queue: String?
    package var tenant: String?
    package var priority: Int?
    /// A timestamp in any form PostgreSQL reads.
    package var runAt: String?
    package var timeout: Duration?
    package var maxAttempts: Int?
    package var uniqueKey: String?

    package init(kind: String, payload: String) {
        self.kind = kind
        self.payload = payload
    }
}

/// Which jobs; nil fits all.
package struct Filter: Sendable {
    package var state: String?
    package var kind: String?
    package var queue: String?
    package var tenant: String?
    /// How long ago they were put in at most.
    package var since: Duration?
    package var limit = 100
    package init() {}
}

/// One job as `mayfly.job` shows it; the JSON columns as text, times in ISO 8601.
package struct JobRow: Sendable, Equatable {
    package let id: Int64
    package let queue, tenant, kind, state: String
    package let priority, attempt, maxAttempts: Int
    package let payload: String
    package let result, error: String?
    package let uniqueKey: String?
    package let replayOf: Int64?
    package let runAt, createdAt: String
    package let startedAt, finishedAt: String?
    package let timeout: Duration?
    package let isCancelRequested: Bool
    package let worker: Int64?
    /// Of a running job, in its own words: JSON.
    package let progress: String?

    package var hasEnded: Bool { state != "queued" && state != "running" }
}

/// One row of `mayfly.attempt`.
package struct AttemptRow: Sendable, Equatable {
    package let attempt: Int
    package let worker: Int64
    package let outcome: String
    package let reason, message, machine, generation, seed: String?
    package let clock: Int64?
    package let timings, usage, logTail: String?
    package let startedAt, finishedAt: String
}

/// What a view such as `mayfly.stats` or `mayfly.health` answers: for tables and `--json`.
package struct ResultTable: Sendable, Equatable {
    package let columns: [String]
    package let rows: [[String?]]
}

package struct QueueClient: Sendable {
    private let connection: Connection

    /// A connection for as long as `body` runs.
    package static func open<Value>(
        _ settings: ConnectionSettings, _ body: (QueueClient) async throws(JobsError) -> Value
    ) async throws(JobsError) -> Value {
        try await withConnection(settings) { connection throws(JobsError) in
            try await Migrations.check(connection)
            return try await body(QueueClient(connection: connection))
        }
    }

    func run(_ statement: Statement) async throws(JobsError) -> Rows {
        do throws(PostgresError) { return try await connection.run(statement) } catch {
            throw JobsError(error)
        }
    }

    // MARK: Putting in

    package func enqueue(_ job: NewJob) async throws(JobsError) -> Int64 {
        let rows = try await run(
            """
            select mayfly.enqueue(\(job.kind), \(Storable.json(job.payload)),
                queue => coalesce(\(job.queue), 'default'), tenant => coalesce(\(job.tenant), ''),
                priority => coalesce(\(job.priority), 0), run_at => coalesce(\(job.runAt), now()),
                timeout => \(job.timeout), max_attempts => \(job.maxAttempts),
                unique_key => \(job.uniqueKey)) as id
            """)
        return rows.integer(0, "id") ?? 0
    }

    /// Many at once: a JSON array of objects whose keys are the arguments of `mayfly.enqueue`.
    package func enqueueMany(_ jobs: String) async throws(JobsError) -> [Int64] {
        let rows = try await run("select id from mayfly.enqueue_many(\(Storable.json(jobs))) id")
        return (0..<rows.count).map { rows.integer($0, "id") ?? 0 }
    }

    // MARK: Looking

    package func list(_ filter: Filter) async throws(JobsError) -> [JobRow] {
        let rows = try await run(
            """
            select id, queue, tenant, kind, state, priority, payload, result, error, attempt,
                max_attempts, unique_key, replay_of, cancel_requested, worker, progress,
                mayfly.iso(run_at) as run_at,
                mayfly.iso(created_at) as created_at, mayfly.iso(started_at) as started_at,
                mayfly.iso(finished_at) as finished_at,
                (extract(epoch from timeout) * 1000)::bigint as timeout_ms
            from mayfly.list(\(filter.state), \(filter.kind), \(filter.queue), \(filter.tenant),
                now() - \(filter.since)::interval, null, \(filter.limit))
            """)
        return (0..<rows.count).map { JobRow(rows, $0) }
    }

    /// - Returns: nil when there is no such job for this role.
    package func show(_ id: Int64) async throws(JobsError) -> JobRow? {
        let rows = try await run(
            """
            select id, queue, tenant, kind, state, priority, payload, result, error, attempt,
                max_attempts, unique_key, replay_of, cancel_requested, worker, progress,
                mayfly.iso(run_at) as run_at,
                mayfly.iso(created_at) as created_at, mayfly.iso(started_at) as started_at,
                mayfly.iso(finished_at) as finished_at,
                (extract(epoch from timeout) * 1000)::bigint as timeout_ms
            from mayfly.get_job(\(id))
            """)
        return rows.count == 0 ? nil : JobRow(rows, 0)
    }

    /// Only for operators: what is known about a machine is none of a producer's business.
    package func attempts(_ id: Int64) async throws(JobsError) -> [AttemptRow] {
        let rows = try await run(
            """
            select attempt, worker, outcome, reason, message, machine, generation,
                encode(seed, 'hex') as seed, clock, timings, usage, log_tail,
                mayfly.iso(started_at) as started_at, mayfly.iso(finished_at) as finished_at
            from mayfly.attempt where id = \(id) order by attempt
            """)
        return (0..<rows.count).map { AttemptRow(rows, $0) }
    }

    package func stats() async throws(JobsError) -> ResultTable {
        ResultTable(try await run("select * from mayfly.stats order by queue, kind"))
    }
    package func health() async throws(JobsError) -> ResultTable {
        ResultTable(try await run("select * from mayfly.health"))
    }
    package func workers() async throws(JobsError) -> ResultTable {
        ResultTable(
            try await run(
                """
                select w.worker, w.name, w.host, w.version, w.kinds, w.queues, w.slots,
                    count(r.token) as running, w.health, w.health_note,
                    mayfly.iso(w.started_at) as started_at,
                    w.lease_until - clock_timestamp() as lease_left
                from mayfly.worker w left join mayfly.running r using (worker)
                where not w.dead group by w.worker order by w.worker
                """))
    }

    /// The process of this connection on the server, when the server is on this host.
    package func localBackend() async throws(JobsError) -> Int32? {
        let rows = try await run(
            """
            select case when coalesce(inet_server_addr() << inet '127.0.0.0/8'
                    or host(inet_server_addr()) = '::1', true)
                then pg_backend_pid() end as pid
            """)
        return rows.integer(0, "pid").map { Int32(truncatingIfNeeded: $0) }
    }

    /// Waits until the job has ended, as long as it takes; `changed` hears of each state on the
    /// way.
    package func wait(
        _ id: Int64, _ changed: (JobRow) -> Void = { _ in }
    ) async throws(JobsError) -> JobRow {
        guard let first = try await show(id) else { throw JobsError.noJob(id) }
        let channel = try await translated { () async throws(PostgresError) in
            try await NotificationChannel.done(first.tenant, connection)
        }
        let bell = Doorbell()
        let listener = Task {
            try await connection.withNotifications(on: [channel]) { notes in
                for await note in notes where note.payload == String(id) { bell.ring() }
            }
        }
        defer { listener.cancel() }
        var last: String?
        var idle = Idleness(longest: .seconds(1))
        while !Task.isCancelled {
            guard let job = try await show(id) else { throw JobsError.noJob(id) }
            if job.state != last { changed(job) }
            last = job.state
            if job.hasEnded { return job }
            await bell.wait(atMost: idle.pause())
        }
        throw JobsError.refused(PostgresError(sqlstate: "57014", message: "waiting was cancelled"))
    }

    // MARK: Steering

    /// - Returns: 'cancelled', 'cancelling', or the state in which the job had ended.
    package func cancel(_ id: Int64) async throws(JobsError) -> String {
        try await run("select mayfly.cancel(\(id)) as state").string(0, "state")
    }
    package func replay(_ id: Int64, pinned: Bool = false) async throws(JobsError) -> Int64 {
        try await run("select mayfly.replay(\(id), \(pinned)) as id").integer(0, "id") ?? 0
    }
    /// Replays those that fit and were not replayed before.
    ///
    /// A dry run only says which. What cannot be replayed pinned comes back with the reason instead
    /// of a new id.
    package func replay(
        _ filter: Filter, pinned: Bool = false, isDryRun: Bool
    ) async throws(JobsError) -> [(original: Int64, id: Int64?, refusal: String?)] {
        let rows = try await run(
            """
            select original, id, refusal from mayfly.replay_all(coalesce(\(filter.state), 'failed'),
                \(filter.kind), \(filter.queue), \(filter.tenant),
                    now() - \(filter.since)::interval, null,
                \(filter.limit), \(pinned), \(isDryRun))
            """)
        return (0..<rows.count).map {
            (rows.integer($0, "original") ?? 0, rows.integer($0, "id"), rows.text($0, "refusal"))
        }
    }
    package func pause(_ queue: String) async throws(JobsError) {
        _ = try await run("select mayfly.pause(\(queue))")
    }
    package func resume(_ queue: String) async throws(JobsError) {
        _ = try await run("select mayfly.resume(\(queue))")
    }
    /// Drops whole weeks of history, and blobs, that are older than `retention`, or than the
    /// operator's setting in the database; step by step, so that nobody waits.
    package func prune(
        retention: Duration?, _ progress: (String) -> Void = { _ in }
    ) async throws(JobsError) -> [String] {
        var done: [String] = []
        while !Task.isCancelled {
            let rows =
                if let retention {
                    try await run("select did from mayfly.prune(\(retention)) did")
                } else {
                    try await run("select did from mayfly.maintain() did")
                }
            guard rows.count > 0 else { break }
            done.append(rows.string(0, "did"))
            progress(rows.string(0, "did"))
        }
        return done
    }
}

extension JobsError {
    package static let noWorker = JobsError.refused(
        PostgresError(
            sqlstate: "MF004", message: "no worker is live",
            hint: "Start one with: mayfly worker"))
    static func noJob(_ id: Int64) -> JobsError {
        .refused(
            PostgresError(
                sqlstate: "MF004", message: "there is no job \(id)",
                hint: "Look for it with: mayfly jobs"))
    }
}
