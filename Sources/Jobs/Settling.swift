// Storing how an attempt ended, once, through outages of the database. Part of Queue; called by
// Claim.

import Logging
import Postgres

extension Queue {
    /// The size that mayfly.blob_chunk allows.
    private static let partByteCount = 262_144

    func settle(_ job: Job, _ outcome: Outcome) async throws(JobsError) -> Settlement {
        guard let me = held[job.token]?.registration else { return .fenced }
        held[job.token]?.isSettling = true
        defer { held[job.token] = nil }
        var statements = Self.statements(job, me, outcome)
        var hasFallenBack = false
        var pause: Duration = .milliseconds(50)
        let begun = ContinuousClock.now
        while true {
            do throws(PostgresError) {
                let rows = try await storeConnection().run(statements)
                return settlement(rows[rows.count - 1].string(0, "settled"))
            } catch {
                if error.sqlstate == "MF005" || error.sqlstate == "MF006" {
                    logger.warning(
                        "the attempt was not held any more; its outcome is dropped",
                        metadata: ["job.id": "\(job.id)", "attempt": "\(job.attempt)"])
                    return .fenced
                }
                if error.isUnavailable || error.isConflict {
                    guard ContinuousClock.now - begun < settings.settlePatience else {
                        throw JobsError(error)
                    }
                    logger.warning(
                        "settling again after a pause",
                        metadata: ["job.id": "\(job.id)", "error": "\(error)"])
                    await uncancelledSleep(pause * Double.random(in: 0.75...1.25))
                    pause = min(pause * 2, .seconds(2))
                } else if !hasFallenBack {
                    // The database does not take the result; the job must end all the same.
                    logger.error(
                        "the result cannot be stored",
                        metadata: ["job.id": "\(job.id)", "error": "\(error)"])
                    hasFallenBack = true
                    let failure = Failure(
                        .storeFailed, "the result cannot be stored: \(error.message)")
                    statements = Self.statements(job, me, .lost(failure))
                } else {
                    throw JobsError(error)
                }
            }
        }
    }

    private func settlement(_ answer: String) -> Settlement {
        switch answer {
        case "retried": .retried
        case "given back": .givenBack
        default: .stored(state: answer)
        }
    }

    /// A connection of its own, so that a large result does not hold up heartbeats.
    private func storeConnection() async throws(PostgresError) -> Connection {
        if let store, await store.isOpen { return store }
        let fresh = try await Connection(settings.connection)
        if let store, await store.isOpen {  // another settlement was faster
            await fresh.close()
            return store
        }
        store = fresh
        return fresh
    }

    /// The bytes of a blob that the job's payload names.
    ///
    /// - Returns: nil when its tenant has no such blob.
    func input(_ sha256: String, for job: Job) async throws(JobsError) -> [UInt8]? {
        guard let me = held[job.token]?.registration else { return nil }
        do throws(PostgresError) {
            let statement: Statement =
                """
                select mayfly.get_input(\(me.worker), \(me.secret), \(job.token), \(sha256))
                    as bytes
                """
            return try await storeConnection().run(statement.binary).bytes(0, "bytes")
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
                \(outcome.how),
                \(outcome.failure?.reason.rawValue),
                \(outcome.failure.map { Storable.text($0.message) }),
                \(report?.result.map(Storable.json)), \(report?.machine), \(report?.generation),
                \(report?.seed), \(report?.clock), \(report?.timings.map(Storable.json)),
                \(report?.usage.map(Storable.json)),
                \(report?.logTail.map(Storable.text)),
                host_is_proven => \(report?.isHostProven ?? false),
                had_machine => \(report?.machine != nil)) as settled
            """)
        return statements
    }
}

/// PostgreSQL's text and jsonb cannot hold the character zero, which programs do print.
enum Storable {
    static func text(_ text: String) -> String {
        guard text.utf8.contains(0) else { return text }
        return String(text.unicodeScalars.map { $0 == "\0" ? "\u{FFFD}" : Character($0) })
    }

    /// JSON text in which `\u0000`, and lone halves of surrogate pairs, have become U+FFFD.
    static func json(_ json: String) -> String {
        guard json.utf8.contains(UInt8(ascii: "\\")) else { return text(json) }
        var bytes = Array(text(json).utf8)
        var index = 0
        while index < bytes.count {
            guard bytes[index] == UInt8(ascii: "\\") else {
                index += 1
                continue
            }
            guard let unit = escapedUnit(bytes, at: index) else {
                index += 2  // \n, \\, \" and the like
                continue
            }
            let next = escapedUnit(bytes, at: index + 6)
            switch unit {
            case 0xD800...0xDBFF where next.map { (0xDC00...0xDFFF).contains($0) } ?? false:
                index += 12
            case 0, 0xD800...0xDFFF:
                bytes.replaceSubrange(index..<index + 6, with: Array("\\ufffd".utf8))
                index += 6
            default: index += 6
            }
        }
        return String(decoding: bytes, as: UTF8.self)
    }

    /// The number of the escape \uXXXX that begins at `index`.
    private static func escapedUnit(_ bytes: [UInt8], at index: Int) -> UInt16? {
        guard index + 6 <= bytes.count, bytes[index] == UInt8(ascii: "\\"),
            bytes[index + 1] == UInt8(ascii: "u")
        else { return nil }
        return UInt16(String(decoding: bytes[index + 2..<index + 6], as: UTF8.self), radix: 16)
    }
}
