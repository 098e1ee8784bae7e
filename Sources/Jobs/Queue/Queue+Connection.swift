// A queue's connection for short statements: opening, registering, losing and reopening it, and
// what is heard on it. Part of Queue.

import Logging
import Postgres

extension Queue {
    func open() async throws(JobsError) { try await connect() }

    private func connect() async throws(JobsError) {
        let fresh = try await translated { () async throws(PostgresError) in
            try await Connection(settings.sessionSettings(statementTimeout: .seconds(30)))
        }
        do throws(JobsError) {
            try await Migrations.check(fresh)
            if registration == nil { try await register(fresh) }
            if hasLostClaims {
                do throws(PostgresError) { try await giveBackOthers(fresh) } catch {
                    // A database that does not know this worker (another one has taken its place)
                    // has no claims of it either: the next heartbeat registers it anew.
                    guard error.sqlstate == "MF006" else { throw JobsError(error) }
                }
                hasLostClaims = false
            }
        } catch {
            await fresh.close()
            throw error
        }
        connection = fresh
        doorbells.dispatch.ring()
        doorbells.listen.ring()
    }

    func register(_ connection: Connection) async throws(JobsError) {
        let sentAt = ContinuousClock.now
        let rows = try await translated { () async throws(PostgresError) in
            try await connection.run(
                """
                select worker, secret from mayfly.register(\(settings.name), \(settings.version),
                    \(settings.kinds), \(settings.queues), \(settings.slots), \(settings.lease),
                    \(settings.identity), \(settings.host))
                """)
        }
        let me = Registration(
            worker: rows.integer(0, "worker") ?? 0, secret: rows.string(0, "secret"))
        registration = me
        isHealthTold = health.state == .ok
        lastBeat = sentAt
        logger.info("worker registered", metadata: ["worker": "\(me.worker)"])
    }

    /// The connection is of no use any more; `keepAlive` will make a new one.
    func disconnected(_ lost: Connection, _ error: PostgresError) async {
        guard connection === lost, !isClosed else { return }
        guard error.isUnavailable else {
            logger.error("the database refused", metadata: ["error": "\(error)"])
            await uncancelledSleep(.milliseconds(500))
            return
        }
        connection = nil
        logger.warning("database lost; connecting again", metadata: ["error": "\(error)"])
        await lost.close()
        doorbells.keepAlive.ring()
    }

    func reconnect() async {
        var pause: Duration = .milliseconds(100)
        while !isClosed, connection == nil {
            do throws(JobsError) {
                try await connect()
                logger.info("database is back")
            } catch {
                logger.warning(
                    "database does not answer",
                    metadata: ["error": "\(error)", "next.try.in": "\(pause)"])
                await doorbells.keepAlive.wait(atMost: pause * Double.random(in: 0.75...1.25))
                pause = min(pause * 2, .seconds(5))
            }
        }
    }

    // MARK: Notifications

    func listen() async {
        while !isClosed {
            guard let connection else {
                await doorbells.listen.wait(atMost: .seconds(60))
                continue
            }
            do throws(PostgresError) {
                let channel = try await NotificationChannel.workers(connection)
                try await connection.withNotifications(on: [channel]) { notes in
                    for await note in notes { await self.notified(note) }
                }
                throw PostgresError(
                    sqlstate: "08006", message: "the connection ended", isConnectionLost: true)
            } catch {
                await disconnected(connection, error)
            }
        }
    }

    /// A notification is a hint to ask the database, no more.
    private func notified(_ note: Notification) {
        let words = note.payload.split(separator: " ", maxSplits: 1).map(String.init)
        guard words.count == 2 else { return }
        switch words[0] {
        case "job":
            let isOurs = settings.queues.isEmpty || settings.queues.contains(words[1])
            if isOurs { doorbells.dispatch.ring() }
        case "cancel", "follow":
            guard Int64(words[1]) == registration?.worker else { return }
            isHinted = true
            doorbells.keepAlive.ring()
        default: return
        }
    }

    // MARK: The end

    /// Gives back what is still held and says goodbye.
    func close() async {
        drain()
        if let connection, let me = registration {
            _ = try? await connection.run("select mayfly.leave(\(me.worker), \(me.secret))")
        }
        phase = .closed
        doorbells.ringAll()
        await connection?.close()
        await pool.close()
        await transfers.close()
    }
}

extension NotificationChannel {
    /// Where workers are told of work and of cancelled attempts.
    static func workers(
        _ connection: Connection
    ) async throws(PostgresError) -> NotificationChannel {
        let rows = try await connection.run("select mayfly.worker_channel() as name")
        return NotificationChannel(named: rows.string(0, "name"))
    }

    /// Where the ids of a tenant's jobs are told when they end.
    static func done(
        _ tenant: String, _ connection: Connection
    ) async throws(PostgresError) -> NotificationChannel {
        let rows = try await connection.run("select mayfly.done_channel(\(tenant)) as name")
        return NotificationChannel(named: rows.string(0, "name"))
    }
}
