// Storing how an attempt ended, once, through outages of the database. Part of Queue; called by
// Claim.

import Logging
import Postgres

extension Queue {
    /// The size that mayfly.blob_chunk allows.
    private static let partByteCount = 262_144

    func settle(_ job: Job, _ outcome: Outcome) async throws(JobsError) -> Settlement {
        guard let me = held[job.token]?.registration else { return .fenced }
        held[job.token]?.unstoredByteCount = outcome.report?.byteCount ?? 0
        defer {
            held[job.token] = nil
            doorbells.dispatch.ring()  // there may be room again
        }
        do throws(PostgresError) {
            return try await store(job, Self.statements(job, me, outcome))
        } catch {
            guard error.isRefusal else { throw JobsError(error) }
            // The database does not take the result; the job must end all the same.
            logger.error(
                "the result cannot be stored",
                metadata: ["job.id": "\(job.id)", "error": "\(error)"])
            let failure = Failure(.storeFailed, "the result cannot be stored: \(error.message)")
            do throws(PostgresError) {
                return try await store(job, Self.statements(job, me, .lost(failure)))
            } catch { throw JobsError(error) }
        }
    }

    /// Tries again while the database is away or somebody was faster.
    private func store(
        _ job: Job, _ statements: [Statement]
    ) async throws(PostgresError) -> Settlement {
        var pause: Duration = .milliseconds(50)
        let begun = ContinuousClock.now
        while true {
            do throws(PostgresError) {
                let rows = try await pool.with { connection throws(PostgresError) in
                    try await connection.run(statements)
                }
                return Settlement(answer: rows[rows.count - 1].string(0, "settled"))
            } catch {
                if error.isFencing {
                    logger.warning(
                        "the attempt was not held any more; its outcome is dropped",
                        metadata: ["job.id": "\(job.id)", "attempt": "\(job.attempt)"])
                    return .fenced
                }
                guard !error.isRefusal, ContinuousClock.now - begun < settings.settlePatience
                else { throw error }
                logger.warning(
                    "settling again after a pause",
                    metadata: ["job.id": "\(job.id)", "error": "\(error)"])
                await uncancelledSleep(pause * Double.random(in: 0.75...1.25))
                pause = min(pause * 2, .seconds(2))
            }
        }
    }

    /// The bytes of a blob that the job's payload names.
    ///
    /// - Returns: nil when its tenant has no such blob.
    func input(_ sha256: String, for job: Job) async throws(JobsError) -> [UInt8]? {
        guard let me = held[job.token]?.registration else { return nil }
        let statement: Statement =
            """
            select mayfly.get_input(\(me.worker), \(me.secret), \(job.token), \(sha256)) as bytes
            """
        do throws(PostgresError) {
            return try await pool.with { connection throws(PostgresError) in
                try await connection.run(statement.binary).bytes(0, "bytes")
            }
        } catch {
            if error.sqlstate == "MF007" { return nil }
            throw JobsError(error)
        }
    }

    /// One transaction: the blobs, each once, then the outcome, which refuses it all when the
    /// attempt is not held.
    private static func statements(
        _ job: Job, _ me: Registration, _ outcome: Outcome
    ) -> [Statement] {
        var statements: [Statement] = []
        var stored: Set<String> = []
        for blob in outcome.report?.blobs ?? [] where stored.insert(blob.sha256).inserted {
            for (ordinal, start) in stride(from: 0, to: blob.bytes.count, by: partByteCount)
                .enumerated()
            {
                let part = blob.bytes[start..<min(start + partByteCount, blob.bytes.count)]
                statements.append(
                    """
                    select mayfly.put_blob_part(\(me.worker), \(me.secret), \(job.token),
                        \(blob.sha256), \(ordinal), \(part))
                    """)
            }
            statements.append(
                """
                select mayfly.seal_blob(\(me.worker), \(me.secret), \(job.token),
                    \(blob.sha256), \(blob.bytes.count))
                """)
        }
        let report = outcome.report
        statements.append(
            """
            select mayfly.settle(\(me.worker), \(me.secret), \(job.id), \(job.token),
                \(outcome.how), \(outcome.failure?.reason.rawValue),
                \(outcome.failure.map { Storable.text($0.message) }),
                \(report?.result.map(Storable.json)), \(report?.machine), \(report?.generation),
                \(report?.seed), \(report?.clock), \(report?.timings.map(Storable.json)),
                \(report?.usage.map(Storable.json)), \(report?.logTail.map(Storable.text)),
                host_is_proven => \(report?.isHostProven ?? false),
                had_machine => \(outcome.hadMachine)) as settled
            """)
        return statements
    }
}

extension Settlement {
    /// What `mayfly.settle` answers.
    fileprivate init(answer: String) {
        self =
            switch answer {
            case "retried": .retried
            case "given back": .givenBack
            default: .stored(state: answer)
            }
    }
}

extension Outcome {
    /// Whether a loss may speak against the job: its machine had come to life, and it was not the
    /// database that went away.
    fileprivate var hadMachine: Bool {
        report?.machine != nil && failure?.reason != .leaseLost
    }
}

extension Report {
    /// What it holds in memory until it is stored, nearly.
    fileprivate var byteCount: Int {
        blobs.reduce(0) { $0 + $1.bytes.count } + (result?.utf8.count ?? 0)
            + (logTail?.utf8.count ?? 0)
    }
}

extension PostgresError {
    /// The attempt, or the worker, is not held or known any more.
    fileprivate var isFencing: Bool { sqlstate == "MF005" || sqlstate == "MF006" }
    /// The same statements would be refused again.
    fileprivate var isRefusal: Bool {
        // Waiting for a lock or running took too long: that passes, too.
        !isUnavailable && !isConflict && !isFencing && sqlstate != "55P03" && sqlstate != "57014"
    }
}
