// Brings a database to the schema that this program was built with. Called by `mayfly migrate` and
// by the demo. It only goes forward, one transaction per version. Processes that come at the same
// time need no lock: whoever is second meets a table or a row that the first has just made, and
// looks again.

import Postgres

package enum Migrations {
    package struct State: Sendable, Equatable {
        package let version: Int
        package let name: String
        /// ISO 8601; nil: not applied yet.
        package let appliedAt: String?
    }

    /// A state of the schema; its chapters are applied in one transaction, and the last one notes
    /// the version in mayfly.migration.
    package struct Version: Sendable {
        package let name: String
        package let chapters: [Script]
    }

    /// In order; number 1 is the first.
    package static let versions = [
        Version(
            name: "v1",
            chapters: [
                Script(name: "v1_1_tables", bytes: PackageResources.v1_1_tables_sql),
                Script(name: "v1_2_produce", bytes: PackageResources.v1_2_produce_sql),
                Script(name: "v1_3_work", bytes: PackageResources.v1_3_work_sql),
                Script(name: "v1_4_follow", bytes: PackageResources.v1_4_follow_sql),
                Script(name: "v1_5_egress", bytes: PackageResources.v1_5_egress_sql),
                Script(name: "v1_6_operate", bytes: PackageResources.v1_6_operate_sql),
                Script(name: "v1_7_roles", bytes: PackageResources.v1_7_roles_sql),
            ])
    ]
    /// How long a migration waits for a lock that another session holds.
    private static let lockTimeout = Duration.seconds(60)

    package static func status(_ settings: ConnectionSettings) async throws(JobsError) -> [State] {
        try await withConnection(settings) { connection throws(JobsError) in
            try await states(connection)
        }
    }

    /// Applies what is missing and answers it.
    ///
    /// Concurrent calls wait for each other.
    package static func apply(_ settings: ConnectionSettings) async throws(JobsError) -> [State] {
        try await withConnection(settings) { connection throws(JobsError) in
            var applied: Set<Int> = []
            var raceCount = 0
            while let next = try await states(connection).first(where: { $0.appliedAt == nil }) {
                do throws(JobsError) {
                    try await apply(versions[next.version - 1], connection)
                    applied.insert(next.version)
                } catch {
                    guard error.isMigrationRace, raceCount < 20 else { throw error }
                    raceCount += 1  // somebody else was faster; perhaps it has done all
                }
            }
            return try await states(connection).filter { applied.contains($0.version) }
        }
    }

    private static func apply(
        _ version: Version, _ connection: Connection
    ) async throws(JobsError) {
        let begin = "begin; set local lock_timeout = '\(lockTimeout.components.seconds) s'"
        var current = ""
        do throws(PostgresError) {
            try await connection.run(Script(name: "begin", bytes: Array(begin.utf8)))
            for chapter in version.chapters {
                current = chapter.name
                try await connection.run(chapter)
            }
            try await connection.run(Script(name: "commit", bytes: Array("commit".utf8)))
        } catch {
            // The connection may be gone; then so is the transaction.
            _ = try? await connection.run(Script(name: "rollback", bytes: Array("rollback".utf8)))
            var hint = error.hint
            if error.sqlstate == "55P03" {
                let holders =
                    (try? await openTransactions(connection)) ?? "look in pg_stat_activity"
                hint = "Waited \(lockTimeout) for a transaction that is open elsewhere: \(holders)"
            }
            throw JobsError.refused(
                PostgresError(
                    sqlstate: error.sqlstate, message: "\(current): \(error.message)",
                    detail: error.detail, hint: hint, isConnectionLost: error.isConnectionLost))
        }
    }

    private static func openTransactions(
        _ connection: Connection
    ) async throws(PostgresError) -> String {
        let rows = try await connection.run(
            """
            select format('process %s of %s, %s', pid, usename, application_name) as holder
            from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()
                and xact_start is not null order by xact_start limit 5
            """)
        return (0..<rows.count).map { rows.string($0, "holder") }.joined(separator: "; ")
    }

    /// Refuses a database whose schema is older than this program.
    static func check(_ connection: Connection) async throws(JobsError) {
        let found: [State]
        do throws(JobsError) { found = try await states(connection) } catch {
            // A producer may not look; it will hear of it from the functions it calls.
            if error.sqlstate == "42501" { return }
            throw error
        }
        guard let missing = found.first(where: { $0.appliedAt == nil }) else { return }
        throw JobsError.notMigrated(
            "the database lacks the migration \(missing.name); run: mayfly migrate")
    }

    private static func states(_ connection: Connection) async throws(JobsError) -> [State] {
        try await translated { () async throws(PostgresError) in
            let there = try await connection.run(
                "select to_regclass('mayfly.migration') is not null as there")
            var applied: [Int64: String] = [:]
            if there.bool(0, "there") {
                let rows = try await connection.run(
                    """
                    select version,
                        to_char(applied_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')
                            as applied_at
                    from mayfly.migration
                    """)
                for row in 0..<rows.count {
                    applied[rows.integer(row, "version") ?? 0] = rows.string(row, "applied_at")
                }
            }
            return versions.enumerated().map { index, version in
                State(
                    version: index + 1, name: version.name, appliedAt: applied[Int64(index + 1)])
            }
        }
    }
}

extension JobsError {
    /// What the second of two migrations meets when the first commits.
    fileprivate var isMigrationRace: Bool {
        // A duplicate key, schema, table, type or function; or a catalog row changed under it.
        ["23505", "42P06", "42P07", "42710", "42723", "XX000"].contains(sqlstate ?? "")
    }
}

/// A connection for as long as `body` runs.
func withConnection<Value>(
    _ settings: ConnectionSettings, _ body: (Connection) async throws(JobsError) -> Value
) async throws(JobsError) -> Value {
    let connection = try await translated { () async throws(PostgresError) in
        try await Connection(settings)
    }
    do {
        let value = try await body(connection)
        await connection.close()
        return value
    } catch {
        await connection.close()
        throw error
    }
}
