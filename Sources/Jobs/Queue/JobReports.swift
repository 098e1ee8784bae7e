// What is told of an attempt while it runs: how far it has come, and what it prints for as long as
// somebody follows it. None of it is needed for the outcome, so nothing is tried twice and no error
// ends anything. Part of Queue; handed out with each Claim.

import Events
import Logging
import Postgres
import Synchronization

/// A stretch of one stream of a running job.
package struct OutputPiece: Sendable {
    /// `stdout`, `stderr` or `events`.
    package let stream: String
    /// Which of the job's programs, from 0.
    package let step: Int
    /// How many bytes of the stream came before.
    package let offset: Int
    package let bytes: ArraySlice<UInt8>
    package init(stream: String, step: Int, offset: Int, bytes: ArraySlice<UInt8>) {
        self.stream = stream
        self.step = step
        self.offset = offset
        self.bytes = bytes
    }
}

/// Whether somebody follows an attempt's output.
///
/// Queue says so, the attempt's reports look.
final class Following: Sendable {
    private let isOn = Mutex(false)
    let doorbell = Doorbell()

    var isActive: Bool { isOn.withLock { $0 } }
    func begin() {
        guard isOn.withLock({ $0.exchange(true) }) == false else { return }
        doorbell.ring()
    }
    func end() { isOn.withLock { $0 = false } }
}

extension Bool {
    fileprivate mutating func exchange(_ value: Bool) -> Bool {
        defer { self = value }
        return self
    }
}

/// The reports of one attempt; for one caller, one call after the other.
package struct JobReports: Sendable {
    /// What one piece may have: as text, with each byte replaced, three times as much is allowed.
    package static let pieceByteCount = 32 << 10

    let job: Job
    private let following: Following
    let queue: Queue

    init(_ job: Job, _ following: Following, _ queue: Queue) {
        self.job = job
        self.following = following
        self.queue = queue
    }

    /// Whether somebody looks at the output.
    package var isFollowed: Bool { following.isActive }

    /// Until somebody begins to look, at most `duration`, or until the caller is cancelled.
    package func wait(atMost duration: Duration) async {
        await withTaskCancellationHandler {
            await following.doorbell.wait(atMost: duration)
        } onCancel: {
            following.doorbell.ring()
        }
    }

    /// Stores a piece of the output, the `count`th of this attempt from 1 on.
    ///
    /// When nobody follows any more it is not stored, and `isFollowed` becomes false.
    package func report(_ piece: OutputPiece, count: Int) async {
        let text = Storable.text(String(decoding: piece.bytes, as: UTF8.self))
        let rows = await run { me in
            """
            select mayfly.report_output(\(me.worker), \(me.secret), \(job.token), \(count),
                \(piece.step), \(piece.stream), \(piece.offset), \(piece.bytes.count), \(text))
                as is_followed
            """
        }
        if rows?.bool(0, "is_followed") != true { following.end() }
    }

    /// Notes how far the job has come: JSON text of at most 1 KiB.
    package func report(progress: String) async {
        _ = await run { me in
            """
            select mayfly.report_progress(\(me.worker), \(me.secret), \(job.token),
                \(Storable.json(progress)))
            """
        }
    }

    func run(_ statement: @Sendable (Queue.Registration) -> Statement) async -> Rows? {
        await queue.report(on: job, statement)
    }
}

extension Queue {
    fileprivate func report(
        on job: Job, _ statement: @Sendable (Registration) -> Statement
    ) async -> Rows? {
        guard let me = held[job.token]?.registration, !isClosed else { return nil }
        let statement = statement(me)
        do throws(PostgresError) {
            return try await transfers.with { connection throws(PostgresError) in
                try await connection.run(statement)
            }
        } catch {
            logger.debug(
                "a report was not stored",
                metadata: ["job.id": "\(job.id)", "error": "\(error)"])
            return nil
        }
    }
}
