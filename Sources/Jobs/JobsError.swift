// What the queue answers when it cannot do what it was asked. Thrown by everything in Jobs.

import Postgres

package enum JobsError: Error, Sendable, Equatable, CustomStringConvertible {
    /// No server answers, or the connection broke in the middle.
    case unavailable(PostgresError)
    /// The database refused: class MF is Mayfly's own, see v1_1_tables.sql.
    case refused(PostgresError)
    /// The database has no schema, or one of another version.
    case notMigrated(String)

    init(_ error: PostgresError) {
        switch error.sqlstate {
        case "3F000", "42P01", "42883":
            self = .notMigrated(
                "the database has no schema mayfly, or an old one (\(error.message)); "
                    + "run: mayfly migrate"
            )
        default: self = error.isUnavailable ? .unavailable(error) : .refused(error)
        }
    }

    package var sqlstate: String? {
        switch self {
        case .unavailable(let error), .refused(let error): error.sqlstate
        case .notMigrated: nil
        }
    }
    package var description: String {
        switch self {
        case .unavailable(let error), .refused(let error): error.description
        case .notMigrated(let sentence): sentence
        }
    }
}

/// Runs `body`, and says its errors in this module's words.
@discardableResult
func translated<Value>(
    _ body: () async throws(PostgresError) -> Value
) async throws(JobsError) -> Value {
    do { return try await body() } catch { throw JobsError(error) }
}
