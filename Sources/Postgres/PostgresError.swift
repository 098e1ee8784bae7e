// What can go wrong between this process and a PostgreSQL server, with the server's own words.
// Thrown by everything in this module; Jobs translates it. It must never hold a password or a bound
// value.

/// A refusal by the server, or the loss of the connection to it.
package struct PostgresError: Error, Sendable, Equatable, CustomStringConvertible {
    /// Five characters; the first two are the class.
    ///
    /// See PostgreSQL's appendix A, and v1_1_tables.sql for MF.
    package let sqlstate: String
    package let message: String
    package let detail: String?
    package let hint: String?
    /// The connection is gone: what was under way may or may not have been done.
    package let isConnectionLost: Bool

    package init(
        sqlstate: String, message: String, detail: String? = nil, hint: String? = nil,
        isConnectionLost: Bool = false
    ) {
        self.sqlstate = sqlstate
        self.message = message
        self.detail = detail
        self.hint = hint
        self.isConnectionLost = isConnectionLost
    }

    /// The server could not be reached, went away, or is starting up or full: worth another try
    /// later.
    package var isUnavailable: Bool {
        isConnectionLost || sqlstate.hasPrefix("08") || sqlstate.hasPrefix("57P")
            || sqlstate == "53300"
    }
    /// The transaction lost a race and was rolled back: worth another try at once.
    package var isConflict: Bool { sqlstate == "40001" || sqlstate == "40P01" }

    package var description: String {
        var text = message
        if let detail { text += "; \(detail)" }
        if let hint { text += ". \(hint)" }
        return "\(text) (SQLSTATE \(sqlstate))"
    }
}
