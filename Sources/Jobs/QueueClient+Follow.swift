// A running job as people and backends see it: what it prints, and how far its files are. Each call
// is one function of the schema.

import Postgres

/// A piece of what a running job printed, as `mayfly.follow` answers it.
package struct LiveOutputRow: Sendable, Equatable {
    /// Where to go on.
    package let place: Int64
    /// Which of the job's programs, from 0.
    package let step: Int
    package let stream: String
    /// How many bytes of the stream came before.
    package let offset: Int
    /// How many bytes of the stream this is.
    package let byteCount: Int
    package let text: String

    package var attempt: Int { Int(place >> 32) }
}

/// A large file on its way between the database and a machine, as it was a moment ago.
package struct TransferRow: Sendable, Equatable {
    /// `in` or `out`, as the machine sees it.
    package let way: String
    package let byteCount: Int
    package let size: Int
}

extension QueueClient {
    /// What a running job printed since `place`; the first call has its worker begin to tell.
    package func follow(
        _ id: Int64, after place: Int64
    ) async throws(JobsError) -> [LiveOutputRow] {
        let rows = try await run(
            """
            select place, step, stream, at, bytes, text from mayfly.follow(\(id), \(place))
            """)
        return (0..<rows.count).map { row in
            LiveOutputRow(
                place: rows.integer(row, "place") ?? 0, step: Int(rows.integer(row, "step") ?? 0),
                stream: rows.string(row, "stream"), offset: Int(rows.integer(row, "at") ?? 0),
                byteCount: Int(rows.integer(row, "bytes") ?? 0), text: rows.string(row, "text"))
        }
    }

    /// How far the large file is that a running job moves; nil when it moves none.
    package func transfer(_ id: Int64) async throws(JobsError) -> TransferRow? {
        let rows = try await run("select way, bytes, size from mayfly.get_transfer(\(id))")
        guard rows.count > 0, let way = rows.text(0, "way") else { return nil }
        return TransferRow(
            way: way, byteCount: Int(rows.integer(0, "bytes") ?? 0),
            size: Int(rows.integer(0, "size") ?? 0))
    }
}
