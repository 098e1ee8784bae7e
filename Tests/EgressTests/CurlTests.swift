// The programs that people use, through the gateway: curl with TLS that it verifies against an
// authority of the test, and what it says when it is refused.

import Egress
import Events
import Foundation
import Glibc
import Processes
import Testing

@Suite("Clients through the gateway", .serialized)
struct CurlTests {
    /// A certificate authority, a server certificate for secure.test, and openssl serving with it.
    private final class SecureServer: Sendable {
        let directory: String
        private let serving: Task<Void, Never>

        init(_ address: String) async throws {
            let directory =
                FileManager.default.temporaryDirectory.path + "/mayfly-egress-\(UUID().uuidString)"
            self.directory = directory
            try FileManager.default.createDirectory(
                atPath: directory, withIntermediateDirectories: true)
            let script = """
                set -e
                cd \(directory)
                key='-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes'
                openssl req -x509 $key -days 2 -keyout ca.key -out ca.pem -subj '/CN=Test authority'
                openssl req $key -keyout key.pem -out request.pem -subj '/CN=secure.test'
                printf 'subjectAltName=DNS:secure.test' > names
                openssl x509 -req -in request.pem -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 \
                  -extfile names -out cert.pem
                """
            let made = try await runProgram(ProgramRequest(["bash", "-c", script]))
            try #require(made.status == 0, "\(made.output)")
            serving = Task {
                _ = try? await runProgram(
                    ProgramRequest([
                        "openssl", "s_server", "-accept", "\(address):8443", "-cert",
                        "\(directory)/cert.pem", "-key", "\(directory)/key.pem", "-www", "-quiet",
                    ]))
            }
        }
        func close() async {
            serving.cancel()
            await serving.value
            try? FileManager.default.removeItem(atPath: directory)
        }
    }

    @Test func `curl gets what is allowed, verifies it, and says why the rest is refused`()
        async throws
    {
        let world = try await World()
        defer { world.close() }
        world.names.set("secure.test", .addresses([world.goodAddress]))
        world.names.set("wrong.test", .addresses([world.goodAddress]))
        let server = try await SecureServer(world.goodAddress)
        let gateway = try await world.gateway(
            ["secure.test:8443", "wrong.test:8443", "good.test:80"])
        let entrance = try Entrance("\(world.prefix).200", gateway)
        defer { entrance.close() }
        func curl(_ arguments: String...) async throws -> ProgramResult {
            var request = ProgramRequest(
                ["curl", "-sS", "-m", "20", "--cacert", "\(server.directory)/ca.pem"] + arguments)
            request.environment = ["no_proxy": "", "NO_PROXY": ""]
            return try await runProgram(request)
        }
        let proxy = "http://\(entrance.address):3128"
        // Not before it listens.
        var ready = try await curl("-x", proxy, "https://secure.test:8443/")
        for _ in 0..<50 where ready.status != 0 {
            ready = try await curl("-x", proxy, "https://secure.test:8443/")
        }
        #expect(ready.output.contains("s_server"), "\(ready)")
        let socks = try await curl(
            "-x", "socks5h://\(entrance.address):3128", "https://secure.test:8443/")
        #expect(socks.output.contains("s_server"), "\(socks)")
        let plain = try await curl("-x", proxy, "http://good.test/")
        #expect(plain.output == "ok", "\(plain)")
        let wrong = try await curl("-x", proxy, "https://wrong.test:8443/")
        #expect(wrong.status == 60, "a certificate for another name is not accepted: \(wrong)")
        // A host that is another by the time of the handshake.
        let fronted = try await curl(
            "-x", proxy, "--connect-to", "secure.test:8443:wrong.test:8443",
            "https://secure.test:8443/")
        #expect(fronted.status == 35, "\(fronted)")
        let refused = try await curl("-v", "-x", proxy, "https://pypi.org/simple/")
        #expect(refused.status == 56, "\(refused)")
        #expect(
            refused.output.contains(
                "mayfly: pypi.org:443 is not on this job's allow-list; add \"pypi.org:443\" to "
                    + "network.allow"), "\(refused)")
        let body = try await curl("-x", proxy, "http://deb.debian.org/debian/")
        #expect(
            body.output
                == "mayfly: deb.debian.org:80 is not on this job's allow-list; add \"deb.debian.org:80\" "
                + "to network.allow\n")
        let reasons = Set(await gateway.takeRecords().map(\.reason))
        #expect(reasons.isSuperset(of: [nil, .notAllowed, .sniMismatch]))
        await server.close()
    }
}
