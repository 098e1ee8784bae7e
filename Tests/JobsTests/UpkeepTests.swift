// What goes on by itself: history and blobs that are kept as long as they must, lanes and clocks,
// and what the health view says.

import Jobs
import Postgres
import TestSupport
import Testing

@Suite("Upkeep", .timeLimit(.minutes(3))) struct UpkeepTests {
    /// Runs maintenance to its end.
    private func maintain(_ connection: Connection) async throws -> [String] {
        var did: [String] = []
        while let step = try await connection.run("select did from mayfly.maintain() did")
            .first("did")
        { did.append(step) }
        return did
    }

    @Test func `upkeep leaves a week that somebody reads, says so, and stands in nobody's way`()
        async throws
    {
        let database = try await Database.make()
        try await database.withConnection { connection in
            try await connection.run("select mayfly.make_week('2025-03-05')")
            let reader = try await database.connect()
            try await reader.run(Script(name: "begin", bytes: Array("begin".utf8)))
            try await reader.run("select count(*) from mayfly.job")
            #expect(try await maintain(connection) == [])
            let health: Statement = "select ok from mayfly.health where name = 'history'"
            #expect(try await connection.run(health).bool(0, "ok") == false)
            await reader.close()
            // The server may take a moment to notice that the reader is gone.
            while try await maintain(connection).isEmpty {}
            #expect(try await connection.run(health).bool(0, "ok"))
        }
    }

    @Test func `upkeep makes a week although a transaction reads and another writes`() async throws
    {
        let database = try await Database.make()
        try await database.withConnection { connection in
            let open = try await database.connect()
            try await open.run(
                Script(
                    name: "begin",
                    bytes: Array(
                        "begin; select mayfly.enqueue('code', '{}'), count(*) from mayfly.job".utf8)
                ))
            try await connection.run(
                [
                    "select set_config('lock_timeout', '100ms', true)",
                    "select mayfly.make_week('2031-01-01')",
                ])
            await open.close()
        }
    }

    @Test func `upkeep keeps a blob that a job names, however old, and removes what nobody names`()
        async throws
    {
        try await Database.make().withConnection { connection in
            let kept = try await connection.run("select mayfly.put_blob('kept') as sha256")
                .string(0, "sha256")
            let gone = try await connection.run("select mayfly.put_blob('gone') as sha256")
                .string(0, "sha256")
            try await connection.run(
                """
                select mayfly.enqueue('code', jsonb_build_object('files', jsonb_build_array(
                    jsonb_build_object('name', 'a', 'blob', \(kept)::text))),
                    run_at => now() + interval '60 days')
                """)
            try await connection.run("update mayfly.blob set put_at = now() - interval '40 days'")
            #expect(try await maintain(connection) == ["removed 1 blobs"])
            try await connection.run("select mayfly.get_blob(\(kept))")
            #expect(
                await sqlstate { try await connection.run("select mayfly.get_blob(\(gone))") }
                    == "MF007")
            // Put once more, it is safe from the moment on at which it was put.
            try await connection.run("select mayfly.put_blob('gone')")
            #expect(try await maintain(connection) == [])
            try await connection.run("select mayfly.get_blob(\(gone))")
        }
    }

    @Test func `upkeep finds jobs again after the clock was set back`() async throws {
        try await Database.make().withConnection { connection in
            let worker = try await connection.register()
            let first = try await connection.enqueue()
            let held = try #require(try await connection.claim(worker).first)
            #expect(held.id == first)
            // The floors, and the looks that they were raised by, lie in the future now.
            try await connection.run(
                """
                update mayfly.lane set floor = mayfly.position_at(now() + interval '1 hour'),
                    next = mayfly.position_at(now() + interval '1 hour'),
                    next_xid = pg_current_xact_id(), moved_at = now() + interval '1 hour',
                    checked_at = now() + interval '1 hour'
                """)
            let second = try await connection.enqueue()
            #expect(try await connection.claim(worker).isEmpty)
            try await connection.run("select mayfly.reap()")
            #expect(try await connection.claim(worker).map(\.id) == [second])
        }
    }

    @Test func `health says when no worker takes a kind, and which host is ill`() async throws {
        try await Database.make().withConnection { connection in
            let worker = try await connection.register(host: "h1")
            try await connection.run("select mayfly.enqueue('coed', '{}', queue => 'slips')")
            try await connection.run(
                """
                select mayfly.report_health(\(worker.number), \(worker.secret), 'ill', 'no KVM')
                """)
            let rows = try await connection.run(
                "select name, found from mayfly.health where not ok order by name")
            #expect((0..<rows.count).map { rows.string($0, "name") } == ["hosts", "kinds"])
            #expect(rows.string(0, "found").contains("no KVM"))
            #expect(rows.string(1, "found").contains("coed from queue slips"))
        }
    }

    @Test func `a settlement never waits for a lane that another worker is changing`() async throws
    {
        let database = try await Database.make()
        try await database.withConnection { connection in
            let worker = try await connection.register()
            _ = try await connection.enqueue()
            let held = try #require(try await connection.claim(worker).first)
            let other = try await database.connect()
            try await other.run(
                Script(
                    name: "lock",
                    bytes: Array("begin; select * from mayfly.lane for update".utf8)))
            try await connection.run("select set_config('lock_timeout', '100ms', false)")
            #expect(try await connection.settle(worker, held, "interrupted") == "given back")
            await other.close()
        }
    }

    @Test func `the roles chapter leaves no function of the schema open to everybody`() async throws
    {
        try await Database.make().withConnection { connection in
            let rows = try await connection.run(
                """
                select p.proname from pg_proc p join pg_namespace n on n.oid = p.pronamespace
                where n.nspname = 'mayfly' and (p.proacl is null
                    or exists (select from aclexplode(p.proacl) a where a.grantee = 0))
                """)
            #expect((0..<rows.count).map { rows.string($0, "proname") } == [])
        }
    }
}

@Suite("A producer's grant", .timeLimit(.minutes(2))) struct GrantTests {
    @Test func `a grant that is revoked leaves nothing, not even the unnamed tenant`() async throws
    {
        let database = try await Database.make()
        let name = "only_\(database.name)"
        try await Database.administer(
            database.cluster,
            """
            create role \(name) login in role mayfly_producer;
            select mayfly.enqueue('code', '{}');
            select mayfly.grant_tenant('\(name)', 'acme');
            select mayfly.revoke_tenant('\(name)', 'acme');
            """, database: database.name)
        try await database.withConnection(user: name) { connection in
            let jobs = try await connection.count("select count(*) from mayfly.job")
            #expect(jobs == 0)
            #expect(await sqlstate { _ = try await connection.enqueue() } == "MF003")
        }
        // Another role that is given the same name later inherits nothing.
        try await Database.administer(
            database.cluster,
            """
            select mayfly.grant_tenant('\(name)', '');
            drop role \(name);
            create role \(name) login in role mayfly_producer;
            """, database: database.name)
        try await database.withConnection(user: name) { connection in
            let jobs = try await connection.count("select count(*) from mayfly.job")
            #expect(jobs == 0)
        }
    }

    @Test func `a small tenant finds its job by the unique key without reading everybody's`()
        async throws
    {
        let database = try await Database.make()
        let name = "small_\(database.name)"
        try await Database.administer(
            database.cluster,
            """
            create role \(name) login in role mayfly_producer;
            select mayfly.grant_tenant('\(name)', 'small');
            select mayfly.enqueue('code', '{}', tenant => 'small', unique_key => 'k');
            """, database: database.name)
        try await database.withConnection { connection in
            for _ in 0..<3 {
                try await connection.run(
                    """
                    select count(*) from mayfly.enqueue_many((select jsonb_agg(
                        '{"kind": "code", "payload": {}, "tenant": "big"}'::jsonb)
                        from generate_series(1, 8000)))
                    """)
            }
            try await connection.run("analyze mayfly.job_data")
        }
        try await database.withConnection(user: name) { connection in
            func blocks(_ statement: Statement) async throws -> Int {
                try await connection.run(statement)  // plans are made the first time
                let plan = try await connection.run(statement)
                let hit = plan.string(0, "QUERY PLAN").split(separator: "\"Shared Hit Blocks\": ")[
                    1]
                return try #require(Int(hit.prefix { $0.isNumber }))
            }
            let rows = try await connection.run("select id from mayfly.list()")
            #expect(rows.count == 1)
            let look = try await blocks(
                """
                explain (analyze, buffers, format json)
                select id from mayfly.job where unique_key = 'k'
                """)
            #expect(look < 200)
        }
    }
}

@Suite("A payload that cannot be read", .timeLimit(.minutes(3))) struct UnreadablePayloadTests {
    /// As an owner might, past every function.
    private static let insertion = """
        with job as (
            insert into mayfly.job_data
                (id, run_at, priority, max_attempts, queue, tenant, kind, payload)
            select mayfly.new_id(), now(), 0, 1, 'default', '', 'code',
                jsonb_build_object('n', jsonb_agg('1e131071'::jsonb))
            from generate_series(1, COUNT) returning id)
        insert into mayfly.ready (id, priority, queue, kind, tenant)
        select id, 0, 'default', 'code', '' from job
        """

    @Test func `an unreadable payload is not stored by whoever inserts it`() async throws {
        let database = try await Database.make()
        let text = Self.insertion.replacing("COUNT", with: "600")
        #expect(
            await sqlstate {
                try await Database.administer(database.cluster, text, database: database.name)
            } == "23514")
    }

    @Test
    func `an unreadable payload is put aside with a sentence, and the jobs beside it are claimed`()
        async throws
    {
        let database = try await Database.make()
        try await Database.administer(
            database.cluster,
            "alter table mayfly.job_data drop constraint job_payload_can_be_read; "
                + Self.insertion.replacing("COUNT", with: "9000"), database: database.name)
        try await database.withConnection { connection in
            let good = try await connection.enqueue(#"{"good": true}"#)
            let worker = try await connection.register(lease: "5 min")
            #expect(try await connection.claim(worker, 5).map(\.id) == [good])
            let rows = try await connection.run(
                """
                select error ->> 'reason' as reason, error ->> 'message' as message
                from mayfly.list('failed')
                """)
            #expect(rows.count == 1)
            #expect(rows.string(0, "reason") == "invalid_payload")
            #expect(rows.string(0, "message").contains("could not be read"))
        }
    }
}
