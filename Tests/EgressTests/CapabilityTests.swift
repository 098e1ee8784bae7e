// Credentials that stay on the host: the server gets them, and nobody in the guest does, whatever is
// asked there.

import Egress
import Foundation
import Processes
import Testing

@Suite("Credentials that stay on the host", .serialized)
struct CapabilityTests {
    private static let secret = "tok-8f31c0ffee-secret"

    private func with(
        _ certificate: SecurePeer.Certificate = .good, header: String = "Authorization: Bearer",
        allow: [String] = ["GET,POST /repos/*"], hasSecret: Bool = true, isGranted: Bool = true,
        _ body: (SecurePeer, EgressGateway, World) async throws -> Void
    ) async throws {
        let world = try await World()
        defer { world.close() }
        let peer = try await SecurePeer(world.goodAddress, certificate)
        let capability = try EgressCapability(
            name: "hub", base: "https://secure.test:8443/api", header: header, allow: allow,
            networks: ["\(world.prefix).0/24"],
            secret: hasSecret ? Array(Self.secret.utf8) : nil)
        let (gateway, _, entrance) = try await world.secureGateway(
            [], trusting: peer.authority, capabilities: isGranted ? [capability] : [])
        entrance.close()
        try await body(peer, gateway, world)
        await gateway.close()
        await peer.close()
    }
    private func ask(
        _ gateway: EgressGateway, _ line: String, _ fields: String = "",
        host: String = "cap.internal", body: String = ""
    ) async throws -> String {
        let client = try await Client(gateway)
        await client.send("\(line)\r\nHost: \(host)\r\n\(fields)\r\n\(body)")
        return String(decoding: await client.receiveAll(), as: UTF8.self)
    }

    @Test func `reach the server and come back to nobody, in whatever way it says them`()
        async throws
    {
        try await with { peer, gateway, _ in
            for path in ["echo", "chunked", "close"] {
                let answer = try await ask(
                    gateway, "POST http://cap.internal/hub/repos/\(path)?q=1 HTTP/1.1",
                    "Content-Length: 3\r\nAccept-Encoding: gzip\r\nAuthorization: mine\r\n",
                    body: "abc")
                #expect(answer.hasPrefix("HTTP/1.1 200 "), "\(answer)")
                #expect(!answer.contains(Self.secret), "\(path): \(answer)")
            }
            let answer = try await ask(gateway, "GET http://cap.internal/hub/repos/field HTTP/1.1")
            #expect(answer.hasPrefix("HTTP/1.1 200 "), "\(answer)")
            #expect(!answer.contains(Self.secret), "\(answer)")
            #expect(
                answer.contains(
                    "x-echo: Bearer " + String(repeating: "*", count: Self.secret.utf8.count)),
                "\(answer)")
            let first = try #require(peer.received.first)
            #expect(
                first == "POST /api/repos/echo?q=1 HTTP/1.1\r\nhost: secure.test:8443\r\n"
                    + "authorization: Bearer \(Self.secret)\r\naccept-encoding: identity\r\n"
                    + "content-length: 3\r\nconnection: close\r\n\r\nabc")
            let record = try #require(await records(of: gateway, count: 4).first)
            #expect(record.capability == "hub" && record.host == "secure.test")
            #expect(record.method == "POST" && record.path == "/repos/echo")
            #expect(record.verdict == .allowed && record.bytesReceived > 100)
            #expect(!"\(record)".contains(Self.secret))
        }
    }

    @Test func `are of no use to who has no grant, who hears in one line what to ask for`()
        async throws
    {
        try await with(isGranted: false) { peer, gateway, _ in
            let answer = try await ask(gateway, "GET http://cap.internal/hub/repos/x HTTP/1.1")
            #expect(
                answer.hasPrefix("HTTP/1.1 403 mayfly: hub is no capability of this job's; ask"))
            let unknown = try await ask(gateway, "GET http://cap.internal/nub/repos/x HTTP/1.1")
            #expect(
                unknown.replacing("nub", with: "hub") == answer, "whether there is one is not told")
            let record = try #require(await records(of: gateway, count: 2).first)
            #expect(record.reason == .notGranted && record.capability == "hub")
            #expect(peer.received == [])
        }
    }

    /// The line, the fields, and how it is answered.
    private static let attacks: [(String, String, Int)] = [
        ("GET http://cap.internal/hub/other HTTP/1.1", "", 403),
        ("DELETE http://cap.internal/hub/repos/x HTTP/1.1", "", 403),
        ("GET http://cap.internal/hub HTTP/1.1", "", 403),
        ("GET http://cap.internal/hub/repos/../../admin HTTP/1.1", "", 400),
        ("GET http://cap.internal/hub/repos/%2e%2e/admin HTTP/1.1", "", 400),
        ("GET http://cap.internal/hub/repos/..%2fadmin HTTP/1.1", "", 400),
        ("GET http://cap.internal/hub/repos/..;/admin HTTP/1.1", "", 400),
        ("GET http://cap.internal/hub/repos//admin HTTP/1.1", "", 400),
        ("GET http://cap.internal/hub/repos/%252e%252e/admin HTTP/1.1", "", 400),
        ("GET http://cap.internal/hub%2frepos/x HTTP/1.1", "", 403),
        ("GET http://cap.internal/../hub/repos/x HTTP/1.1", "", 403),
        ("GET http://cap.internal//hub/repos/x HTTP/1.1", "", 403),
        ("GET http://cap.internal/HUB/repos/x HTTP/1.1", "", 403),
        ("GET http://cap.internal:8080/hub/repos/x HTTP/1.1", "", 400),
        ("GET http://cap.internal@other.test/hub/repos/x HTTP/1.1", "", 400),
        ("GET http://other.test/hub/repos/x HTTP/1.1", "", 400),
        ("GET /hub/repos/x HTTP/1.1", "", 400),
        ("TRACE http://cap.internal/hub/repos/x HTTP/1.1", "", 400),
        ("CONNECT cap.internal:80 HTTP/1.1", "", 400),
        ("CONNECT cap.internal:443 HTTP/1.1", "", 400),
        ("GET http://cap.internal/hub/repos/x HTTP/1.1", "Host: secure.test:8443\r\n", 400),
        ("GET http://cap.internal/hub/repos/x HTTP/1.1", "Connection: Authorization\r\n", 400),
        ("GET http://cap.internal/hub/repos/x HTTP/1.1", "X: a\rY: b\r\n", 400),
        ("GET http://cap.internal/hub/repos/x HTTP/1.1", "X-HTTP-Method-Override: PUT\r\n", 400),
        ("GET http://cap.internal/hub/repos/x HTTP/1.1", "X-Rewrite-URL: /admin\r\n", 400),
        ("POST http://cap.internal/hub/repos/x HTTP/1.1", "Transfer-Encoding: gzip\r\n", 400),
    ]

    @Test func `are not had by any way around what they are for`() async throws {
        try await with { peer, gateway, _ in
            for (line, fields, status) in Self.attacks {
                let isElsewhere = line.contains("//other.test")
                let answer = try await ask(gateway, line, fields, host: "cap.internal")
                #expect(
                    answer.hasPrefix("HTTP/1.1 \(status) "),
                    "\(line) \(fields) was answered by \(answer)")
                #expect(!isElsewhere || answer.contains("says something else"), "\(answer)")
            }
            #expect(peer.received == [])
        }
    }

    @Test func `do not go where a server sends a client, and not into what cannot be read`()
        async throws
    {
        try await with { peer, gateway, world in
            world.names.set("other.test", .addresses([world.goodAddress]))
            let away = try await ask(gateway, "GET http://cap.internal/hub/repos/redirect HTTP/1.1")
            #expect(away.hasPrefix("HTTP/1.1 302 "), "\(away)")
            #expect(!world.names.asked.contains("other.test"))
            for path in ["gzip", "switch", "ends", "bare"] {
                let answer = try await ask(
                    gateway, "GET http://cap.internal/hub/repos/\(path) HTTP/1.1",
                    "Connection: Upgrade\r\nUpgrade: websocket\r\n")
                #expect(answer.hasPrefix("HTTP/1.1 502 "), "\(path): \(answer)")
            }
            #expect(!peer.received.contains { $0.lowercased().contains("websocket") })
            let two = try await ask(gateway, "GET http://cap.internal/hub/repos/two HTTP/1.1")
            #expect(two.hasSuffix("\r\n\r\nok"), "\(two)")
        }
    }

    @Test func `replace what the guest sends by their name, however it is spelt`() async throws {
        try await with(header: "X-Api-Key") { peer, gateway, _ in
            let answer = try await ask(
                gateway, "GET http://cap.internal/hub/repos/x HTTP/1.1",
                "X_Api_Key: guess\r\nx-api-key: guess\r\nConnection: X-Api-Key\r\n")
            #expect(answer.hasPrefix("HTTP/1.1 200 "), "\(answer)")
            let seen = try #require(peer.received.first)
            #expect(!seen.contains("guess") && seen.contains("x-api-key: \(Self.secret)\r\n"))
        }
    }

    @Test func `are not sent to a server that is not theirs, nor without being readable`()
        async throws
    {
        for certificate in [SecurePeer.Certificate.wrong, .own, .expired] {
            try await with(certificate) { peer, gateway, _ in
                let answer = try await ask(gateway, "GET http://cap.internal/hub/repos/x HTTP/1.1")
                #expect(answer.hasPrefix("HTTP/1.1 502 "), "\(answer)")
                #expect(answer.contains("x-mayfly-reason: certificate_refused"), "\(answer)")
                #expect(peer.received == [])
            }
        }
        try await with(hasSecret: false) { peer, gateway, _ in
            let answer = try await ask(gateway, "GET http://cap.internal/hub/repos/x HTTP/1.1")
            #expect(answer.contains("x-mayfly-reason: capability_unusable"), "\(answer)")
            #expect(peer.received == [])
        }
    }

    @Test func `are refused where they are not written properly`() {
        func problem(
            _ base: String = "https://a.test", _ header: String = "X-Key", _ allow: [String] = [],
            secret: String = "long enough".replacing(" ", with: "-")
        ) -> String? {
            do throws(EgressRuleError) {
                _ = try EgressCapability(
                    name: "hub", base: base, header: header, allow: allow, networks: [],
                    secret: Array(secret.utf8))
                return nil
            } catch { return error.description }
        }
        #expect(problem() == nil)
        for bad in [
            problem("http://a.test"), problem("https://u@a.test"), problem("https://a.test/x/../y"),
            problem("https://a.test?x"), problem("https://127.1"),
            problem("https://a.test", "Host"),
            problem("https://a.test", "A B"), problem("https://a.test", "X: a\r\nY: b"),
            problem("https://a.test", "X-Key", ["/x"]),
            problem("https://a.test", "X-Key", ["GET x"]),
            problem(secret: "short"), problem(secret: "two\nlines-of-it"),
            problem(secret: String(repeating: "x", count: 9000)),
        ] { #expect(bad != nil) }
    }
}
