// Looking at a running job: its output goes to whoever follows it, and to nobody for nothing.

import Postgres
import TestSupport
import Testing

@testable import Jobs

@Suite("The output of a running job", .timeLimit(.minutes(2)))
struct FollowTests {
    private func report(
        _ worker: TestWorker, _ token: Int64, _ count: Int, _ text: String, at offset: Int = 0,
        _ connection: Connection
    ) async throws -> Bool {
        try await connection.run(
            """
            select mayfly.report_output(\(worker.number), \(worker.secret), \(token), \(count), 0,
                'stdout', \(offset), \(text.utf8.count), \(text)) as is_followed
            """
        ).bool(0, "is_followed")
    }
    private func follow(
        _ id: Int64, after place: Int64 = 0, _ connection: Connection
    ) async throws -> [String] {
        let rows = try await connection.run("select text from mayfly.follow(\(id), \(place))")
        return (0..<rows.count).map { rows.string($0, "text") }
    }

    @Test func `has its output stored only while somebody looks`() async throws {
        try await Database.make().withConnection { connection in
            let id = try await connection.enqueue()
            #expect(try await follow(id, connection).isEmpty)
            let worker = try await connection.register()
            let held = try #require(try await connection.claim(worker).first)
            // Nobody looks, and it was no use to look before it ran.
            #expect(try await connection.heartbeat(worker, [held.token]).isEmpty)
            #expect(try await !report(worker, held.token, 1, "unseen", connection))
            #expect(try await connection.count("select count(*) from mayfly.live_output") == 0)
            #expect(try await follow(id, connection).isEmpty)
            #expect(try await connection.heartbeat(worker, [held.token]).map(\.why) == ["followed"])
            #expect(try await report(worker, held.token, 2, "a", connection))
            #expect(try await report(worker, held.token, 2, "a", connection))  // sent twice
            #expect(try await report(worker, held.token, 3, "b", at: 1, connection))
            #expect(try await follow(id, connection) == ["a", "b"])
            #expect(try await follow(id, after: 1 << 32 | 2, connection) == ["b"])
            // Who looks again and again costs a row in five seconds.
            for _ in 0..<20 { _ = try await follow(id, connection) }
            #expect(try await connection.count("select count(*) from mayfly.follower") == 1)
            try await connection.run("update mayfly.follower set until = clock_timestamp()")
            #expect(try await !report(worker, held.token, 4, "c", at: 2, connection))
            #expect(try await connection.heartbeat(worker, [held.token]).isEmpty)
            #expect(try await connection.settle(worker, held, "succeeded") == "succeeded")
            #expect(try await follow(id, connection).isEmpty)
            #expect(
                await sqlstate { _ = try await report(worker, held.token, 5, "d", connection) }
                    == "MF005")
            _ = try await connection.run("select mayfly.reap()")
            #expect(
                try await connection.count(
                    """
                    select (select count(*) from mayfly.live_output)
                        + (select count(*) from mayfly.follower) as count
                    """) == 0)
        }
    }

    @Test func `has a bounded number of pieces, the newest, and none that is too long`()
        async throws
    {
        try await Database.make().withConnection { connection in
            let id = try await connection.enqueue()
            let worker = try await connection.register()
            let held = try #require(try await connection.claim(worker).first)
            _ = try await follow(id, connection)
            for count in 1...200 {
                #expect(try await report(worker, held.token, count, "\(count)", connection))
            }
            let seen = try await follow(id, connection)
            #expect(seen == (137...200).map { "\($0)" })
            let long = String(repeating: "x", count: 128 * 1024 + 1)
            #expect(
                await sqlstate { _ = try await report(worker, held.token, 201, long, connection) }
                    == "MF001")
        }
    }

    @Test func `begins anew with its next attempt`() async throws {
        try await Database.make().withConnection { connection in
            let id = try await connection.enqueue(maxAttempts: 2)
            let worker = try await connection.register()
            let first = try #require(try await connection.claim(worker).first)
            _ = try await follow(id, connection)
            #expect(try await report(worker, first.token, 1, "one", connection))
            #expect(
                try await connection.settle(worker, first, "failed", "exit_nonzero") == "retried")
            #expect(try await follow(id, connection).isEmpty)
            try await connection.run("update mayfly.delayed set run_at = now()")
            let second = try #require(try await connection.claim(worker).first)
            #expect(try await !report(worker, second.token, 1, "unseen", connection))
            _ = try await follow(id, connection)
            #expect(try await connection.heartbeat(worker, [second.token]).count == 1)
            #expect(try await report(worker, second.token, 1, "two", connection))
            // Beyond the first attempt's places, which may still be there.
            #expect(try await follow(id, after: 1 << 32 | 1, connection) == ["two"])
        }
    }

    @Test func `shows its progress while it runs, and refuses a long one`() async throws {
        try await Database.make().withConnection { connection in
            let id = try await connection.enqueue()
            let worker = try await connection.register()
            let held = try #require(try await connection.claim(worker).first)
            func report(_ progress: String) async throws {
                try await connection.run(
                    """
                    select mayfly.report_progress(\(worker.number), \(worker.secret),
                        \(held.token), \(progress))
                    """)
            }
            try await report(#"{"done": 3, "total": 20}"#)
            let row = try await connection.run(
                "select progress ->> 'done' as done from mayfly.get_job(\(id))")
            #expect(row.string(0, "done") == "3")
            let long = "\"" + String(repeating: "x", count: 1024) + "\""
            #expect(await sqlstate { try await report(long) } == "MF001")
            #expect(try await connection.settle(worker, held, "succeeded") == "succeeded")
            #expect(await sqlstate { try await report("1") } == "MF005")
            #expect(
                await sqlstate {
                    try await connection.run(
                        """
                        insert into mayfly.job (kind, payload, progress)
                        values ('code', '{}', '1')
                        """)
                } == "MF001")
        }
    }

    @Test func `is told to its worker, whose reports reach who follows`() async throws {
        let database = try await Database.make()
        try await database.withConnection { connection in
            let id = try await connection.enqueue()
            await withQueueChecked(database.queueSettings()) { queue in
                guard let claim = await queue.next() else { return }
                let reports = claim.reports
                await reports.report(
                    OutputPiece(stream: "stdout", step: 0, offset: 0, bytes: Array("no".utf8)[...]),
                    count: 1)
                #expect(!reports.isFollowed)
                await reports.report(progress: #"{"done":1,"total":2}"#)
                _ = try? await follow(id, connection)
                while !reports.isFollowed { await reports.wait(atMost: .seconds(10)) }
                await reports.report(
                    OutputPiece(
                        stream: "stdout", step: 0, offset: 0,
                        bytes: [0x61, 0, 0xFF, 0xC3, 0xA4][...]),
                    count: 2)
                let seen = try? await follow(id, connection)
                #expect(seen == ["a\u{FFFD}\u{FFFD}ä"])
                #expect(reports.isFollowed)
                _ = try? await connection.run(
                    "update mayfly.follower set until = clock_timestamp()")
                await reports.report(
                    OutputPiece(stream: "stdout", step: 0, offset: 5, bytes: [0x62]), count: 3)
                #expect(!reports.isFollowed)
                let settled = try? await claim.settle(.succeeded(Report(result: "{}")))
                #expect(settled != nil)
            }
        }
    }
}

/// As `withQueue`; a refused connection fails the test.
private func withQueueChecked(
    _ settings: QueueSettings, _ body: (Queue) async -> Void
) async {
    do { try await withQueue(settings, logger: quiet, body) } catch {
        Issue.record("the queue cannot be opened: \(error)")
    }
}
