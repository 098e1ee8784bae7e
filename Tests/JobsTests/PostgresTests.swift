// The client: binding, pipelining, large values, notifications, the loss of the connection.

import Events
import Postgres
import TestSupport
import Testing

@Suite("A database connection", .timeLimit(.minutes(2))) struct PostgresTests {
    @Test func `binds every value and splices none`() async throws {
        try await Database.make(migrated: false).withConnection { connection in
            let text = "'; drop table x; -- $1 \\ \" {a,b} \u{1F9B0}"
            let words = ["", "a,b", "{}", "quo\"te", "back\\slash", "NULL", text]
            let bytes: [UInt8] = [0, 255, 39, 92, 0]
            let rows = try await connection.run(
                """
                select \(text)::text as t, \(words)::text[] = array['', 'a,b', '{}', 'quo"te',
                        E'back\\\\slash', 'NULL', \(text)] as w,
                    \(bytes) = E'\\\\x00ff275c00'::bytea as b, \(nil as String?)::text as n,
                    \(-7)::int as i, \(true)::boolean as yes,
                    \(.milliseconds(1500) as Duration?)::interval as d,
                    \([Int64.min, .max])::bigint[] as many
                """)
            #expect(rows.string(0, "t") == text)
            #expect(rows.bool(0, "w"))
            #expect(rows.bool(0, "b"))
            #expect(rows.text(0, "n") == nil)
            #expect(rows.integer(0, "i") == -7)
            #expect(rows.bool(0, "yes"))
            #expect(rows.string(0, "d") == "00:00:01.5")
            #expect(rows.string(0, "many") == "{-9223372036854775808,9223372036854775807}")
        }
    }

    @Test func `refuses a zero byte in text and goes on`() async throws {
        try await Database.make(migrated: false).withConnection { connection in
            #expect(
                await sqlstate { try await connection.run("select \("a\0b")::text") } == "22021")
            let rows = try await connection.run("select 1 as one")
            #expect(rows.integer(0, "one") == 1)
        }
    }

    @Test func `keeps the errors of a pipeline apart`() async throws {
        try await Database.make(migrated: false).withConnection { connection in
            await withTaskGroup(of: Bool.self) { group in
                for number in 0..<300 {
                    group.addTask {
                        let divisor = number % 3
                        do throws(PostgresError) {
                            let rows = try await connection.run(
                                "select \(number)::int + 0 / \(divisor)::int as number")
                            return divisor != 0 && rows.integer(0, "number") == Int64(number)
                        } catch { return divisor == 0 && error.sqlstate == "22012" }
                    }
                }
                for await isRight in group { #expect(isRight) }
            }
        }
    }

    @Test func `makes one transaction of a batch`() async throws {
        try await Database.make(migrated: false).withConnection { connection in
            try await connection.run("create table t (i int primary key)")
            let refused = await sqlstate {
                try await connection.run(["insert into t values (1)", "insert into t values (1)"])
            }
            #expect(refused == "23505")
            #expect(try await connection.count("select count(*) from t") == 0)
            let inserts = (0..<500).map { "insert into t values (\($0))" as Statement }
            let rows = try await connection.run(inserts)
            #expect(rows.reduce(0) { $0 + $1.affected } == 500)
        }
    }

    @Test func `carries 4 MiB both ways at the same time`() async throws {
        try await Database.make(migrated: false).withConnection { connection in
            let text = String(repeating: "x", count: 4 << 20)
            let bytes = [UInt8](repeating: 0xA5, count: 4 << 20)
            try await withThrowingTaskGroup(of: Bool.self) { group in
                for _ in 0..<4 {
                    group.addTask {
                        try await connection.run("select \(text)::text as t").string(0, "t") == text
                    }
                    group.addTask {
                        let echo: Statement = "select \(bytes)::bytea as b"
                        return try await connection.run(echo.binary).bytes(0, "b") == bytes
                    }
                }
                for try await isEqual in group { #expect(isEqual) }
            }
        }
    }

    @Test func `holds a large batch together while others use it, too`() async throws {
        try await Database.make(migrated: false).withConnection { connection in
            try await connection.run("create table t (b bytea)")
            let part = [UInt8](repeating: 1, count: 1 << 18)
            try await withThrowingTaskGroup(of: Void.self) { group in
                group.addTask {
                    let refused = await sqlstate {
                        let parts = (0..<64).map { _ in
                            "insert into t values (\(part))" as Statement
                        }
                        try await connection.run(parts + ["select 1 / 0"])
                    }
                    #expect(refused == "22012")
                }
                for number in 0..<50 {
                    group.addTask {
                        let rows = try await connection.run("select \(number)::int as n")
                        #expect(rows.integer(0, "n") == Int64(number))
                    }
                }
                try await group.waitForAll()
            }
            #expect(try await connection.count("select count(*) from t") == 0)
        }
    }

    @Test func `hears notifications in their order, for as long as it listens`() async throws {
        let database = try await Database.make(migrated: false)
        let listener = try await database.connect()
        let speaker = try await database.connect()
        let heard = try await listener.withNotifications(on: ["alpha", "beta"]) { notes in
            for number in 0..<100 {
                let text = String(number)
                do throws(PostgresError) {
                    try await speaker.run(
                        """
                        select pg_notify((array['alpha', 'beta'])[\(number % 2 + 1)::int], \(text))
                        """
                    )
                } catch { Issue.record("\(error)") }
            }
            var heard: [String] = []
            for await note in notes {
                heard.append(note.payload)
                if heard.count == 100 { break }
            }
            return heard
        }
        #expect(heard == (0..<100).map(String.init))
        await listener.close()
        await speaker.close()
    }

    @Test func `a connection that the server ends fails what waits and what comes`()
        async throws
    {
        let database = try await Database.make(migrated: false)
        let victim = try await database.connect()
        let pid = try #require(
            try await victim.run("select pg_backend_pid() as pid").integer(0, "pid"))
        let (listening, listens) = AsyncStream.makeStream(of: Void.self)
        let ended = Task {
            try await victim.withNotifications(on: ["alpha"]) { notes in
                listens.finish()
                for await _ in notes {}
                return true
            }
        }
        // Else LISTEN may stand behind the statement that is to be ended, and fail with it.
        for await _ in listening {}
        let waiting = Task { await sqlstate { try await victim.run("select pg_sleep(60)") } }
        try await database.withConnection { killer in
            while try await killer.count(
                """
                select count(*) from pg_stat_activity
                where pid = \(pid) and query ~ 'sleep' and state = 'active'
                """) == 0
            {}
            try await killer.run("select pg_terminate_backend(\(pid)::int)")
        }
        #expect(await waiting.value == "57P01")
        #expect(try await ended.value)
        do {
            try await victim.run("select 1")
            Issue.record("a dead connection answered")
        } catch { #expect(error.isUnavailable) }
    }

    @Test func `a connection that cannot be made says why, without the password`() async throws {
        for info in [
            "host=/nowhere/at/all", "postgresql://u:secret@[::1/x",
            "host=/tmp port=x password=secret",
        ] {
            do {
                _ = try await Connection(ConnectionSettings(info))
                Issue.record("connected to \(info)")
            } catch {
                #expect(error.sqlstate == "08001")
                #expect(!error.description.contains("secret"), "\(error)")
                #expect(error.hint != nil)
            }
        }
    }

    @Test func `runs a script as one transaction`() async throws {
        try await Database.make(migrated: false).withConnection { connection in
            let bad = "create table a (i int); insert into a values (1); select 1 / 0;"
            #expect(
                await sqlstate {
                    try await connection.run(Script(name: "bad", bytes: Array(bad.utf8)))
                } == "22012")
            let rows = try await connection.run("select to_regclass('a') is null as gone")
            #expect(rows.bool(0, "gone"))
            try await connection.run(
                Script(name: "good", bytes: Array("create table a (i int); ;".utf8)))
            #expect(try await connection.count("select count(*) from a") == 0)
        }
    }
}
