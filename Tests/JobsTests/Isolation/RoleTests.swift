// What each role can and cannot reach. Roles belong to the whole server, so their names are random.

import Jobs
import Postgres
import TestSupport
import Testing

@Suite("A role", .timeLimit(.minutes(2))) struct RoleTests {
    private struct Roles {
        let database: Database
        let plain, acme, all: String
    }

    private func make() async throws -> Roles {
        let database = try await Database.make()
        let names = ["plain", "acme", "all"].map { "\($0)_\(database.name)" }
        try await Database.administer(
            database.cluster,
            names.map { "create role \($0) login in role mayfly_producer;" }.joined() + """
                select mayfly.grant_tenant('\(names[0])', '');
                select mayfly.grant_tenant('\(names[1])', 'acme');
                select mayfly.grant_tenant('\(names[2])', '*');
                """, database: database.name)
        return Roles(database: database, plain: names[0], acme: names[1], all: names[2])
    }

    @Test func `a producer's role reaches functions and the view, nothing else`() async throws {
        let roles = try await make()
        try await roles.database.withConnection(user: roles.plain) { connection in
            let id = try await connection.enqueue()
            #expect(try await connection.state(id) == "queued")
            try await connection.run("insert into mayfly.job (kind, payload) values ('code', '{}')")
            try await connection.run(
                "select mayfly.list(), mayfly.cancel(\(id)), mayfly.replay(\(id))")
            let forbidden: [Statement] = [
                "select * from mayfly.job_data", "select * from mayfly.outcome",
                "select * from mayfly.attempt",
                "select * from mayfly.ready", "select * from mayfly.worker",
                "select * from mayfly.setting",
                "select * from mayfly.blob_chunk", "select * from mayfly.tenant_grant",
                "select * from mayfly.stats", "select * from mayfly.migration",
                "insert into mayfly.ready (id) values (1)",
                "update mayfly.setting set losses_max = 1",
                "select mayfly.claim(1, gen_random_uuid(), '{}', '{code}', 1)",
                "select mayfly.reap()", "select mayfly.worker_channel()",
                "select mayfly.register('x', 'x', '{code}', '{}', 1, '1 s')",
                "select mayfly.finish(\(id), '', 'succeeded', 1::smallint, now(), null, null)",
                "select mayfly.pause('default')",
                "select mayfly.grant_tenant('mayfly_producer', '*')",
                "select mayfly.replay_all()", "select mayfly.maintain()",
                "select mayfly.make_week(now())",
                "select mayfly.take_key('', 'k', 1)", "select mayfly.check_job_id(\(id))",
                "select mayfly.store_blob(1, gen_random_uuid(), 1, 'a', 'a')",
                "select mayfly.append_upload(1, gen_random_uuid(), 1, 1, 0, 'a', 1)",
                "select mayfly.report_output(1, gen_random_uuid(), 1, 1, 0, 'stdout', 0, 1, 'x')",
                "select mayfly.report_progress(1, gen_random_uuid(), 1, '1')",
                "select * from mayfly.live_output", "select * from mayfly.follower",
                "select mayfly.seal_upload(1, gen_random_uuid(), 1, 1, 'a', 1)",
                "select mayfly.drop_uploads()",
                "create table mayfly.mine (a int)", "select * from mayfly.secret",
                "select mayfly.prune('30 days')", "select mayfly.channel('workers')",
                "select nextval('mayfly.id_sequence')", "truncate mayfly.job_data",
            ]
            for statement in forbidden {
                #expect(
                    await sqlstate { try await connection.run(statement) } == "42501",
                    "\(statement.text)")
            }
            for statement: Statement in [
                "delete from mayfly.job", "update mayfly.job set priority = 1",
            ] { #expect(await sqlstate { try await connection.run(statement) } == "55000") }
        }
    }

    @Test func `a producer's role sees its own tenants only`() async throws {
        let roles = try await make()
        let settings = roles.database
        let theirs = try await settings.withConnection { owner in
            try await owner.run("select mayfly.enqueue('code', '{}', tenant => 'acme') as id")
                .integer(0, "id") ?? 0
        }
        try await settings.withConnection(user: roles.plain) { plain in
            #expect(try await plain.count("select count(*) from mayfly.job") == 0)
            for statement: Statement in [
                "select mayfly.cancel(\(theirs))", "select mayfly.replay(\(theirs))",
            ] { #expect(await sqlstate { try await plain.run(statement) } == "MF004") }
            for statement: Statement in [
                "select mayfly.enqueue('code', '{}', tenant => 'acme')",
                #"select mayfly.enqueue_many('[{"kind":"code","payload":{},"tenant":"acme"}]')"#,
                "insert into mayfly.job (kind, payload, tenant) values ('code', '{}', 'acme')",
            ] { #expect(await sqlstate { try await plain.run(statement) } == "MF003") }
            // A function of one's own in the query must not see what the view hides.
            try await plain.run(
                """
                create function pg_temp.spy(id bigint) returns boolean language plpgsql cost 0.0001
                    as $$
                begin raise exception 'seen %', id; end $$
                """)
            #expect(
                try await plain.run("select * from mayfly.job where pg_temp.spy(id)").count == 0)
        }
        try await settings.withConnection(user: roles.acme) { acme in
            #expect(try await acme.state(theirs) == "queued")
            #expect(await sqlstate { _ = try await acme.enqueue() } == "MF003")
            let rows = try await acme.run("select mayfly.cancel(\(theirs)) as state")
            #expect(rows.string(0, "state") == "cancelled")
        }
        try await settings.withConnection(user: roles.all) { all in
            let jobs = try await all.count("select count(*) from mayfly.job")
            #expect(jobs == 1)
        }
        // The role that was set counts, not the one that logged in.
        try await settings.withConnection { owner in
            let role: Statement = "select set_config('role', \(roles.plain), false)"
            try await owner.run(role)
            #expect(try await owner.count("select count(*) from mayfly.job") == 0)
        }
    }

    @Test func `a worker's role works but neither enqueues nor steers`() async throws {
        let roles = try await make()
        let name = "worker_\(roles.database.name)"
        try await Database.administer(
            roles.database.cluster, "create role \(name) login in role mayfly_worker",
            database: "postgres")
        try await roles.database.withConnection { _ = try await $0.enqueue() }
        try await roles.database.withConnection(user: name) { connection in
            let worker = try await connection.register()
            let held = try #require(try await connection.claim(worker).first)
            #expect(try await connection.settle(worker, held, "succeeded") == "succeeded")
            try await connection.run(
                """
                select mayfly.reap(), mayfly.arm_bell(\(worker.number), \(worker.secret), '{}', '1 s')
                """)
            for statement: Statement in [
                "select mayfly.enqueue('code', '{}')", "select mayfly.pause('default')",
                "select * from mayfly.job_data", "update mayfly.worker set dead = false",
            ] { #expect(await sqlstate { try await connection.run(statement) } == "42501") }
        }
    }

    @Test func `an operator's role reads everything and steers`() async throws {
        let roles = try await make()
        let name = "operator_\(roles.database.name)"
        try await Database.administer(
            roles.database.cluster, "create role \(name) login in role mayfly_operator",
            database: "postgres")
        try await roles.database.withConnection {
            try await $0.run("select mayfly.enqueue('code', '{}', tenant => 'acme')")
        }
        try await roles.database.withConnection(user: name) { connection in
            for statement: Statement in [
                "select * from mayfly.job_data", "select * from mayfly.attempt",
                "select * from mayfly.stats",
                "select * from mayfly.health", "select mayfly.pause('default')",
                "select mayfly.resume('default')",
                "select mayfly.grant_tenant(\(roles.plain), 'acme')", "select mayfly.replay_all()",
                "select mayfly.maintain()", "select mayfly.prune('30 days')",
                "select * from mayfly.list('queued')",
            ] {
                #expect(
                    await sqlstate { try await connection.run(statement) } == nil,
                    "\(statement.text)")
            }
            let jobs = try await connection.count("select count(*) from mayfly.job")
            #expect(jobs == 1)
            #expect(
                await sqlstate { try await connection.run("delete from mayfly.job_data") }
                    == "42501")
        }
    }
}
