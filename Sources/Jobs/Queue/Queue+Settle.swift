// Storing how an attempt ended, once, through outages of the database. Part of Queue; called by
// Claim.

import Logging
import Postgres

extension Queue {
    func settle(
        _ job: Job, _ outcome: Outcome, _ egress: [EgressRow]
    ) async throws(JobsError) -> Settlement {
        guard let me = held[job.token]?.registration else { return .fenced }
        held[job.token]?.unstoredByteCount = outcome.report?.byteCount ?? 0
        defer {
            held[job.token] = nil
            doorbells.dispatch.ring()  // there may be room again
        }
        do throws(PostgresError) {
            return try await store(job, Self.statements(job, me, outcome, egress))
        } catch {
            guard error.isRefusal else { throw JobsError(error) }
            // The database does not take the result; the job must end all the same.
            logger.error(
                "the result cannot be stored",
                metadata: ["job.id": "\(job.id)", "error": "\(error)"])
            let failure = Failure(.storeFailed, "the result cannot be stored: \(error.message)")
            do throws(PostgresError) {
                return try await store(job, Self.statements(job, me, .lost(failure), egress))
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

    /// One transaction: the blobs, each once, of which large ones were uploaded before; what was
    /// done on the network, if anything was; then the outcome, which refuses it all when the
    /// attempt is not held.
    private static func statements(
        _ job: Job, _ me: Registration, _ outcome: Outcome, _ egress: [EgressRow]
    ) -> [Statement] {
        var statements: [Statement] = []
        var stored: Set<String> = []
        for blob in outcome.report?.blobs ?? [] where stored.insert(blob.sha256).inserted {
            switch blob.content {
            case .bytes(let bytes):
                statements.append(
                    """
                    select mayfly.store_blob(\(me.worker), \(me.secret), \(job.token),
                        \(blob.sha256), \(bytes))
                    """)
            case .upload(let number):
                statements.append(
                    """
                    select mayfly.seal_upload(\(me.worker), \(me.secret), \(job.token),
                        \(number), \(blob.sha256), \(blob.byteCount))
                    """)
            }
        }
        let report = outcome.report
        if !egress.isEmpty {
            statements.append(
                """
                select mayfly.report_egress(\(me.worker), \(me.secret), \(job.token),
                    \(Storable.json(EgressRow.json(egress))))
                """)
        }
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
        report?.machine != nil && failure?.reason != .leaseLost && failure?.reason != .storeFailed
    }
}

extension Report {
    /// What it holds in memory until it is stored, nearly.
    fileprivate var byteCount: Int {
        blobs.reduce(0) { $0 + $1.heldByteCount } + (result?.utf8.count ?? 0)
            + (logTail?.utf8.count ?? 0)
    }
}

extension Blob {
    fileprivate var heldByteCount: Int {
        if case .bytes(let bytes) = content { bytes.count } else { 0 }
    }
}

extension PostgresError {
    /// The attempt, or the worker, is not held or known any more.
    var isFencing: Bool { sqlstate == "MF005" || sqlstate == "MF006" }
    /// The same statements would be refused again.
    var isRefusal: Bool {
        // Waiting for a lock or running took too long: that passes, too.
        !isUnavailable && !isConflict && !isFencing && sqlstate != "55P03" && sqlstate != "57014"
    }
}
