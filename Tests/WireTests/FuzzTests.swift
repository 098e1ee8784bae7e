// Random damage to honest bytes, for every decoder. What is accepted must encode to the very bytes it
// was read from; what is not must be a WireError; nothing may trap. MAYFLY_FUZZ_CASES sets how many,
// MAYFLY_FUZZ_SEED repeats a run.

import Testing

@testable import Wire

@Suite("Random bytes")
struct FuzzTests {
    /// Damages a copy of `bytes` in one to three places; sometimes cuts it.
    private static func damage(_ bytes: [UInt8], from start: Int, _ random: inout SeededGenerator)
        -> [UInt8]
    {
        var bytes = bytes
        guard bytes.count > start else { return bytes }
        let draw = random.next()
        for shift in 0...(draw & 1) {
            let bits = Int(truncatingIfNeeded: draw >> (8 + shift * 24))
            let index = start + (bits & 0xFFFF) % (bytes.count - start)
            bytes[index] =
                draw & 6 == 0
                ? [0, 1, 0x7F, 0x80, 0xFF, 0x2F, 0x2E, 0x41][bits >> 16 & 7]
                : UInt8(bits >> 16 & 0xFF)
        }
        return bytes
    }

    /// Bodies of control messages, with their types: half of all cases.
    @Test func `random bytes as bodies are refused or mean exactly those bytes`() throws {
        var random = Fuzzing.generator("bodies", 10)
        let samples = try Samples.all.map { sample in
            let bytes = try sample.encoded()
            var decoder = FrameDecoder(from: sample.side)
            decoder.feed(bytes)
            return (side: sample.side, frame: try #require(try decoder.next()))
        }
        var (accepted, refused) = (0, 0)
        for _ in 0..<Fuzzing.cases / 2 {
            let (side, honest) = samples[random.below(samples.count)]
            var frame = honest
            frame.payload = Self.damage(honest.payload, from: 0, &random)
            var again: [UInt8] = []
            do throws(WireError) {
                if side == .host {
                    try HostMessage(decoding: frame).encode(stream: frame.stream, into: &again)
                } else {
                    try GuestMessage(decoding: frame).encode(stream: frame.stream, into: &again)
                }
                accepted += 1
            } catch {
                refused += 1
                continue
            }
            if again.count != frame.payload.count + 12 || !again[12...].elementsEqual(frame.payload)
            {
                Issue.record(
                    "\(frame.type): \(Golden.hex(frame.payload)) became \(Golden.hex(again))")
            }
        }
        #expect(accepted > Fuzzing.cases / 50)
        #expect(refused > Fuzzing.cases / 50)
    }

    @Test func `random bytes as headers and preambles are refused or mean exactly those bytes`()
        throws
    {
        var random = Fuzzing.generator("headers", 11)
        let headers = try Samples.all.map {
            (side: $0.side, bytes: Array(try $0.encoded().prefix(12)))
        }
        let preamble = try GuestPreamble(nonce: Samples.nonce, agent: Samples.bytes(32)).encode()
        for number in 0..<Fuzzing.cases / 4 {
            if number % 4 == 0 {
                let bytes = Self.damage(preamble, from: 0, &random)
                guard let decoded = try? GuestPreamble(decoding: bytes) else { continue }
                if try decoded.encode() != bytes { Issue.record("preamble \(Golden.hex(bytes))") }
                continue
            }
            let (side, honest) = headers[random.below(headers.count)]
            let bytes = Self.damage(honest, from: 0, &random)
            guard let header = try? FrameHeader(bytes.span, at: 0, from: side) else { continue }
            var again: [UInt8] = []
            header.encode(into: &again)
            if again != bytes { Issue.record("header \(Golden.hex(bytes))") }
        }
        let host = try HostPreamble(nonce: Samples.nonce, token: Samples.token).encode()
        for _ in 0..<Fuzzing.cases / 100 {
            let bytes = Self.damage(host, from: 0, &random)
            // 32 bits of checksum: only the undamaged one passes.
            if (try? HostPreamble(decoding: bytes)) != nil, bytes != host {
                Issue.record("preamble \(Golden.hex(bytes))")
            }
        }
    }

    /// Whole conversations: streams of honest frames in random order, some damaged.
    @Test func `random bytes as conversations end in a violation or go on`() throws {
        var random = Fuzzing.generator("conversations", 12)
        let guestFrames = try Samples.all.filter { $0.side == .guest }.map { try $0.encoded() }
        let hostFrames = try Samples.all.filter { $0.side == .host }.map { try $0.encoded() }
        let conversation = try prepared()
        var cases = 0
        var (violations, events) = (0, 0)
        while cases < Fuzzing.cases / 4 {
            var (host, guest) = conversation
            let isHost = random.below(2) == 0
            if isHost {
                for message in [
                    HostMessage.exec(Samples.exec),
                    .get(GetRequest(name: "a", maximumByteCount: 9)),
                ] {
                    _ = try host.open(message)
                }
                try host.send(.ping(0x0102_0304_0506_0708))
            }
            var isOver = false
            while !isOver {
                let frames = isHost ? guestFrames : hostFrames
                var frame = frames[random.below(frames.count)]
                // A stream that may be open, rather than any of four billion.
                if frame[7] != 0 { frame[7] = [1, 2, 3, 4, 5, 6, 7, 8][random.below(8)] }
                if random.below(8) == 0 { frame = Self.damage(frame, from: 0, &random) }
                cases += 1
                do throws(WireError) {
                    if isHost {
                        host.receive(frame)
                        while try host.next() != nil { events += 1 }
                    } else {
                        guest.receive(frame)
                        while try guest.next() != nil { events += 1 }
                    }
                } catch {
                    violations += 1
                    isOver = true
                }
            }
        }
        #expect(violations > 100)
        #expect(events > 100)
    }

    @Test func `random bytes as names and patterns never trap`() throws {
        var random = Fuzzing.generator("names", 13)
        let pieces = [
            "a", "é", "/", ".", "..", "*", "**", "?", "[", "]", "-", "!", "\\", "\u{0}", "\u{202E}",
            "😀", "a-z",
        ]
        var (names, patterns) = (0, 0)
        for _ in 0..<Fuzzing.cases / 50 {
            let text = (0...random.below(8)).map { _ in pieces[random.below(pieces.count)] }
                .joined()
            if GuestPath.isValid(text) { names += 1 }
            guard let glob = try? GuestGlob(text) else { continue }
            patterns += 1
            var steps = 0
            _ = glob.matches("a/é/a-z.😀", steps: &steps)
            #expect(steps <= 400)
        }
        #expect(names > 100)
        #expect(patterns > 100)
    }
}
