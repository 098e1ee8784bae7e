// Staying alive in the eyes of the database, noticing when that failed, and the upkeep that any
// worker does for all. Part of Queue.

import Logging
import Postgres

extension Queue {
    /// How soon after a heartbeat a notification may cause the next one.
    private static let hintInterval = Duration.milliseconds(200)
    private static let reapInterval = Duration.seconds(2)
    private static let maintainInterval = Duration.seconds(3600)
    private static let clearInterval = Duration.seconds(60)

    /// Heartbeats, for as long as the queue is open; and a new connection when the last one broke.
    func keepAlive() async {
        while !isClosed {
            guard let connection else {
                await reconnect()
                continue
            }
            do throws(PostgresError) {
                // However many hints come, they cause few questions.
                let interval = isHinted ? Self.hintInterval : settings.lease / 3
                if ContinuousClock.now >= lastBeat + interval {
                    isHinted = false
                    try await beat(connection)
                }
                let pause = isHinted ? Self.hintInterval : min(settings.lease / 6, .seconds(1))
                await doorbells.keepAlive.wait(atMost: pause)
            } catch {
                await disconnected(connection, error)
            }
        }
    }

    private func beat(_ connection: Connection) async throws(PostgresError) {
        guard let me = registration else { return }
        let sentAt = ContinuousClock.now
        beatSentAt = sentAt
        defer { beatSentAt = nil }
        // Attempts of an earlier registration are gone, or are being settled under its number.
        let tokens = held.filter { $0.value.registration.worker == me.worker }.map(\.key)
        do throws(PostgresError) {
            let rows = try await connection.run(
                """
                select token, why from mayfly.heartbeat(\(me.worker), \(me.secret),
                    \(settings.lease), \(tokens))
                """)
            lastBeat = sentAt
            try await tellHealth(me, connection)
            for row in 0..<rows.count {
                guard let token = rows.integer(row, "token") else { continue }
                switch rows.string(row, "why") {
                case "cancelled": stop(token, .cancelled)
                case "lost": stop(token, .lost)
                case "followed": held[token]?.following.begin()
                default:  // claimed by a call whose answer never came
                    // One that is on its way would be given back, too; the next tells again.
                    if isClaiming { continue }
                    try await giveBackOthers(connection)
                }
            }
        } catch {
            guard error.sqlstate == "MF006" else { throw error }
            logger.error("declared dead; stopping all work and registering again")
            stopAll(.lost)
            do throws(JobsError) { try await register(connection) } catch {
                logger.error("cannot register", metadata: ["error": "\(error)"])
            }
        }
    }

    private func tellHealth(
        _ me: Registration, _ connection: Connection
    ) async throws(PostgresError) {
        guard !isHealthTold else { return }
        isHealthTold = true
        do throws(PostgresError) {
            try await connection.run(
                """
                select mayfly.report_health(\(me.worker), \(me.secret), \(health.state.rawValue),
                    \(health.note.map(Storable.text)))
                """)
        } catch {
            isHealthTold = false
            throw error
        }
    }

    /// A worker that cannot renew its lease must not go on: somebody else may have its jobs by now.
    func watchLease() async {
        var hasStoppedAll = false
        while !isClosed {
            let age = ContinuousClock.now - lastBeat
            if age <= settings.lease {
                hasStoppedAll = false
            } else if !hasStoppedAll, held.values.contains(where: { $0.unstoredByteCount == nil }) {
                logger.error("the lease ran out; stopping all work", metadata: ["age": "\(age)"])
                stopAll(.lost)
                hasStoppedAll = true
            }
            // A connection that owes an answer for so long is as good as none.
            if let beatSentAt, .now - beatSentAt > settings.lease / 3, let connection {
                await connection.close()
            }
            await doorbells.watchLease.wait(atMost: settings.lease / 10)
        }
    }

    // MARK: Upkeep

    /// Reaps every two seconds, removes what is left of lost uploads every minute, and maintains
    /// every hour, on the pool: heartbeats need not wait.
    func maintain() async {
        var nextMaintenance = ContinuousClock.now
        var nextClearing = ContinuousClock.now
        while !isClosed {
            do throws(PostgresError) {
                _ = try await pool.with { connection throws(PostgresError) in
                    try await connection.run("select mayfly.reap()")
                }
                if ContinuousClock.now >= nextClearing {
                    nextClearing = .now + Self.clearInterval * Double.random(in: 0.75...1.25)
                    try await clearUploads()
                }
                if ContinuousClock.now >= nextMaintenance {
                    nextMaintenance = .now + Self.maintainInterval * Double.random(in: 0.75...1.25)
                    try await maintainHistory()
                }
            } catch {
                // Of an absent database the heartbeats tell.
                if !error.isUnavailable, !isClosed {
                    logger.warning("upkeep did not succeed", metadata: ["error": "\(error)"])
                }
            }
            let pause = Self.reapInterval * Double.random(in: 0.75...1.25)
            await doorbells.maintain.wait(atMost: pause)
        }
    }

    /// A bounded piece after another, until nothing is left.
    private func clearUploads() async throws(PostgresError) {
        while !isClosed {
            let rows = try await pool.with { connection throws(PostgresError) in
                try await connection.run("select mayfly.drop_uploads() as parts")
            }
            guard rows.integer(0, "parts") ?? 0 > 0 else { return }
        }
    }

    /// One step after another, each in a transaction of its own, until nothing is left to do.
    private func maintainHistory() async throws(PostgresError) {
        while !isClosed {
            let rows = try await pool.with { connection throws(PostgresError) in
                try await connection.run("select did from mayfly.maintain() did")
            }
            guard rows.count > 0 else { return }
            logger.info("upkeep", metadata: ["did": "\(rows.string(0, "did"))"])
        }
    }
}
