// The files of one attempt, part by part, so that nobody holds a whole one: the blobs that its
// payload names come in, the large files of its result go out before it is settled. Part of Queue;
// handed out with each Claim.

import Events
import Logging
import Postgres

/// A piece of a blob, and the size of the whole.
package struct BlobPart: Sendable {
    package let bytes: [UInt8]
    package let byteCount: Int
    package init(bytes: [UInt8], byteCount: Int) {
        self.bytes = bytes
        self.byteCount = byteCount
    }
}

/// The blobs that an attempt may read, those of its job's tenant, and what it uploads.
package struct JobFiles: Sendable {
    /// The size of all parts but a blob's last: what `mayfly.part_size` says.
    package static let partByteCount = 262_144

    private let job: Job
    private let queue: Queue

    init(_ job: Job, _ queue: Queue) {
        self.job = job
        self.queue = queue
    }

    /// The part that begins at `offset`, a multiple of `partByteCount`.
    ///
    /// - Returns: nil when the tenant has no such blob, or not all of it any more.
    package func part(
        of sha256: String, at offset: Int
    ) async throws(JobsError) -> BlobPart? {
        let rows: Rows
        do throws(PostgresError) {
            rows = try await queue.transfer(for: job) { me in
                let statement: Statement =
                    """
                    select size, bytes from mayfly.get_input(\(me.worker), \(me.secret),
                        \(job.token), \(sha256), \(offset))
                    """
                return statement.binary
            }
        } catch {
            if error.sqlstate == "MF007" { return nil }
            throw JobsError(error)
        }
        guard let size = rows.binaryInteger(0, "size") else { return nil }
        let bytes = rows.bytes(0, "bytes")
        if bytes == nil, offset < Int(size) { return nil }
        return BlobPart(bytes: bytes ?? [], byteCount: Int(size))
    }

    /// Stores the part of an output file that begins at `offset`, a multiple of `partByteCount`.
    ///
    /// Nobody sees it until the attempt is settled with a ``Blob`` of that number; if it never is,
    /// the upkeep removes it.
    ///
    /// - Parameters:
    ///   - byteCount: what the file has in all, as far as it is known.
    ///   - upload: what the call before answered; nil: a new file.
    package func append(
        _ part: [UInt8], at offset: Int, of byteCount: Int, to upload: Int64?
    ) async throws(JobsError) -> Int64 {
        let rows = try await translated { () async throws(PostgresError) in
            try await queue.transfer(for: job) { me in
                """
                select mayfly.append_upload(\(me.worker), \(me.secret), \(job.token), \(upload),
                    \(offset), \(part), \(byteCount)) as upload
                """
            }
        }
        return rows.integer(0, "upload") ?? 0
    }
}

extension Queue {
    /// Runs a statement that may be repeated; tries again while the database is away, for as long
    /// as nobody stops the attempt.
    fileprivate func transfer(
        for job: Job, _ statement: (Registration) -> Statement
    ) async throws(PostgresError) -> Rows {
        var pause: Duration = .milliseconds(50)
        let begun = ContinuousClock.now
        while true {
            do throws(PostgresError) {
                guard let me = held[job.token]?.registration else {
                    throw PostgresError(sqlstate: "MF005", message: "the attempt is settled")
                }
                let statement = statement(me)
                return try await transfers.with { connection throws(PostgresError) in
                    try await connection.run(statement)
                }
            } catch {
                guard !error.isFencing, !error.isRefusal, !Task.isCancelled, !isClosed,
                    ContinuousClock.now - begun < settings.settlePatience
                else { throw error }
                logger.warning(
                    "moving a file again after a pause",
                    metadata: ["job.id": "\(job.id)", "error": "\(error)"])
                // Cancelled: it is seen above, when the statement fails once more.
                try? await ContinuousClock().sleep(for: pause * Double.random(in: 0.75...1.25))
                pause = min(pause * 2, .seconds(2))
            }
        }
    }
}
