// The database as commands use it: one short connection per call through Jobs' QueueClient.
// Knows no machine and builds no SQL.

import Jobs
import Postgres
import StrictJSON

/// Where the queue is, for calls that come now and then.
struct Database {
    let connection: ConnectionSettings

    init(_ configuration: Configuration) { connection = configuration.connection }
    init(_ connection: ConnectionSettings) { self.connection = connection }

    func with<Value>(
        _ body: (QueueClient) async throws(JobsError) -> Value
    ) async throws(JobsError) -> Value {
        try await QueueClient.open(connection, body)
    }

    /// As `with`, for what can fail in other ways, too.
    func using<Value>(_ body: (QueueClient) async throws -> Value) async throws -> Value {
        let result = try await with { client throws(JobsError) -> Result<Value, any Error> in
            do { return .success(try await body(client)) } catch { return .failure(error) }
        }
        return try result.get()
    }

    /// What `mayfly.health` says, a row for each thing that can be wrong with the queue.
    func health() async throws(JobsError) -> [HealthRow] {
        try await with { ledger throws(JobsError) in try await ledger.health() }.rows.map { row in
            HealthRow(
                name: row[0] ?? "", isOK: row[1] == "t", found: row[2] ?? "", remedy: row[3] ?? "")
        }
    }

    /// One line for `mayfly doctor`.
    func describe() async throws(JobsError) -> String {
        let states = try await Migrations.status(connection)
        let applied = states.filter { $0.appliedAt != nil }
        guard applied.count == states.count else {
            throw JobsError.notMigrated(
                "reachable, but \(states.count - applied.count) of \(states.count) migrations "
                    + "are missing; run: mayfly migrate")
        }
        return "reachable, schema at \(applied.last?.name ?? "nothing")"
    }
}

/// One row of `mayfly.health`.
struct HealthRow: Sendable {
    let name: String
    let isOK: Bool
    let found: String
    let remedy: String
}

extension JSON {
    /// JSON text from the database, as a value; text that is none stays a text.
    static func stored(_ text: String?) -> JSON {
        guard let text else { return .null }
        return (try? JSON(parsing: text)) ?? .string(text)
    }

    var elements: [JSON] { if case .array(let values) = self { values } else { [] } }
}

extension JobRow {
    var errorReason: String? { JSON.stored(error)["reason"]?.string }
    var errorMessage: String? { JSON.stored(error)["message"]?.string }

    /// As `--json` prints it, with the columns' own names.
    var json: JSON {
        .object([
            "id": .number(Int(id)), "queue": .string(queue), "tenant": .string(tenant),
            "kind": .string(kind), "state": .string(state), "priority": .number(priority),
            "payload": JSON.stored(payload).withDots, "result": .stored(result),
            "error": .stored(error),
            "attempt": .number(attempt), "max_attempts": .number(maxAttempts),
            "unique_key": .optional(uniqueKey),
            "replay_of": replayOf.map { .number(Int($0)) } ?? .null,
            "timeout": timeout.map { .string($0.settingText) } ?? .null,
            "run_at": .string(runAt), "created_at": .string(createdAt),
            "started_at": .optional(startedAt), "finished_at": .optional(finishedAt),
            "cancel_requested": .bool(isCancelRequested),
            "progress": .stored(progress),
        ])
    }
}

extension TransferRow {
    var json: JSON {
        .object([
            "way": .string(way), "bytes": .number(byteCount), "size": .number(size),
        ])
    }
}

extension AttemptRow {
    var json: JSON {
        .object([
            "attempt": .number(attempt), "worker": .number(Int(worker)),
            "outcome": .string(outcome), "reason": .optional(reason),
            "message": .optional(message), "machine": .optional(machine),
            "generation": .optional(generation), "seed": .optional(seed),
            "clock": clock.map { .number(Int($0)) } ?? .null, "timings": .stored(timings),
            "usage": .stored(usage), "log_tail": .optional(logTail),
            "started_at": .string(startedAt), "finished_at": .string(finishedAt),
        ])
    }
}
