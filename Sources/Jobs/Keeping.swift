// What a queue does in the background: the connection, the lease, notifications, upkeep. Part of
// Queue.

import Logging
import Postgres

extension Queue {
    // MARK: Connection

    func open() async throws(JobsError) { try await connect() }

    private func connect() async throws(JobsError) {
        let fresh = try await translated { () async throws(PostgresError) in
            try await Connection(settings.connection)
        }
        do {
            try await Migrations.check(fresh)
            if registration == nil { try await register(fresh) }
            if hasLostClaims {
                try await translated { () async throws(PostgresError) in
                    try await giveBackOthers(fresh)
                }
                hasLostClaims = false
            }
        } catch {
            await fresh.close()
            throw error
        }
        connection = fresh
        connected.ring()
        listening.ring()
    }

    private func register(_ connection: Connection) async throws(JobsError) {
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

    /// The connection is of no use any more; somebody will make a new one.
    func lose(_ lost: Connection, _ error: PostgresError) async {
        guard connection === lost, !isClosed else { return }
        guard error.isUnavailable else {
            logger.error("the queue refused", metadata: ["error": "\(error)"])
            await uncancelledSleep(.milliseconds(500))
            return
        }
        connection = nil
        logger.warning("database lost; connecting again", metadata: ["error": "\(error)"])
        await lost.close()
        keeper.ring()
    }

    private func reconnect() async {
        var pause: Duration = .milliseconds(100)
        while !isClosed, connection == nil {
            do throws(JobsError) {
                try await connect()
                logger.info("database is back")
                wake.ring()
            } catch {
                logger.warning(
                    "database does not answer",
                    metadata: ["error": "\(error)", "next.try.in": "\(pause)"])
                await keeper.wait(atMost: pause * Double.random(in: 0.75...1.25))
                pause = min(pause * 2, .seconds(5))
            }
        }
    }

    // MARK: Lease

    /// How soon after a heartbeat a notification may cause the next one.
    private static let hintInterval = Duration.milliseconds(200)

    /// Heartbeats, and the upkeep that any worker does for all.
    func keepAlive() async {
        var nextReap = ContinuousClock.now
        var nextUpkeep = ContinuousClock.now
        while !isClosed {
            guard let connection else {
                await reconnect()
                continue
            }
            do throws(PostgresError) {
                // However many hints come, they cause few questions.
                let beatInterval = isHinted ? Self.hintInterval : settings.lease / 3
                if ContinuousClock.now >= lastBeat + beatInterval {
                    isHinted = false
                    try await beat(connection)
                }
                if ContinuousClock.now >= nextReap {
                    try await connection.run("select mayfly.reap()")
                    nextReap = .now + .seconds(2) * Double.random(in: 0.75...1.25)
                }
                if ContinuousClock.now >= nextUpkeep {
                    try await upkeep(connection)
                    nextUpkeep = .now + .seconds(3600) * Double.random(in: 0.75...1.25)
                }
                let pause = isHinted ? Self.hintInterval : min(settings.lease / 6, .seconds(1))
                await keeper.wait(atMost: pause)
            } catch {
                await lose(connection, error)
            }
        }
    }

    private func beat(_ connection: Connection) async throws(PostgresError) {
        guard let me = registration else { return }
        let sentAt = ContinuousClock.now
        let tokens = Array(held.keys)
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
                default:  // claimed by a call whose answer never came
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

    /// One step after another, each in a transaction of its own, until nothing is left to do.
    private func upkeep(_ connection: Connection) async throws(PostgresError) {
        do throws(PostgresError) {
            while !isClosed {
                let rows = try await connection.run("select did from mayfly.maintain() did")
                guard rows.count > 0 else { return }
                logger.info("upkeep: \(rows.string(0, "did"))")
            }
        } catch {
            if error.isUnavailable { throw error }
            logger.warning("upkeep did not succeed", metadata: ["error": "\(error)"])
        }
    }

    /// A worker that cannot renew its lease must not go on: somebody else may have its jobs by now.
    func watchLease() async {
        while !isClosed {
            let age = ContinuousClock.now - lastBeat
            if age > settings.lease, held.values.contains(where: { !$0.isSettling }), !hasStoppedAll
            {
                logger.error("the lease ran out; stopping all work", metadata: ["age": "\(age)"])
                stopAll(.lost)
                hasStoppedAll = true
            } else if age <= settings.lease {
                hasStoppedAll = false
            }
            // A connection that hangs is as good as none.
            if age > settings.lease * 2 / 3, let connection { await connection.close() }
            await leaseWatch.wait(atMost: settings.lease / 10)
        }
    }

    // MARK: Notifications

    func listen() async {
        while !isClosed {
            guard let connection else {
                await listening.wait(atMost: .seconds(1))
                continue
            }
            do throws(PostgresError) {
                let channel = try await Channel.workers(connection)
                try await connection.withNotifications(on: [channel]) { notes in
                    for await note in notes { await self.heard(note) }
                }
                throw PostgresError(
                    sqlstate: "08006", message: "the connection ended", isConnectionLost: true)
            } catch {
                await lose(connection, error)
            }
        }
    }

    /// A notification is a hint to ask the database, no more.
    private func heard(_ note: Notification) {
        let words = note.payload.split(separator: " ", maxSplits: 1).map(String.init)
        guard words.count == 2 else { return }
        switch words[0] {
        case "job":
            if settings.queues.isEmpty || settings.queues.contains(words[1]) { wake.ring() }
        case "cancel":
            guard Int64(words[1]) == registration?.worker else { return }
            isHinted = true
            keeper.ring()
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
        isClosed = true
        for bell in [wake, connected, listening, keeper, leaseWatch] { bell.ring() }
        await connection?.close()
        await store?.close()
    }
}

extension Channel {
    /// Where workers are told of work and of cancelled attempts.
    static func workers(_ connection: Connection) async throws(PostgresError) -> Channel {
        Channel(
            named: try await connection.run("select mayfly.worker_channel() as name")
                .string(0, "name"))
    }
    /// Where the ids of a tenant's jobs are told when they end.
    static func done(
        _ tenant: String, _ connection: Connection
    ) async throws(PostgresError) -> Channel {
        Channel(
            named: try await connection.run("select mayfly.done_channel(\(tenant)) as name")
                .string(0, "name"))
    }
}
