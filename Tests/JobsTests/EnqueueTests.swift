// What producers do: enqueue, insert, cancel, replay, blobs; and how bad arguments are refused.

import Jobs
import Postgres
import TestSupport
import Testing

@Suite("Enqueue", .timeLimit(.minutes(2))) struct EnqueueTests {
    @Test func `enqueue by function and by INSERT means the same`() async throws {
        try await Database.make().withConnection { connection in
            let called = try await connection.run(
                "select mayfly.enqueue('code', '{\"a\": 1}', priority => 3, timeout => '5 s') as id"
            )
            let inserted = try await connection.run(
                """
                insert into mayfly.job (kind, payload, priority, timeout)
                values ('code', '{"a": 1}', 3, '5 s')
                returning id, state, queue, tenant, attempt, created_at
                """)
            #expect(inserted.string(0, "state") == "queued")
            #expect(inserted.string(0, "queue") == "default")
            #expect(inserted.text(0, "created_at") != nil)
            let ids = [called.integer(0, "id") ?? 0, inserted.integer(0, "id") ?? 0]
            #expect(ids[0] < ids[1])
            #expect(ids[1] < 1 << 53)
            let rows = try await connection.run(
                """
                select distinct queue, tenant, kind, state, priority, payload, max_attempts, timeout
                from mayfly.job where id = any (\(ids))
                """)
            #expect(rows.count == 1)
            let worker = try await connection.register()
            #expect(try await connection.claim(worker, 5).map(\.id) == ids)
        }
    }

    @Test func `is part of the caller's transaction`() async throws {
        let database = try await Database.make()
        try await database.withConnection { connection in
            let refused = await sqlstate {
                try await connection.run(["select mayfly.enqueue('code', '{}')", "select 1 / 0"])
            }
            #expect(refused == "22012")
            let jobs = try await connection.count("select count(*) from mayfly.job")
            #expect(jobs == 0)
            #expect(try await connection.count("select count(*) from mayfly.ready") == 0)
        }
    }

    static let refusals: [(String, Statement, String)] = [
        ("a kind with spaces", "select mayfly.enqueue('co de', '{}')", "MF001"),
        ("no kind", "select mayfly.enqueue(null, '{}')", "MF001"),
        ("a queue in capitals", "select mayfly.enqueue('code', '{}', queue => 'Fast')", "MF001"),
        ("the tenant *", "select mayfly.enqueue('code', '{}', tenant => '*')", "MF001"),
        ("a priority too high", "select mayfly.enqueue('code', '{}', priority => 1001)", "MF001"),
        ("infinity", "select mayfly.enqueue('code', '{}', run_at => 'infinity')", "MF001"),
        ("no time", "select mayfly.enqueue('code', '{}', run_at => null)", "MF001"),
        ("a timeout of nothing", "select mayfly.enqueue('code', '{}', timeout => '0 s')", "MF001"),
        ("a timeout of days", "select mayfly.enqueue('code', '{}', timeout => '2 d')", "MF001"),
        ("no attempts", "select mayfly.enqueue('code', '{}', max_attempts => 0)", "MF001"),
        ("an empty key", "select mayfly.enqueue('code', '{}', unique_key => '')", "MF001"),
        ("a payload that is no object", "select mayfly.enqueue('code', '[1]')", "MF002"),
        ("a JSON null", "select mayfly.enqueue('code', 'null')", "MF002"),
        ("no payload", "select mayfly.enqueue('code', null)", "MF002"),
        (
            "17 MB of payload",
            "select mayfly.enqueue('code', jsonb_build_object('a', repeat('x', 17000000)))", "MF002"
        ),
        ("no array", #"select mayfly.enqueue_many('{"kind": "code"}')"#, "MF001"),
        ("an element that is a number", "select mayfly.enqueue_many('[1]')", "MF001"),
        (
            "a misspelt key",
            #"select mayfly.enqueue_many('[{"kind": "code", "payload": {}, "prio": 1}]')"#,
            "MF001"
        ),
        (
            "a bad second element",
            #"select mayfly.enqueue_many('[{"kind": "code", "payload": {}}, {"kind": "code"}]')"#,
            "MF002"
        ),
        (
            "an id of one's own",
            "insert into mayfly.job (id, kind, payload) values (1, 'code', '{}')", "MF001"
        ),
        (
            "a result",
            "insert into mayfly.job (kind, payload, result) values ('code', '{}', '{}')", "MF001"
        ),
        ("no such job to cancel", "select mayfly.cancel(1)", "MF004"),
        ("no such job to replay", "select mayfly.replay(1)", "MF004"),
        ("a blob of null", "select mayfly.put_blob(null)", "MF007"),
        ("an address that is none", "select mayfly.get_blob('../etc/passwd')", "MF001"),
        ("a blob that is not there", "select mayfly.get_blob(repeat('a', 64))", "MF007"),
        ("a retention of an hour", "select mayfly.prune('1 hour')", "MF001"),
        ("a state that is none", "select mayfly.list('done')", "MF001"),
    ]
    @Test func `refuses what is not acceptable, and says what to do`() async throws {
        try await Database.make().withConnection { connection in
            for (what, statement, expected) in Self.refusals {
                do throws(PostgresError) {
                    try await connection.run(statement)
                    Issue.record("\(what) was accepted")
                } catch {
                    #expect(error.sqlstate == expected, "\(what): \(error)")
                    #expect(error.hint?.isEmpty == false, "\(what)")
                }
            }
            let jobs = try await connection.count("select count(*) from mayfly.job")
            #expect(jobs == 0)
        }
    }

    @Test func `enqueue with a key that a live job holds answers that job`() async throws {
        let database = try await Database.make()
        try await database.withConnection { connection in
            func enqueue(_ key: String, _ tenant: String = "") async throws -> Int64 {
                let rows = try await connection.run(
                    """
                    select mayfly.enqueue('code', '{}', unique_key => \(key), tenant => \(tenant))
                        as id
                    """
                )
                return try #require(rows.integer(0, "id"))
            }
            let first = try await enqueue("a")
            #expect(try await enqueue("a") == first)
            #expect(try await enqueue("b") != first)
            #expect(try await enqueue("a", "other") != first)
            let worker = try await connection.register()
            let held = try #require(try await connection.claim(worker).first)
            #expect(held.id == first)
            #expect(try await enqueue("a") == first)
            _ = try await connection.settle(worker, held, "succeeded")
            #expect(try await enqueue("a") != first)
        }
    }

    @Test func `an INSERT with a taken key returns the job that holds it, as it is`() async throws {
        try await Database.make().withConnection { connection in
            let first = try await connection.run(
                #"select mayfly.enqueue('code', '{"first": 1}', unique_key => 'k') as id"#)
            let second = try await connection.run(
                """
                insert into mayfly.job (kind, payload, unique_key, priority)
                values ('code', '{"second": 2}', 'k', 9) returning id, payload, priority
                """)
            #expect(second.integer(0, "id") == first.integer(0, "id"))
            #expect(second.string(0, "payload") == #"{"first": 1}"#)
            #expect(second.integer(0, "priority") == 0)
        }
    }

    @Test func `enqueue_many names the element whose value is of the wrong type`() async throws {
        try await Database.make().withConnection { connection in
            for bad in [#""priority": "high""#, #""run_at": "soon""#, #""timeout": "long""#] {
                let jobs =
                    "[{\"kind\": \"code\", \"payload\": {}}, "
                    + "{\"kind\": \"code\", \"payload\": {}, \(bad)}]"
                do throws(PostgresError) {
                    try await connection.run("select mayfly.enqueue_many(\(jobs))")
                    Issue.record("\(bad) was accepted")
                } catch {
                    #expect(error.sqlstate == "MF001")
                    #expect(error.message.hasPrefix("element 1: "), "\(error)")
                }
            }
        }
    }

    @Test func `enqueue with one key by many at the same time makes one job`() async throws {
        let database = try await Database.make()
        let ids = try await withThrowingTaskGroup(of: Int64.self) { group in
            for _ in 0..<12 {
                group.addTask {
                    try await database.withConnection { connection in
                        let rows = try await connection.run(
                            "select mayfly.enqueue('code', '{}', unique_key => 'k') as id")
                        return rows.integer(0, "id") ?? 0
                    }
                }
            }
            return try await group.reduce(into: Set()) { $0.insert($1) }
        }
        #expect(ids.count == 1)
    }

    @Test func `enqueue of many keeps the order, the keys and the times of each`() async throws {
        try await Database.make().withConnection { connection in
            let rows = try await connection.run(
                """
                select j.priority, j.unique_key, j.max_attempts, j.payload ->> 'n' as n
                from mayfly.enqueue_many('[
                    {"kind": "code", "payload": {"n": 0}, "priority": 2, "max_attempts": 4},
                    {"kind": "code", "payload": {"n": 1}, "unique_key": "k"},
                    {"kind": "code", "payload": {"n": 2}, "unique_key": "k"},
                    {"kind": "code", "payload": {"n": 3}, "run_at": "2027-01-01T00:00:00Z"}]')
                    with ordinality i (id, place)
                    join mayfly.job j using (id) order by place
                """)
            // A statement sees what its own functions did only when it began later: look again.
            #expect(rows.count == 0)
            let stored = try await connection.run(
                """
                select priority, unique_key, max_attempts, payload ->> 'n' as n
                    from mayfly.job order by id
                """
            )
            #expect(stored.count == 3)
            #expect((0..<3).map { stored.string($0, "n") } == ["0", "1", "3"])
            #expect(stored.integer(0, "max_attempts") == 4)
            #expect(stored.string(1, "unique_key") == "k")
            #expect(try await connection.count("select count(*) from mayfly.delayed") == 1)
        }
    }
}

@Suite("A job in the queue", .timeLimit(.minutes(2))) struct SteeringTests {
    @Test func `a waiting job is cancelled at once`() async throws {
        try await Database.make().withConnection { connection in
            let now = try await connection.enqueue()
            let later = try await connection.run(
                """
                select mayfly.enqueue('code', '{}', run_at => now() + interval '1 h',
                    unique_key => 'k')
                    as id
                """
            )
            for id in [now, later.integer(0, "id") ?? 0] {
                let answer = try await connection.run("select mayfly.cancel(\(id)) as state")
                #expect(answer.string(0, "state") == "cancelled")
                let again = try await connection.run("select mayfly.cancel(\(id)) as state")
                #expect(again.string(0, "state") == "cancelled")
                #expect(try await connection.state(id) == "cancelled")
            }
            let worker = try await connection.register()
            #expect(try await connection.claim(worker, 5).isEmpty)
            #expect(try await connection.count("select count(*) from mayfly.live_key") == 0)
        }
    }

    @Test func `a running job is cancelled through its worker, or when that dies`() async throws {
        try await Database.make().withConnection { connection in
            let ids = [try await connection.enqueue(), try await connection.enqueue()]
            let worker = try await connection.register()
            let held = try await connection.claim(worker, 2)
            for id in ids {
                let answer = try await connection.run("select mayfly.cancel(\(id)) as state")
                #expect(answer.string(0, "state") == "cancelling")
                #expect(try await connection.state(id) == "running")
            }
            let beat = try await connection.heartbeat(worker, held.map(\.token))
            #expect(beat.map(\.why) == ["cancelled", "cancelled"])
            #expect(try await connection.settle(worker, held[0], "cancelled") == "cancelled")
            try await connection.lapse(worker)
            try await connection.run("select mayfly.reap()")
            for id in ids { #expect(try await connection.state(id) == "cancelled") }
        }
    }

    @Test func `is replayed as a new job that leaves the original as it was`() async throws {
        try await Database.make().withConnection { connection in
            let id = try await connection.enqueue(#"{"source": "x"}"#)
            #expect(
                await sqlstate { try await connection.run("select mayfly.replay(\(id))") }
                    == "MF008")
            let worker = try await connection.register()
            let held = try #require(try await connection.claim(worker).first)
            try await connection.run(
                """
                select mayfly.settle(\(worker.number), \(worker.secret), \(id), \(held.token),
                    'failed', 'timeout', generation => 'g1', seed => \([UInt8](repeating: 7, count: 32)), clock => 42)
                """)
            let before = try await connection.run("select * from mayfly.job where id = \(id)")
            let plain =
                try await connection.run("select mayfly.replay(\(id)) as id").integer(0, "id") ?? 0
            let pinned =
                try await connection.run("select mayfly.replay(\(id), true) as id").integer(0, "id")
                ?? 0
            let after = try await connection.run("select * from mayfly.job where id = \(id)")
            for column in before.columns {
                #expect(before.text(0, column) == after.text(0, column))
            }
            let copies = try await connection.run(
                """
                select payload, state, replay_of,
                    (select pin from mayfly.job_data d where d.id = j.id) as pin
                from mayfly.job j where id = any (\([plain, pinned])) order by id
                """)
            #expect(copies.string(0, "payload") == #"{"source": "x"}"#)
            #expect(copies.integer(0, "replay_of") == id)
            #expect(copies.text(0, "pin") == nil)
            #expect(try #require(copies.text(1, "pin")).contains(#""clock": 42"#))
        }
    }

    @Test func `a bulk replay finds jobs beside others that were replayed before`() async throws {
        try await Database.make().withConnection { connection in
            for _ in 0..<3 { _ = try await connection.enqueue() }
            let worker = try await connection.register()
            for one in try await connection.claim(worker, 3) {
                _ = try await connection.settle(worker, one, "failed", "timeout")
            }
            // Two at a time, until all three were replayed.
            for expected in [2, 1, 0] {
                let rows = try await connection.run(
                    "select id from mayfly.replay_all(limit_rows => 2)")
                #expect(rows.count == expected)
            }
        }
    }

    @Test func `a job that cannot be replayed pinned is reported and stops no other`() async throws
    {
        try await Database.make().withConnection { connection in
            for _ in 0..<2 { _ = try await connection.enqueue() }
            let worker = try await connection.register()
            let held = try await connection.claim(worker, 2)
            _ = try await connection.settle(worker, held[0], "failed", "invalid_payload")
            try await connection.run(
                """
                select mayfly.settle(\(worker.number), \(worker.secret), \(held[1].id),
                    \(held[1].token), 'failed', 'timeout', generation => 'g', clock => 1,
                    seed => \([UInt8](repeating: 7, count: 32)))
                """)
            let rows = try await connection.run(
                """
                select original, id, refusal from mayfly.replay_all(pinned => true)
                order by original
                """)
            #expect(rows.count == 2)
            #expect(rows.text(0, "id") == nil)
            #expect(rows.string(0, "refusal").contains("machine"))
            #expect(rows.text(1, "id") != nil)
        }
    }

    @Test func `is left out of a bulk replay when it was replayed before`() async throws {
        let database = try await Database.make()
        try await database.withConnection { connection in
            for _ in 0..<3 { _ = try await connection.enqueue() }
            let worker = try await connection.register()
            let held = try await connection.claim(worker, 3)
            for one in held { _ = try await connection.settle(worker, one, "failed", "timeout") }
        }
        try await QueueClient.open(database.settings()) { client throws(JobsError) in
            let filter = Filter()
            let dry = try await client.replay(filter, isDryRun: true)
            #expect(dry.count == 3)
            #expect(dry.allSatisfy { $0.id == nil })
            #expect(try await client.replay(filter, isDryRun: false).count == 3)
            #expect(try await client.replay(filter, isDryRun: false).count == 0)
            var failed = Filter()
            failed.state = "failed"
            #expect(try await client.list(failed).count == 3)
            failed.state = "queued"
            #expect(try await client.list(failed).count == 3)
        }
    }

    @Test func `finds its blobs by their address`() async throws {
        let database = try await Database.make()
        var random = SeededGenerator(for: "blobs")
        for count in [0, 1, 262_144, 262_145, 700_000] {
            let bytes = (0..<count).map { _ in UInt8.random(in: 0...255, using: &random) }
            try await QueueClient.open(database.settings()) { client throws(JobsError) in
                let address = try await client.putBlob(bytes)
                #expect(try await client.putBlob(bytes) == address)
                #expect(try await client.blob(address) == bytes)
            }
        }
        // Bytes under a false address are not stored.
        try await database.withConnection { connection in
            _ = try await connection.enqueue()
            let worker = try await connection.register()
            let held = try #require(try await connection.claim(worker).first)
            let refused = await sqlstate {
                try await connection.run(
                    """
                    select mayfly.store_blob(\(worker.number), \(worker.secret), \(held.token),
                        repeat('b', 64), \([1, 2, 3] as [UInt8]))
                    """)
            }
            #expect(refused == "MF007")
        }
    }

    @Test func `an old job goes away with its week, one that is alive stays`() async throws {
        try await Database.make().withConnection { connection in
            try await connection.run(
                "select mayfly.make_week('2025-03-05'), mayfly.make_week('2025-03-12')")
            for time in ["2025-03-05", "2025-03-12"] {
                try await connection.run(
                    """
                    insert into mayfly.job_data
                    (id, run_at, priority, max_attempts, queue, tenant, kind, payload)
                    values (mayfly.id_at(\(time)), \(time), 0, 1, 'default', '', 'code', '{}')
                    """)
            }
            try await connection.run(
                """
                insert into mayfly.outcome (id, tenant, attempt, state, finished_at)
                values (mayfly.id_at('2025-03-05'), '', 1, 'succeeded', '2025-03-06')
                """)
            try await connection.run(
                """
                insert into mayfly.ready (id, priority, queue, kind, tenant)
                values (mayfly.id_at('2025-03-12'), 0, 'default', 'code', '')
                """)
            var did: [String] = []
            while let step = try await connection.run("select did from mayfly.maintain() did")
                .first("did")
            { did.append(step) }
            #expect(
                did
                    == ["job_data", "outcome", "attempt", "blob_use", "egress"].map {
                        "dropped \($0) of week 2025w10"
                    })
            #expect(try await connection.count("select count(*) from mayfly.job") == 1)
            #expect(try await connection.count("select count(*) from mayfly.outcome") == 0)
        }
    }
}
