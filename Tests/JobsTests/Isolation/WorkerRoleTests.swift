// The role mayfly_worker with the number of another worker, and without its secret: it can read,
// renew, settle and leave nothing of that one's.

import Jobs
import Postgres
import TestSupport
import Testing

@Suite("A worker without another's secret", .timeLimit(.minutes(2))) struct WorkerRoleTests {
    /// Everything that a worker may call in its own name, in the name of `number`.
    private func calls(
        as number: Int64, _ secret: String?, on held: (id: Int64, token: Int64, attempt: Int)
    ) -> [Statement] {
        let part: [UInt8] = [1, 2, 3]
        return [
            "select * from mayfly.heartbeat(\(number), \(secret)::uuid, '1 h', '{}')",
            "select * from mayfly.claim(\(number), \(secret)::uuid, '{}', '{code}', 9)",
            """
            select mayfly.settle(\(number), \(secret)::uuid, \(held.id), \(held.token), 'succeeded')
            """,
            "select mayfly.give_back(\(number), \(secret)::uuid, '{}')",
            "select mayfly.leave(\(number), \(secret)::uuid)",
            "select mayfly.report_health(\(number), \(secret)::uuid, 'ill', 'x')",
            "select mayfly.arm_bell(\(number), \(secret)::uuid, '{}', '1 s')",
            "select mayfly.get_input(\(number), \(secret)::uuid, \(held.token), repeat('a', 64))",
            """
            select mayfly.store_blob(\(number), \(secret)::uuid, \(held.token), repeat('a', 64),
                \(part))
            """,
            """
            select mayfly.append_upload(\(number), \(secret)::uuid, \(held.token), null, 0,
                \(part), 3)
            """,
            """
            select mayfly.seal_upload(\(number), \(secret)::uuid, \(held.token), 1,
                repeat('a', 64), 3)
            """,
            """
            select mayfly.report_output(\(number), \(secret)::uuid, \(held.token), 1, 0, 'stdout',
                0, 1, 'x')
            """,
            "select mayfly.report_progress(\(number), \(secret)::uuid, \(held.token), '1')",
        ]
    }

    @Test
    func `a worker without the secret reads, renews, settles and leaves nothing of that other one`()
        async throws
    {
        let database = try await Database.make()
        let name = "worker_\(database.name)"
        try await Database.administer(
            database.cluster, "create role \(name) login in role mayfly_worker")
        try await database.withConnection { owner in
            let id = try await owner.enqueue(#"{"files": [{"blob": "none"}]}"#)
            let victim = try await owner.register()
            let held = try #require(try await owner.claim(victim).first)
            let lease: Statement =
                "select lease_until from mayfly.worker where worker = \(victim.number)"
            let before = try await owner.run(lease).string(0, "lease_until")
            try await database.withConnection(user: name) { attacker in
                let own = try await attacker.register()
                let guesses = [own.secret, nil, "00000000-0000-0000-0000-000000000000"]
                for secret in guesses {
                    for call in calls(as: victim.number, secret, on: held) {
                        #expect(
                            await sqlstate { try await attacker.run(call) } == "MF006",
                            "\(call.text)")
                    }
                }
                // With its own number it gets no further: the attempt is not its own.
                for call in calls(as: own.number, own.secret, on: held)
                where ["settle(", "blob", "upload", "input"].contains(where: call.text.contains) {
                    #expect(
                        await sqlstate { try await attacker.run(call) } == "MF005",
                        "\(call.text)")
                }
            }
            #expect(try await owner.run(lease).string(0, "lease_until") == before)
            #expect(try await owner.state(id) == "running")
            #expect(try await owner.count("select count(*) from mayfly.blob_chunk") == 0)
            #expect(try await owner.settle(victim, held, "succeeded") == "succeeded")
        }
    }

    @Test func `a worker cannot take a lease for years, whoever asks`() async throws {
        try await Database.make().withConnection { connection in
            let me = try await connection.register()
            for lease in ["100 years", "61 min", "-1 s", "1 ms"] {
                #expect(
                    await sqlstate {
                        try await connection.run(
                            """
                            select * from mayfly.heartbeat(\(me.number), \(me.secret),
                                \(lease)::interval, '{}')
                            """)
                    } == "MF001", "\(lease)")
            }
        }
    }

    @Test
    func
        `the database stores bytes under an address only if they are it, whatever was sent before`()
        async throws
    {
        try await Database.make().withConnection { connection in
            for _ in 0..<2 { _ = try await connection.enqueue() }
            let me = try await connection.register()
            let held = try await connection.claim(me, 2)
            let evil = Array("evil".utf8)
            let digest = try await connection.run(
                "select encode(sha256('hello'), 'hex') as sha256")
            let address = digest.string(0, "sha256")
            #expect(
                await sqlstate {
                    try await connection.run(
                        """
                        select mayfly.store_blob(\(me.number), \(me.secret), \(held[0].token),
                            \(address), \(evil))
                        """)
                } == "MF007")
            // An upload is nobody's blob, and another attempt's is not one's own.
            let upload = try await connection.run(
                """
                select mayfly.append_upload(\(me.number), \(me.secret), \(held[0].token), null, 0,
                    \(evil), 4) as upload
                """
            ).integer(0, "upload")
            #expect(
                await sqlstate { try await connection.run("select mayfly.get_blob(\(address))") }
                    == "MF007")
            for call in [
                """
                select mayfly.append_upload(\(me.number), \(me.secret), \(held[1].token),
                    \(upload), 0, \(evil), 4)
                """,
                """
                select mayfly.seal_upload(\(me.number), \(me.secret), \(held[1].token), \(upload),
                    \(address), 4)
                """,
            ] as [Statement] {
                #expect(await sqlstate { try await connection.run(call) } == "MF007")
            }
            try await connection.run("select mayfly.put_blob('hello')")
            let stored = try await connection.run(
                "select convert_from(mayfly.get_blob(\(address)), 'UTF8') as text")
            #expect(stored.string(0, "text") == "hello")
        }
    }

    @Test func `a worker works at READ COMMITTED, and says so when it is not`() async throws {
        let database = try await Database.make()
        try await database.withConnection { connection in
            let me = try await connection.register()
            _ = try await connection.enqueue()
            let refused = await sqlstate {
                try await connection.run([
                    "set transaction isolation level repeatable read",
                    """
                    select * from mayfly.claim(\(me.number), \(me.secret), '{}', '{code}', 1)
                    """,
                ])
            }
            #expect(refused == "MF009")
        }
        try await Database.administer(
            database.cluster,
            "alter database \(database.name) set default_transaction_isolation = 'repeatable read'")
        let settled = try await withQueue(database.queueSettings(), logger: quiet) {
            queue -> Settlement? in
            guard let claim = await queue.next() else { return nil }
            return try? await claim.settle(.succeeded(Report()))
        }
        #expect(settled == .stored(state: "succeeded"))
    }
}
