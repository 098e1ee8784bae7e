// The worker's side as a whole: a queue against a real server, its losses and returns.

import Postgres
import TestSupport
import Testing

@testable import Jobs

@Suite("A queue", .timeLimit(.minutes(3))) struct QueueTests {
    /// Claims and settles `count` jobs in one slot.
    private func work(
        _ database: Database, _ count: Int,
        _ outcome: @Sendable (Job) -> Outcome = { _ in .succeeded(Report()) }
    ) async throws -> [Settlement] {
        try await withQueue(database.queueSettings(), logger: quiet) { queue in
            var settlements: [Settlement] = []
            while settlements.count < count, let claim = await queue.next() {
                let job = claim.job
                do { settlements.append(try await claim.settle(outcome(job))) } catch {
                    Issue.record("\(error)")
                }
            }
            return settlements
        }
    }

    @Test func `hands out what was enqueued and stores what came of it`() async throws {
        let database = try await Database.make()
        let bytes = (0..<200_000).map { UInt8(truncatingIfNeeded: $0 &* 31) }
        let address = try await QueueClient.open(database.settings()) { client throws(JobsError) in
            try await client.putBlob(bytes)
        }
        // Away again, so that the settlement has to bring it.
        try await database.withConnection {
            try await $0.run("truncate mayfly.blob, mayfly.blob_chunk")
        }
        try await QueueClient.open(database.settings()) { client throws(JobsError) in
            var new = NewJob(kind: "code", payload: #"{"source": "print(\"\u0000\")"}"#)
            new.timeout = .seconds(90)
            let id = try await client.enqueue(new)
            do {
                let settled = try await work(database, 1) { job in
                    #expect(job.id == id)
                    #expect(job.attempt == 1)
                    #expect(job.timeout == .seconds(90))
                    #expect(job.queueDelay >= .zero)
                    var report = Report(
                        result: #"{"stdout": "a\u0000b \ud83d\ude00 \ud83d \\u0000"}"#,
                        blobs: [Blob(sha256: address, bytes: bytes)])
                    report.machine = "m1"
                    report.seed = [1, 2, 3]
                    report.timings = #"{"run": 1.5}"#
                    report.logTail = "tail\0"
                    return .failed(Failure(.exitNonzero, "exit\0 code 3"), report)
                }
                #expect(settled == [.stored(state: "failed")])
            } catch { Issue.record("\(error)") }
            let job = try await client.show(id)
            #expect(job?.result == "{\"stdout\": \"a\u{FFFD}b \u{1F600} \u{FFFD} \\\\u0000\"}")
            #expect(job?.error?.contains("exit\u{FFFD} code 3") == true)
            #expect(try await client.blob(address) == bytes)
            let attempts = try await client.attempts(id)
            #expect(attempts.count == 1)
            #expect(attempts.first?.machine == "m1")
            #expect(attempts.first?.seed == "010203")
            #expect(attempts.first?.logTail == "tail\u{FFFD}")
        }
    }

    @Test func `is woken by a commit, and wakes who waits for the end`() async throws {
        let database = try await Database.make()
        var settings = database.queueSettings()
        settings.poll = .seconds(60)  // so that only a notification can be fast
        settings.firstPause = .seconds(60)
        let backend = try await database.connect()
        let took = try await withQueue(settings, logger: quiet) { queue -> Duration? in
            async let worked: Void = {
                guard let claim = await queue.next() else { return }
                do { _ = try await claim.settle(.succeeded(Report())) } catch {
                    Issue.record("\(error)")
                }
            }()
            do throws(PostgresError) {
                return try await backend.withNotifications(on: ["mayfly_done"]) {
                    notes async throws(PostgresError) in
                    while try await backend.run("select from mayfly.bell").count == 0 {}
                    let begun = ContinuousClock.now
                    let rows = try await backend.run(
                        "select mayfly.enqueue('code', '{}')::text as id")
                    for await note in notes where note.payload == rows.string(0, "id") { break }
                    return ContinuousClock.now - begun
                }
            } catch { Issue.record("\(error)") }
            await queue.drain()
            await worked
            return nil
        }
        #expect(try #require(took) < .seconds(10))
        await backend.close()
    }

    @Test func `hears of new jobs only while somebody has armed the bell`() async throws {
        let database = try await Database.make()
        let worker = try await database.connect()
        let producer = try await database.connect()
        let me = try await worker.register()
        let name = try await worker.run("select mayfly.worker_channel() as name")
        let channel = NotificationChannel(named: name.string(0, "name"))
        let heard = try await worker.withNotifications(on: [channel]) {
            notes async throws(PostgresError) in
            try await producer.run("select mayfly.enqueue('code', '{}', queue => 'unarmed')")
            try await worker.run(
                "select mayfly.arm_bell(\(me.number), \(me.secret), '{armed}', '1 min')")
            try await producer.run("select mayfly.enqueue('code', '{}', queue => 'other')")
            try await producer.run("select mayfly.enqueue('code', '{}', queue => 'armed')")
            try await worker.run(
                "select mayfly.arm_bell(\(me.number), \(me.secret), '{}', '1 min')")
            try await producer.run("select mayfly.enqueue('code', '{}', queue => 'last')")
            var heard: [String] = []
            for await note in notes {
                heard.append(note.payload)
                if note.payload == "job last" { break }
            }
            return heard
        }
        #expect(heard == ["job armed", "job last"])
        await worker.close()
        await producer.close()
    }

    @Test func `stops a running attempt soon after it was cancelled`() async throws {
        let database = try await Database.make()
        let id = try await database.withConnection { try await $0.enqueue() }
        let took = try await withQueue(database.queueSettings(), logger: quiet) {
            queue -> Duration? in
            guard let claim = await queue.next() else { return nil }
            async let answer = QueueClient.open(database.settings()) { client throws(JobsError) in
                (try await client.cancel(id), ContinuousClock.now)
            }
            #expect(await reason(of: claim.stop) == .cancelled)
            let stopped = ContinuousClock.now
            var took: Duration?
            do {
                let (state, cancelled) = try await answer
                took = stopped - cancelled
                #expect(state == "cancelling")
                #expect(try await claim.settle(.cancelled()) == .stored(state: "cancelled"))
            } catch { Issue.record("\(error)") }
            return took
        }
        #expect(try #require(took) < .seconds(1))
    }

    @Test func `gives back what it holds when it ends, and answers nil once it drains`()
        async throws
    {
        let database = try await Database.make()
        let id = try await database.withConnection { try await $0.enqueue() }
        let second = try await withQueue(database.queueSettings(), logger: quiet) { queue in
            guard let claim = await queue.next() else { return true }
            await queue.drain()
            let second = await queue.next()
            do {
                #expect(try await claim.settle(.interrupted) == .givenBack)
            } catch { Issue.record("\(error)") }
            return second == nil
        }
        #expect(second)
        #expect(try await database.withConnection { try await $0.state(id) } == "queued")
        #expect(try await work(database, 1) == [.stored(state: "succeeded")])
    }

    @Test func `registers anew with a database that does not know it, whatever was under way`()
        async throws
    {
        let database = try await Database.make()
        try await database.withConnection { killer in
            let ending = try await withQueue(database.queueSettings(), logger: quiet) { queue in
                do {
                    await queue.loseClaims()
                    // As after a backup from before it came.
                    try await killer.run("delete from mayfly.worker")
                    try await killer.run(
                        """
                        select pg_terminate_backend(pid) from pg_stat_activity
                        where datname = current_database() and pid <> pg_backend_pid()
                        """)
                    _ = try await killer.enqueue()
                    return try await queue.next()?.settle(.succeeded(Report()))
                } catch {
                    Issue.record("\(error)")
                    return nil
                }
            }
            #expect(ending == .stored(state: "succeeded"))
        }
    }

    @Test func `comes back after its connections were killed`() async throws {
        let database = try await Database.make()
        try await database.withConnection { killer in
            let settled = try await withQueue(database.queueSettings(), logger: quiet) { queue in
                var settled = 0
                do {
                    for _ in 0..<4 {
                        _ = try await killer.enqueue()
                        guard let claim = await queue.next() else { break }
                        try await killer.run(
                            """
                            select pg_terminate_backend(pid) from pg_stat_activity
                            where datname = current_database() and pid <> pg_backend_pid()
                            """)
                        if try await claim.settle(.succeeded(Report()))
                            == .stored(state: "succeeded")
                        {
                            settled += 1
                        }
                    }
                } catch { Issue.record("\(error)") }
                return settled
            }
            #expect(settled == 4)
            #expect(try await killer.count("select count(*) from mayfly.outcome") == 4)
            #expect(try await killer.count("select count(*) from mayfly.running") == 0)
        }
    }

    @Test func `a queue that lost its lease stops its work and is fenced`() async throws {
        let database = try await Database.make()
        let id = try await database.withConnection { try await $0.enqueue() }
        try await database.withConnection { other in
            let settings = database.queueSettings(lease: .seconds(2))
            let settlement = try await withQueue(settings, logger: quiet) { queue -> Settlement? in
                guard let claim = await queue.next() else { return nil }
                do {
                    // As the reaper of another worker would, had this one been silent for too long.
                    try await other.run("update mayfly.worker set dead = true")
                    // This queue reaps, too; one at a time does.
                    while try await other.count("select count(*) from mayfly.running") > 0 {
                        try await other.run("select mayfly.reap()")
                    }
                    #expect(await reason(of: claim.stop) == .lost)
                    return try await claim.settle(.succeeded(Report(result: #"{"stale": true}"#)))
                } catch {
                    Issue.record("\(error)")
                    return nil
                }
            }
            #expect(settlement == .fenced)
            #expect(try await other.state(id) == "queued")
        }
        // The same worker, registered anew, or another takes it.
        #expect(try await work(database, 1) == [.stored(state: "succeeded")])
    }

    @Test func `a queue stores one result while another waits for a lock`() async throws {
        let database = try await Database.make()
        let blocker = try await database.connect()
        let locker = try await blocker.run("select pg_backend_pid() as pid").integer(0, "pid") ?? 0
        try await database.withConnection { connection in
            for _ in 0..<2 { _ = try await connection.enqueue() }
        }
        let settlements = try await withQueue(database.queueSettings(slots: 2), logger: quiet) {
            queue -> [Settlement?] in
            async let slow = settleBlocked(queue, by: blocker, Report())
            do {
                try await waitUntilBlocked(in: database, by: locker)
                let fast = try await queue.next()?.settle(.succeeded(Report()))
                try await blocker.run(Script(name: "end", bytes: Array("rollback".utf8)))
                return [fast, await slow]
            } catch {
                Issue.record("\(error)")
                return []
            }
        }
        #expect(settlements == [.stored(state: "succeeded"), .stored(state: "succeeded")])
        await blocker.close()
    }

    @Test func `a queue claims nothing while too much waits to be stored`() async throws {
        let database = try await Database.make()
        let blocker = try await database.connect()
        let locker = try await blocker.run("select pg_backend_pid() as pid").integer(0, "pid") ?? 0
        try await database.withConnection { connection in
            for _ in 0..<2 { _ = try await connection.enqueue() }
        }
        var settings = database.queueSettings(slots: 2)
        settings.unstoredBytesMax = 10
        let held = try await withQueue(settings, logger: quiet) { queue -> Int64? in
            async let stored = settleBlocked(
                queue, by: blocker, Report(result: #"{"a": "0123456789"}"#))
            do {
                try await waitUntilBlocked(in: database, by: locker)
                async let next = claimAndSettle(queue)
                // Many round trips, in any of which an eager queue would claim.
                for _ in 0..<200 { try await blocker.run("select 1") }
                let held = try await blocker.count("select count(*) from mayfly.running")
                try await blocker.run(Script(name: "end", bytes: Array("rollback".utf8)))
                #expect(await stored == .stored(state: "succeeded"))
                #expect(await next == .stored(state: "succeeded"))
                return held
            } catch {
                Issue.record("\(error)")
                return nil
            }
        }
        #expect(held == 1)
        await blocker.close()
    }

    @Test func `a queue claims no more than there is room for, and all of it in the end`()
        async throws
    {
        let database = try await Database.make()
        try await database.withConnection { connection in
            for _ in 0..<6 { _ = try await connection.enqueue() }
        }
        var settings = database.queueSettings(slots: 6)
        settings.room = { held in max(0, 2 - held) }
        let held = try await withQueue(settings, logger: quiet) { queue in
            await withTaskGroup(of: Int.self) { slots in
                for _ in 0..<6 { slots.addTask { await heldWithNext(of: queue) } }
                return await slots.reduce(into: []) { $0.append($1) }
            }
        }
        #expect(held.allSatisfy { (1...2).contains($0) }, "\(held)")
        let left = try await database.withConnection {
            try await $0.count("select count(*) from mayfly.job where state <> 'succeeded'")
        }
        #expect(left == 0)
    }

    @Test func `a queue without room does not turn round and round, however much is due`()
        async throws
    {
        let database = try await Database.make()
        try await database.withConnection { connection in
            for _ in 0..<20 {
                try await connection.run(
                    """
                    select mayfly.enqueue('code', '{}', run_at => now() + interval '0.1 s')
                    """)
            }
        }
        let asked = AskedCount()
        var settings = database.queueSettings(slots: 2)
        settings.room = { _ in await asked.add() }
        try await withQueue(settings, logger: quiet) { queue in
            async let held = heldWithNext(of: queue)
            try? await ContinuousClock().sleep(for: .seconds(1))
            await queue.drain()
            #expect(await held == 0)
        }
        // At once, after 10 ms, 30 ms and so on, and when something rings.
        let count = await asked.count
        #expect((1...50).contains(count), "\(count)")
    }

    @Test func `settles a result that the database refuses as our failure`() async throws {
        let database = try await Database.make()
        let id = try await database.withConnection { try await $0.enqueue() }
        let settled = try await work(database, 1) { _ in
            .succeeded(Report(result: "this is not JSON"))
        }
        #expect(settled == [.retried])
        let attempts = try await QueueClient.open(database.settings()) { client throws(JobsError) in
            try await client.attempts(id)
        }
        #expect(attempts.first?.reason == "store_failed")
    }

    @Test func `stores each outcome once although the server crashes again and again`() async throws
    {
        let cluster = try Cluster()
        let database = try await Database.make(on: cluster)
        let count = 60
        try await database.withConnection { connection in
            for _ in 0..<count { _ = try await connection.enqueue() }
        }
        let settlements = try await withQueue(database.queueSettings(slots: 4), logger: quiet) {
            queue in
            await withTaskGroup(of: [Settlement].self) { group in
                for _ in 0..<4 {
                    group.addTask {
                        var mine: [Settlement] = []
                        while let claim = await queue.next() {
                            await settleSlowly(claim, &mine)
                        }
                        return mine
                    }
                }
                do {
                    for _ in 0..<3 {
                        try await Task.sleep(for: .milliseconds(300))
                        try await cluster.restart()
                    }
                    while try await database.withConnection({
                        try await $0.count("select count(*) from mayfly.outcome")
                    }) < count { try await Task.sleep(for: .milliseconds(100)) }
                } catch { Issue.record("\(error)") }
                await queue.drain()
                return await group.reduce(into: []) { $0 += $1 }
            }
        }
        let stored = settlements.filter { $0 == .stored(state: "succeeded") }
        #expect(stored.count == count)
        try await database.withConnection { connection in
            let outcomes = try await connection.count("select count(*) from mayfly.outcome")
            #expect(outcomes == Int64(count))
            #expect(
                try await connection.count(
                    "select count(*) from mayfly.attempt where outcome = 'succeeded'")
                    == Int64(count))
            #expect(try await connection.count("select count(*) from mayfly.running") == 0)
        }
        withExtendedLifetime(cluster) {}
    }
}

private func settleSlowly(_ claim: consuming Claim, _ settlements: inout [Settlement]) async {
    try? await Task.sleep(for: .milliseconds(Int.random(in: 0...80)))
    do { settlements.append(try await claim.settle(.succeeded(Report(result: "{}")))) } catch {
        Issue.record("\(error)")
    }
}

/// Works until it is told to stop.
func reason(of stop: StopSignal) async -> StopReason? {
    await stop.guarding { try? await Task.sleep(for: .seconds(60)) }.stopped
}

/// Claims one job and settles it while `blocker` holds a lock on its attempt.
private func settleBlocked(
    _ queue: Queue, by blocker: Connection, _ report: Report
) async -> Settlement? {
    guard let claim = await queue.next() else { return nil }
    let begin = "begin; select from mayfly.running where token = \(claim.job.token) for update"
    do {
        try await blocker.run(Script(name: "lock", bytes: Array(begin.utf8)))
    } catch { Issue.record("\(error)") }
    return try? await claim.settle(.succeeded(report))
}

private func claimAndSettle(_ queue: Queue) async -> Settlement? {
    guard let claim = await queue.next() else { return nil }
    return try? await claim.settle(.succeeded(Report()))
}

/// Returns when somebody waits for a lock of that server process; workers wait for each other now
/// and then, too.
private func waitUntilBlocked(in database: Database, by locker: Int64) async throws {
    try await database.withConnection { connection in
        let statement: Statement =
            """
            select count(*) from pg_stat_activity where \(locker) = any (pg_blocking_pids(pid))
            """
        while try await connection.count(statement) == 0 {}
    }
}

/// Never has room.
private actor AskedCount {
    private(set) var count = 0
    func add() -> Int {
        count += 1
        return 0
    }
}

/// Takes a job and settles it; how many were held when it was.
private func heldWithNext(of queue: Queue) async -> Int {
    guard let claim = await queue.next() else { return 0 }
    let held = await queue.heldCount
    _ = try? await claim.settle(.succeeded(Report()))
    return held
}

extension Queue {
    /// As when the connection breaks while a claim is under way.
    fileprivate func loseClaims() { hasLostClaims = true }
}
