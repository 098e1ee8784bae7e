// How far jobs may reach the network, and what is stored of what they did: denied until an operator says
// otherwise, bounded, seen by those whom it concerns, and free for those who use none.

import Jobs
import Postgres
import TestSupport
import Testing

@Suite("The network of jobs", .timeLimit(.minutes(2)))
struct EgressTests {
    private func ceiling(
        _ connection: Connection, _ queue: String = "default", _ tenant: String = ""
    ) async throws -> String {
        let rows = try await connection.run(
            """
            select queue || '/' || tenant || ': ' || array_to_string(allow, ' ') || ' '
                || array_to_string(networks, ' ') as text from mayfly.egress_ceiling(\(queue), \(tenant))
            """)
        return rows.first("text") ?? "nothing"
    }
    private func row(_ host: String, count: Int64 = 1, verdict: String = "denied") -> EgressRow {
        EgressRow(
            host: host, port: 443, address: "", verdict: verdict, reason: "not_allowed",
            rule: "\(host):443", count: count, bytesSent: 2, bytesReceived: 3)
    }

    @Test func `are denied everything until an operator raises the ceiling`() async throws {
        try await Database.make().withConnection { connection in
            #expect(try await ceiling(connection) == "nothing")
            try await connection.run(
                "select mayfly.allow_egress('default', '', array['PyPI.org:443', '*.a.test:80'])")
            try await connection.run(
                "select mayfly.allow_egress('default', '', array['b.test'], array['10.0.0.0/8']::cidr[])"
            )
            #expect(
                try await ceiling(connection)
                    == "default/: *.a.test:80 b.test pypi.org:443 10.0.0.0/8")
            #expect(try await ceiling(connection, "default", "acme") == "nothing")
            #expect(try await ceiling(connection, "other") == "nothing")
            try await connection.run(
                "select mayfly.deny_egress('default', '', array['PYPI.org:443'])")
            try await connection.run(
                "select mayfly.deny_egress('default', '', null, array['10.0.0.0/8']::cidr[])")
            #expect(try await ceiling(connection) == "default/: *.a.test:80 b.test ")
            try await connection.run(
                "select mayfly.allow_egress('default', '', array['GET https://API.test/V1/*'])")
            #expect(try await ceiling(connection).contains(" GET https://api.test/V1/* "))
            try await connection.run(
                "select mayfly.deny_egress('default', '', array['GET https://Api.test/V1/*'])")
            #expect(try await ceiling(connection) == "default/: *.a.test:80 b.test ")
            try await connection.run("select mayfly.deny_egress('default', '')")
            #expect(try await ceiling(connection) == "nothing")
        }
    }

    @Test func `have one ceiling: the most particular, and no other`() async throws {
        try await Database.make().withConnection { connection in
            for (queue, tenant) in [("*", "*"), ("*", "acme"), ("mail", "*"), ("mail", "acme")] {
                #expect(try await ceiling(connection, "mail", "acme") != "mail/acme: m/acme:1 ")
                try await connection.run(
                    """
                    select mayfly.allow_egress(\(queue), \(tenant),
                        array[translate(\(queue), '*', 'x') || '.test:1'])
                    """)
            }
            #expect(try await ceiling(connection, "mail", "acme") == "mail/acme: mail.test:1 ")
            #expect(try await ceiling(connection, "mail", "") == "mail/*: mail.test:1 ")
            #expect(try await ceiling(connection, "other", "acme") == "*/acme: x.test:1 ")
            #expect(try await ceiling(connection, "other", "") == "*/*: x.test:1 ")
        }
    }

    @Test func `name where they want to go, or are refused with the place`() async throws {
        try await Database.make().withConnection { connection in
            for good in [
                #"["a.test:443", "*.b.test:80", "c.test", "*:443", "[2001:db8::1]:22", "192.0.2.1:9"]"#,
                #"["GET https://a.test/v1/*", "GET,HEAD http://*.b.test:8080/x:99999", "* https://[::1]/"]"#,
                "[]",
            ] { _ = try await connection.enqueue(#"{"network": {"allow": \#(good)}}"#) }
            _ = try await connection.enqueue(#"{"network": {}}"#)
            for (bad, place) in [
                (#"{"allow": ["a.test:443", "https://b.test/"]}"#, "network.allow[1]"),
                (#"{"allow": ["a.test:0"]}"#, "network.allow[0]"),
                (#"{"allow": ["a.test:65536"]}"#, "network.allow[0]"),
                (#"{"allow": ["a b:1"]}"#, "network.allow[0]"),
                (#"{"allow": ["u@a.test:1"]}"#, "network.allow[0]"),
                (#"{"allow": ["a.*.test:1"]}"#, "network.allow[0]"),
                (#"{"allow": ["GET https://a.test"]}"#, "network.allow[0]"),
                (#"{"allow": ["get https://a.test/"]}"#, "network.allow[0]"),
                (#"{"allow": ["GET https://a.test/ b"]}"#, "network.allow[0]"),
                (#"{"allow": ["GET https://a.test:65536/"]}"#, "network.allow[0]"),
                (#"{"allow": ["GET ftp://a.test/"]}"#, "network.allow[0]"),
                (#"{"allow": ["GET a.test:80"]}"#, "network.allow[0]"),
                (#"{"allow": [""]}"#, "network.allow[0]"),
                (#"{"allow": [443]}"#, "network.allow"), (#"{"allow": "a.test"}"#, "network.allow"),
                ("[]", "network"), ("null", "network"),
            ] {
                do {
                    _ = try await connection.enqueue(#"{"network": \#(bad)}"#)
                    Issue.record("\(bad) was taken")
                } catch let error as PostgresError {
                    #expect(error.sqlstate == "MF002", "\(bad): \(error)")
                    #expect(error.message.contains("the payload's \(place)"), "\(bad): \(error)")
                    #expect(error.hint?.contains("host:port") == true)
                }
            }
            let many = (0...256).map { "\"h\($0).test:1\"" }.joined(separator: ",")
            #expect(
                await sqlstate {
                    _ = try await connection.enqueue(#"{"network": {"allow": [\#(many)]}}"#)
                } == "MF002")
        }
    }

    @Test func `leave rows of what they did, added up, with the outcome or before it`() async throws
    {
        let database = try await Database.make()
        try await database.withConnection { connection in
            try await connection.run(
                "select mayfly.allow_egress('default', '', array['a.test:443'], array['10.1.0.0/16']::cidr[])"
            )
            let id = try await connection.enqueue()
            try await withQueue(database.queueSettings(), logger: quiet) { queue in
                guard let claim = await queue.next() else { return }
                do {
                    let ceiling = try await claim.reports.ceiling()
                    #expect(
                        ceiling
                            == EgressCeiling(allow: ["a.test:443"], networks: ["10.1.0.0/16"]))
                } catch { Issue.record("\(error)") }
                #expect(await claim.reports.report([row("a.test"), row("a.test", count: 4)]))
                var read = row("c.test", verdict: "allowed")
                (read.method, read.path, read.capability) = ("GET", "/v1/a", "hub")
                var other = read
                other.path = "/v1/b"
                #expect(await claim.reports.report([read, read, other]))
                do {
                    _ = try await claim.settle(
                        .succeeded(Report()),
                        egress: [
                            row("a.test", count: 5), row("b\"\\\u{0}ü.test", verdict: "allowed"),
                        ])
                } catch { Issue.record("\(error)") }
            }
            let rows = try await QueueClient.open(database.settings()) { client throws(JobsError) in
                try await client.egress(id)
            }
            #expect(rows.count == 4, "\(rows)")
            let read = rows.filter { $0.capability == "hub" && $0.method == "GET" }
            #expect(read.map { "\($0.path) \($0.count)" }.sorted() == ["/v1/a 2", "/v1/b 1"])
            let first = try #require(rows.first { $0.host == "a.test" })
            #expect(first.count == 10 && first.bytesSent == 6 && first.bytesReceived == 9)
            #expect(first.attempt == 1 && first.verdict == "denied" && first.rule == "a.test:443")
        }
    }

    @Test func `leave no more rows than an attempt may have`() async throws {
        let database = try await Database.make()
        try await database.withConnection { connection in
            let id = try await connection.enqueue()
            let rows = (0..<3000).map { row("h\($0).test") }
            try await withQueue(database.queueSettings(), logger: quiet) { queue in
                guard let claim = await queue.next() else { return }
                for _ in 0..<2 { #expect(await claim.reports.report(rows)) }
                do { _ = try await claim.settle(.succeeded(Report()), egress: rows) } catch {
                    Issue.record("\(error)")
                }
            }
            #expect(try await connection.count("select count(*) from mayfly.egress") == 501)
            #expect(
                try await connection.count(
                    "select sum(count) as count from mayfly.egress where id = \(id)") == 9000)
        }
    }

    @Test func `cost who uses none not one statement`() async throws {
        let database = try await Database.make()
        try await Database.administer(
            database.cluster, "alter database \(database.name) set track_functions = 'all'")
        func work(_ egress: [EgressRow]) async throws {
            try await database.withConnection { connection in
                _ = try await connection.enqueue()
                try await withQueue(database.queueSettings(), logger: quiet) { queue in
                    guard let claim = await queue.next() else { return }
                    do { _ = try await claim.settle(.succeeded(Report()), egress: egress) } catch {
                        Issue.record("\(error)")
                    }
                }
            }
        }
        /// Sessions tell their counts when they end, a moment later.
        func calls(whenSettled settled: Int64) async throws -> Int64 {
            try await database.withConnection { connection in
                let deadline = ContinuousClock.now + .seconds(30)
                while true {
                    try await connection.run("select pg_stat_clear_snapshot()")
                    let rows = try await connection.run(
                        """
                        select coalesce(sum(calls) filter (where funcname = 'settle'), 0)::bigint as settled,
                            coalesce(sum(calls) filter (where funcname in ('report_egress',
                                'get_ceiling', 'find_ceiling', 'check_network')), 0)::bigint as network
                        from pg_stat_user_functions
                        """)
                    if rows.integer(0, "settled") == settled || .now > deadline {
                        return rows.integer(0, "network") ?? -1
                    }
                    try await Task.sleep(for: .milliseconds(20))
                }
            }
        }
        try await work([])
        #expect(try await calls(whenSettled: 1) == 0)
        try await work([row("a.test")])
        #expect(try await calls(whenSettled: 2) == 1)
    }

    @Test func `are seen by their tenant and the operator, and raised by the operator alone`()
        async throws
    {
        let database = try await Database.make()
        let names = ["mine", "other", "boss"].map { "\($0)_\(database.name)" }
        try await Database.administer(
            database.cluster,
            """
            create role \(names[0]) login in role mayfly_producer;
            create role \(names[1]) login in role mayfly_producer;
            create role \(names[2]) login in role mayfly_operator;
            select mayfly.grant_tenant('\(names[0])', ''), mayfly.grant_tenant('\(names[1])', 'acme');
            """, database: database.name)
        let id = try await database.withConnection { connection in
            let id = try await connection.enqueue()
            let worker = try await connection.register()
            let held = try #require(try await connection.claim(worker).first)
            try await connection.run(
                """
                select mayfly.report_egress(\(worker.number), \(worker.secret), \(held.token),
                    '[{"host": "a", "port": 1, "address": "", "verdict": "denied", "reason": "",
                    "rule": "", "count": 1, "sent": 0, "received": 0}]')
                """)
            #expect(
                await sqlstate {
                    try await connection.run(
                        """
                        select mayfly.report_egress(\(worker.number), gen_random_uuid(), \(held.token),
                            '[]')
                        """)
                } != nil)
            return id
        }
        try await database.withConnection(user: names[0]) { mine async throws -> Void in
            #expect(try await mine.run("select * from mayfly.get_egress(\(id))").count == 1)
            #expect(try await mine.run("select * from mayfly.egress_ceiling()").count == 0)
            for statement: Statement in [
                "select * from mayfly.egress", "select * from mayfly.egress_ceiling",
                "select mayfly.allow_egress('default', '', array['a:1'])",
                "select mayfly.deny_egress('default', '')",
                "select mayfly.get_ceiling(1, gen_random_uuid(), 1)",
                "select mayfly.report_egress(1, gen_random_uuid(), 1, '[]')",
            ] { #expect(await sqlstate { try await mine.run(statement) } == "42501") }
            #expect(
                await sqlstate {
                    try await mine.run("select * from mayfly.egress_ceiling('default', 'acme')")
                } == "MF003")
        }
        try await database.withConnection(user: names[1]) { other async throws -> Void in
            #expect(
                await sqlstate { try await other.run("select * from mayfly.get_egress(\(id))") }
                    == "MF004")
        }
        try await database.withConnection(user: names[2]) { boss async throws -> Void in
            try await boss.run("select mayfly.allow_egress('default', '', array['a:1'])")
            #expect(try await boss.run("select * from mayfly.egress").count == 1)
            #expect(
                try await boss.run("select set_by from mayfly.egress_ceiling").first("set_by")
                    == names[2])
        }
    }

    @Test func `are forgotten with their week`() async throws {
        try await Database.make().withConnection { connection in
            let tables = try await connection.run("select mayfly.history_tables() as tables")
            #expect(tables.string(0, "tables").contains("egress"))
            #expect(
                try await connection.count("select count(*) from mayfly.weeks('egress')")
                    == (try await connection.count("select count(*) from mayfly.weeks('attempt')")))
        }
    }
}
