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
    func `a hostile guest that greets wrongly is refused`(index: Int) async throws {
        let (name, bytes) = Self.greetings[index]
        try await withPeer { session, peer in
            peer.write(bytes)
            await #expect(throws: MachineError.self, "\(name)") {
                try await session.greet(agent: Peer.agent, before: .now + .seconds(5))
            }
        }
    }

    @Test func `a hostile guest with another agent than the image's is refused`() async throws {
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
        ("READY before 1970", readyBytes(clock: -1)),
        ("READY at the smallest clock of all", readyBytes(clock: .min)),
        ("an empty data frame", header(0, 1, 0x43)),
        ("credit of less than it may give", header(8, 0, 0x20) + [0, 0, 0, 0, 0, 0, 0, 1]),
        ("OPEN before any program", header(1, 2, 0x4C) + [1]),
        ("OPEN of a service that is not", header(1, 2, 0x4C) + [3]),
        ("DATA on a stream that is not", header(1, 2, 0x22) + [1]),
        ("CLOSE of a stream that is not", header(0, 2, 0x23)),
        ("trailing bytes", header(17, 0, 0x48) + [UInt8](repeating: 0, count: 17)),
    ]

    @Test(arguments: frames.indices)
    func `a hostile guest that breaks the protocol ends its machine`(index: Int) async throws {
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

    /// What it sends in the middle of a job, and where: its streams are 1 (put), 3 (the program), 5
    /// (list) and 7 (get).
    static let jobFrames: [(String, ScriptedGuest.Point, [UInt8])] = [
        ("ACK before a file's end", .put, header(3, 1, 0x47) + [0, 0, 0]),
        ("an unknown status", .put, header(3, 1, 0x47) + [7, 0, 0]),
        ("a message over its limit", .put, header(1028, 1, 0x47) + [1, 4, 1] + filler(1025)),
        ("FILE back", .put, header(1, 1, 0x21) + [1]),
        ("STARTED of a file", .put, header(5, 1, 0x42) + [0, 0, 0, 0, 0]),
        ("credit for more of a file than was sent", .put, credit(0, 524_288)),
        ("STARTED twice", .run, header(5, 3, 0x42) + [0, 0, 0, 0, 0]),
        ("STARTED that is neither parked nor not", .run, header(5, 3, 0x42) + [2, 0, 0, 0, 0]),
        ("success of a program", .run, header(3, 3, 0x47) + [0, 0, 0]),
        ("refusal of a program that runs", .run, header(3, 3, 0x47) + [6, 0, 0]),
        ("EXIT before the outputs' ends", .run, exit(kind: 1, 0)),
        ("STDOUT after its end", .run, header(0, 3, 0x43, flags: 1) + header(1, 3, 0x43) + [1]),
        ("STDERR after its end", .run, header(0, 3, 0x44, flags: 1) + header(1, 3, 0x44) + [1]),
        ("EXIT of an unknown kind", .run, ends + exit(kind: 3, 0)),
        ("EXIT with code 256", .run, ends + exit(kind: 1, 256)),
        ("EXIT with code -1", .run, ends + exit(kind: 1, .max)),
        ("EXIT by signal 0", .run, ends + exit(kind: 2, 0)),
        ("EXIT by signal 65", .run, ends + exit(kind: 2, 65)),
        ("EXIT with a flag of 2", .run, ends + exit(kind: 1, 0, flag: 2)),
        ("EXIT with more time than there is", .run, ends + exit(kind: 1, 0, usage: 0x80)),
        ("EXIT cut short", .run, ends + header(30, 3, 0x45) + filler(30)),
        ("LISTED of a program", .run, header(3, 3, 0x46) + [0, 0, 0]),
        ("FILE of a program", .run, header(1, 3, 0x21) + [1]),
        ("output of a file that was put", .run, header(1, 1, 0x43) + [1]),
        ("output on the control stream", .run, header(1, 0, 0x43) + [1]),
        ("output of a stream to come", .run, header(1, 5, 0x43) + [1]),
        ("output of a stream of its own", .run, header(1, 2, 0x43) + [1]),
        ("READY again", .run, readyBytes(clock: 1)),
        ("ACK on stream 0", .run, header(3, 0, 0x47) + [0, 0, 0]),
        ("PARKED", .run, header(0, 0, 0x49)),
        ("PONG", .run, header(16, 0, 0x48) + filler(16)),
        ("an empty frame of output", .run, header(0, 3, 0x44)),
        ("credit of one byte", .run, credit(0, 1)),
        ("credit for input that was not sent", .run, credit(3, 65_536)),
        ("credit for a stream that it has closed", .run, credit(1, 65_536)),
        ("a second greeting", .run, GuestPreamble.magic + filler(72)),
        ("the host's own STDIN", .run, header(1, 3, 0x04) + [1]),
        ("the host's own EXEC", .run, header(1, 3, 0x03) + [1]),
        ("a frame over the limit", .run, header(65_537, 3, 0x43)),
        ("EXIT twice", .afterExit, exit(kind: 1, 0)),
        ("output after EXIT", .afterExit, header(1, 3, 0x43) + [1]),
        ("STARTED after EXIT", .afterExit, header(5, 3, 0x42) + [0, 0, 0, 0, 0]),
        ("ACK after EXIT", .afterExit, header(3, 3, 0x47) + [6, 0, 0]),
        ("success without a listing", .list, header(3, 5, 0x47) + [0, 0, 0]),
        ("FILE instead of a listing", .list, header(1, 5, 0x21) + [1]),
        ("two listings", .list, listed(["a.txt"]) + listed(["a.txt"])),
        ("a name that no pattern asks for", .list, listed(["a.txt", "Makefile"])),
        ("a hidden name", .list, listed([".a.txt"])),
        ("a name twice", .list, listed(["a.txt", "b.txt", "a.txt"])),
        ("a name that leaves its directory", .list, listed(["../a.txt"])),
        ("an absolute name", .list, listed(["/a.txt"])),
        ("a name with an escape", .list, listed(["\u{1B}[2J.txt"])),
        ("a name that reads backwards", .list, listed(["\u{202E}a.txt"])),
        ("no name", .list, listed([""])),
        ("more names than there are", .list, header(3, 5, 0x46) + [0, 0x10, 0x01]),
        ("a size beyond all", .list, listed(["a.txt"], size: 0x80)),
        ("a listing that is neither whole nor cut", .list, header(3, 5, 0x46) + [2, 0, 0]),
        ("a name that is not UTF-8", .list, listed(bytes: [[0xFF, 0x2E, 0x74, 0x78, 0x74]])),
        ("more of a file than it listed", .get, header(4, 7, 0x21) + filler(4)),
        ("success without a file", .get, header(3, 7, 0x47) + [0, 0, 0]),
        ("a listing instead of a file", .get, header(3, 7, 0x46) + [0, 0, 0]),
        ("output instead of a file", .get, header(1, 7, 0x43) + [1]),
        ("an empty frame of a file", .get, header(0, 7, 0x21)),
        ("a file for the listing", .get, header(1, 5, 0x21) + [1]),
    ]

    @Test(arguments: jobFrames.indices)
    func `a hostile guest that breaks the protocol in the middle of a job ends its machine`(
        index: Int
    ) async throws {
        let (name, point, bytes) = Self.jobFrames[index]
        await expect(.protocolViolation, name) {
            _ = try await ScriptedGuest.report(
                of: GuestJob(
                    program: .python(source: String(repeating: "#", count: 400_000)),
                    outputs: ["*.txt"], timeout: .seconds(20)), at: point, sending: bytes,
                isFlood: false)
        }
    }

    /// The agent's EMFILE or ENOMEM costs files, not the job; and it shows.
    @Test
    func `a hostile guest that cannot give its files leaves the job its result, with a warning`()
        async throws
    {
        let job = GuestJob(program: .python(source: "x"), outputs: ["*.txt"])
        let words: [UInt8] = [0, 2, 0x6E, 0x6F]
        for (point, bytes, warning) in [
            (
                ScriptedGuest.Point.list, Self.header(5, 5, 0x47) + [6] + words,
                GuestReport.Warning.listingFailed("no")
            ),
            (.get, Self.header(5, 7, 0x47) + [6] + words, .fileUnreadable("a.txt", "no")),
            (.list, Self.listed([], isTruncated: 1), .listingTruncated),
        ] {
            let report = try await ScriptedGuest.report(
                of: job, at: point, sending: bytes, isFlood: false)
            #expect(report.ending == .exited(code: 0))
            #expect(report.warnings == [warning])
        }
    }

    @Test func `a hostile guest that reports a step as not done never runs a job`() async throws {
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

    @Test func `a hostile guest with a clock that stays wrong is not used`() async throws {
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

    @Test func `a hostile guest with the same random bytes as another is not used`() async throws {
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

    @Test func `a hostile guest that hangs up is a lost machine, at once`() async throws {
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

    @Test func `a hostile guest that says nothing is given up at the deadline`() async throws {
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

    private static func filler(_ count: Int) -> [UInt8] { [UInt8](repeating: 1, count: count) }
    private static func credit(_ stream: UInt8, _ count: UInt32) -> [UInt8] {
        header(8, 0, 0x20) + [0, 0, 0, stream] + header(count, 0, 0).prefix(4)
    }
    /// Both outputs of the program are at their end.
    private static var ends: [UInt8] {
        header(0, 3, 0x43, flags: 1) + header(0, 3, 0x44, flags: 1)
    }
    private static func exit(
        kind: UInt8, _ value: UInt32, flag: UInt8 = 0, usage: UInt8 = 0
    ) -> [UInt8] {
        header(31, 3, 0x45) + [kind] + header(value, 0, 0).prefix(4) + [flag, 0, usage]
            + [UInt8](repeating: 0, count: 23)
    }
    private static func listed(
        _ names: [String], size: UInt8 = 0, isTruncated: UInt8 = 0
    ) -> [UInt8] {
        listed(bytes: names.map { Array($0.utf8) }, size: size, isTruncated: isTruncated)
    }
    private static func listed(
        bytes names: [[UInt8]], size: UInt8 = 0, isTruncated: UInt8 = 0
    ) -> [UInt8] {
        var body: [UInt8] = [isTruncated, 0, UInt8(names.count)]
        for name in names {
            body += [0, UInt8(name.count)] + name + [size, 0, 0, 0, 0, 0, 0, 1]
        }
        return header(UInt32(body.count), 5, 0x46) + body
    }
    /// Every step done, at a clock of its choice.
    private static func readyBytes(clock: Int64) -> [UInt8] {
        var body: [UInt8] = [0, UInt8(ReadyReport.requiredSteps.count)]
        for step in ReadyReport.requiredSteps {
            body += [0, UInt8(step.utf8.count)] + Array(step.utf8) + [1, 0, 0]
        }
        let bits = UInt64(bitPattern: clock)
        body += (0..<8).map { UInt8(truncatingIfNeeded: bits >> (56 - 8 * $0)) } + filler(32)
        return header(UInt32(body.count), 0, 0x41) + body
    }
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
        _ reason: MachineError.Reason, _ name: String = "", _ body: () async throws -> Void,
        sourceLocation: SourceLocation = #_sourceLocation
    ) async {
        do {
            try await body()
            Issue.record("\(name): nothing was thrown", sourceLocation: sourceLocation)
        } catch {
            #expect(
                (error as? MachineError)?.reason == reason, "\(name): \(error)",
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
            var preamble = [UInt8](repeating: 0, count: Limits.hostPreambleByteCount)
            var filled = 0
            while filled < preamble.count {
                let count = unsafe preamble.withUnsafeMutableBytes {
                    unsafe read(number, $0.baseAddress?.advanced(by: filled), $0.count - filled)
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
