// What a hostile producer of tenant a may try, by nothing but its own connection.

import Postgres
import Testing

extension Attack {
    static let all = transactions + locks + notifications + payloads + shadows + trespasses

    /// A transaction that did something and stays open.
    private static let transactions: [Attack] = [
        Attack(
            "an open transaction after an enqueue into a lane that nobody has made yet",
            sql: """
                begin; select mayfly.enqueue('code', '{}', tenant => 'a', priority => 7),
                    mayfly.enqueue('code', '{}', tenant => 'a', priority => -9),
                    mayfly.enqueue('code', '{}', tenant => 'a');
                """),
        Attack(
            "an open transaction after 10,000 jobs in as many queues",
            sql: """
                begin; select count(*) from mayfly.enqueue_many((select jsonb_agg(
                    jsonb_build_object('kind', 'code', 'payload', '{}'::jsonb, 'tenant', 'a',
                        'queue', 'queue-' || n)) from generate_series(1, 10000) n));
                """),
        Attack(
            "1,000 jobs in as many queues, committed",
            sql: """
                select count(*) from mayfly.enqueue_many((select jsonb_agg(
                    jsonb_build_object('kind', 'code', 'payload', '{}'::jsonb, 'tenant', 'a',
                        'queue', 'queue-' || n)) from generate_series(1, 1000) n));
                """),
        Attack("an open transaction after cancelling a job that runs") {
            try await $0.script("begin")
            try await $0.run("select mayfly.cancel(\($0.running))")
        },
        Attack("an open transaction that follows a job that runs") {
            try await $0.script("begin")
            try await $0.run("select count(*) from mayfly.follow(\($0.running))")
        },
        Attack("an open transaction after cancelling 200 jobs that wait") {
            try await $0.script("begin")
            try await $0.run("select mayfly.cancel(id) from unnest(\($0.waiting)::bigint[]) id")
        },
        Attack(
            "an open transaction after putting the blob that is b's result",
            sql: "begin; select mayfly.put_blob('the result', 'a')"),
        Attack(
            "an open transaction in the middle of an upload of the bytes that are b's result",
            sql: """
                begin; select mayfly.append_blob(mayfly.begin_blob('a'), 'the result');
                select mayfly.append_blob(u, repeat('x', 8000000)::bytea),
                    mayfly.finish_blob(u) from mayfly.begin_blob('a') u;
                """),
        Attack(
            "an open transaction that read the view",
            sql: "begin; select count(*) from mayfly.job; select count(*) from mayfly.list()"),
        Attack(
            "an open serializable transaction that read and wrote",
            sql: """
                begin isolation level serializable; select count(*) from mayfly.job;
                select mayfly.enqueue('code', '{}', tenant => 'a');
                """),
        Attack(
            "an open repeatable-read transaction with a cursor",
            sql: """
                begin isolation level repeatable read; declare c cursor for select * from mayfly.job;
                fetch 1 from c;
                """),
        Attack("an open transaction after replays") {
            try await $0.run("select mayfly.cancel(\($0.waiting[0]))")
            try await $0.script("begin")
            try await $0.run("select mayfly.replay(\($0.waiting[0]))")
        },
        Attack(
            "an open transaction that took the unique key that b is going to use",
            sql: """
                begin; select mayfly.enqueue('code', '{}', tenant => 'a', unique_key => 'key')
                """),
        Attack(
            "a prepared transaction that nobody ends",
            sql: """
                begin; select mayfly.enqueue('code', '{}', tenant => 'a', priority => 7);
                prepare transaction 'attack';
                """),
        Attack("an open transaction of 1,000 subtransactions") { attacker in
            try await attacker.script("begin")
            for _ in 0..<10 {
                try await attacker.script(
                    String(
                        repeating:
                            "savepoint s; select mayfly.enqueue('code', '{}', tenant => 'a');",
                        count: 100))
            }
        },
        Attack(
            "2,000 jobs before b's, committed, and an open transaction that cancels them all",
            sql: """
                select count(*) from mayfly.enqueue_many((select jsonb_agg(
                    '{"kind": "code", "payload": {}, "tenant": "a"}'::jsonb)
                    from generate_series(1, 2000)));
                begin; select count(mayfly.cancel(id)) from mayfly.job where state = 'queued';
                """),
    ]

    private static let locks: [Attack] = [
        Attack("LOCK TABLE on the view, in every mode that is granted") {
            // From PostgreSQL 16 on, INSERT grants `row share`, too; `row exclusive` is stronger.
            try await $0.script(
                """
                begin; lock table mayfly.job in access share mode;
                lock table mayfly.job in row exclusive mode
                """)
        },
        Attack("LOCK TABLE on the view, in every stronger mode") {
            try await $0.expectRefused(
                ["42501"],
                [
                    "share update exclusive", "share", "share row exclusive", "exclusive",
                    "access exclusive",
                ].map { "lock table mayfly.job in \($0) mode" })
        },
        Attack("LOCK TABLE on the tables below it") {
            try await $0.expectRefused(
                ["42501"],
                [
                    "job_data", "outcome", "attempt", "ready", "delayed", "running", "worker",
                    "lane", "lane_news", "cancel_request", "bell", "live_key", "queue", "blob",
                    "blob_chunk", "blob_use", "duty", "setting", "secret", "tenant_grant",
                ].map { "lock table mayfly.\($0) in access share mode" })
        },
        Attack("LOCK TABLE on what a producer may read") {
            try await $0.script("begin; lock table mayfly.reason in access share mode")
        },
        Attack(
            "every advisory lock that the schema ever used, and many more",
            sql: """
                select pg_advisory_lock(n, m) from unnest(array[771000, 771001, 771002]) n,
                    generate_series(0, 20) m;
                select pg_advisory_lock(n) from generate_series(0, 500) n;
                select pg_advisory_lock(hashtext('mayfly')), pg_advisory_lock(771000);
                begin; select pg_advisory_xact_lock(771001, hashtext('default/code/0'));
                """),
        Attack("SELECT FOR UPDATE on the view") {
            try await $0.expectRefused(
                ["42501", "0A000"],
                [
                    "select * from mayfly.job for update", "select * from mayfly.job for share",
                    "select * from mayfly.job for key share",
                ])
        },
        Attack("DDL and upkeep commands on the tables") {
            try await $0.expectRefused(
                ["42501"],
                [
                    "create table mine (id bigint references mayfly.job_data)",
                    "create index on mayfly.ready (kind)", "truncate mayfly.ready",
                    "alter table mayfly.ready add column mine int", "reindex table mayfly.ready",
                    "create rule r as on insert to mayfly.job do nothing", "drop view mayfly.job",
                    """
                    create trigger t before insert on mayfly.job
                        for each statement execute function suppress_redundant_updates_trigger()
                    """,
                    "cluster mayfly.ready using ready_pkey",
                ])
            try await $0.script("analyze mayfly.job_data")
            try await $0.script("vacuum mayfly.ready")
        },
    ]

    private static let notifications: [Attack] = [
        Attack("forged notifications on every channel that can be guessed") {
            for channel in ["mayfly_job", "mayfly_cancel", "mayfly_done", "mayfly_workers"] {
                for payload in ["\($0.foreignToken)", "cancel 1", "job default", "x"] {
                    try await $0.run("select pg_notify(\(channel), \(payload))")
                }
            }
        },
        Attack("a listener that sits in an open transaction while 20,000 notifications pass") {
            try await $0.script("listen mayfly_done; begin; select 1")
            let flood = try await $0.database.connect(user: "a_\($0.database.name)")
            try await flood.run(
                """
                select count(pg_notify('mayfly_done', n || repeat('x', 1000)))
                from generate_series(1, 20000) n
                """)
            await flood.close()
        },
    ]

    private static let payloads: [Attack] = [
        Attack("a payload of few bytes that prints as a gigabyte") {
            try await $0.expectRefused(
                ["MF002"],
                [
                    """
                    select mayfly.enqueue('code', (select jsonb_build_object('n', jsonb_agg(
                        '1e131071'::jsonb)) from generate_series(1, 9000)), tenant => 'a')
                    """,
                    """
                    select mayfly.enqueue('code', (select jsonb_build_object('n', jsonb_agg(
                        '1e-16000'::jsonb)) from generate_series(1, 9000)), tenant => 'a')
                    """,
                    """
                    select mayfly.enqueue('code', (select jsonb_build_object('n', jsonb_agg(
                        to_jsonb(round(1::numeric, 16000)))) from generate_series(1, 9000)),
                        tenant => 'a')
                    """,
                    """
                    insert into mayfly.job (kind, tenant, payload)
                    values ('code', 'a', '{"a": [{"b": 1e400}]}')
                    """,
                    """
                    select mayfly.enqueue_many(
                        '[{"kind": "code", "tenant": "a", "payload": {"a": -1e309}}]')
                    """,
                ])
        },
        Attack("a payload that was compressed in a table") {
            try await $0.expectRefused(
                ["MF002"],
                [
                    """
                    create temp table big (payload jsonb);
                    insert into big select jsonb_build_object('a', repeat('x', 80000000));
                    select mayfly.enqueue('code', payload, tenant => 'a') from big;
                    """
                ])
        },
        Attack(
            "deeply nested, wide and odd payloads",
            sql: """
                select mayfly.enqueue('code', (('{"a":' || repeat('[', 2000) || repeat(']', 2000)
                    || '}')::jsonb), tenant => 'a');
                select mayfly.enqueue('code', (select jsonb_object_agg('k' || n, n)
                    from generate_series(1, 20000) n), tenant => 'a');
                select mayfly.enqueue('code', jsonb_build_object('blob', (select jsonb_agg(
                    repeat('a', 64)) from generate_series(1, 5000))), tenant => 'a');
                select mayfly.enqueue('code', '{"n": 1.7976931348623157e308}', tenant => 'a');
                """),
    ]

    private static let shadows: [Attack] = [
        Attack(
            "temporary tables, functions and a search path that shadow the schema's",
            sql: """
                create temp table ready (id bigint); create temp table running (id bigint);
                create temp table job_data (id bigint); create temp table lane (queue text);
                create temp table tenant_grant (role oid, tenant text);
                insert into tenant_grant select oid, '*' from pg_roles;
                create function pg_temp.now() returns timestamptz language sql
                    as $$ select '2000-01-01'::timestamptz $$;
                create function pg_temp.sees_all() returns boolean language sql as 'select true';
                create function pg_temp.tenants() returns text[] language sql
                    as $$ select array['b'] $$;
                set search_path = pg_temp, mayfly, pg_catalog;
                select mayfly.enqueue('code', '{}', tenant => 'a');
                begin; select mayfly.enqueue('code', '{}', tenant => 'a');
                """),
        Attack(
            "settings of the session that make plans bad",
            sql: """
                set enable_indexscan = off; set enable_indexonlyscan = off; set work_mem = '64kB';
                set plan_cache_mode = force_custom_plan; set statement_timeout = 0;
                set default_transaction_isolation = serializable;
                begin; select mayfly.enqueue('code', '{}', tenant => 'a');
                """),
    ]

    private static let trespasses: [Attack] = [
        Attack("reading b's jobs by every way") { attacker in
            let id = attacker.foreign
            let spies: [Statement] = [
                "select * from mayfly.job where id = \(id)", "select * from mayfly.get_job(\(id))",
                "select * from mayfly.job where tenant = 'b'",
                "select * from mayfly.list(tenant => 'b')",
            ]
            for spy in spies {
                let seen = try await attacker.connection.run(spy).count
                #expect(seen == 0)
            }
        },
        Attack("cancelling and replaying b's jobs") {
            try await $0.expectRefused(
                ["MF004"],
                [
                    "select mayfly.cancel(\($0.foreign))", "select mayfly.replay(\($0.foreign))",
                    "select mayfly.list_blobs(\($0.foreign))",
                    "select mayfly.get_transfer(\($0.foreign))",
                    "select mayfly.follow(\($0.foreign))",
                ])
        },
        Attack("reading b's blobs by their address, and putting blobs for b") {
            try await $0.expectRefused(
                ["MF007", "MF003"],
                [
                    "select mayfly.get_blob('\($0.foreignBlob)')",
                    "select mayfly.get_blob_part('\($0.foreignBlob)', 0)",
                    "select mayfly.blob_size('\($0.foreignBlob)')",
                    "select mayfly.append_blob(\($0.foreignUpload), 'x')",
                    "select mayfly.finish_blob(\($0.foreignUpload))",
                    "select mayfly.begin_blob('b')", "select mayfly.begin_blob()",
                    "select mayfly.put_blob('x', 'b')", "select mayfly.put_blob('x')",
                ])
        },
        Attack("putting in jobs for b, or for the unnamed tenant") {
            try await $0.expectRefused(
                ["MF003", "MF001"],
                [
                    "select mayfly.enqueue('code', '{}', tenant => 'b')",
                    "select mayfly.enqueue('code', '{}')",
                    "select mayfly.enqueue('code', '{}', tenant => '*')",
                    #"select mayfly.enqueue_many('[{"kind":"code","payload":{},"tenant":"b"}]')"#,
                    "insert into mayfly.job (kind, payload, tenant) values ('code', '{}', 'b')",
                    "insert into mayfly.job (kind, payload) values ('code', '{}')",
                ])
        },
        Attack("becoming somebody else") {
            let b = "b_\($0.database.name)"
            try await $0.expectRefused(
                ["42501"],
                [
                    "set role \(b)", "set session authorization \(b)", "set role mayfly_worker",
                    "set role mayfly_operator", "grant mayfly_operator to current_user",
                    "select mayfly.grant_tenant(current_user, '*')", "alter role \(b) nologin",
                ])
        },
        Attack("calling what only workers, operators and the schema itself may call") {
            try await $0.expectRefused(
                ["42501"],
                [
                    "select mayfly.reap()", "select mayfly.maintain()",
                    "select mayfly.prune('1 day')", "select mayfly.worker_channel()",
                    "select mayfly.channel('workers')", "select mayfly.oversees()",
                    "select mayfly.register('x', 'x', '{code}', '{}', 1, '1 h')",
                    "select mayfly.heartbeat(1, gen_random_uuid(), '1 h', '{}')",
                    "select mayfly.leave(1, gen_random_uuid())",
                    "select mayfly.finish(\($0.foreign), 'b', 'failed', 1::smallint, now(), '{}', '{}')",
                    "select mayfly.tell('x', 'y')", "select mayfly.pause('default')",
                    "select nextval('mayfly.position_sequence')", "select * from mayfly.secret",
                ])
        },
        Attack("asking the planner about b's job") { attacker in
            try await attacker.script(
                "explain (analyze, verbose) select * from mayfly.get_job(\(attacker.foreign))")
            let seen = try await attacker.connection.run(
                "explain (analyze, format text) select * from mayfly.get_job(\(attacker.foreign))")
            let free = try await attacker.connection.run(
                "explain (analyze, format text) select * from mayfly.get_job(1)")
            func shape(_ rows: Rows) -> String {
                rows.string(0, "QUERY PLAN").split(separator: "(actual")[0] + "\(rows.count)"
            }
            #expect(shape(seen) == shape(free))
            #expect(!seen.string(0, "QUERY PLAN").contains("Removed"))
        },
    ]
}
