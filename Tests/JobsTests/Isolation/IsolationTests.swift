// Nobody stops somebody else's work: a producer of tenant a does its worst, in one attack after
// another, and while its transaction stays open, tenant b's jobs are put in, claimed, settled,
// cancelled and kept up as if a were not there.

import Jobs
import Postgres
import TestSupport
import Testing

/// What an attacker has: connections as a producer of tenant a, and what a spy would know of b.
struct Attacker {
    let connection: Connection
    let database: Database
    /// Jobs of a: one that runs, and some that wait.
    let running: Int64
    let waiting: [Int64]
    /// A job of b that runs, its token, its worker, a blob of b and an upload.
    let foreign: Int64
    let foreignToken: Int64
    let foreignBlob: String
    let foreignUpload: Int64

    func run(_ statements: Statement...) async throws {
        for statement in statements { try await connection.run(statement) }
    }
    /// Text that a test made up, several statements if need be; it may begin a transaction.
    func script(_ text: String) async throws {
        try await connection.run(Script(name: "attack", bytes: Array(text.utf8)))
    }
    /// Every statement must be refused with one of the codes.
    func expectRefused(_ codes: Set<String>, _ texts: [String]) async throws {
        for text in texts {
            try await script("begin")  // some commands want a transaction
            let refused = await sqlstate { try await script(text) }
            try await script("rollback")
            #expect(refused.map(codes.contains) == true, "\(text) → \(refused ?? "accepted")")
        }
    }
}

/// Something that a producer of tenant a does; its transaction is still open afterwards.
struct Attack: Sendable, CustomTestStringConvertible {
    let name: String
    let run: @Sendable (Attacker) async throws -> Void
    var testDescription: String { name }

    init(_ name: String, _ run: @escaping @Sendable (Attacker) async throws -> Void) {
        self.name = name
        self.run = run
    }
    /// An attack that is nothing but SQL.
    init(_ name: String, sql: String) {
        self.init(name) { try await $0.script(sql) }
    }
}

@Suite("Tenants are isolated", .timeLimit(.minutes(5))) struct IsolationTests {
    @Test(arguments: Attack.all)
    func `whatever a producer of one tenant does, the jobs of another go on`(
        attack: Attack
    ) async throws {
        let world = try await IsolatedWorld()
        let attacker = try await world.attacker()
        try await attack.run(attacker)
        // Whoever waits for a lock of the attacker fails after 100 ms, and with it the test.
        try await world.liveAsTenantB()
        #expect(try await world.waitingForLocks() == 0)
        await attacker.connection.close()
        try await world.end()
    }

    @Test func `there are at least 25 attacks`() { #expect(Attack.all.count >= 25) }

    @Test func `a listener of tenant a hears nothing of the jobs of tenant b`() async throws {
        let world = try await IsolatedWorld()
        let channels: [NotificationChannel] = [
            "mayfly", "mayfly_job", "mayfly_jobs", "mayfly_done", "mayfly_cancel", "mayfly_bell",
            "mayfly_worker", "mayfly_workers", "mayfly_b", "mayfly_done_b", "default", "b",
        ]
        let spy = try await world.database.connect(user: world.a)
        let heard = try await spy.withNotifications(on: channels) {
            notes async throws(PostgresError) -> [String] in
            do { try await world.liveAsTenantB() } catch { Issue.record("\(error)") }
            // What was sent before this has arrived before it.
            try await spy.run("select pg_notify('mayfly_done', 'the end')")
            var heard: [String] = []
            for await note in notes {
                if note.payload == "the end" { break }
                heard.append("\(note.channel): \(note.payload)")
            }
            return heard
        }
        #expect(heard == [])
        #expect(
            await sqlstate { try await spy.run("select mayfly.done_channel('b')") } == "MF003")
        #expect(
            await sqlstate { try await spy.run("select mayfly.worker_channel()") } == "42501")
        await spy.close()
        try await world.end()
    }

    @Test func `who is granted a tenant hears of its jobs on that tenant's channel`() async throws {
        let world = try await IsolatedWorld()
        let connection = try await world.database.connect(user: world.b)
        let name = try await connection.run("select mayfly.done_channel('b') as name")
        let channel = NotificationChannel(named: name.string(0, "name"))
        let heard = try await connection.withNotifications(on: [channel]) {
            notes async throws(PostgresError) -> String? in
            let rows = try await connection.run(
                "select mayfly.enqueue('code', '{}', tenant => 'b')::text as id")
            let id = rows.string(0, "id")
            try await connection.run("select mayfly.cancel(\(id)::bigint)")
            for await note in notes { return note.payload == id ? id : nil }
            return nil
        }
        #expect(heard != nil)
        await connection.close()
        try await world.end()
    }
}

/// A database with tenants a and b, a worker, and jobs of both.
struct IsolatedWorld {
    let database: Database
    let a: String
    let b: String

    init() async throws {
        database = try await Database.make()
        a = "a_\(database.name)"
        b = "b_\(database.name)"
        try await Database.administer(
            database.cluster,
            """
            create role \(a) login in role mayfly_producer;
            create role \(b) login in role mayfly_producer;
            select mayfly.grant_tenant('\(a)', 'a');
            select mayfly.grant_tenant('\(b)', 'b');
            """, database: database.name)
    }

    /// Jobs of both tenants are there, and one of each runs.
    func attacker() async throws -> Attacker {
        try await database.withConnection { owner in
            func enqueue(_ tenant: String) async throws -> Int64 {
                let rows = try await owner.run(
                    """
                    select mayfly.enqueue('code', '{"of": "before"}', tenant => \(tenant)) as id
                    """)
                return try #require(rows.integer(0, "id"))
            }
            let running = try await enqueue("a")
            let foreign = try await enqueue("b")
            let held = try await owner.claim(try await owner.register(), 2)
            var waiting: [Int64] = []
            for _ in 0..<200 { waiting.append(try await enqueue("a")) }
            let blob = try await owner.run("select mayfly.put_blob('secret of b', 'b') as sha256")
            let upload = try await owner.run("select mayfly.begin_blob('b') as upload")
            return Attacker(
                connection: try await database.connect(user: a), database: database,
                running: running, waiting: waiting, foreign: foreign,
                foreignToken: try #require(held.first { $0.id == foreign }).token,
                foreignBlob: blob.string(0, "sha256"),
                foreignUpload: try #require(upload.integer(0, "upload")))
        }
    }

    /// Enqueue, claim, blobs, settle, cancel and upkeep, none of which waits.
    func liveAsTenantB() async throws {
        let impatient: Statement =
            """
            select set_config('lock_timeout', '100ms', false),
                set_config('statement_timeout', '20s', false)
            """
        let producer = try await database.connect(user: b)
        let worker = try await database.connect()
        for connection in [producer, worker] { try await connection.run(impatient) }
        let me = try await worker.register(lease: "1 min")
        let ids = try await putIn(producer)
        for id in ids.prefix(2) {
            let held = try await find(id, worker, me)
            try await settle(held, worker, me)
            let rows = try await producer.run("select state from mayfly.get_job(\(id))")
            #expect(rows.string(0, "state") == "succeeded")
        }
        let running = try await find(ids[2], worker, me)
        let answer = try await producer.run("select mayfly.cancel(\(ids[2])) as state")
        #expect(answer.string(0, "state") == "cancelling")
        let beat = try await worker.heartbeat(me, [running.token])
        #expect(beat.first { $0.token == running.token }?.why == "cancelled")
        #expect(try await worker.settle(me, running, "cancelled") == "cancelled")
        let last = try await producer.run(
            "select mayfly.enqueue('code', '{}', tenant => 'b') as id")
        let id = try #require(last.integer(0, "id"))
        let waiting = try await producer.run("select mayfly.cancel(\(id)) as state")
        #expect(waiting.string(0, "state") == "cancelled")
        try await upkeep(worker)
        #expect(try await producer.run("select id from mayfly.list()").count >= 4)
        try await worker.run("select mayfly.leave(\(me.number), \(me.secret))")
        await producer.close()
        await worker.close()
    }

    private func putIn(_ producer: Connection) async throws -> [Int64] {
        let single = try await producer.run(
            "select mayfly.enqueue('code', '{}', tenant => 'b', unique_key => 'key') as id")
        let many = try await producer.run(
            """
            select id from mayfly.enqueue_many('[{"kind": "code", "payload": {}, "tenant": "b"},
                {"kind": "code", "payload": {}, "tenant": "b", "priority": 7}]') id
            """)
        return try [#require(single.integer(0, "id"))]
            + (0..<many.count).map { try #require(many.integer($0, "id")) }
    }

    /// Claims until the job is there, at most a few times; what else comes is given back.
    private func find(
        _ id: Int64, _ worker: Connection, _ me: TestWorker
    ) async throws -> (id: Int64, token: Int64, attempt: Int) {
        let held = try await worker.run("select token from mayfly.running where id = \(id)")
        if let token = held.count > 0 ? held.integer(0, "token") : nil { return (id, token, 1) }
        var found: (id: Int64, token: Int64, attempt: Int)?
        for _ in 0..<3 where found == nil {
            let rows = try await worker.run(
                """
                select id, token, attempt from mayfly.claim(\(me.number), \(me.secret),
                    '{default}', '{code}', 5000)
                """)
            for row in 0..<rows.count where rows.integer(row, "id") == id {
                found = (id, rows.integer(row, "token") ?? 0, 1)
            }
        }
        return try #require(found, "the job of tenant b is not found")
    }

    private func settle(
        _ held: (id: Int64, token: Int64, attempt: Int), _ worker: Connection, _ me: TestWorker
    ) async throws {
        let bytes = Array("the result".utf8)
        let rows = try await worker.run("select encode(sha256('the result'), 'hex') as sha256")
        let sha256 = rows.string(0, "sha256")
        try await worker.run([
            """
            select mayfly.store_blob(\(me.number), \(me.secret), \(held.token), \(sha256),
                \(bytes))
            """,
            """
            select mayfly.settle(\(me.number), \(me.secret), \(held.id), \(held.token),
                'succeeded', result => '{}')
            """,
        ])
    }

    /// A dead worker's job is given back; weeks are made and dropped; nothing waits.
    private func upkeep(_ worker: Connection) async throws {
        try await worker.run("select mayfly.make_week('2025-03-05')")
        let dead = try await worker.register()
        let rows = try await worker.run(
            """
            select id from mayfly.claim(\(dead.number), \(dead.secret), '{}', '{code}', 1)
            """)
        try await worker.lapse(dead)
        let reaped = try await worker.count("select mayfly.reap() as count")
        #expect(reaped >= Int64(rows.count))
        // Old weeks may be in use; then they are left, and it says so, and does all the rest.
        for _ in 0..<20 {
            if try await worker.run("select did from mayfly.maintain() did").count == 0 { break }
        }
        #expect(try await worker.run("select did from mayfly.maintain() did").count == 0)
    }

    func waitingForLocks() async throws -> Int64 {
        try await database.withConnection {
            try await $0.count(
                """
                select count(*) from pg_locks l join pg_stat_activity s using (pid)
                where not l.granted and s.datname = current_database()
                """)
        }
    }

    func end() async throws {
        try await database.withConnection { owner in
            let left = try await owner.run(
                "select gid from pg_prepared_xacts where database = current_database()")
            for row in 0..<left.count {
                try await owner.run(
                    Script(
                        name: "end",
                        bytes: Array("rollback prepared '\(left.string(row, "gid"))'".utf8)))
            }
        }
    }
}
