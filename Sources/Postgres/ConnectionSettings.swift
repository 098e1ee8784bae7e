// Where the database is, by libpq's own rules: a connection string or URI, else DATABASE_URL, else
// the PG* variables, service files and password file. Used by everything that connects.

import CLibPQ
import Glibc

package struct ConnectionSettings: Sendable {
    /// "host=… dbname=…" or "postgresql://…"; empty: libpq's environment and defaults.
    package let info: String
    package let applicationName: String
    /// Parameters of the server that are set after connecting, for the session.
    package var session: [(name: String, value: String)] = []

    /// Uses `info`, or what the environment says when there is none.
    package init(_ info: String? = nil, applicationName: String = "mayfly") {
        let environment = unsafe getenv("DATABASE_URL").map { unsafe String(cString: $0) }
        self.info = info ?? environment ?? ""
        self.applicationName = applicationName
    }

    /// Defaults come before the string, so that it overrides them; PGCONNECT_TIMEOUT does, too.
    var parameters: [(name: String, value: String)] {
        var list = [(name: String, value: String)]()
        if unsafe getenv("PGCONNECT_TIMEOUT") == nil { list.append(("connect_timeout", "10")) }
        // A peer that vanished without a word is noticed within half a minute.
        list += [
            ("keepalives_idle", "10"), ("keepalives_interval", "5"), ("keepalives_count", "3"),
            ("tcp_user_timeout", "30000"), ("fallback_application_name", applicationName),
        ]
        if !info.isEmpty { list.append(("dbname", info)) }
        return list + [("client_encoding", "UTF8")]
    }

    /// Why `info` cannot be used, without repeating it: it may hold a password.
    func refusal() -> PostgresError? {
        guard !info.isEmpty, info.contains("=") || info.contains("://") else { return nil }
        var message: UnsafeMutablePointer<CChar>?
        // SAFETY: both results are libpq's and freed here.
        if let options = unsafe PQconninfoParse(info, &message) {
            unsafe PQconninfoFree(options)
            return nil
        }
        defer { unsafe PQfreemem(message) }
        let words = unsafe message.map { unsafe String(cString: $0) } ?? "out of memory"
        let reason = words.prefix { $0 != "\"" && $0 != "\n" }
        return PostgresError(
            sqlstate: "08001",
            message: "the connection string cannot be used: \(reason)…",
            hint: "Write it as \"host=… dbname=… user=…\" or \"postgresql://user@host/dbname\""
        )
    }
}
