// Secrets in the database: nothing that is not sealed gets in, by whatever way; public keys are
// published, replaced and retired.

import Jobs
import Postgres
import TestSupport
import Testing

@Suite("A secret in the database", .timeLimit(.minutes(2))) struct SecretRowTests {
    /// Of the right shape; the database has no key to look further.
    private static let sealed =
        "eyJhbGciOiJFQ0RILUVTIn0..UFgKcNmXW6ymWAbO.-nvIEAAhqQ.6-GBu_6h2RLKgVFgV-jQYg"

    @Test func `is sealed or not stored, by whatever way it comes`() async throws {
        try await Database.make().withConnection { connection in
            let clear = "hunter2-in-the-clear"
            let refused = [
                #"{"password": "\#(clear)"}"#, #"{"secrets": {"K": "\#(clear)"}}"#,
                #"{"secrets": "\#(clear)"}"#, #"{"secrets": ["\#(clear)"]}"#,
                #"{"secrets": {"K": {"value": "\#(clear)"}}}"#, #"{"password": 12345678}"#,
                #"{"password": {"blob": "\#(clear)"}}"#, #"{"password": ""}"#,
                #"{"secrets": {"A": "\#(Self.sealed)", "B": "\#(clear)"}}"#,
                #"{"secrets": {"A": "\#(Self.sealed).\#(clear)"}}"#,
                #"{"secrets": {"A": "\#(clear).\#(Self.sealed)"}}"#,
                #"{"secrets": {"A": " \#(Self.sealed)"}}"#,
                #"{"secrets": {"A": "\#(Self.sealed)\n\#(clear)"}}"#,
                #"{"setup": {"secrets": {"K": "\#(clear)"}}}"#,
                #"{"steps": [{}, {"secrets": {"K": "\#(clear)"}}]}"#,
                #"{"steps": [{"secrets": "\#(clear)"}]}"#,
                #"{"password": "\#(String(repeating: "A", count: 20_000))"}"#,
            ]
            for payload in refused {
                let job = #"{"kind": "code", "payload": \#(payload)}"#
                let many = #"[{"kind": "code", "payload": {}}, \#(job)]"#
                let ways: [Statement] = [
                    "select mayfly.enqueue('code', \(payload)::jsonb)",
                    "select mayfly.enqueue('document', \(payload)::jsonb)",
                    "insert into mayfly.job (kind, payload) values ('code', \(payload)::jsonb)",
                    "select mayfly.enqueue_many(\(many)::jsonb)",
                ]
                for way in ways {
                    do {
                        try await connection.run(way)
                        Issue.record("stored: \(payload.prefix(80))")
                    } catch let error as PostgresError {
                        #expect(error.sqlstate == "MF002", "\(error)")
                        #expect(!"\(error.message) \(error.hint ?? "")".contains(clear))
                        #expect(error.hint?.contains("mayfly secret seal") == true)
                    }
                }
            }
            #expect(try await connection.count("select count(*) from mayfly.job_data") == 0)
        }
    }

    @Test func `that is sealed is stored, listed and replayed`() async throws {
        try await Database.make().withConnection { connection in
            let payload = #"{"password": "\#(Self.sealed)", "secrets": {"K": "\#(Self.sealed)"}}"#
            let id = try await connection.enqueue(payload)
            try await connection.run(
                "insert into mayfly.job (kind, payload) values ('code', \(payload)::jsonb)")
            let many = #"[{"kind": "code", "payload": \#(payload)}]"#
            try await connection.run("select mayfly.enqueue_many(\(many)::jsonb)")
            // What only looks like one is somebody's own.
            _ = try await connection.enqueue(#"{"env": {"password": "x"}, "secrets": {}}"#)
            try await connection.run("select mayfly.cancel(\(id))")
            let again = try await connection.run("select mayfly.replay(\(id)) as id")
            let copy = try #require(again.integer(0, "id"))
            #expect(
                try await connection.count(
                    """
                    select count(*) from mayfly.job a join mayfly.job b on a.payload = b.payload
                    where a.id = \(id) and b.id = \(copy)
                    """) == 1)
        }
    }

    private static func jwk(_ kid: String) -> String {
        let coordinate = String(repeating: "A", count: 43)
        let point = #""x": "\#(coordinate)", "y": "\#(coordinate)""#
        return #"{"kty": "EC", "crv": "P-256", \#(point), "kid": "\#(kid)"}"#
    }

    @Test func `is sealed with the newest key that is not retired`() async throws {
        let database = try await Database.make()
        try await QueueClient.open(database.settings()) { client throws(JobsError) in
            var refused: String?
            do throws(JobsError) { _ = try await client.secretKey() } catch {
                refused = error.sqlstate
            }
            #expect(refused == "MF011")
            let ids = ["000000000000000a", "000000000000000b", "000000000000000c"]
            for id in ids { try await client.publishSecretKey(Self.jwk(id)) }
            let newest = try await client.secretKey()
            #expect(newest.contains(ids[2]))
            try await client.retireSecretKey(ids[2])
            let left = try await client.secretKey()
            #expect(left.contains(ids[1]))
            let rows = try await client.secretKeys()
            #expect(rows.map(\.isCurrent) == [false, true, false])
            // Published again, it is the newest again.
            try await client.publishSecretKey(Self.jwk(ids[0]))
            let again = try await client.secretKey()
            #expect(again.contains(ids[0]))
            try await client.publishSecretKey(Self.jwk(ids[2]))
            let all = try await client.secretKeys()
            #expect(all.allSatisfy { $0.retiredAt == nil })
            #expect(all.first?.id == ids[2])
        }
        try await database.withConnection { connection in
            for wrong in [
                "{}", "[]", #"{"kid": "000000000000000a"}"#, Self.jwk("../../etc"),
                Self.jwk("000000000000000d").replacing("P-256", with: "X25519"),
                Self.jwk("000000000000000d").replacing("\"kty\"", with: #""d": "x", "kty""#),
            ] {
                #expect(
                    await sqlstate {
                        try await connection.run(
                            "select mayfly.publish_secret_key(\(wrong)::jsonb)")
                    } == "MF011", "\(wrong)")
            }
            #expect(
                await sqlstate {
                    try await connection.run("select mayfly.retire_secret_key('no')")
                } == "MF011")
        }
    }

    @Test func `has keys that operators publish and producers only read`() async throws {
        let database = try await Database.make()
        let names = ["producer", "worker", "operator"].map { "\($0)_\(database.name)" }
        try await Database.administer(
            database.cluster,
            zip(names, ["mayfly_producer", "mayfly_worker", "mayfly_operator"]).map {
                "create role \($0) login in role \($1);"
            }.joined(), database: database.name)
        let publish: Statement =
            "select mayfly.publish_secret_key(\(Self.jwk("000000000000000a"))::jsonb)"
        let retire: Statement = "select mayfly.retire_secret_key('000000000000000a')"
        try await database.withConnection(user: names[2]) { try await $0.run(publish) }
        for name in names.prefix(2) {
            try await database.withConnection(user: name) { connection in
                for statement in [publish, retire, "delete from mayfly.secret_key"] {
                    #expect(
                        await sqlstate { try await connection.run(statement) } == "42501",
                        "\(name): \(statement.text)")
                }
            }
        }
        try await database.withConnection(user: names[0]) { connection in
            let rows = try await connection.run("select mayfly.secret_key() ->> 'kid' as kid")
            #expect(rows.first("kid") == "000000000000000a")
            #expect(
                await sqlstate { try await connection.run("select * from mayfly.secret_key") }
                    == "42501")
        }
        try await database.withConnection(user: names[1]) { connection in
            let count = try await connection.count("select count(*) from mayfly.secret_key")
            #expect(count == 1)
        }
        try await database.withConnection(user: names[2]) { try await $0.run(retire) }
    }
}
