// Claiming, leases and fencing, at the level of SQL: two sessions against one real server.

import Jobs
import Postgres
import TestSupport
import Testing

@Suite("A claim", .timeLimit(.minutes(2))) struct ClaimTests {
    @Test func `goes to exactly one of two racing claimers`() async throws {
        let database = try await Database.make()
        try await database.withConnection { setup in
            try await setup.run(
                """
                select mayfly.enqueue_many((select jsonb_agg('{"kind":"code","payload":{}}'::jsonb)
                    from generate_series(1, 500)))
                """)
            let taken = try await withThrowingTaskGroup(of: [Int64].self) { group in
                for _ in 0..<2 {
                    group.addTask {
                        try await database.withConnection { connection in
                            let worker = try await connection.register()
                            var mine: [Int64] = []
                            while true {
                                let batch = try await connection.claim(worker, 7)
                                if batch.isEmpty { return mine }
                                mine += batch.map(\.id)
                            }
                        }
                    }
                }
                return try await group.reduce(into: []) { $0 += [$1] }
            }
            // A claimer may find only rows that the other has locked and stop; what is left is
            // taken here.
            let worker = try await setup.register()
            let rest = try await setup.claim(worker, 500).map(\.id)
            let all = taken.flatMap { $0 } + rest
            #expect(all.count == 500)
            #expect(Set(all).count == 500)
            #expect(try await setup.count("select count(*) from mayfly.running") == 500)
        }
    }

    @Test func `takes urgent jobs first and equals in their order`() async throws {
        try await Database.make().withConnection { connection in
            let ids = try await connection.run(
                """
                select id from mayfly.enqueue_many('[{"kind":"code","payload":{}},
                    {"kind":"code","payload":{},"priority":-1},
                    {"kind":"code","payload":{},"priority":9},
                    {"kind":"code","payload":{}}]') id
                """)
            let worker = try await connection.register()
            var order: [Int64] = []
            for _ in 0..<4 { order += try await connection.claim(worker).map(\.id) }
            #expect(order == [2, 0, 3, 1].map { ids.integer($0, "id") })
        }
    }

    @Test func `is refused to a worker whose lease ran out`() async throws {
        try await Database.make().withConnection { connection in
            _ = try await connection.enqueue()
            let worker = try await connection.register()
            try await connection.lapse(worker)
            #expect(try await connection.claim(worker).isEmpty)
            _ = try await connection.heartbeat(worker)
            #expect(try await connection.claim(worker).count == 1)
        }
    }

    @Test func `a claim of another kind, of a paused queue or of the future is left alone`()
        async throws
    {
        try await Database.make().withConnection { connection in
            try await connection.run(
                """
                select mayfly.enqueue('document', '{}'),
                    mayfly.enqueue('code', '{}', queue => 'slow'),
                    mayfly.enqueue('code', '{}', run_at => now() + interval '1 hour'),
                    mayfly.pause('slow')
                """)
            let worker = try await connection.register()
            #expect(try await connection.claim(worker, 9).isEmpty)
            try await connection.run("select mayfly.resume('slow')")
            #expect(try await connection.claim(worker, 9).count == 1)
            try await connection.run("update mayfly.delayed set run_at = now()")
            #expect(try await connection.claim(worker, 9).count == 1)
        }
    }

    @Test
    func `is taken over when its lease runs out, and its old holder is fenced with its blobs`()
        async throws
    {
        let database = try await Database.make()
        try await database.withConnection { connection in
            let id = try await connection.enqueue()
            let old = try await connection.register()
            let lost = try #require(try await connection.claim(old).first)
            try await connection.lapse(old)
            #expect(try await connection.count("select mayfly.reap() as count") == 1)
            try await connection.run("update mayfly.delayed set run_at = now()")
            let new = try await connection.register()
            let held = try #require(try await connection.claim(new).first)
            #expect(held.id == id)
            #expect(held.attempt == 2)
            #expect(held.token > lost.token)

            let part: [UInt8] = [1, 2, 3]
            let address = "039058c6f2c0cb492c533b0a4d14ef77cc0f78abccced5287d84a1a2011cfb81"
            let refused = await sqlstate {
                try await connection.run([
                    """
                    select mayfly.store_blob(\(old.number), \(old.secret), \(lost.token),
                        \(address), \(part))
                    """,
                    """
                    select mayfly.settle(\(old.number), \(old.secret), \(id), \(lost.token),
                        'succeeded', result => '{}')
                    """,
                ])
            }
            #expect(refused == "MF005")
            #expect(try await connection.count("select count(*) from mayfly.blob") == 0)
            #expect(try await connection.count("select count(*) from mayfly.blob_chunk") == 0)
            #expect(try await connection.settle(new, held, "succeeded") == "succeeded")
            #expect(try await connection.count("select count(*) from mayfly.outcome") == 1)
            let attempts = try await connection.run(
                """
                select outcome, reason, reaped from mayfly.attempt
                    where id = \(id) order by attempt
                """
            )
            #expect(attempts.string(0, "reason") == "lease_lost")
            #expect(attempts.string(1, "outcome") == "succeeded")
        }
    }

    @Test func `is kept by heartbeats, which also say what was lost`() async throws {
        try await Database.make().withConnection { connection in
            for _ in 0..<2 { _ = try await connection.enqueue() }
            let (beating, silent) = (
                try await connection.register(), try await connection.register()
            )
            let kept = try #require(try await connection.claim(beating).first)
            let lost = try #require(try await connection.claim(silent).first)
            for worker in [beating, silent] { try await connection.lapse(worker) }
            let beat = try await connection.heartbeat(beating, [kept.token, lost.token])
            #expect(beat.count == 1)
            #expect(beat.first?.token == lost.token)
            #expect(beat.first?.why == "lost")
            #expect(try await connection.count("select mayfly.reap() as count") == 1)
            #expect(try await connection.settle(beating, kept, "succeeded") == "succeeded")
            #expect(
                await sqlstate { _ = try await connection.settle(silent, lost, "succeeded") }
                    == "MF005")
        }
    }

    @Test func `a claim of a worker that was declared dead tells it so`() async throws {
        try await Database.make().withConnection { connection in
            let worker = try await connection.register()
            try await connection.lapse(worker)
            try await connection.run("select mayfly.reap()")
            let refused = await sqlstate { _ = try await connection.heartbeat(worker) }
            #expect(refused == "MF006")
        }
    }

    @Test func `a claim of a worker's former life is given back when it registers again`()
        async throws
    {
        try await Database.make().withConnection { connection in
            let id = try await connection.enqueue()
            let first = try await connection.register(lease: "1 h", identity: "host 1")
            _ = try await connection.claim(first)
            #expect(try await connection.state(id) == "running")
            _ = try await connection.register(lease: "1 h", identity: "host 1")
            #expect(try await connection.count("select mayfly.reap() as count") == 1)
            #expect(try await connection.state(id) == "queued")
        }
    }

    @Test func `a claim held far beyond its deadline is given back although its worker lives`()
        async throws
    {
        try await Database.make().withConnection { connection in
            let id = try await connection.enqueue()
            let worker = try await connection.register()
            _ = try await connection.claim(worker)
            try await connection.run(
                "update mayfly.running set deadline_at = now() - interval '1 s'")
            #expect(try await connection.count("select mayfly.reap() as count") == 1)
            let rows = try await connection.run(
                "select reason from mayfly.attempt where id = \(id)")
            #expect(rows.string(0, "reason") == "deadline_exceeded")
        }
    }

    @Test func `costs the same however many dead rows lie before it`() async throws {
        let database = try await Database.make()
        try await database.withConnection { connection in
            // An open transaction keeps every deleted row from being vacuumed.
            let pin = try await database.connect()
            let begin: Statement = "begin isolation level repeatable read"
            try await pin.run(begin)
            try await pin.run("select count(*) from mayfly.ready")
            let worker = try await connection.register(lease: "1 h")
            /// The pages that one claim looks at, whatever it looks at them for.
            func blocks() async throws -> Int {
                _ = try await connection.enqueue()
                let plan = try await connection.run(
                    """
                    explain (analyze, buffers, format json)
                    select * from mayfly.claim(\(worker.number), \(worker.secret), '{}', '{code}', 1)
                    """)
                let hit = plan.string(0, "QUERY PLAN").split(separator: "\"Shared Hit Blocks\": ")[
                    1]
                return try #require(Int(hit.prefix { $0.isNumber }))
            }
            _ = try await blocks()  // plans are made the first time
            let before = try await blocks()
            for _ in 0..<4 {
                try await connection.run(
                    """
                    select count(*) from mayfly.enqueue_many((select
                        jsonb_agg('{"kind":"code","payload":{}}'::jsonb)
                        from generate_series(1, 5000)))
                    """)
                #expect(try await connection.claim(worker, 5000).count == 5000)
            }
            let dead = try await blocks()
            try await connection.raiseFloors()
            let after = try await blocks()
            #expect(after < before + 30)
            #expect(dead > after + 100, "the test makes no dead rows: \(before), \(dead), \(after)")
            await pin.close()
        }
    }
}
