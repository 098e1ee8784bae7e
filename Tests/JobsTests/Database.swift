// A fresh, migrated database for one test, on the throw-away server of this process.

import Events
import Jobs
import Logging
import Postgres
import Synchronization
import TestSupport
import Testing

struct Database {
    let name: String
    let cluster: Cluster

    private static let count = Atomic<Int>(0)
    private static let template = Once {
        let cluster = try Cluster.shared.get()
        try await administer(cluster, "create database mayfly_template")
        _ = try await Migrations.apply(
            ConnectionSettings(cluster.info(database: "mayfly_template")))
        // The server has just started, and for a while after a start nobody is declared dead.
        try await administer(
            cluster, "update mayfly.setting set restart_grace = '0 s', backoff_first = '1 ms'",
            database: "mayfly_template")
    }

    /// A copy of a migrated database; `migrated: false` for an empty one.
    static func make(migrated: Bool = true, on own: Cluster? = nil) async throws -> Database {
        let cluster = try own ?? Cluster.shared.get()
        let name = "test_\(count.add(1, ordering: .relaxed).newValue)"
        if migrated, own == nil {
            try await template.value()
            try await administer(cluster, "create database \(name) template mayfly_template")
        } else {
            try await administer(cluster, "create database \(name)")
        }
        let database = Database(name: name, cluster: cluster)
        if migrated, own != nil { _ = try await Migrations.apply(database.settings()) }
        return database
    }

    func settings(user: String = "postgres") -> ConnectionSettings {
        ConnectionSettings(cluster.info(database: name, user: user))
    }

    func connect(user: String = "postgres") async throws -> Connection {
        try await Connection(settings(user: user))
    }

    /// One connection for as long as `body` runs.
    @discardableResult
    func withConnection<Value>(
        user: String = "postgres", _ body: (Connection) async throws -> Value
    ) async throws -> Value {
        let connection = try await connect(user: user)
        do {
            let value = try await body(connection)
            await connection.close()
            return value
        } catch {
            await connection.close()
            throw error
        }
    }

    func queueSettings(slots: Int = 1, lease: Duration = .seconds(15)) -> QueueSettings {
        var settings = QueueSettings(
            connection: settings(), name: "test", version: "0", kinds: ["code"], slots: slots)
        settings.lease = lease
        settings.poll = .milliseconds(500)
        return settings
    }

    /// Text that a test made up itself, outside any transaction.
    static func administer(
        _ cluster: Cluster, _ text: String, database: String = "postgres"
    ) async throws {
        let connection = try await Connection(ConnectionSettings(cluster.info(database: database)))
        do {
            try await connection.run(Script(name: "test", bytes: Array(text.utf8)))
            await connection.close()
        } catch {
            await connection.close()
            throw error
        }
    }
}

/// Does something once, however many ask.
private actor Once {
    private var task: Task<Void, any Error>?
    private let body: @Sendable () async throws -> Void
    init(_ body: @escaping @Sendable () async throws -> Void) { self.body = body }
    func value() async throws {
        let task = task ?? Task { try await body() }
        self.task = task
        try await task.value
    }
}

/// Nothing but the failures of a test should be on the screen.
let quiet = Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }

/// What a worker has of itself at the level of SQL.
struct TestWorker: Sendable {
    let number: Int64
    let secret: String
}

/// A worker at the level of SQL.
extension Connection {
    func register(
        lease: String = "15 s", host: String = "a", identity: String? = nil
    ) async throws -> TestWorker {
        let rows = try await run(
            """
            select worker, secret from mayfly.register('test', '0', '{code}', '{}', 4,
                \(lease)::interval, \(identity), \(host))
            """)
        return TestWorker(
            number: try #require(rows.integer(0, "worker")), secret: rows.string(0, "secret"))
    }
    func enqueue(_ payload: String = "{}", maxAttempts: Int = 1) async throws -> Int64 {
        let rows = try await run(
            "select mayfly.enqueue('code', \(payload), max_attempts => \(maxAttempts)) as id")
        return try #require(rows.integer(0, "id"))
    }
    func claim(_ worker: TestWorker, _ want: Int = 1) async throws -> [(
        id: Int64, token: Int64, attempt: Int
    )] {
        let rows = try await run(
            """
            select id, token, attempt
            from mayfly.claim(\(worker.number), \(worker.secret), '{}', '{code}', \(want))
            """)
        return (0..<rows.count).map {
            (
                rows.integer($0, "id") ?? 0, rows.integer($0, "token") ?? 0,
                Int(rows.integer($0, "attempt") ?? 0)
            )
        }
    }
    func settle(
        _ worker: TestWorker, _ held: (id: Int64, token: Int64, attempt: Int), _ how: String,
        _ reason: String? = nil, hadMachine: Bool = false, isProven: Bool = false
    ) async throws -> String {
        let rows = try await run(
            """
            select mayfly.settle(\(worker.number), \(worker.secret), \(held.id), \(held.token),
                \(how), \(reason), 'as told', host_is_proven => \(isProven),
                had_machine => \(hadMachine)) as now
            """)
        return rows.string(0, "now")
    }
    func heartbeat(
        _ worker: TestWorker, _ tokens: [Int64] = []
    ) async throws -> [(token: Int64, why: String)] {
        let rows = try await run(
            """
            select token, why
            from mayfly.heartbeat(\(worker.number), \(worker.secret), '15 s', \(tokens))
            """)
        return (0..<rows.count).map { (rows.integer($0, "token") ?? 0, rows.string($0, "why")) }
    }
    func state(_ id: Int64) async throws -> String {
        try await run("select state from mayfly.job where id = \(id)").string(0, "state")
    }
    func count(_ statement: Statement) async throws -> Int64 {
        try #require(try await run(statement).integer(0, "count"))
    }
    /// As if time had passed since the last look: floors rise to now.
    ///
    /// Transactions of other tests may hold them down for a moment.
    func raiseFloors() async throws {
        for _ in 0..<500 {
            try await run("update mayfly.lane set moved_at = '-infinity'")
            try await run("select mayfly.reap()")
            try await run("update mayfly.lane set next = mayfly.position_at(clock_timestamp())")
            let rows = try await run(
                "select min(floor) > 0 as risen from mayfly.lane")
            if rows.bool(0, "risen") { return }
        }
        Issue.record("the floors do not rise")
    }
    func lapse(_ worker: TestWorker) async throws {
        try await run(
            """
            update mayfly.worker set lease_until = now() - interval '1 s'
            where worker = \(worker.number)
            """)
    }
}

/// The SQLSTATE with which `body` is refused.
func sqlstate(_ body: () async throws -> Void) async -> String? {
    do {
        try await body()
        return nil
    } catch let error as PostgresError {
        return error.sqlstate
    } catch let error as JobsError {
        return error.sqlstate
    } catch {
        return "\(error)"
    }
}

extension Rows {
    /// The value of a column of the first row, if there is one.
    func first(_ column: String) -> String? { count == 0 ? nil : string(0, column) }
}
