// Guests that flood the host: scripted peers on real sockets that never stop talking, at every point
// of a job. Whatever they send, the event loop keeps serving everybody else, and the session ends for
// its own reason in time.

import CLinux
import Events
import Foundation
import Processes
import Testing
import Wire

@testable import Machines

@Suite("A guest that floods the host", .serialized)
struct FloodTests {
    /// What the guest does from some point of its job on, and how that must end.
    struct Flood: Sendable, CustomTestStringConvertible {
        enum Point: Sendable { case put, run, list, get, afterExit }
        enum End: Equatable, Sendable {
            case violation, timeout, outputLimit
            /// The program's own result, and a warning that collecting its files did not end.
            case collectionUnfinished
            /// Our transfer deadline: the job is run again elsewhere.
            case restoreFailed
        }
        let name: String
        let point: Point
        let end: End
        /// Sent again and again, as fast as the host reads.
        let bytes: @Sendable () throws -> [UInt8]
        var testDescription: String { name }
    }

    static let floods: [Flood] = [
        Flood(name: "empty data frames instead of output", point: .run, end: .violation) {
            frame(0, 0x43, stream: 3)
        },
        Flood(name: "credit for a running program", point: .run, end: .violation) {
            try message(.credit(stream: 3, 1), 0)
        },
        Flood(name: "credit while a file is put", point: .put, end: .violation) {
            try message(.credit(stream: 0, 1), 0)
        },
        Flood(name: "the largest credit of all", point: .put, end: .violation) {
            try message(.credit(stream: 1, 65_536), 0)
        },
        Flood(name: "pongs that answer nothing", point: .run, end: .violation) {
            try message(.pong(7, realtime: 1), 0)
        },
        Flood(name: "output of one byte a frame", point: .run, end: .outputLimit) {
            try message(.stdout([1], isFinal: false), 3)
        },
        Flood(name: "output in full frames", point: .run, end: .outputLimit) {
            try message(.stdout([UInt8](repeating: 65, count: 65_536), isFinal: false), 3)
        },
        Flood(name: "both outputs in turn", point: .run, end: .outputLimit) {
            try message(.stdout([1, 2], isFinal: false), 3)
                + message(.stderr([3, 4], isFinal: false), 3)
        },
        Flood(name: "the bytes of a frame that never ends", point: .run, end: .timeout) { [] },
        Flood(name: "a frame that never ends while a file is put", point: .put, end: .restoreFailed)
        { [] },
        Flood(
            name: "a frame that never ends instead of a listing", point: .list,
            end: .collectionUnfinished
        ) { [] },
        Flood(
            name: "a frame that never ends in a file", point: .get, end: .collectionUnfinished
        ) { [] },
        Flood(name: "credit instead of a listing", point: .list, end: .violation) {
            try message(.credit(stream: 0, 524_288), 0)
        },
        Flood(
            name: "a listing of as many names as fit, again and again", point: .list,
            end: .violation
        ) {
            let files = (0..<3500).map { ListedFile(name: "\($0).txt", byteCount: 1) }
            return try message(.listed(files, isTruncated: true), 5)
        },
        Flood(name: "fifty thousand names in many listings", point: .list, end: .violation) {
            try (0..<17).reduce(into: []) { bytes, part in
                let files = (0..<3000).map {
                    ListedFile(name: "\(part)-\($0).txt", byteCount: 1)
                }
                bytes += try message(.listed(files, isTruncated: false), 5)
            }
        },
        Flood(name: "a file of one byte a frame", point: .get, end: .violation) {
            try message(.file([1], isFinal: false), 7)
        },
        Flood(name: "more of a file than was listed", point: .get, end: .violation) {
            try message(.file([UInt8](repeating: 1, count: 65_536), isFinal: false), 7)
        },
        Flood(name: "empty file frames", point: .get, end: .violation) {
            frame(0, 0x21, stream: 7)
        },
        Flood(name: "output after the program's end", point: .afterExit, end: .violation) {
            try message(.stdout([1], isFinal: false), 3)
        },
        Flood(
            name: "credit between the program's end and its listing", point: .afterExit,
            end: .violation
        ) {
            try message(.credit(stream: 3, 65_536), 0)
        },
    ]

    private static let timeout = Duration.milliseconds(1500)

    @Test(arguments: floods)
    func `holds up nobody, and its job ends for its own reason in time`(flood: Flood) async throws {
        // What this host does to a heartbeat when nobody floods it.
        let quiet = await Heartbeat.worst { for _ in 0..<20 { _ = try? await Self.honest() } }
        var took = Duration.zero
        let worst = try await Heartbeat.worst { () async throws -> Void in
            let neighbour = Task { @LoopActor in try await Self.honest() }
            let begin = ContinuousClock.now
            let end = try await Self.end(of: flood)
            took = .now - begin
            #expect(end == flood.end)
            #expect(try await neighbour.value == "42\n")
        }
        print(
            "\(flood.name): the worst beat was \(worst.milliseconds) ms late, \(quiet) when quiet")
        #expect(worst < max(quiet * 3, .milliseconds(100)), "quiet: \(quiet)")
        // The job's own timeout or that of a transfer, which is the same here, and what the guest
        // may take to report the end.
        #expect(took < Self.timeout + .seconds(2), "\(took)")
    }

    @Test func `does not keep a cancelled job alive`() async throws {
        let flooding = Signal()
        let running = Task { @LoopActor in
            try await Self.report(
                of: GuestJob(
                    program: .python(source: "x"), timeout: .seconds(60), limits: .endless),
                flooding: .run, onOutput: { _, _ in flooding.raise() },
                with: { try message(.stdout([1], isFinal: false), 3) })
        }
        await flooding.wait()
        let cancelled = ContinuousClock.now
        running.cancel()
        let result = await running.result
        #expect(ContinuousClock.now - cancelled < .seconds(1))
        #expect { _ = try result.get() } throws: { ($0 as? MachineError)?.reason == .cancelled }
    }

    @Test func `cannot outlast its deadline, however much it has to say`() async throws {
        let begin = ContinuousClock.now
        let report = try await Self.report(
            of: GuestJob(
                program: .python(source: "x"), timeout: .milliseconds(500), limits: .endless),
            flooding: .run, with: { try message(.stdout([1], isFinal: false), 3) })
        #expect(report.ending == .timedOut)
        #expect(ContinuousClock.now - begin < .milliseconds(500) + .seconds(2))
    }

    /// A worker that stood still finds the end of its job waiting: that counts, not the clock.
    @Test func `is told from one that ended in time while the host stood still`() async throws {
        let (heard, answered) = (Signal(), DispatchSemaphore(value: 0))
        let running = Task { @LoopActor in
            try await Self.report(
                of: GuestJob(program: .python(source: "x"), timeout: .milliseconds(1)),
                before: { heard.raise() }, after: { answered.signal() })
        }
        await heard.wait()
        await Self.standStill(until: answered, .seconds(2))
        let report = try await running.value
        #expect(report.ending == .exited(code: 0))
        #expect(String(decoding: report.stdout.bytes, as: UTF8.self) == "42\n")
    }

    // MARK: Steps

    /// How a job ended whose guest floods.
    @LoopActor
    private static func end(of flood: Flood) async throws -> Flood.End {
        var job = GuestJob(
            program: .python(source: String(repeating: "#", count: 600_000)),
            outputs: ["*.txt"], timeout: timeout)
        job.limits.printed = .kibibytes(256)
        do {
            let report = try await report(of: job, flooding: flood.point, with: flood.bytes)
            if report.warnings == [.collectionUnfinished] { return .collectionUnfinished }
            switch report.ending {
            case .timedOut: return .timeout
            case .outputLimit: return .outputLimit
            default: throw MachineError(.machineLost, "it ended as \(report.ending)")
            }
        } catch let error as MachineError where error.reason == .protocolViolation {
            return .violation
        } catch let error as MachineError where error.reason == .restoreFailed {
            return .restoreFailed
        }
    }

    /// Runs a job against a scripted guest, which is honest but for what it is told to send.
    @LoopActor
    private static func report(
        of job: GuestJob, flooding point: Flood.Point? = nil,
        onOutput: (@Sendable (Machines.OutputStream, [UInt8]) -> Void)? = nil,
        before: @escaping @Sendable () -> Void = {}, after: @escaping @Sendable () -> Void = {},
        with bytes: @escaping @Sendable () throws -> [UInt8] = { [] }
    ) async throws -> GuestReport {
        let pair = try SocketPair()
        let theirs = dup(pair.theirs.number)
        let living = Descriptor(mayfly_pidfd_open(getpid()))
        let session = try AgentSession(ByteStream(pair.take()), living.number)
        session.transferTimeout = timeout
        let guest = ScriptedGuest(
            theirs, flooding: point, with: try bytes(), before: before,
            after: after)
        defer { session.cut() }
        guest.start()
        let deadline = ContinuousClock.now + .seconds(30)
        try await session.greet(agent: Peer.agent, before: deadline)
        _ = try await session.prepare(
            Freshness(pin: nil), id: "m-1", generation: "0", before: deadline)
        return try await session.run(job, onOutput: onOutput)
    }
    @LoopActor
    private static func honest() async throws -> String {
        let report = try await report(
            of: GuestJob(program: .python(source: "print(6*7)"), outputs: ["*.txt"]))
        guard report.files.map(\.name) == ["a.txt"] else { return "no file" }
        return String(decoding: report.stdout.bytes, as: UTF8.self)
    }

    /// Holds the loop's thread, as a stopped process would, until `event` and for `duration`.
    @LoopActor
    private static func standStill(until event: DispatchSemaphore, _ duration: Duration) {
        event.wait()
        usleep(UInt32(duration.milliseconds * 1000))
    }
}

extension OutputLimits {
    fileprivate static var endless: OutputLimits {
        var limits = OutputLimits()
        limits.printed = .gibibytes(1024)
        return limits
    }
}

private func message(_ message: GuestMessage, _ stream: UInt32) throws -> [UInt8] {
    var bytes: [UInt8] = []
    try message.encode(stream: stream, into: &bytes)
    return bytes
}
private func frame(_ length: UInt32, _ type: UInt8, stream: UInt32) -> [UInt8] {
    var bytes: [UInt8] = []
    for value in [length, stream] {
        bytes += [24, 16, 8, 0].map { UInt8(truncatingIfNeeded: value >> $0) }
    }
    return bytes + [type, 0, 0, 0]
}

/// A beat on the event loop, as every timer, lease and other machine there.
@LoopActor
private enum Heartbeat {
    /// By how much the worst beat was late while `body` ran.
    static func worst(_ body: () async throws -> Void) async rethrows -> Duration {
        let beating = Task { @LoopActor in
            var worst = Duration.zero
            while !Task.isCancelled {
                let due = ContinuousClock.now + .milliseconds(5)
                _ = await EventLoop.shared.ready([], before: due, ignoringCancellation: true)
                worst = max(worst, .now - due)
            }
            return worst
        }
        do { try await body() } catch {
            beating.cancel()
            throw error
        }
        beating.cancel()
        return await beating.value
    }
}

/// The other end of a session on a thread of its own: answers honestly until its point has come, and
/// then only floods.
private final class ScriptedGuest: Sendable {
    private let number: CInt
    private let point: FloodTests.Flood.Point?
    private let bytes: [UInt8]
    private let before: @Sendable () -> Void
    private let after: @Sendable () -> Void

    init(
        _ number: CInt, flooding point: FloodTests.Flood.Point?, with bytes: [UInt8],
        before: @escaping @Sendable () -> Void, after: @escaping @Sendable () -> Void
    ) {
        self.number = number
        self.point = point
        self.bytes = bytes
        self.before = before
        self.after = after
    }

    func start() {
        Thread.detachNewThread { [self] in
            try? talk()
            close(number)
        }
    }

    private struct HungUp: Error {}

    private func talk() throws {
        var guest = GuestConnection(agent: [UInt8](repeating: 0, count: 32))
        var buffer = [UInt8](repeating: 0, count: 1 << 16)
        while true {
            let count = unsafe read(number, &buffer, buffer.count)
            guard count > 0 else { throw HungUp() }
            guest.receive(Array(buffer[..<count]))
            while let event = try guest.next() {
                guard case .message(let stream, let message) = event else { continue }
                try answer(message, on: stream, &guest)
            }
            try write(guest.takeOutput())
        }
    }
    private func answer(
        _ message: HostMessage, on stream: UInt32, _ guest: inout GuestConnection
    ) throws {
        switch message {
        case .prepare:
            let steps = ReadyReport.requiredSteps.map { ReadyReport.Step(name: $0, isDone: true) }
            try guest.send(
                .ready(
                    ReadyReport(steps: steps, realtime: realtimeNow(), sample: randomBytes(32))))
        case .put: try flood(.put, header: frame(60_000, 0x47, stream: stream), &guest)
        case .file(let bytes, let isFinal):
            try guest.release(bytes.count, of: stream)
            if isFinal { try guest.send(.ack(.ok, message: ""), on: stream) }
        case .exec:
            before()
            try guest.send(.started(isParked: false, startMicroseconds: 1), on: stream)
            try flood(.run, header: frame(60_000, 0x43, stream: stream), &guest)
            try guest.sendData(.stdout, Array("42\n".utf8).span, on: stream, isFinal: true)
            try guest.sendData(.stderr, [UInt8]().span, on: stream, isFinal: true)
            try guest.send(.exit(ExitReport(ending: .code(0))), on: stream)
            try flood(.afterExit, header: [], &guest)
            try write(guest.takeOutput())
            after()
        case .list:
            try flood(.list, header: frame(60_000, 0x46, stream: stream), &guest)
            try guest.send(
                .listed([ListedFile(name: "a.txt", byteCount: 3)], isTruncated: false), on: stream)
        case .get:
            try flood(.get, header: frame(60_000, 0x21, stream: stream), &guest)
            try guest.sendData(.file, [UInt8(1), 2, 3].span, on: stream, isFinal: true)
        default: break
        }
    }

    /// When the point has come: `bytes` for ever, or, without any, a frame of `header` byte by byte.
    private func flood(
        _ here: FloodTests.Flood.Point, header: [UInt8], _ guest: inout GuestConnection
    ) throws {
        guard here == point else { return }
        try write(guest.takeOutput())
        if bytes.isEmpty {
            try write(header)
            // One that drips is never silent, and its frame has no end within the deadline.
            while true {
                try write([0])
                usleep(1000)
            }
        }
        // As much at a time as a socket takes: a guest's own loop costs it nothing.
        var many = bytes
        while many.count < 100_000 { many += bytes }
        while true { try write(many) }
    }
    private func write(_ bytes: [UInt8]) throws {
        var start = 0
        while start < bytes.count {
            let count = unsafe bytes.withUnsafeBytes {
                unsafe send(
                    number, $0.baseAddress?.advanced(by: start), $0.count - start,
                    CInt(MSG_NOSIGNAL))
            }
            guard count > 0 else { throw HungUp() }
            start += count
        }
    }
}
