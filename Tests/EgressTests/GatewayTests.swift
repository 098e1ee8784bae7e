// The gateway with real sockets: what gets through, what does not, and that each has its record.

import Egress
import Events
import Foundation
import Testing

@Suite("A job's network", .serialized)
struct GatewayTests {
    @Test func `each of the known ways out ends with its reason, and reaches nothing`() async throws
    {
        let world = try await World()
        defer { world.close() }
        setTraps(world)
        #expect(Vector.all.count >= 80)
        let literals = Vector.literals.map { "\($0):2222" }
        let gateway = try await world.gateway(["*", "*:2222"] + literals) {
            $0.connectionsPerSecond = 10_000
            $0.requestTime = .seconds(3)
        }
        for vector in Vector.all {
            let before = world.good.map(\.connections).reduce(0, +)
            let client = try await Client(gateway)
            await client.send(vector.bytes + vector.inTunnel)
            if vector.reason != nil { client.endWriting() }
            // What got through is echoed, or answered; then the client is done.
            var answer: [UInt8] = []
            if vector.reason == nil {
                let wanted = vector.inTunnel.isEmpty ? Array("ok".utf8) : vector.inTunnel
                while !answer.suffix(wanted.count).elementsEqual(wanted),
                    let more = await client.receive()
                {
                    answer += more
                }
                #expect(answer.suffix(wanted.count).elementsEqual(wanted), "\(vector)")
                client.endWriting()
            }
            answer += await client.receiveAll()
            let record = try #require(await records(of: gateway).first, "\(vector)")
            #expect(
                record.reason == vector.reason,
                "\(vector): \(String(decoding: answer, as: UTF8.self))")
            #expect((record.verdict == .allowed) == (vector.reason == nil), "\(vector)")
            let after = world.good.map(\.connections).reduce(0, +)
            if vector.reason == nil {
                #expect(after == before + 1, "\(vector)")
                #expect(record.address == world.goodAddress, "\(vector)")
            }
            if let reason = vector.reason, answer.starts(with: "HTTP/1.1 4".utf8) {
                let text = String(decoding: answer, as: UTF8.self)
                #expect(text.contains("x-mayfly-reason: \(reason.rawValue)\r\n"), "\(vector)")
                #expect(text.hasSuffix("\n") && text.contains("\r\n\r\nmayfly: "), "\(vector)")
            }
        }
        #expect(world.forbidden.map(\.connections) == [0, 0, 0])
        #expect(world.good.allSatisfy { !$0.received.contains("other.test") })
    }
    private func setTraps(_ world: World) {
        let (good, bad) = (world.goodAddress, world.forbiddenAddress)
        world.names.set("private.test", .addresses(["10.1.2.3"]))
        world.names.set("forbidden.test", .addresses([bad]))
        world.names.set("mixed.test", .addresses([good, bad]))
        world.names.set("mixed6.test", .addresses([good, "::1"]))
        world.names.set("chain.test", .alias(["good.test", "inner.test"], [bad]))
        world.names.set("mapped.test", .addresses(["::ffff:127.0.0.1"]))
        world.names.set("nat64.test", .addresses(["64:ff9b::7f00:1"]))
        world.names.set("metadata.test", .addresses(["169.254.169.254"]))
        world.names.set("zero.test", .addresses(["0.0.0.0"]))
        world.names.set("empty.test", .addresses([]))
        world.names.set("broken.test", .code(2))
        world.names.set("garbage.test", .garbage([0x81, 0x80, 0, 1, 0, 9, 0, 0, 0, 0, 3, 1, 1]))
        world.names.set("silent.test", .silence)
        world.names.set("cut.test", .truncated)
        world.names.set("many.test", .addresses((1...70).map { "\(world.prefix).\($0)" }))
        world.names.set("localhost", .addresses(["127.0.0.1"]))
    }

    @Test func `a job without rules reaches nothing, and asks the DNS for nothing`() async throws {
        let world = try await World()
        defer { world.close() }
        let gateway = try await world.gateway([])
        for host in [
            "good.test:443", "good.test:80", "a.wild.test:443", "\(world.goodAddress):443",
        ] {
            let client = try await Client(gateway)
            let answer = await client.connect(host)
            #expect(
                answer.hasPrefix(
                    "HTTP/1.1 403 mayfly: \(host) is not on this job's allow-list; add \"\(host)\" to "
                        + "network.allow\r\n"))
            let record = try #require(await records(of: gateway).first)
            #expect(record.verdict == .denied)
            #expect(record.reason == .notAllowed)
            #expect(record.rule == host)
            #expect("\(record.host):\(record.port)" == host)
        }
        #expect(world.names.asked == [])
        #expect(world.good.map(\.connections) == [0, 0, 0])
    }

    @Test func `what the job asks for and its operator does not allow is refused by that name`()
        async throws
    {
        let world = try await World()
        defer { world.close() }
        let gateway = try await world.gateway(["good.test"], ceiling: ["good.test:80"])
        let client = try await Client(gateway)
        #expect(await client.connect("good.test:443").contains("not on its operator's"))
        let record = try #require(await records(of: gateway).first)
        #expect(record.reason == .aboveCeiling)
        #expect(record.rule == "good.test:443")
        #expect(world.names.asked == [])
    }

    @Test func `a name that leads elsewhere the second time is checked the second time`()
        async throws
    {
        let world = try await World()
        defer { world.close() }
        world.names.set(
            "turn.test", .addresses([world.goodAddress]), .addresses([world.forbiddenAddress]))
        let gateway = try await world.gateway()
        for isAllowed in [true, false, false] {
            let client = try await Client(gateway)
            let answer = await client.connect("turn.test:2222")
            #expect(answer.hasPrefix("HTTP/1.1 200") == isAllowed)
            client.endWriting()
            _ = await client.receiveAll()
        }
        #expect(world.forbidden.map(\.connections) == [0, 0, 0])
        #expect(world.good[2].connections == 1)
    }

    @Test func `aliases are followed to an address that may be reached`() async throws {
        let world = try await World()
        defer { world.close() }
        world.names.set("alias.test", .alias(["b.test", "c.test"], [world.goodAddress]))
        let gateway = try await world.gateway()
        let client = try await Client(gateway)
        #expect(await client.connect("alias.test:2222").hasPrefix("HTTP/1.1 200"))
    }

    @Test func `the next address is tried when the first cannot be reached`() async throws {
        let world = try await World()
        defer { world.close() }
        world.names.set("two.test", .addresses(["\(world.prefix).77", world.goodAddress]))
        let gateway = try await world.gateway()
        let client = try await Client(gateway)
        #expect(await client.connect("two.test:2222").hasPrefix("HTTP/1.1 200"))
        client.endWriting()
        _ = await client.receiveAll()
        #expect(await records(of: gateway).first?.address == world.goodAddress)
    }

    @Test func `an exchange in plain text carries what belongs to it and nothing of this hop`()
        async throws
    {
        let world = try await World()
        defer { world.close() }
        let gateway = try await world.gateway()
        let client = try await Client(gateway)
        await client.send(
            "POST http://good.test/p?q HTTP/1.1\r\nHost: good.test\r\nProxy-Authorization: secret\r\n"
                + "Connection: keep-alive, X-Hop\r\nX-Hop: 1\r\nX-Kept: 2\r\nTE: trailers\r\n"
                + "Upgrade: h2c\r\nContent-Length: 3\r\n\r\nabcGET http://good.test/second HTTP/1.1\r\n"
                + "Host: good.test\r\n\r\n")
        let answer = String(decoding: await client.receiveAll(), as: UTF8.self)
        #expect(answer == "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok")
        let seen = world.good[0].received
        #expect(
            seen == "POST /p?q HTTP/1.1\r\nhost: good.test\r\nx-kept: 2\r\ncontent-length: 3\r\n"
                + "connection: close\r\n\r\nabc")
        #expect(world.good[0].connections == 1)
    }

    @Test func `an allowed encrypted hello needs the right name in the clear`() async throws {
        let world = try await World()
        defer { world.close() }
        let gateway = try await world.gateway(ech: .behindTheRightName)
        for (name, reason) in [("good.test", nil), ("other.test", EgressReason.sniMismatch)] {
            let client = try await Client(gateway)
            _ = await client.connect("good.test:443")
            await client.send(Hello(name: name, ech: true).bytes)
            client.endWriting()
            _ = await client.receiveAll()
            #expect(try #require(await records(of: gateway).first).reason == reason)
        }
    }

    @Test func `a server that speaks first is heard on ports that are not for TLS`() async throws {
        let world = try await World()
        defer { world.close() }
        let peer = try Peer(world.goodAddress, 2525, greeting: "220 hello\r\n")
        defer { peer.close() }
        let gateway = try await world.gateway(["good.test:2525"])
        let client = try await Client(gateway)
        #expect(await client.connect("good.test:2525").hasPrefix("HTTP/1.1 200"))
        #expect(await client.receive(exactly: 11) == Array("220 hello\r\n".utf8))
    }

    @Test func `a connection that stays open is told of while it is, and counted once`()
        async throws
    {
        let world = try await World()
        defer { world.close() }
        let gateway = try await world.gateway(["good.test:2222"])
        let client = try await Client(gateway)
        #expect(await client.connect("good.test:2222").hasPrefix("HTTP/1.1 200"))
        await client.send("\u{1}hello")
        #expect(await client.receive(exactly: 6).count == 6)
        let first = await gateway.takeRecords(withOpen: true)
        #expect(first.map(\.count) == [1] && first.map(\.verdict) == [.allowed], "\(first)")
        #expect(first.map(\.bytesSent) == [6] && first.map(\.reason) == [nil], "\(first)")
        #expect(await gateway.takeRecords(withOpen: true) == [])
        await client.send("\u{1}more")
        #expect(await client.receive(exactly: 5).count == 5)
        client.endWriting()
        _ = await client.receiveAll()
        let last = await records(of: gateway)
        #expect(last.map(\.count) == [0] && last.map(\.bytesSent) == [5], "\(last)")
        #expect(last.map(\.bytesReceived) == [5] && last.map(\.verdict) == [.allowed], "\(last)")
    }
}
