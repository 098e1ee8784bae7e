// Clients and servers that are slow, greedy, many or gone: what each costs ends at a limit, with its
// record, and nobody else pays for it.

import Egress
import Events
import Foundation
import Glibc
import Testing

@Suite("Limits of the network", .serialized)
struct LimitTests {
    @Test(
        "a request that never ends is given up in time",
        arguments: [
            "C", "CONNECT good.test:2222 HTTP/1.1\r\nX: ", "\u{5}", "\u{5}\u{1}\u{0}\u{5}\u{1}",
        ])
    func slowRequest(_ beginning: String) async throws {
        let world = try await World()
        defer { world.close() }
        let gateway = try await world.gateway { $0.requestTime = .milliseconds(200) }
        let client = try await Client(gateway)
        await client.send(beginning)
        _ = await client.receiveAll()
        #expect(await records(of: gateway).first?.reason == .timeLimit)
        #expect(world.good.map(\.connections) == [0, 0, 0])
    }

    @Test func `a ClientHello that comes byte by byte is given up, however busy the server is`()
        async throws
    {
        let world = try await World()
        defer { world.close() }
        let gateway = try await world.gateway { $0.requestTime = .milliseconds(300) }
        let client = try await Client(gateway)
        _ = await client.connect("good.test:443")
        let sending = Task {
            for byte in Hello().bytes.dropLast() {
                await client.send([byte])
                try await Task.sleep(for: .milliseconds(10))
            }
        }
        _ = await client.receiveAll()
        sending.cancel()
        #expect(await records(of: gateway).first?.reason == .timeLimit)
        #expect(world.good[1].received == "")
    }

    @Test func `a connection without a byte is ended, and so is one that is open for too long`()
        async throws
    {
        let world = try await World()
        defer { world.close() }
        let idle = try await world.gateway { $0.idleTime = .milliseconds(150) }
        var client = try await Client(idle)
        _ = await client.connect("good.test:2222")
        _ = await client.receiveAll()
        #expect(await records(of: idle).first?.reason == .idleLimit)
        let long = try await world.gateway { $0.totalTime = .milliseconds(300) }
        client = try await Client(long)
        _ = await client.connect("good.test:2222")
        let chatting = Task { [client] in
            while !Task.isCancelled {
                await client.send([1])
                try await Task.sleep(for: .milliseconds(5))
            }
        }
        _ = await client.receiveAll()
        chatting.cancel()
        #expect(await records(of: long).first?.reason == .timeLimit)
    }

    @Test func `a client that never reads stops its server and not the loop`() async throws {
        let world = try await World()
        defer { world.close() }
        let gateway = try await world.gateway { $0.idleTime = .milliseconds(500) }
        let client = try await Client(gateway)
        _ = await client.connect("good.test:2222")
        // The echo comes back until nobody takes it; then nothing more is taken from the client.
        let sent = await offload { [number = client.number] in
            _ = fcntl(number, F_SETFL, O_NONBLOCK)
            let bytes = [UInt8](repeating: 7, count: 65536)
            var (sent, stuck) = (0, 0)
            while stuck < 40, sent < 1 << 30 {
                let count = unsafe send(number, bytes, bytes.count, CInt(MSG_NOSIGNAL))
                sent += max(0, count)
                stuck = count > 0 ? 0 : stuck + 1
                if count <= 0 { usleep(5000) }
            }
            return sent
        }
        #expect(sent < 64 << 20)
        let record = try #require(await records(of: gateway).first)
        #expect(record.reason == .idleLimit)
        #expect(record.bytesSent < 64 << 20)
    }

    @Test func `bytes of a job end at their limit, each way`() async throws {
        let world = try await World()
        defer { world.close() }
        for isSending in [true, false] {
            let gateway = try await world.gateway {
                if isSending { $0.bytesSent = 100_000 } else { $0.bytesReceived = 50_000 }
            }
            let client = try await Client(gateway)
            _ = await client.connect("good.test:2222")
            let sending = Task { await client.send([UInt8](repeating: 1, count: 300_000)) }
            let received = await client.receiveAll()
            await sending.value
            let record = try #require(await records(of: gateway).first)
            #expect(record.reason == .byteLimit)
            #expect(record.bytesSent <= (isSending ? 100_000 : 300_000))
            #expect(record.bytesReceived <= (isSending ? 100_000 : 50_000))
            #expect(received.count <= (isSending ? 100_000 : 50_000))
            let next = try await Client(gateway)
            #expect(await next.connect("good.test:2222").contains("x-mayfly-reason: byte_limit"))
        }
    }

    @Test func `connections of a job end at their limits, at once and in all`() async throws {
        let world = try await World()
        defer { world.close() }
        let gateway = try await world.gateway {
            $0.connectionsAtOnce = 3
            $0.connections = 5
            $0.connectionsPerSecond = 10_000
        }
        var open: [Client] = []
        for _ in 0..<3 { open.append(try await Client(gateway)) }
        for client in open { #expect(await client.connect("good.test:2222").contains(" 200 ")) }
        let fourth = try await Client(gateway)
        #expect(await fourth.receive() == nil)
        #expect(await gateway.takeRecords().map(\.reason) == [.tooManyConnections])
        for client in open {
            client.endWriting()
            _ = await client.receiveAll()
        }
        open = []
        _ = await records(of: gateway)
        for isAllowed in [true, true, false] {
            let client = try await Client(gateway)
            let answer = await client.connect("good.test:2222")
            #expect(answer.contains("x-mayfly-reason: too_many_connections") != isAllowed)
            client.endWriting()
            _ = await client.receiveAll()
        }
        #expect(world.good[2].connections == 5)
    }

    @Test func `connections that come too fast wait for their place in the rate`() async throws {
        let world = try await World()
        defer { world.close() }
        let gateway = try await world.gateway {
            $0.connectionsAtOnce = 2
            $0.connectionsPerSecond = 20
        }
        let begin = ContinuousClock.now
        for _ in 0..<8 {
            let client = try await Client(gateway)
            _ = await client.connect("good.test:2222")
            client.endWriting()
            _ = await client.receiveAll()
            _ = await records(of: gateway)
        }
        // Two at once, then one each 50 ms: not before the sixth of those.
        #expect(ContinuousClock.now - begin >= .milliseconds(290))
    }

    @Test func `records are bounded, and those that are alike are one`() async throws {
        let world = try await World()
        defer { world.close() }
        let gateway = try await world.gateway([]) {
            $0.records = 4
            $0.connectionsPerSecond = 10_000
        }
        for index in 0..<30 {
            let client = try await Client(gateway)
            _ = await client.connect(index % 3 == 0 ? "again.test:443" : "n\(index).test:443")
            _ = await client.receiveAll()
        }
        let records = await gateway.takeRecords()
        #expect(records.count == 5)
        #expect(records.map(\.count).reduce(0, +) == 30)
        #expect(records.first { $0.host == "again.test" }?.count == 10)
        #expect(records.last?.reason == .moreRecords)
        #expect(await gateway.takeRecords() == [])
    }

    @Test func `the end of a job ends its connections at once, each with its record`() async throws
    {
        let world = try await World()
        defer { world.close() }
        let gateway = try await world.gateway()
        let client = try await Client(gateway)
        _ = await client.connect("good.test:2222")
        await client.send("hello")
        #expect(await client.receive(exactly: 5) == Array("hello".utf8))
        let idle = try await Client(gateway)
        await gateway.close()
        let record = try #require(await gateway.takeRecords().first)
        #expect(record.reason == .jobEnded)
        #expect(record.bytesSent == 5 && record.bytesReceived == 5)
        #expect(await client.receive() == nil)
        #expect(await idle.receive() == nil)
        let late = try await Client(gateway)
        #expect(await late.receive() == nil)
        #expect(await gateway.takeRecords() == [])
    }

    @Test func `a client that goes away frees its server`() async throws {
        let world = try await World()
        defer { world.close() }
        let gateway = try await world.gateway()
        var client: Client? = try await Client(gateway)
        _ = await client?.connect("good.test:2222")
        client?.endWriting()
        client = nil
        #expect(await records(of: gateway).count == 1)
    }

    @Test func `many connections leave no descriptor behind`() async throws {
        let world = try await World()
        defer { world.close() }
        let gateway = try await world.gateway(["*.test"]) {
            $0.connectionsPerSecond = 10_000
        }
        func count() throws -> Int {
            try FileManager.default.contentsOfDirectory(atPath: "/proc/self/fd").count
        }
        let before = try count()
        for index in 0..<200 {
            let client = try await Client(gateway)
            switch index % 4 {
            case 0: _ = await client.connect("good.test:80")
            case 1: _ = await client.connect("no.test:80")
            case 2: await client.send("junk\r\n\r\n")
            default: break
            }
        }
        // The servers' ends are closed by threads of the test.
        let deadline = ContinuousClock.now + .seconds(10)
        while try count() > before + 8, .now < deadline { await EventLoop.shared.yield() }
        #expect(try count() <= before + 8)
    }
}
