// Bytes through the gateway: all of them, in order, both ways, half closed or not, and everybody's.

import Egress
import Events
import Foundation
import Glibc
import Synchronization
import Testing

@Suite("Bytes through the gateway", .serialized)
struct RelayTests {
    @Test func `every byte arrives in order, both ways at once, and then both ends`() async throws {
        let world = try await World()
        defer { world.close() }
        let gateway = try await world.gateway()
        let client = try await Client(gateway)
        _ = await client.connect("good.test:2222")
        let total = 20 << 20
        let sending = Task {
            var value: UInt8 = 0
            for _ in 0..<(total / 65536) {
                let block = (0..<65536).map { _ -> UInt8 in
                    value = value &* 5 &+ 17
                    return value
                }
                await client.send(block)
            }
            client.endWriting()
        }
        var (value, count, isRight) = (UInt8(0), 0, true)
        while let bytes = await client.receive() {
            for byte in bytes {
                value = value &* 5 &+ 17
                isRight = isRight && byte == value
            }
            count += bytes.count
        }
        await sending.value
        #expect(isRight && count == total)
        let record = try #require(await records(of: gateway).first)
        #expect(record.reason == nil && record.verdict == .allowed && record.rule == nil)
        #expect(record.bytesSent == UInt64(total) && record.bytesReceived == UInt64(total))
    }

    @Test func `a body in chunks arrives as it was, and what follows it does not`() async throws {
        let world = try await World()
        defer { world.close() }
        let gateway = try await world.gateway()
        let client = try await Client(gateway)
        await client.send(
            "POST http://good.test/ HTTP/1.1\r\nHost: good.test\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        for piece in ["3", "\r", "\nab", "c\r\n", "A\r\n0123456789\r\n0\r\n", "\r\nGET /smuggled"] {
            await client.send(piece)
        }
        #expect(
            String(decoding: await client.receiveAll(), as: UTF8.self).hasPrefix("HTTP/1.1 200"))
        // The server answers when it has the head; it may have seen less than all.
        #expect(!world.good[0].received.contains("smuggled"))
    }

    @Test(
        "a body that is not as it was announced ends the exchange",
        arguments: [
            "1;a=b\r\nx\r\n0\r\n\r\n", "0x1\r\nx\r\n0\r\n\r\n", "1\nx\n0\n\n",
            "1\r\nxy\r\n0\r\n\r\n",
            "0\r\nX: y\r\n\r\n", "-1\r\n", "ffffffffffffffffff\r\n", "\r\n", " 1\r\nx\r\n",
            "1 \r\nx\r\n",
        ])
    func badChunks(_ body: String) async throws {
        let world = try await World()
        defer { world.close() }
        let silent = try Peer(world.goodAddress, 8081, response: "")
        defer { silent.close() }
        let gateway = try await world.gateway(["good.test:8081"])
        let client = try await Client(gateway)
        await client.send(
            "POST http://good.test:8081/ HTTP/1.1\r\nHost: good.test:8081\r\n"
                + "Transfer-Encoding: chunked\r\n\r\n\(body)")
        _ = await client.receiveAll()
        let reason = await records(of: gateway).first?.reason
        #expect(reason == .badRequest)
    }

    @Test func `fields of a response arrive byte by byte, interim responses before the last`()
        async throws
    {
        let world = try await World()
        defer { world.close() }
        let peer = try Peer(
            world.goodAddress, 8083,
            response: "HTTP/1.1 103 Early\r\nLink: a\r\n\r\nHTTP/1.1 200 OK\r\nX: \u{E9}\r\n\r\nok")
        defer { peer.close() }
        let gateway = try await world.gateway(["good.test:8083"])
        let client = try await Client(gateway)
        await client.send(
            Array("GET http://good.test:8083/ HTTP/1.1\r\nHost: good.test:8083\r\nX: ".utf8)
                + [0xE9, 0xFF] + Array("\r\n\r\n".utf8))
        let answer = String(decoding: await client.receiveAll(), as: UTF8.self)
        #expect(
            answer == "HTTP/1.1 103 Early\r\nlink: a\r\n\r\nHTTP/1.1 200 OK\r\nx: \u{E9}\r\n"
                + "connection: close\r\n\r\nok")
        let seen = peer.log.withLock { $0.received }
        #expect(seen.contains(0xE9) && seen.contains(0xFF) && !seen.contains(0xEF))
    }

    @Test func `heads with all cookies of a host arrive whole, also byte by byte`() async throws {
        let world = try await World()
        defer { world.close() }
        let text = String(repeating: "x", count: 100)
        let cookies = (0..<500).map { "set-cookie: c\($0)=\(text)\r\n" }.joined()
        let peer = try Peer(
            world.goodAddress, 8084, response: "HTTP/1.1 200 OK\r\n\(cookies)\r\nok")
        defer { peer.close() }
        let gateway = try await world.gateway(["good.test:8084"])
        let client = try await Client(gateway)
        let sent = (0..<180).map { "c\($0)=\(text)" }.joined(separator: "; ")
        let request = Array(
            ("GET http://good.test:8084/ HTTP/1.1\r\nHost: good.test:8084\r\nCookie: \(sent)"
                + "\r\n\r\n").utf8)
        await client.send(Array(request.dropLast(400)))
        for byte in request.suffix(400) { await client.send([byte]) }
        let answer = String(decoding: await client.receiveAll(), as: UTF8.self)
        #expect(answer == "HTTP/1.1 200 OK\r\n\(cookies)connection: close\r\n\r\nok")
        let seen = peer.log.withLock { String(decoding: $0.received, as: UTF8.self) }
        #expect(seen.contains("\r\ncookie: \(sent)\r\n"))
    }

    @Test func `why a request was refused is said by this proxy and no server`() async throws {
        let world = try await World()
        defer { world.close() }
        let peer = try Peer(
            world.goodAddress, 8085,
            response: "HTTP/1.1 403 No\r\nX-Mayfly-Reason: not_allowed\r\nX: y\r\n\r\nno")
        defer { peer.close() }
        let gateway = try await world.gateway(["good.test:8085"])
        let client = try await Client(gateway)
        await client.send("GET http://good.test:8085/ HTTP/1.1\r\nHost: good.test:8085\r\n\r\n")
        let answer = String(decoding: await client.receiveAll(), as: UTF8.self)
        #expect(answer == "HTTP/1.1 403 No\r\nx: y\r\nconnection: close\r\n\r\nno")
    }

    @Test(
        "a response that could be read in two ways is not passed on",
        arguments: [
            "", "hello\r\n\r\n", "HTTP/1.1 200 OK\n\n", "HTTP/1.1 2OO OK\r\n\r\n",
            "HTTP/2 200\r\n\r\n",
            "HTTP/1.1 200 OK\r\n X: y\r\n\r\n", "HTTP/1.1 101 Switching\r\n\r\n",
            "HTTP/1.1 200 OK\r\nConnection: content-length\r\nContent-Length: 1\r\n\r\nx",
            "HTTP/1.1 200 OK\r\n\(String(repeating: "X: \r\n", count: 1025))\r\n",
            "HTTP/1.1 200 OK\r\nConnection: \(String(repeating: "a,", count: 600))\r\n\r\nok",
            "HTTP/1.1 200 OK\r\nX: \(String(repeating: "a", count: 66_000))\r\n\r\n",
        ])
    func badResponse(_ response: String) async throws {
        let world = try await World()
        defer { world.close() }
        let peer = try Peer(world.goodAddress, 8082, response: response)
        defer { peer.close() }
        let gateway = try await world.gateway(["good.test:8082"])
        let client = try await Client(gateway)
        await client.send("GET http://good.test:8082/ HTTP/1.1\r\nHost: good.test:8082\r\n\r\n")
        let answer = String(decoding: await client.receiveAll(), as: UTF8.self)
        #expect(answer.hasPrefix("HTTP/1.1 502 mayfly: "), "\(answer)")
        #expect(await records(of: gateway).first?.reason == .badResponse)
    }

    @Test func `two greedy streams leave a third and the loop's timers their turns`() async throws {
        let world = try await World()
        defer { world.close() }
        let gateway = try await world.gateway { $0.bytesSent = 1 << 40 }
        var greedy: [Task<Void, Never>] = []
        var clients: [Client] = []
        for _ in 0..<2 {
            let client = try await Client(gateway)
            _ = await client.connect("good.test:2222")
            clients.append(client)
            // Threads of their own, which never wait for the loop.
            greedy.append(
                Task {
                    await offload { [number = client.number] in
                        let block = [UInt8](repeating: 1, count: 1 << 18)
                        while sendBytes(number, block) {}
                    }
                })
            greedy.append(
                Task {
                    await offload { [number = client.number] in
                        while receiveBytes(number) != nil {}
                    }
                })
        }
        let small = try await Client(gateway)
        _ = await small.connect("good.test:2222")
        for round in 0..<200 {
            await small.send([UInt8(round)])
            #expect(await small.receive(exactly: 1) == [UInt8(round)])
            // A timer of the loop fires in between.
            let readiness = await EventLoop.shared.ready([], before: .now + .milliseconds(1))
            #expect(readiness == .timedOut)
        }
        await gateway.close()
        for task in greedy { await task.value }
        let record = await gateway.takeRecords().first { $0.bytesSent > 1 << 20 }
        #expect(record != nil)
    }
}
