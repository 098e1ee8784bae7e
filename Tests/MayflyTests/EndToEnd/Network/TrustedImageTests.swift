// An authority of an operator's own, put into an image by its definition, whose servers are then
// servers like any other. Parts of the end-to-end suite.

import Foundation
import Glibc
import Jobs
import StrictJSON
import Testing

@testable import Mayfly

extension EndToEndTests {
    @Suite(
        "An image that trusts an authority of its operator's",
        .enabled(if: geteuid() == 0, "image builds need root"), .serialized)
    struct TrustedImageTests {
        private func with(
            _ image: String, _ settings: [String: String],
            _ body: (World, Servers) async throws -> Void
        ) async throws {
            try await World.with { world in
                let servers = try Servers(in: "\(world.directory)/servers")
                defer { servers.end() }
                var settings = settings
                settings["state.directory"] = "\(world.directory)/state"
                settings["image.\(image).files"] =
                    "\(servers.trust):/usr/local/share/ca-certificates/own.crt"
                let flags = settings.sorted { $0.key < $1.key }
                    .flatMap { ["--set", "\($0.key)=\($0.value)"] }
                let built = try await world.mayfly(["image", "build", image] + flags)
                try #require(built.status == 0, "\(built.errors)")
                _ = try await world.worker(["--slots", "1"] + flags)
                try world.sql(
                    """
                    select mayfly.allow_egress('default', '', array['\(servers.secureAuthority)'],
                        array['127.0.0.0/8']::cidr[])
                    """)
                try await body(world, servers)
            }
        }
        private func run(_ world: World, _ kind: String, _ payload: JSON) async throws -> JobRow {
            let id = try world.number(
                """
                select mayfly.enqueue('\(kind)', $payload$\(payload.text)$payload$,
                    timeout => '10 min')
                """)
            return try await world.ended(id, within: .seconds(600))
        }

        @Test func `lets pip install and git clone from its servers over https, verified`()
            async throws
        {
            let settings = [
                "image.own.packages": "python3 python3-pip git curl",
                "image.own.warmup": "update-ca-certificates", "code.image": "own",
                "worker.kinds": "code",
            ]
            try await with("own", settings) { world, servers in
                let base = "https://\(servers.secureAuthority)"
                let source = """
                    set -e
                    git clone -q \(base)/repo.git got && cat got/file
                    pip install -q --index-url \(base)/simple tiny
                    python3 -c 'import tiny; print(tiny.answer)'
                    curl -sS \(base)/hello
                    curl -sS --cacert /dev/null \(base)/hello || echo not without it
                    """
                let job = try await run(
                    world, "code",
                    [
                        "language": "bash", "source": .string(source),
                        "network": ["allow": [.string(servers.secureAuthority)]],
                    ])
                #expect(
                    job.stdout == "cloned\n42\nhello from the host\nnot without it\n",
                    "\(job.result ?? "") \(job.error ?? "")")
            }
        }

        @Test(
            .enabled(
                if: ProcessInfo.processInfo.environment["MAYFLY_TEST_BROWSERS"] != nil,
                "MAYFLY_TEST_BROWSERS=1 builds an image of browsers for it"))
        func `shows a browser the pages of its servers as those of any other`() async throws {
            let settings = [
                "image.browse.warmup":
                    "update-ca-certificates && /usr/bin/python3 -m mayfly_browse.warm",
                "worker.kinds": "browse",
            ]
            try await with("browse", settings) { world, servers in
                let base = "https://\(servers.secureAuthority)"
                let job = try await run(
                    world, "browse",
                    [
                        "url": .string("\(base)/order.html"),
                        "actions": [
                            ["wait": ["text": "stock 17"]],
                            ["type": ["input[name=name]", "Ada"]],
                            ["click": "role=button[name=\"Send\"]"],
                            ["wait": ["text": "thanks, Ada"]],
                            ["evaluate": "isSecureContext"],
                        ],
                        "return": ["title", "text", "value"],
                        "network": ["allow": [.string(servers.secureAuthority)]],
                    ])
                #expect(job.state == "succeeded", "\(job.error ?? "") \(job.result ?? "")")
                let value = JSON.stored(job.result)["value"]
                #expect(value?["text"] == "thanks, Ada", "\(job.result ?? "")")
                #expect(value?["value"]?.elements == [.bool(true)], "\(job.result ?? "")")
            }
        }
    }
}
