// What follows when an attempt ends: whose failure, what is consumed, what is stored.

import Jobs
import Postgres
import TestSupport
import Testing

@Suite("The end of an attempt", .timeLimit(.minutes(2))) struct EndingTests {
    @Test func `is stored once and answered the same when asked again`() async throws {
        try await Database.make().withConnection { connection in
            let id = try await connection.enqueue()
            let worker = try await connection.register()
            let held = try #require(try await connection.claim(worker).first)
            for _ in 0..<2 {
                #expect(try await connection.settle(worker, held, "succeeded") == "succeeded")
            }
            #expect(try await connection.count("select count(*) from mayfly.outcome") == 1)
            #expect(try await connection.count("select count(*) from mayfly.attempt") == 1)
            #expect(try await connection.state(id) == "succeeded")
            #expect(
                await sqlstate {
                    try await connection.run(
                        """
                        insert into mayfly.outcome (id, tenant, attempt, state) values (\(id), '',
                            1, 'succeeded')
                        """
                    )
                } == "23505")
        }
    }

    @Test func `the job's own failure is final`() async throws {
        try await Database.make().withConnection { connection in
            let id = try await connection.enqueue()
            let worker = try await connection.register()
            let held = try #require(try await connection.claim(worker).first)
            #expect(try await connection.settle(worker, held, "failed", "exit_nonzero") == "failed")
            let rows = try await connection.run("select error from mayfly.job where id = \(id)")
            #expect(
                rows.string(0, "error")
                    == #"{"reason": "exit_nonzero", "message": "as told", "retryable": true}"#)
        }
    }

    @Test func `the job's own failure is tried again as often as the job asks`() async throws {
        try await Database.make().withConnection { connection in
            let id = try await connection.enqueue(maxAttempts: 3)
            let worker = try await connection.register()
            for attempt in 1...3 {
                try await connection.run("update mayfly.delayed set run_at = now()")
                let held = try #require(try await connection.claim(worker).first)
                #expect(held.attempt == attempt)
                let answer = try await connection.settle(worker, held, "failed", "timeout")
                #expect(answer == (attempt < 3 ? "retried" : "failed"))
            }
            #expect(try await connection.state(id) == "failed")
        }
    }

    @Test func `a payload that cannot work is final even when more attempts are allowed`()
        async throws
    {
        try await Database.make().withConnection { connection in
            _ = try await connection.enqueue(maxAttempts: 3)
            let worker = try await connection.register()
            let held = try #require(try await connection.claim(worker).first)
            #expect(
                try await connection.settle(worker, held, "failed", "invalid_payload") == "failed")
        }
    }

    @Test func `our failure costs the job nothing until it looks like poison`() async throws {
        try await Database.make().withConnection { connection in
            let id = try await connection.enqueue()
            let worker = try await connection.register()
            for loss in 1...5 {
                try await connection.run("update mayfly.delayed set run_at = now()")
                let held = try #require(try await connection.claim(worker).first)
                let answer = try await connection.settle(
                    worker, held, "lost", "machine_lost", hadMachine: true, isProven: true)
                #expect(answer == (loss < 5 ? "retried" : "failed"))
            }
            let rows = try await connection.run(
                "select error ->> 'reason' as reason, attempt from mayfly.job where id = \(id)")
            #expect(rows.string(0, "reason") == "poison")
            #expect(rows.integer(0, "attempt") == 5)
        }
    }

    @Test func `the death of a worker counts as a loss and backs off`() async throws {
        try await Database.make().withConnection { connection in
            _ = try await connection.enqueue()
            let worker = try await connection.register()
            _ = try await connection.claim(worker)
            try await connection.lapse(worker)
            try await connection.run("update mayfly.setting set backoff_first = '10 s'")
            try await connection.run("select mayfly.reap()")
            let rows = try await connection.run(
                """
                select (tries).losses, (tries).failures, run_at between now() + interval '4 s'
                    and now() + interval '16 s'
                    as later from mayfly.delayed
                """)
            #expect(rows.integer(0, "losses") == 1)
            #expect(rows.integer(0, "failures") == 0)
            #expect(rows.bool(0, "later"))
        }
    }

    @Test func `shutdown gives the job its old place and consumes nothing`() async throws {
        try await Database.make().withConnection { connection in
            let first = try await connection.enqueue()
            _ = try await connection.enqueue()
            let worker = try await connection.register()
            let held = try #require(try await connection.claim(worker).first)
            // Even when the floor has passed it meanwhile.
            try await connection.raiseFloors()
            #expect(try await connection.settle(worker, held, "interrupted") == "given back")
            let again = try #require(try await connection.claim(worker).first)
            #expect(again.id == first)
            #expect(again.attempt == 2)
            let rows = try await connection.run(
                "select (tries).failures, (tries).losses from mayfly.running")
            #expect(rows.integer(0, "failures") == 0)
            #expect(rows.integer(0, "losses") == 0)
            let attempts = try await connection.run("select outcome, reason from mayfly.attempt")
            #expect(attempts.string(0, "outcome") == "interrupted")
        }
    }

    @Test func `a worker that leaves gives all its jobs back`() async throws {
        try await Database.make().withConnection { connection in
            for _ in 0..<3 { _ = try await connection.enqueue() }
            let worker = try await connection.register()
            _ = try await connection.claim(worker, 3)
            #expect(
                try await connection.count(
                    "select mayfly.leave(\(worker.number), \(worker.secret)) as count") == 3)
            #expect(try await connection.count("select count(*) from mayfly.ready") == 3)
            let other = try await connection.register()
            #expect(try await connection.claim(other, 5).count == 3)
        }
    }

    @Test func `a reason that is not on the list is refused`() async throws {
        try await Database.make().withConnection { connection in
            _ = try await connection.enqueue()
            let worker = try await connection.register()
            let held = try #require(try await connection.claim(worker).first)
            for (how, reason) in [
                ("failed", "bad_luck"), ("failed", nil), ("lost", "poison"), ("won", nil),
            ] {
                #expect(
                    await sqlstate { _ = try await connection.settle(worker, held, how, reason) }
                        == "MF001")
            }
            #expect(try await connection.settle(worker, held, "succeeded") == "succeeded")
        }
    }

    @Test func `has the same reasons in SQL and in Swift`() async throws {
        try await Database.make().withConnection { connection in
            let rows = try await connection.run(
                "select reason, whose, retryable from mayfly.reason")
            let names = (0..<rows.count).map { rows.string($0, "reason") }
            #expect(Set(names) == Set(Reason.allCases.map(\.rawValue)))
            for row in 0..<rows.count {
                let reason = try #require(Reason(rawValue: rows.string(row, "reason")))
                #expect(reason.isOurs == (rows.string(row, "whose") == "ours"))
                #expect(reason.isRetryable == rows.bool(row, "retryable"))
            }
        }
    }
}
