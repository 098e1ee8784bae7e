// TLS that workers end, and credentials that stay with them, the whole way: worker.conf, a ceiling, a
// payload, a real machine with the tools that agents use, servers of the test. Parts of the end-to-end
// suite.

import Foundation
import Jobs
import StrictJSON
import Testing

@testable import Mayfly

extension EndToEndTests {
    @Suite("TLS and credentials of a job that stay with its worker", .serialized)
    struct SecureNetworkTests {
        private func with(
            _ body: (World, Servers) async throws -> Void
        ) async throws {
            try await World.with { world in
                let servers = try Servers(in: "\(world.directory)/servers")
                defer { servers.end() }
                try await body(world, servers)
            }
        }
        private func run(_ world: World, _ payload: JSON) async throws -> JobRow {
            try await world.ended(
                try world.enqueue(payload, ", timeout => '10 min'"), within: .seconds(600))
        }

        @Test func `TLS that is ended leaves curl, pip, git, Python and Node as they are`()
            async throws
        {
            try await with { world, servers in
                _ = try await world.worker([
                    "--slots", "2", "--set", "network.authorities=\(servers.trust)",
                ])
                let base = "https://\(servers.secureAuthority)"
                try world.sql(
                    """
                    select mayfly.allow_egress('default', '', array['GET \(base)/hello',
                        'GET,HEAD \(base)/simple/*', 'GET \(base)/repo.git/*'],
                        array['127.0.0.0/8']::cidr[])
                    """)
                let network: JSON = ["allow": [.string(servers.secureAuthority)]]
                let job = try await run(
                    world,
                    .object([
                        "steps": [
                            [
                                "language": "bash",
                                "source": .string(
                                    """
                                    set -e
                                    curl -sS \(base)/hello
                                    curl -sS -o denied -w '%{http_code}\n' '\(base)/stock.json?key=1'
                                    cat denied
                                    git clone -q \(base)/repo.git got && cat got/file
                                    pip install -q --index-url \(base)/simple tiny
                                    """),
                            ],
                            [
                                "language": "python", "interpreter": "fresh",
                                "source": .string(
                                    """
                                    import requests, tiny, urllib.request
                                    print(tiny.answer)
                                    print(urllib.request.urlopen("\(base)/hello").read().decode(), end="")
                                    print(requests.get("\(base)/hello").text, end="")
                                    """),
                            ],
                            [
                                "language": "node",
                                "source": .string(
                                    "process.stdout.write(await (await fetch('\(base)/hello')).text())"
                                ),
                            ],
                        ],
                        "network": network,
                    ]))
                let hello = "hello from the host\n"
                let stdout = (job.resultJSON["steps"]?.elements ?? []).compactMap {
                    $0["stdout"]?.string
                }
                #expect(
                    stdout.joined()
                        == hello
                        + "403\nmayfly: GET \(base)/stock.json is on this job's allow-list, but "
                        + "not on its operator's; ask the operator to allow \"GET \(base)/stock.json\"\n"
                        + "cloned\n42\n" + hello + hello + hello,
                    "\(job.result ?? "") \(job.error ?? "")")
                let shown = try await world.mayfly(["egress", "\(job.id)", "--json"])
                let rows = try JSON(parsing: shown.output).elements
                let first = try #require(rows.first { $0["path"]?.string == "/hello" })
                #expect(first["method"] == "GET" && first["count"]?.int == 4, "\(shown.output)")
                let denied = try #require(rows.first { $0["verdict"]?.string == "denied" })
                #expect(denied["path"] == "/stock.json" && denied["reason"] == "above_ceiling")
                #expect(!shown.output.contains("key=1"))
            }
        }

        private func browse(_ world: World, _ servers: Servers) async throws -> JobRow {
            let payload: JSON = [
                "url": .string("https://\(servers.secureAuthority)/order.html"),
                "wait": ["idle": 500], "return": ["title", "text", "network"],
                "network": ["allow": [.string(servers.secureAuthority)]],
            ]
            let id = try world.number(
                """
                select mayfly.enqueue('browse', $payload$\(payload.text)$payload$,
                    timeout => '10 min')
                """)
            return try await world.ended(id, within: .seconds(600))
        }

        @Test(.enabled(if: TestState.hasBrowser, TestState.noBrowser))
        func `TLS that is ended shows a browser its page, and blocks what no rule has`()
            async throws
        {
            try await with { world, servers in
                _ = try await world.worker([
                    "--slots", "1", "--set", "worker.kinds=browse",
                    "--set", "network.authorities=\(servers.trust)",
                ])
                let base = "https://\(servers.secureAuthority)"
                func allow(_ rule: String) throws {
                    try world.sql(
                        """
                        select mayfly.allow_egress('default', '', array['\(rule)'],
                            array['127.0.0.0/8']::cidr[])
                        """)
                }
                try allow("GET \(base)/order.html")
                let job = try await browse(world, servers)
                #expect(job.state == "succeeded", "\(job.error ?? "") \(job.result ?? "")")
                let result = JSON.stored(job.result)
                #expect(result["value"]?["title"] == "Order", "\(job.result ?? "")")
                let blocked = result["value"]?["network"]?["blocked"]?.elements ?? []
                let stock = blocked.first { $0["url"]?.string == "\(base)/stock.json" }
                #expect(stock?["reason"] == "above_ceiling", "\(job.result ?? "")")
                #expect(stock?["allow"]?.string == "GET \(base)/stock.json")
                #expect(
                    result["warnings"]?.elements.contains {
                        $0["message"]?.string?.hasSuffix(
                            "the operator's list would have to have \"GET \(base)/stock.json\"")
                            == true
                    } == true, "\(job.result ?? "")")
                let rows = try world.sql(
                    """
                    select path, verdict from mayfly.egress
                    where id = \(job.id) and method = 'GET' order by path
                    """)
                #expect(rows == "/order.html|allowed\n/stock.json|denied", "\(rows)")
                // Nothing is taken on trust: of the server itself it knows no authority.
                try world.sql("select mayfly.deny_egress('default', '')")
                try allow(servers.secureAuthority)
                let untrusted = try await browse(world, servers)
                #expect(untrusted.errorReason == "navigation_failed", "\(untrusted.result ?? "")")
                #expect(
                    JSON.stored(untrusted.result)["warnings"]?.elements.map { $0["code"] }
                        == ["certificate_error"], "\(untrusted.result ?? "")")
            }
        }

        @Test func `a secret of the operator's works in a job that never has it`() async throws {
            try await with { world, servers in
                let secret = "tok-\(UUID().uuidString)"
                let file = "\(world.directory)/hub.token"
                try (secret + "\n").write(toFile: file, atomically: true, encoding: .utf8)
                try FileManager.default.setAttributes(
                    [.posixPermissions: 0o600], ofItemAtPath: file)
                let worker = try await world.worker([
                    "--slots", "2", "--set", "network.authorities=\(servers.trust)",
                    "--set", "capability.hub.url=https://\(servers.secureAuthority)/api",
                    "--set", "capability.hub.secret=\(file)",
                    "--set", "capability.hub.networks=127.0.0.0/8",
                    "--set", "capability.hub.grant=default/acme",
                ])
                let payload: JSON = [
                    "language": "bash",
                    "source":
                        "curl -sS -H 'Authorization: Bearer mine' http://cap.internal/hub/whoami",
                ]
                let stranger = try await run(world, payload)
                #expect(
                    stranger.stdout
                        == "mayfly: hub is no capability of this job's; ask the operator to grant it to the "
                        + "job's queue and tenant\n", "\(stranger.result ?? "")")
                try world.sql("select mayfly.grant_tenant(current_user, 'acme')")
                let own = try world.enqueue(payload, ", tenant => 'acme', timeout => '10 min'")
                let job = try await world.ended(own, within: .seconds(600))
                let stars = String(repeating: "*", count: secret.utf8.count)
                #expect(job.stdout == "I got Bearer \(stars)", "\(job.result ?? "")")
                let rows = try world.sql(
                    """
                    select capability, method, path, verdict, reason from mayfly.egress order by id
                    """)
                #expect(
                    rows == "hub|GET|/whoami|denied|not_granted\nhub|GET|/whoami|allowed|",
                    "\(rows)")
                let everything = try world.sql(
                    """
                    select (select string_agg(j::text, '') from mayfly.job j)
                        || (select string_agg(a::text, '') from mayfly.attempt a)
                        || (select string_agg(e::text, '') from mayfly.egress e)
                    """)
                #expect(!everything.contains(secret) && !worker.words.contains(secret))
                // Without its file nobody has it, and the job hears so.
                try FileManager.default.removeItem(atPath: file)
                let without = try world.enqueue(payload, ", tenant => 'acme', timeout => '10 min'")
                let failed = try await world.ended(without, within: .seconds(600))
                #expect(failed.stdout?.contains("secret for hub cannot be read now") == true)
            }
        }
    }
}
