// What an attempt may reach of the network, and what is stored of what it did there. Asked for only
// when a job wants something, and written only when it did something. Part of Queue.

import Postgres

/// How far an operator lets the jobs of a queue and tenant reach: `mayfly.egress_ceiling`.
package struct EgressCeiling: Sendable, Equatable {
    package var queue: String
    package var tenant: String
    /// `host:port`, `*.host:port`; empty: nothing is allowed.
    package var allow: [String]
    /// Networks that are not globally routable, and allowed all the same: `10.1.0.0/16`.
    package var networks: [String]

    package init(
        queue: String = "default", tenant: String = "", allow: [String] = [],
        networks: [String] = []
    ) {
        self.queue = queue
        self.tenant = tenant
        self.allow = allow
        self.networks = networks
    }
}

/// One row of `mayfly.egress`: attempts to reach something that are alike.
package struct EgressRow: Sendable, Equatable {
    package var attempt = 0
    /// As the job called it; empty when it named none, and for those that are not told one by one.
    package var host: String
    package var port: Int
    /// It was connected to, or refused; empty for none.
    package var address: String
    /// `allowed`, `denied` or `failed`.
    package var verdict: String
    package var reason: String
    /// What an allow-list would need, where that would help; or empty.
    package var rule: String
    /// Of a request that the worker has read, its path without the query; or empty.
    package var method = ""
    package var path = ""
    /// By which it was made, or asked for; or empty.
    package var capability = ""
    package var count: Int64
    package var bytesSent: Int64
    package var bytesReceived: Int64
    /// When it was last reported; ISO 8601.
    package var at = ""

    package init(
        host: String, port: Int, address: String, verdict: String, reason: String, rule: String,
        count: Int64, bytesSent: Int64, bytesReceived: Int64
    ) {
        self.host = host
        self.port = port
        self.address = address
        self.verdict = verdict
        self.reason = reason
        self.rule = rule
        self.count = count
        self.bytesSent = bytesSent
        self.bytesReceived = bytesReceived
    }
}

extension EgressRow {
    /// As `mayfly.report_egress` takes them.
    static func json(_ rows: [EgressRow]) -> String {
        let objects = rows.map { row in
            "{\"host\":\(quoted(row.host)),\"port\":\(row.port),\"address\":\(quoted(row.address)),"
                + "\"verdict\":\(quoted(row.verdict)),\"reason\":\(quoted(row.reason)),"
                + "\"rule\":\(quoted(row.rule)),\"method\":\(quoted(row.method)),"
                + "\"path\":\(quoted(row.path)),\"capability\":\(quoted(row.capability)),"
                + "\"count\":\(row.count),\"sent\":\(row.bytesSent),"
                + "\"received\":\(row.bytesReceived)}"
        }
        return "[\(objects.joined(separator: ","))]"
    }
    /// A JSON string; what is no printable ASCII becomes a question mark, as no host has it.
    private static func quoted(_ text: String) -> String {
        var quoted = "\""
        for byte in text.utf8 {
            let isPlain = (0x20..<0x7F).contains(byte) && byte != 0x22 && byte != 0x5C
            quoted.unicodeScalars.append(isPlain ? UnicodeScalar(byte) : "?")
        }
        return quoted + "\""
    }

    init(_ rows: Rows, _ row: Int) {
        self.init(
            host: rows.string(row, "host"), port: Int(rows.integer(row, "port") ?? 0),
            address: rows.string(row, "address"), verdict: rows.string(row, "verdict"),
            reason: rows.string(row, "reason"), rule: rows.string(row, "rule"),
            count: rows.integer(row, "count") ?? 0, bytesSent: rows.integer(row, "bytes_sent") ?? 0,
            bytesReceived: rows.integer(row, "bytes_received") ?? 0)
        method = rows.string(row, "method")
        path = rows.string(row, "path")
        capability = rows.string(row, "capability")
        attempt = Int(rows.integer(row, "attempt") ?? 0)
        at = rows.string(row, "at")
    }
}

extension EgressCeiling {
    /// From a row whose lists are texts.
    init(_ rows: Rows, _ row: Int) {
        self.init(
            queue: rows.string(row, "queue"), tenant: rows.string(row, "tenant"),
            allow: Self.list(rows.string(row, "allow")),
            networks: Self.list(rows.string(row, "networks")))
    }
    /// One entry a line; none has a line break in it.
    private static func list(_ text: String) -> [String] {
        text.split(separator: "\n").map(String.init)
    }
}

extension JobReports {
    /// How far the job may reach.
    ///
    /// - Throws: ``JobsError`` when the database does not say, or the attempt is not held any more.
    package func ceiling() async throws(JobsError) -> EgressCeiling {
        let rows = try await queue.ask(about: job) { me in
            """
            select queue, tenant, array_to_string(allow, e'\\n') as allow,
                array_to_string(networks, e'\\n') as networks
            from mayfly.get_ceiling(\(me.worker), \(me.secret), \(job.token))
            """
        }
        return EgressCeiling(rows, 0)
    }

    /// Stores what the job did on the network since the last report; `false` when it was not, and
    /// belongs to the outcome.
    package func report(_ egress: [EgressRow]) async -> Bool {
        let rows = await run { me in
            """
            select mayfly.report_egress(\(me.worker), \(me.secret), \(job.token),
                \(Storable.json(EgressRow.json(egress))))
            """
        }
        return rows != nil
    }
}

extension Queue {
    fileprivate func ask(
        about job: Job, _ statement: @Sendable (Registration) -> Statement
    ) async throws(JobsError) -> Rows {
        guard let me = held[job.token]?.registration, !isClosed else {
            throw .refused(
                PostgresError(sqlstate: "MF005", message: "the attempt is not held any more"))
        }
        let statement = statement(me)
        do throws(PostgresError) {
            return try await transfers.with { connection throws(PostgresError) in
                try await connection.run(statement)
            }
        } catch { throw JobsError(error) }
    }
}
