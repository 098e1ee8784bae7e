// Which losses speak against a job, and which end is which: lost, interrupted, cancelled.

import Jobs
import Postgres
import TestSupport
import Testing

@Suite("A lost attempt", .timeLimit(.minutes(2))) struct LostAttemptTests {
    /// Claims the only job again, now.
    private func claim(
        _ connection: Connection, _ worker: TestWorker
    ) async throws -> (id: Int64, token: Int64, attempt: Int) {
        try await connection.run("update mayfly.delayed set run_at = now()")
        return try #require(try await connection.claim(worker).first)
    }

    @Test func `a loss on a host that cannot restore machines never makes a job poison by itself`()
        async throws
    {
        try await Database.make().withConnection { connection in
            let id = try await connection.enqueue()
            let worker = try await connection.register(host: "broken")
            for _ in 1...24 {
                let held = try await claim(connection, worker)
                #expect(
                    try await connection.settle(worker, held, "lost", "restore_failed") == "retried"
                )
            }
            let rows = try await connection.run(
                "select (tries).losses, (tries).strikes from mayfly.delayed where id = \(id)")
            #expect(rows.integer(0, "losses") == 24)
            #expect(rows.integer(0, "strikes") == 0)
            // But not for ever.
            let held = try await claim(connection, worker)
            #expect(
                try await connection.settle(worker, held, "lost", "restore_failed") == "failed")
        }
    }

    @Test func `a loss on one host counts against the job once, until the host has proven itself`()
        async throws
    {
        try await Database.make().withConnection { connection in
            _ = try await connection.enqueue()
            let worker = try await connection.register(host: "one")
            for _ in 1...10 {
                let held = try await claim(connection, worker)
                #expect(
                    try await connection.settle(
                        worker, held, "lost", "machine_lost", hadMachine: true) == "retried")
            }
            for strike in 2...5 {
                let held = try await claim(connection, worker)
                let answer = try await connection.settle(
                    worker, held, "lost", "machine_lost", hadMachine: true, isProven: true)
                #expect(answer == (strike < 5 ? "retried" : "failed"))
            }
        }
    }

    @Test func `losses on five different hosts make a job that kills its machines poison`()
        async throws
    {
        try await Database.make().withConnection { connection in
            let id = try await connection.enqueue()
            for host in ["a", "b", "c", "d", "e"] {
                let worker = try await connection.register(host: host)
                let held = try await claim(connection, worker)
                _ = try await connection.settle(
                    worker, held, "lost", "machine_lost", hadMachine: true)
            }
            let rows = try await connection.run(
                "select error ->> 'reason' as reason from mayfly.job where id = \(id)")
            #expect(rows.string(0, "reason") == "poison")
        }
    }

    @Test func `a worker that is killed again and again on one host poisons nothing soon`()
        async throws
    {
        try await Database.make().withConnection { connection in
            let id = try await connection.enqueue()
            for _ in 1...10 {
                let worker = try await connection.register(host: "one")
                _ = try await claim(connection, worker)
                try await connection.lapse(worker)
                try await connection.run("select mayfly.reap()")
            }
            #expect(try await connection.state(id) == "queued")
            let rows = try await connection.run("select (tries).strikes from mayfly.delayed")
            #expect(rows.integer(0, "strikes") == 1)
        }
    }

    @Test func `a lost attempt is never stored as cancelled when nobody cancelled the job`()
        async throws
    {
        try await Database.make().withConnection { connection in
            let id = try await connection.enqueue()
            let worker = try await connection.register()
            let held = try await claim(connection, worker)
            try await connection.lapse(worker)
            #expect(
                await sqlstate { _ = try await connection.settle(worker, held, "cancelled") }
                    == "MF008")
            #expect(try await connection.state(id) == "running")
            // Still held, for nobody has reaped it: then it is tried again at once.
            #expect(
                try await connection.settle(worker, held, "lost", "lease_lost") == "retried")
        }
    }

    @Test func `a job that waits for its next attempt is cancelled at once`() async throws {
        try await Database.make().withConnection { connection in
            let worker = try await connection.register()
            // After a loss it waits for a while; given back, it is ready again.
            for ending in ["lost", "interrupted"] {
                let id = try await connection.enqueue()
                let held = try await claim(connection, worker)
                let reason = ending == "lost" ? "machine_lost" : "interrupted"
                let answer = try await connection.settle(worker, held, ending, reason)
                #expect(answer == (ending == "lost" ? "retried" : "given back"), "\(answer)")
                let cancelled = try await connection.run("select mayfly.cancel(\(id)) as state")
                #expect(cancelled.string(0, "state") == "cancelled", "\(ending)")
                let job = try await connection.run(
                    "select state, attempt from mayfly.job where id = \(id)")
                #expect(job.string(0, "state") == "cancelled")
            }
        }
    }

    @Test func `a loss of a job that somebody cancelled ends it`() async throws {
        try await Database.make().withConnection { connection in
            let id = try await connection.enqueue()
            let worker = try await connection.register()
            let held = try await claim(connection, worker)
            try await connection.run("select mayfly.cancel(\(id))")
            #expect(
                try await connection.settle(worker, held, "lost", "machine_lost") == "cancelled")
        }
    }

    @Test func `a lost job is cancelled all the same when the cancel was committed after the loss`()
        async throws
    {
        let database = try await Database.make()
        try await database.withConnection { connection in
            for way in ["reap", "claim"] {
                let id = try await connection.enqueue()
                let worker = try await connection.register()
                let held = try await claim(connection, worker)
                let producer = try await database.connect()
                try await producer.run(Script(name: "begin", bytes: Array("begin".utf8)))
                let answer = try await producer.run("select mayfly.cancel(\(id)) as state")
                #expect(answer.string(0, "state") == "cancelling")
                _ = try await connection.settle(worker, held, "lost", "machine_lost")
                try await producer.run(Script(name: "commit", bytes: Array("commit".utf8)))
                await producer.close()
                try await connection.run("update mayfly.delayed set run_at = now()")
                if way == "reap" { try await connection.run("select mayfly.reap()") }
                #expect(try await connection.claim(worker).isEmpty, "\(way)")
                #expect(try await connection.state(id) == "cancelled", "\(way)")
                let left = try await connection.count("select count(*) from mayfly.cancel_request")
                #expect(left == 0)
            }
        }
    }
}
