// Brings a database to the schema that this program was built with. Called by `mayfly migrate` and
// by the demo. It only goes forward, one transaction per file, one process at a time.

import Postgres

package enum Migrations {
    package struct State: Sendable, Equatable {
        package let version: Int
        package let name: String
        /// ISO 8601; nil: not applied yet.
        package let appliedAt: String?
    }

    /// In order; each file notes itself in mayfly.migration.
    package static let scripts = [
        Script(name: "v1_schema", bytes: PackageResources.v1_schema_sql),
        Script(name: "v2_enqueue", bytes: PackageResources.v2_enqueue_sql),
        Script(name: "v3_work", bytes: PackageResources.v3_work_sql),
        Script(name: "v4_operate", bytes: PackageResources.v4_operate_sql),
        Script(name: "v5_roles", bytes: PackageResources.v5_roles_sql),
    ]

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
            // Held by the session; it goes with the connection, whatever happens.
            try await translated { () async throws(PostgresError) in
                try await connection.run("select pg_advisory_lock(771000, 0)")
            }
            let missing = try await states(connection).filter { $0.appliedAt == nil }
            for state in missing {
                let script = scripts[state.version - 1]
                do throws(PostgresError) { try await connection.run(script) } catch {
                    throw JobsError.refused(
                        PostgresError(
                            sqlstate: error.sqlstate, message: "\(script.name): \(error.message)",
                            detail: error.detail, hint: error.hint,
                            isConnectionLost: error.isConnectionLost))
                }
            }
            let applied = Set(missing.map(\.version))
            return try await states(connection).filter { applied.contains($0.version) }
        }
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
            return scripts.enumerated().map { index, script in
                State(
                    version: index + 1, name: script.name, appliedAt: applied[Int64(index + 1)])
            }
        }
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
