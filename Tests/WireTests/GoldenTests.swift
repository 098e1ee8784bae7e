// Frames as frozen bytes: what an agent or a host of version 6 writes will be read for ever, and
// every damaged copy of it is refused or means something valid.

import Testing

@testable import Wire

@Suite("Frames")
struct GoldenTests {
    /// Decodes one whole frame of `side`; the bytes that its meaning encodes to.
    static func reencode(_ bytes: [UInt8], from side: Side) throws(WireError) -> [UInt8]? {
        var decoder = FrameDecoder(from: side)
        decoder.feed(bytes)
        guard let frame = try decoder.next() else { return nil }
        var output: [UInt8] = []
        if side == .host {
            try HostMessage(decoding: frame).encode(stream: frame.stream, into: &output)
        } else {
            try GuestMessage(decoding: frame).encode(stream: frame.stream, into: &output)
        }
        return output
    }

    @Test func `are what they were when version 6 was frozen`() throws {
        let golden = try Golden.version6()
        var expected: [(String, [UInt8])] = [
            ("invitation", try Invitation(port: 70_000, token: Samples.token).encode()),
            (
                "host preamble",
                try HostPreamble(nonce: Samples.nonce, token: Samples.token).encode()
            ),
            (
                "guest preamble",
                try GuestPreamble(nonce: Samples.nonce, agent: Samples.bytes(32)).encode()
            ),
        ]
        for sample in Samples.all {
            expected.append(("\(sample.side) \(sample.name)", try sample.encoded()))
        }
        #expect(golden.map(\.name) == expected.map(\.0))
        for (frozen, now) in zip(golden, expected) {
            #expect(Golden.hex(frozen.bytes) == Golden.hex(now.1), "\(frozen.name)")
        }
    }

    @Test func `come back as what they were`() throws {
        for sample in Samples.all {
            var decoder = FrameDecoder(from: sample.side)
            decoder.feed(try sample.encoded())
            let frame = try #require(try decoder.next())
            #expect(frame.stream == sample.stream)
            switch sample.message {
            case .host(let message): #expect(try HostMessage(decoding: frame) == message)
            case .guest(let message): #expect(try GuestMessage(decoding: frame) == message)
            }
            #expect(try decoder.next() == nil)
            #expect(decoder.bufferedByteCount == 0)
        }
    }

    @Test func `frames of every type are among the samples`() throws {
        let types = Samples.all.map { sample in
            switch sample.message {
            case .host(let message): message.type
            case .guest(let message): message.type
            }
        }
        #expect(Set(types) == Set(FrameType.allCases))
    }

    @Test func `arrive in any chunks`() throws {
        let samples = Samples.all.filter { $0.side == .guest }
        let bytes = try samples.flatMap { try $0.encoded() }
        for size in [1, 2, 3, 7, 12, 13, 100, bytes.count] {
            var decoder = FrameDecoder(from: .guest)
            var count = 0
            for start in stride(from: 0, to: bytes.count, by: size) {
                decoder.feed(bytes.span.extracting(start..<min(start + size, bytes.count)))
                while try decoder.next() != nil { count += 1 }
            }
            #expect(count == samples.count)
        }
    }

    @Test func `frames that are cut short are not frames yet, and never errors`() throws {
        for sample in Samples.all {
            let bytes = try sample.encoded()
            for end in 0..<bytes.count {
                #expect(try Self.reencode(Array(bytes[..<end]), from: sample.side) == nil)
            }
        }
    }

    @Test func `frames whose body is cut short or too long are violations`() throws {
        for sample in Samples.all {
            let bytes = try sample.encoded()
            let isData = FrameType(rawValue: bytes[8])?.isData == true
            for length in 0...(bytes.count - 12 + 1) where length != bytes.count - 12 && !isData {
                var damaged = Array(bytes.prefix(12 + length))
                while damaged.count < 12 + length { damaged.append(0) }
                damaged[2] = UInt8(length >> 8)
                damaged[3] = UInt8(length & 0xFF)
                #expect(
                    isViolation { () throws(WireError) in
                        _ = try Self.reencode(damaged, from: sample.side)
                    }, "\(sample.name) with \(length) bytes")
            }
        }
    }

    @Test func `frames with one bit flipped are refused or mean exactly those bytes`() throws {
        var (refused, accepted) = (0, 0)
        for sample in Samples.all {
            let bytes = try sample.encoded()
            for bit in 0..<bytes.count * 8 {
                var damaged = bytes
                damaged[bit / 8] ^= 1 << (bit % 8)
                do throws(WireError) {
                    guard let again = try Self.reencode(damaged, from: sample.side) else {
                        continue
                    }
                    accepted += 1
                    // A longer length leaves a frame waiting, a shorter one leaves a rest.
                    #expect(again == Array(damaged.prefix(again.count)), "\(sample.name) \(bit)")
                } catch { refused += 1 }
            }
        }
        #expect(refused > 1000)
        #expect(accepted > 1000)
    }

    @Test func `frames longer than the limit are refused at their header`() throws {
        var decoder = FrameDecoder(from: .guest)
        decoder.feed([0, 1, 0, 1, 0, 0, 0, 1, FrameType.stdout.rawValue, 0, 0, 0])
        #expect(throws: WireError.payloadTooLong(65_537)) { _ = try decoder.next() }
        #expect(throws: WireError.payloadTooLong(65_537)) {
            var output: [UInt8] = []
            try HostMessage.stdin(Samples.bytes(65_537), isFinal: false)
                .encode(stream: 1, into: &output)
        }
    }

    @Test func `frames of the other direction, or with flags that mean nothing, are refused`()
        throws
    {
        for type in FrameType.allCases {
            for (side, isTheirs) in [(Side.host, type.isFromHost), (.guest, type.isFromGuest)] {
                for flags: UInt8 in [0, 1, 2, 0x80, 0xFF] {
                    var decoder = FrameDecoder(from: side)
                    decoder.feed([0, 0, 0, 0, 0, 0, 0, 1, type.rawValue, flags, 0, 0])
                    // Without a payload: data may only be empty at its end.
                    let isAllowed = isTheirs && flags == (type.isData ? 1 : 0)
                    let isRefused = isViolation { () throws(WireError) in _ = try decoder.next() }
                    #expect(isRefused != isAllowed, "\(type) from \(side) with flags \(flags)")
                }
            }
        }
    }

    @Test func `frames of data in bulk cost no time per byte`() throws {
        // 64 MiB in whole frames: only copies in bulk pass in this time without optimization.
        var decoder = FrameDecoder(from: .guest)
        var frame: [UInt8] = []
        let payload = [UInt8](repeating: 7, count: Limits.payloadByteCount)
        try GuestMessage.stdout(payload, isFinal: false).encode(stream: 1, into: &frame)
        var total = 0
        let time = try ContinuousClock().measure {
            for _ in 0..<1024 {
                decoder.feed(frame)
                while let frame = try decoder.next() { total += frame.payload.count }
            }
        }
        #expect(total == 64 << 20)
        #expect(time < .seconds(10))
    }

    @Test func `preambles are refused with any bit flipped`() throws {
        let host = try HostPreamble(nonce: Samples.nonce, token: Samples.token).encode()
        for bit in 0..<host.count * 8 {
            var damaged = host
            damaged[bit / 8] ^= 1 << (bit % 8)
            #expect(isViolation { () throws(WireError) in _ = try HostPreamble(decoding: damaged) })
        }
        let invitation = try Invitation(port: 70_000, token: Samples.token).encode()
        for bit in 0..<invitation.count * 8 {
            var damaged = invitation
            damaged[bit / 8] ^= 1 << (bit % 8)
            #expect(isViolation { () throws(WireError) in _ = try Invitation(decoding: damaged) })
        }
        let guest = try GuestPreamble(nonce: Samples.nonce, agent: Samples.bytes(32)).encode()
        for bit in 0..<guest.count * 8 {
            var damaged = guest
            damaged[bit / 8] ^= 1 << (bit % 8)
            var connection = try HostConnection(nonce: Samples.nonce, token: Samples.token)
            connection.receive(damaged)
            // Only the agent's own digest is not the protocol's to judge.
            let isRefused = isViolation { () throws(WireError) in _ = try connection.next() }
            #expect(isRefused == (bit / 8 < 48), "bit \(bit)")
        }
    }
}
