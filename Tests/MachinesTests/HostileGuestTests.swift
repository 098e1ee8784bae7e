// A guest that lies: a scripted peer on the other end of a real socket. Whatever it sends ends in
// an error of ours within the deadline, and never in a trap or in memory without bound.

import CLinux
import Events
import Foundation
import Processes
import Testing
import Wire

@testable import Machines

@Suite("A hostile guest")
struct HostileGuestTests {
    /// What it sends instead of an honest greeting.
    static let greetings: [(String, [UInt8])] = [
        ("nothing but zeros", [UInt8](repeating: 0, count: 80)),
        ("the host's own magic", HostPreamble.magic + [UInt8](repeating: 0, count: 72)),
        ("another version", GuestPreamble.magic + [0, 9] + [UInt8](repeating: 0, count: 70)),
        ("reserved bytes set", GuestPreamble.magic + [0, 1, 1] + [UInt8](repeating: 0, count: 69)),
        ("another nonce", GuestPreamble.magic + [0, 1] + [UInt8](repeating: 0, count: 70)),
        ("random bytes", (0..<80).map { UInt8(truncatingIfNeeded: $0 &* 167 &+ 13) }),
    ]

    @Test(arguments: greetings.indices)
    func `that greets wrongly is refused`(index: Int) async throws {
        let (name, bytes) = Self.greetings[index]
        try await withPeer { session, peer in
            peer.write(bytes)
            await #expect(throws: MachineError.self, "\(name)") {
                try await session.greet(agent: Peer.agent, before: .now + .seconds(5))
            }
        }
    }

    @Test func `with another agent than the image's is refused`() async throws {
        try await withPeer { session, peer in
            try peer.greet(digest: [UInt8](repeating: 7, count: 32))
            await expect(.imageRefused) {
                try await session.greet(agent: Peer.agent, before: .now + .seconds(5))
            }
        }
    }

    /// Frames after an honest greeting, while the host waits for READY.
    static let frames: [(String, [UInt8])] = [
        ("a length over the limit", header(0x0001_0001, 0, 0x41)),
        ("a length of four gigabytes", header(0xFFFF_FFFF, 0, 0x41)),
        ("an unknown type", header(0, 0, 0x7F)),
        ("a type of the host's", header(0, 0, 0x01)),
        ("type zero", header(0, 0, 0)),
        ("unknown flags", header(0, 0, 0x41, flags: 0x80)),
        ("FIN on a control frame", header(0, 0, 0x41, flags: 1)),
        ("reserved bytes", [0, 0, 0, 0, 0, 0, 0, 0, 0x41, 0, 0, 1]),
        ("READY without a body", header(0, 0, 0x41)),
        ("READY with a claimed list", header(2, 0, 0x41) + [0xFF, 0xFF]),
        ("READY on a data stream", header(2, 1, 0x41) + [0, 0]),
        ("STDOUT before any program", header(3, 1, 0x43) + [1, 2, 3]),
        ("STDOUT on the control stream", header(3, 0, 0x43) + [1, 2, 3]),
        ("EXIT of nothing", header(31, 1, 0x45) + [UInt8](repeating: 1, count: 31)),
        ("FILE that nobody asked for", header(3, 1, 0x21) + [1, 2, 3]),
        ("LISTED that nobody asked for", header(3, 1, 0x46) + [0, 0, 0]),
        ("ACK of nothing", header(3, 0, 0x47) + [0, 0, 0]),
        ("ACK on a stream of its own", header(3, 2, 0x47) + [0, 0, 0]),
        ("PONG that nobody asked for", header(16, 0, 0x48) + [UInt8](repeating: 0, count: 16)),
        ("PARKED in the middle", header(0, 0, 0x49)),
        ("credit of zero", header(8, 0, 0x20) + [UInt8](repeating: 0, count: 8)),
        ("credit without end", header(8, 0, 0x20) + [0, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF]),
        ("credit for a stream that is not", header(8, 0, 0x20) + [0, 0, 0, 99, 0, 0, 1, 0]),
        ("ERROR with broken UTF-8", header(4, 0, 0x4A) + [0, 2, 0xC3, 0x28]),
        ("ERROR with a zero byte", header(4, 0, 0x4A) + [0, 2, 0x41, 0x00]),
        ("ERROR longer than its frame", header(2, 0, 0x4A) + [0, 9]),
        ("trailing bytes", header(17, 0, 0x48) + [UInt8](repeating: 0, count: 17)),
    ]

    @Test(arguments: frames.indices)
    func `that breaks the protocol ends its machine`(index: Int) async throws {
        let (name, bytes) = Self.frames[index]
        try await withPeer { session, peer in
            try peer.greet()
            try await session.greet(agent: Peer.agent, before: .now + .seconds(5))
            peer.write(bytes)
            await #expect("\(name)") {
                _ = try await session.prepare(
                    Freshness(pin: nil), id: "m-1", generation: "0", before: .now + .seconds(5))
            } throws: { error in
                (error as? MachineError)?.reason == .protocolViolation
            }
        }
    }

    @Test func `that reports a step as not done never runs a job`() async throws {
        for missing in ReadyReport.requiredSteps {
            try await withPeer { session, peer in
                try peer.greet()
                try await session.greet(agent: Peer.agent, before: .now + .seconds(5))
                let steps = ReadyReport.requiredSteps.map {
                    ReadyReport.Step(name: $0, isDone: $0 != missing, message: "no")
                }
                try peer.send(
                    .ready(
                        ReadyReport(
                            steps: steps, realtime: realtimeNow(), sample: randomBytes(32))))
                await expect(.restoreFailed) {
                    _ = try await session.prepare(
                        Freshness(pin: nil), id: "m-1", generation: "0",
                        before: .now + .seconds(5))
                }
            }
        }
    }

    @Test func `with a clock that stays wrong is not used`() async throws {
        try await withPeer { session, peer in
            try peer.greet()
            try await session.greet(agent: Peer.agent, before: .now + .seconds(5))
            for _ in 0..<8 { try peer.ready(clockError: -200_000_000) }
            await expect(.restoreFailed) {
                _ = try await session.prepare(
                    Freshness(pin: nil), id: "m-1", generation: "0", before: .now + .seconds(5))
            }
        }
    }

    @Test func `with the same random bytes as another is not used`() async throws {
        let sample = randomBytes(32)
        for isSecond in [false, true] {
            try await withPeer { session, peer in
                try peer.greet()
                try await session.greet(agent: Peer.agent, before: .now + .seconds(5))
                try peer.ready(sample: sample)
                if isSecond {
                    await expect(.restoreFailed) {
                        _ = try await session.prepare(
                            Freshness(pin: nil), id: "m-1", generation: "0",
                            before: .now + .seconds(5))
                    }
                } else {
                    _ = try await session.prepare(
                        Freshness(pin: nil), id: "m-1", generation: "0",
                        before: .now + .seconds(5))
                }
            }
        }
    }

    @Test func `that hangs up is a lost machine, at once`() async throws {
        try await withPeer { session, peer in
            try peer.greet()
            try await session.greet(agent: Peer.agent, before: .now + .seconds(5))
            peer.hangUp()
            await expect(.machineLost) {
                _ = try await session.prepare(
                    Freshness(pin: nil), id: "m-1", generation: "0", before: .now + .seconds(60))
            }
        }
    }

    @Test func `that says nothing is given up at the deadline`() async throws {
        try await withPeer { session, _ in
            await expect(.restoreFailed) {
                try await session.greet(agent: Peer.agent, before: .now + .milliseconds(200))
            }
        }
    }

    @Test func `cannot hold up a job that is cancelled`() async throws {
        try await withPeer { session, _ in
            let waiting = Task { @LoopActor in
                try await session.greet(agent: Peer.agent, before: .now + .seconds(600))
            }
            waiting.cancel()
            await expect(.cancelled) { try await waiting.value }
        }
    }

    // MARK: Steps

    private static func header(
        _ length: UInt32, _ stream: UInt32, _ type: UInt8, flags: UInt8 = 0
    ) -> [UInt8] {
        func bytes(_ value: UInt32) -> [UInt8] {
            [24, 16, 8, 0].map { UInt8(truncatingIfNeeded: value >> $0) }
        }
        return bytes(length) + bytes(stream) + [type, flags, 0, 0]
    }

    @LoopActor
    private func expect(
        _ reason: MachineError.Reason, _ body: () async throws -> Void,
        sourceLocation: SourceLocation = #_sourceLocation
    ) async {
        do {
            try await body()
            Issue.record("nothing was thrown", sourceLocation: sourceLocation)
        } catch {
            #expect(
                (error as? MachineError)?.reason == reason, "\(error)",
                sourceLocation: sourceLocation)
        }
    }

    @LoopActor
    private func withPeer(
        _ body: @LoopActor (AgentSession, Peer) async throws -> Void
    ) async throws {
        let pair = try SocketPair()
        let peer = Peer(dup(pair.theirs.number))
        let living = Descriptor(mayfly_pidfd_open(getpid()))
        let session = try AgentSession(ByteStream(pair.take()), living.number)
        try await body(session, peer)
    }
}

/// The other end of the socket, with Wire's own guest side to be honest with when it wants to be.
@LoopActor
final class Peer {
    static let agent = String(repeating: "00", count: 32)
    private var descriptor: Descriptor?

    init(_ number: CInt) { descriptor = Descriptor(number) }

    func write(_ bytes: [UInt8]) {
        guard let number = descriptor?.number else { return }
        _ = unsafe Foundation.write(number, bytes, bytes.count)
    }
    func hangUp() { descriptor = nil }

    /// Answers the nonce in the host's preamble, which the session writes when it first waits.
    func greet(digest: [UInt8] = [UInt8](repeating: 0, count: 32)) throws {
        guard let number = descriptor?.number else { return }
        let digest = digest
        // A thread of its own: the pool may be busy with other tests for longer than we wait.
        Thread.detachNewThread {
            var preamble = [UInt8](repeating: 0, count: 64)
            var filled = 0
            while filled < 64 {
                let count = unsafe preamble.withUnsafeMutableBytes {
                    unsafe read(number, $0.baseAddress?.advanced(by: filled), 64 - filled)
                }
                guard count > 0 else { return }
                filled += count
            }
            guard let host = try? HostPreamble(decoding: preamble),
                let bytes = try? GuestPreamble(nonce: host.nonce, agent: digest).encode()
            else { return }
            _ = unsafe Foundation.write(number, bytes, bytes.count)
        }
    }
    func send(_ message: GuestMessage, on stream: UInt32 = 0) throws {
        var bytes: [UInt8] = []
        try message.encode(stream: stream, into: &bytes)
        write(bytes)
    }
    func ready(clockError: Int64 = 0, sample: [UInt8] = randomBytes(32)) throws {
        let steps = ReadyReport.requiredSteps.map { ReadyReport.Step(name: $0, isDone: true) }
        try send(
            .ready(
                ReadyReport(
                    steps: steps, realtime: realtimeNow() + clockError, sample: sample)))
    }
}
