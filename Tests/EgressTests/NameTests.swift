// The service for names: answers for what is allowed, and nothing is asked for what is not.

import Egress
import Events
import Testing

@Suite("Names for a job", .serialized)
struct NameTests {
    private static func query(
        _ name: String, type: UInt8 = 1, kind: UInt8 = 1, flags: UInt8 = 1, questions: UInt8 = 1,
        additional: [UInt8] = []
    ) -> [UInt8] {
        let labels = name.isEmpty ? [0] : NameServer.encoded(name)
        return [7, 9, flags, 0, 0, questions, 0, 0, 0, 0, 0, additional.isEmpty ? 0 : 1] + labels
            + [0, type, 0, kind] + additional
    }
    /// The answer's code and its addresses; `nil` when the stream ended.
    private func ask(_ client: Client, _ message: [UInt8]) async -> (code: UInt8, bytes: [UInt8])? {
        await client.send([UInt8(message.count >> 8), UInt8(message.count & 0xFF)] + message)
        let head = await client.receive(exactly: 2)
        guard head.count == 2 else { return nil }
        let answer = await client.receive(exactly: Int(head[0]) << 8 | Int(head[1]))
        guard answer.count >= 12, answer[0] == 7, answer[1] == 9, answer[2] & 0x80 != 0 else {
            return nil
        }
        return (answer[3] & 15, answer)
    }

    @Test func `an allowed name has its addresses, whatever the case of its letters`() async throws
    {
        let world = try await World()
        defer { world.close() }
        world.names.set("both.test", .addresses([world.goodAddress, "\(world.prefix).2"]))
        let client = try await Client(try await world.gateway(["*.test:443"]), .names)
        let answer = try #require(await ask(client, Self.query("BoTh.test")))
        #expect(answer.code == 0)
        #expect(answer.bytes[7] == 2)
        let address = try #require(IPAddress(world.goodAddress))
        #expect(answer.bytes.suffix(20).contains(address.bytes[1]))
        // Its question is given back letter by letter: clients check it.
        #expect(answer.bytes[12...].starts(with: NameServer.encoded("BoTh.test")))
        let v6 = try #require(await ask(client, Self.query("both.test", type: 28)))
        #expect(v6.code == 0 && v6.bytes[7] == 0)
    }

    @Test func `a name that is not allowed is never asked for outside`() async throws {
        let world = try await World()
        defer { world.close() }
        let gateway = try await world.gateway(["good.test:443"])
        let client = try await Client(gateway, .names)
        let secret = "c2vjcmv0.leak.example"
        for name in [
            secret, "x.good.test", "good.test.evil.test", "", "10.0.0.1", "a b.test", "localhost",
        ] {
            for type: UInt8 in [1, 28, 16, 15, 255, 12] {
                let answer = try #require(await ask(client, Self.query(name, type: type)))
                #expect(answer.code == 3, "\(name) \(type)")
            }
        }
        // Nor are other types of an allowed one: they can carry anything.
        for type: UInt8 in [2, 5, 12, 15, 16, 33, 65, 255] {
            let answer = try #require(await ask(client, Self.query("good.test", type: type)))
            #expect(answer.code == 0 && answer.bytes[7] == 0, "\(type)")
        }
        #expect(world.names.asked == [])
        let refused = try #require(await gateway.takeRecords().first { $0.host == secret })
        #expect(refused.verdict == .denied && refused.reason == .notAllowed)
        #expect(refused.rule == secret && refused.port == 0 && refused.count == 6)
    }

    @Test func `a name that leads to an address that is not public has none`() async throws {
        let world = try await World()
        defer { world.close() }
        world.names.set("mixed.test", .addresses([world.goodAddress, "10.0.0.1"]))
        world.names.set("mixed6.test", .addresses([world.goodAddress, "fd00::1"]))
        world.names.set("broken.test", .code(2))
        let gateway = try await world.gateway(["*.test"])
        let client = try await Client(gateway, .names)
        for (name, code) in [
            ("mixed.test", 3), ("mixed6.test", 3), ("broken.test", 2), ("no.test", 3),
        ] {
            #expect(
                try #require(await ask(client, Self.query(name))).code == UInt8(code), "\(name)")
        }
        let reasons = await gateway.takeRecords().map(\.reason)
        #expect(reasons == [.addressNotPublic, .addressNotPublic, .nameFailed, .nameNotFound])
    }

    @Test func `messages that are no queries are refused and not asked further`() async throws {
        let world = try await World()
        defer { world.close() }
        let gateway = try await world.gateway(["*.test"])
        let client = try await Client(gateway, .names)
        let opt: [UInt8] = [0, 0, 41, 16, 0, 0, 0, 0, 0, 0, 0]
        #expect(await ask(client, Self.query("good.test", additional: opt))?.code == 0)
        #expect(await ask(client, Self.query("good.test", questions: 2))?.code == 1)
        #expect(await ask(client, Self.query("good.test", questions: 0))?.code == 1)
        #expect(await ask(client, Self.query("good.test") + [0])?.code == 1)
        #expect(await ask(client, Array(Self.query("good.test").dropLast()))?.code == 1)
        #expect(await ask(client, Self.query("good.test", kind: 3))?.code == 5)
        #expect(await ask(client, Self.query("good.test", flags: 0x28))?.code == 4)
        // A name that points to itself, and one that is too long.
        let pointer: [UInt8] = [7, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xC0, 12, 0, 1, 0, 1]
        #expect(await ask(client, pointer)?.code == 1)
        let long = String(repeating: "aaaaaaaaa.", count: 30) + "test"
        #expect(await ask(client, Self.query(long))?.code == 1)
        for bytes: [UInt8] in [Self.query("good.test", flags: 0x81), [1, 2, 3], []] {
            let other = try await Client(gateway, .names)
            #expect(await ask(other, bytes) == nil)
        }
        #expect(Set(world.names.asked) == ["good.test"])
    }
}
