// TLS that the host ends: every request within it is read and decided by itself, the server is verified
// here, and what two parsers could read differently reaches no server.

import Egress
import Events
import Foundation
import Processes
import Testing

@Suite("TLS that is ended on the host", .serialized)
struct EndedTLSTests {
    private static let host = "secure.test:8443"
    private static let ceiling = ["GET,POST https://secure.test:8443/v1/*"]
    private static let everything = ["* https://secure.test:8443/*"]

    /// A world with its server; the guest's side trusts the gateway's authority.
    private func with(
        rules: [String] = everything, ceiling: [String] = ceiling,
        _ certificate: SecurePeer.Certificate = .good, trusts: Bool = true,
        limits change: (inout EgressLimits) -> Void = { _ in },
        _ body: (SecurePeer, EgressGateway, ([Conversation]) async throws -> [Conversation.Answer])
            async throws -> Void
    ) async throws {
        let world = try await World()
        defer { world.close() }
        let peer = try await SecurePeer(world.goodAddress, certificate)
        let (gateway, tls, entrance) = try await world.secureGateway(
            rules, ceiling: ceiling, trusting: peer.authority, change)
        defer { entrance.close() }
        let file = "\(peer.directory)/gateway.pem"
        try tls.certificate.write(toFile: file, atomically: true, encoding: .utf8)
        try await body(peer, gateway) { talks in
            try await Conversation.run(talks, at: entrance, trusting: trusts ? file : "")
        }
        await gateway.close()
        await peer.close()
    }
    private static func request(
        _ line: String, _ fields: String = "Connection: close\r\n", host: String = host,
        body: String = ""
    ) -> Conversation {
        Conversation("\(line)\r\nHost: \(host)\r\n\(fields)\r\n\(body)")
    }

    @Test func `requests that a rule has go on anew, with method and path in their records`()
        async throws
    {
        try await with { peer, gateway, talk in
            let answers = try await talk([
                Self.request(
                    "POST /v1/echo?key=1 HTTP/1.1",
                    "Connection: close, X-Hop\r\nX-Hop: 1\r\nX-Kept: 2\r\nUpgrade: websocket\r\n"
                        + "Content-Length: 3\r\n", body: "abc"),
                Self.request("GET /v1/chunked HTTP/1.1"), Self.request("GET /v1/close HTTP/1.1"),
                Self.request("GET /v1/close HTTP/1.0"), Self.request("GET /v1/chunked HTTP/1.0"),
            ])
            let first = try #require(peer.received.first)
            #expect(
                first == "POST /v1/echo?key=1 HTTP/1.1\r\nhost: secure.test:8443\r\nx-kept: 2\r\n"
                    + "content-length: 3\r\nconnection: close\r\n\r\nabc")
            #expect(answers.map(\.status) == [200, 200, 200, 200, 200], "\(answers)")
            #expect(answers[1].heard.hasSuffix("\r\n0\r\n\r\n"), "\(answers[1])")
            #expect(!answers[1].heard.contains("X-Trailer"), "\(answers[1])")
            #expect(answers[2].heard.hasSuffix("\r\n0\r\n\r\n"), "\(answers[2])")
            #expect(answers[3].heard.hasSuffix("connection: close\r\n\r\n"), "\(answers[3])")
            #expect(!answers[4].heard.contains("chunked\r\n"), "\(answers[4])")
            let record = try #require(await records(of: gateway, count: 3).first)
            #expect(record.method == "POST" && record.path == "/v1/echo", "\(record)")
            #expect(record.verdict == .allowed && record.port == 8443 && record.address != nil)
            #expect(record.bytesReceived > 100)
        }
    }

    @Test func `one connection carries many requests, each decided by itself`() async throws {
        try await with { peer, gateway, talk in
            var kept = Conversation(
                "GET /v1/echo HTTP/1.1\r\nHost: \(Self.host)\r\n\r\n",
                "POST /v1/chunked HTTP/1.1\r\nHost: \(Self.host)\r\nTransfer-Encoding: chunked\r\n\r\n"
                    + "3\r\nabc\r\n0\r\n\r\n",
                "GET /v2/echo HTTP/1.1\r\nHost: \(Self.host)\r\n\r\n")
            kept.waitsFor = "\r\n\r\n"
            let pipelined = Conversation(
                "POST /v1/echo HTTP/1.1\r\nHost: \(Self.host)\r\nContent-Length: 3\r\n\r\nabc"
                    + "GET /v1/two HTTP/1.1\r\nHost: \(Self.host)\r\n\r\n"
                    + "DELETE /v1/echo HTTP/1.1\r\nHost: \(Self.host)\r\n\r\n"
                    + "GET /v1/never HTTP/1.1\r\nHost: \(Self.host)\r\n\r\n")
            let answers = try await talk([kept, pipelined])
            for answer in answers {
                let heads = answer.heard.components(separatedBy: "HTTP/1.1 ").dropFirst()
                #expect(heads.contains { $0.hasPrefix("403 ") }, "\(answer)")
                #expect(answer.reason == "above_ceiling", "\(answer)")
            }
            #expect(answers[1].heard.contains("\r\n\r\nok"), "\(answers[1])")
            // What a server says behind its response is nobody's.
            #expect(!answers[1].heard.contains("GET /v1/two HTTP"), "\(answers[1])")
            let lines = peer.received.map { $0.split(separator: "\r\n").first ?? "" }
            #expect(
                lines == [
                    "GET /v1/echo HTTP/1.1", "POST /v1/chunked HTTP/1.1", "POST /v1/echo HTTP/1.1",
                    "GET /v1/two HTTP/1.1",
                ])
            let told = await records(of: gateway, count: 6)
            #expect(told.count(where: { $0.verdict == .denied }) == 2, "\(told)")
            #expect(
                told.first { $0.verdict == .denied }?.rule == "GET https://secure.test:8443/v2/echo"
            )
        }
    }

    /// Ways around a rule by path, or to say one thing to the host and another to the server.
    private static let attacks: [(Conversation, Int)] = [
        (request("GET /v2/echo HTTP/1.1"), 403), (request("DELETE /v1/echo HTTP/1.1"), 403),
        (request("get /v1/echo HTTP/1.1"), 403), (request("GET /V1/echo HTTP/1.1"), 403),
        (request("GET /v1 HTTP/1.1"), 403), (request("GET /v1/../v2 HTTP/1.1"), 403),
        (request("GET /v1/%2e%2e/v2 HTTP/1.1"), 403), (request("GET /v1/.%2E/v2 HTTP/1.1"), 403),
        (request("GET /v1/%252e%252e/v2 HTTP/1.1"), 403),
        (request("GET /v1/..;/v2 HTTP/1.1"), 403), (request("GET /v1/..;a=b/v2 HTTP/1.1"), 403),
        (request("GET /v1//v2 HTTP/1.1"), 403), (request("GET //v1/echo HTTP/1.1"), 403),
        (request("GET /v1/%2f..%2fv2 HTTP/1.1"), 403), (request("GET /v1/a%5cb HTTP/1.1"), 403),
        (request("GET /v1/%00 HTTP/1.1"), 403), (request("GET /v1/%zz HTTP/1.1"), 403),
        (request("GET /v1/. HTTP/1.1"), 403), (request("GET /v1/%3f/../x HTTP/1.1"), 403),
        (request("GET /v1/a\\..\\..\\v2 HTTP/1.1"), 400), (request("GET /v1/a#b HTTP/1.1"), 400),
        (request("GET https://secure.test:8443/v1/echo HTTP/1.1"), 400),
        (request("GET v1/echo HTTP/1.1"), 400), (request("OPTIONS * HTTP/1.1"), 400),
        (request("CONNECT secure.test:8443 HTTP/1.1"), 400),
        (request("GET  /v1/echo HTTP/1.1"), 400), (request("GET /v1/echo HTTP/2.0"), 400),
        (request("GET /v1/echo"), 400), (request("GET /v1/echo HTTP/1.1", host: "other.test"), 400),
        (request("GET /v1/echo HTTP/1.1", host: "secure.test"), 400),
        (request("GET /v1/echo HTTP/1.1", host: "a@secure.test:8443"), 400),
        (request("GET /v1/echo HTTP/1.1", "Host: secure.test:8443\r\n"), 400),
        (Conversation("GET /v1/echo HTTP/1.1\r\n\r\n"), 400),
        (Conversation("GET /v1/echo HTTP/1.1\nHost: secure.test:8443\n\n"), 400),
        (request("GET /v1/echo HTTP/1.1", "X: a\r\n b\r\n"), 400),
        (request("GET /v1/echo HTTP/1.1", "X : a\r\n"), 400),
        (request("GET /v1/echo HTTP/1.1", "Connection: host\r\n"), 400),
        (request("GET /v1/echo HTTP/1.1", "X-HTTP-Method-Override: DELETE\r\n"), 400),
        (request("GET /v1/echo HTTP/1.1", "X_HTTP_Method_Override: DELETE\r\n"), 400),
        (request("GET /v1/echo HTTP/1.1", "X-Original-URL: /v2\r\n"), 400),
        (
            request(
                "POST /v1/echo HTTP/1.1", "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
                body: "0\r\n\r\n"), 400
        ),
        (
            request(
                "POST /v1/echo HTTP/1.1", "Content-Length: 1\r\nContent-Length: 2\r\n", body: "ab"),
            400
        ),
        (request("POST /v1/echo HTTP/1.1", "Content-Length: +1\r\n", body: "a"), 400),
        (request("POST /v1/echo HTTP/1.1", "Content-Length: 1, 1\r\n", body: "a"), 400),
        (request("POST /v1/echo HTTP/1.1", "Transfer-Encoding: xchunked\r\n", body: "a"), 400),
        (
            request("POST /v1/echo HTTP/1.0", "Transfer-Encoding: chunked\r\n", body: "0\r\n\r\n"),
            400
        ),
    ]

    @Test func `what is not allowed or not clear reaches no server`() async throws {
        try await with { peer, gateway, talk in
            let answers = try await talk(Self.attacks.map(\.0))
            for ((said, status), answer) in zip(Self.attacks, answers) {
                #expect(answer.status == status, "\(said.said) was answered by \(answer)")
            }
            #expect(peer.received == [])
            let told = await records(of: gateway, count: 10)
            #expect(!told.contains { $0.verdict == .allowed || $0.address != nil }, "\(told)")
        }
    }

    @Test func `a response that is not clear, not whole or not asked for is no response`()
        async throws
    {
        try await with { peer, _, talk in
            let paths = ["ends", "switch", "bare"]
            let answers = try await talk(paths.map { Self.request("GET /v1/\($0) HTTP/1.1") })
            for (path, answer) in zip(paths, answers) {
                #expect(
                    answer.status == 502 && answer.reason == "bad_response", "\(path): \(answer)")
            }
            let cut = try await talk(
                ["cut", "short"].map { Self.request("GET /v1/\($0) HTTP/1.1") })
            // The client must not take the half for the whole: no last chunk, no fewer bytes told.
            #expect(!cut[0].heard.hasSuffix("\r\n0\r\n\r\n"), "\(cut[0])")
            #expect(cut[1].heard.contains("content-length: 100"), "\(cut[1])")
            #expect(peer.received.count == 5)
        }
    }

    @Test func `bodies with extensions or trailers end their request`() async throws {
        try await with { peer, gateway, talk in
            let answers = try await talk(
                [
                    "3;x=y\r\nabc\r\n0\r\n\r\n", "3\r\nabc\r\n0\r\nX: y\r\n\r\n",
                    "0x3\r\nabc\r\n0\r\n\r\n",
                ]
                .map {
                    Self.request(
                        "POST /v1/echo HTTP/1.1", "Transfer-Encoding: chunked\r\n", body: $0)
                })
            #expect(answers.map(\.status) == [400, 400, 400], "\(answers)")
            #expect(!peer.received.contains { $0.contains("abc") && $0.hasSuffix("0\r\n\r\n") })
            _ = gateway
        }
    }

    @Test(
        "a server that does not prove who it is gets no request",
        arguments: [SecurePeer.Certificate.wrong, .own, .expired])
    func verifies(_ certificate: SecurePeer.Certificate) async throws {
        try await with(certificate) { peer, gateway, talk in
            let answer = try #require(
                try await talk([Self.request("GET /v1/echo HTTP/1.1")]).first)
            #expect(answer.status == 502 && answer.reason == "certificate_refused", "\(answer)")
            #expect(peer.received == [])
            #expect(await records(of: gateway).first?.reason == .certificateRefused)
        }
    }

    @Test func `a client that does not know the authority is told of as such`() async throws {
        try await with(trusts: false) { peer, gateway, talk in
            let answer = try #require(
                try await talk([Self.request("GET /v1/echo HTTP/1.1")]).first)
            #expect(answer.error.contains("CERTIFICATE_VERIFY_FAILED"), "\(answer)")
            #expect(peer.received == [])
            #expect(await records(of: gateway).first?.reason == .tlsFailed)
        }
    }

    @Test func `a handshake with another name is none with this host`() async throws {
        try await with { peer, gateway, talk in
            var other = Self.request("GET /v1/echo HTTP/1.1")
            other.name = "other.test"
            let answer = try #require(try await talk([other]).first)
            #expect(answer.heard == "" && answer.error != "", "\(answer)")
            #expect(peer.received == [])
            #expect(await records(of: gateway).first?.reason == .sniMismatch)
        }
    }

    @Test func `a job's rule by path needs its operator's wish, and never a tunnel`() async throws {
        try await with(ceiling: ["secure.test:8443"]) { peer, gateway, talk in
            let answer = try #require(
                try await talk([Self.request("GET /v1/echo HTTP/1.1")]).first)
            #expect(answer.status == 403 && answer.reason == "above_ceiling", "\(answer)")
            #expect(answer.heard.contains("does not end TLS there"), "\(answer)")
            #expect(peer.received == [])
            _ = gateway
        }
        // A plain rule of the job's, below the same ceiling.
        try await with(rules: ["secure.test:8443"]) { peer, _, talk in
            let answers = try await talk([
                Self.request("GET /v1/echo HTTP/1.1"), Self.request("GET /v2/echo HTTP/1.1"),
            ])
            #expect(answers.map(\.status) == [200, 403], "\(answers)")
            #expect(peer.received.count == 1)
        }
    }

    @Test
    func `a request that never ends, a server that is silent and bytes without end end in time`()
        async throws
    {
        try await with(limits: {
            // Longer than a client on a busy host takes to begin.
            ($0.requestTime, $0.idleTime) = (.milliseconds(1200), .milliseconds(2400))
        }) { peer, gateway, talk in
            let answers = try await talk([
                Conversation("GET /v1/echo HTTP/1.1\r\nHost: "),
                Self.request("GET /v1/silent HTTP/1.1"),
                Self.request("POST /v1/echo HTTP/1.1", "Content-Length: 9\r\n", body: "abc"),
            ])
            #expect(answers[0].reason == "time_limit", "\(answers[0])")
            #expect(answers[1].reason == "idle_limit", "\(answers[1])")
            #expect(answers[2].reason == "idle_limit", "\(answers[2])")
            #expect(peer.received.count == 1 || peer.received.count == 2)
            _ = gateway
        }
        try await with(limits: { $0.bytesReceived = 20_000 }) { _, gateway, talk in
            let body = String(repeating: "x", count: 30_000)
            let answers = try await talk([
                Self.request(
                    "POST /v1/echo HTTP/1.1", "Content-Length: \(body.count)\r\n", body: body)
            ])
            #expect(answers[0].heard.count <= 20_000 + 200, "\(answers[0].heard.count)")
            #expect(await records(of: gateway).first?.reason == .byteLimit)
        }
    }
}
