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
        enum End: Equatable, Sendable {
            case violation, timeout, outputLimit
            /// The program's own result, and a warning that collecting its files did not end.
            case collectionUnfinished
            /// Our transfer deadline: the job is run again elsewhere.
            case restoreFailed
        }
        let name: String
        let point: ScriptedGuest.Point
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
        Flood(name: "streams of its own without end", point: .run, end: .violation) {
            try (1...33).flatMap { try message(.open(.proxy), $0 * 2) }
        },
        Flood(name: "the same stream opened and closed", point: .run, end: .violation) {
            try message(.open(.names), 2) + message(.close, 2)
        },
        Flood(name: "more on a stream of its own than its credit", point: .run, end: .violation) {
            try message(.open(.proxy), 2)
                + message(.data([UInt8](repeating: 1, count: 65_536), isFinal: false), 2)
                + message(.data([1], isFinal: false), 2)
        },
        Flood(name: "data behind the end of a stream", point: .run, end: .violation) {
            try message(.open(.proxy), 2) + message(.data([1], isFinal: true), 2)
                + message(.data([1], isFinal: false), 2)
        },
        Flood(name: "streams after the program's end", point: .afterExit, end: .violation) {
            try message(.open(.proxy), 2)
        },
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

    /// Of a job, and of a transfer.
    private static let timeout = Duration.milliseconds(1500)
    /// What the guest has to report the end, which a flood uses up, and 2 s of this host's for all
    /// that is done before and after.
    private static func grace(_ slowness: Double) -> Duration {
        AgentSession.grace + .seconds(2) * slowness * Heartbeat.processorSlowness
    }

    @Test(arguments: floods)
    func `holds up nobody, and its job ends for its own reason in time`(flood: Flood) async throws {
        // What this host does to a thread that always has something to do, without any guest.
        var slowness = 1.0
        let busy = await Heartbeat.worst {
            slowness = max(1, await Heartbeat.spin(for: .milliseconds(500)))
        }
        var took = Duration.zero
        let worst = try await Heartbeat.worst { () async throws -> Void in
            let neighbour = Task { @LoopActor in try await Self.honest() }
            let begin = ContinuousClock.now
            let end = try await Self.end(of: flood)
            took = .now - begin
            #expect(end == flood.end)
            #expect(try await neighbour.value == "42\n")
        }
        // Whoever else wants the processors may have come meanwhile.
        slowness = max(slowness, await Heartbeat.spin(for: .milliseconds(500)))
        print("\(flood.name): \(worst); without it: \(busy)")
        print("it took \(took); host \(slowness), processor \(Heartbeat.processorSlowness)")
        // By the thread's own clock, which other programs on this host do not move.
        #expect(worst.used < Heartbeat.turnMax, "\(worst)")
        let limit = max(
            busy.late * 3, .milliseconds(100) * slowness * Heartbeat.processorSlowness)
        #expect(worst.late < limit, "\(worst), \(busy)")
        // The job's own timeout or that of a transfer, which is the same here, and what the guest
        // may take to report the end.
        #expect(took < Self.timeout + Self.grace(slowness), "\(took), \(slowness)")
    }

    @Test func `does not keep a cancelled job alive`() async throws {
        let flooding = Signal()
        let running = Task { @LoopActor in
            try await ScriptedGuest.report(
                of: GuestJob(
                    program: .python(source: "x"), timeout: .seconds(60), limits: .endless),
                at: .run, sending: message(.stdout([1], isFinal: false), 3),
                onOutput: { _, _ in flooding.raise() })
        }
        await flooding.wait()
        let cancelled = ContinuousClock.now
        running.cancel()
        let result = await running.result
        #expect(ContinuousClock.now - cancelled < .seconds(2))
        #expect { _ = try result.get() } throws: { ($0 as? MachineError)?.reason == .cancelled }
    }

    @Test func `cannot outlast its deadline, however much it has to say`() async throws {
        let slowness = max(1, await Heartbeat.spin(for: .milliseconds(500)))
        let begin = ContinuousClock.now
        let report = try await ScriptedGuest.report(
            of: GuestJob(
                program: .python(source: "x"), timeout: .milliseconds(500), limits: .endless),
            at: .run, sending: message(.stdout([1], isFinal: false), 3))
        #expect(report.ending == .timedOut)
        #expect(ContinuousClock.now - begin < .milliseconds(500) + Self.grace(slowness))
    }

    /// A worker that stood still finds the end of its job waiting: that counts, not the clock.
    @Test func `is told from one that ended in time while the host stood still`() async throws {
        let (heard, answered) = (Signal(), DispatchSemaphore(value: 0))
        let running = Task { @LoopActor in
            try await ScriptedGuest.report(
                of: GuestJob(program: .python(source: "x"), timeout: .milliseconds(1)),
                before: { heard.raise() }, after: { answered.signal() })
        }
        await heard.wait()
        await Self.standStill(until: answered, .seconds(2))
        let report = try await running.value
        #expect(report.ending == .exited(code: 0))
        #expect(String(decoding: report.stdout.bytes, as: UTF8.self) == "42\n")
    }

    /// QEMU parses what its guest does, so its monitor is no more to be trusted than the guest.
    @Test(arguments: [
        "{\"event\": \"BLOCK_IO_ERROR\", \"data\": {}}\n",
        "{\"event\": \"MIGRATION\", \"data\": {}}\n",
        "{}\n", String(repeating: "[", count: 4000) + "\n", "x",
    ])
    func `is no worse as a hypervisor whose monitor never stops talking`(line: String) async throws
    {
        let worst = try await Heartbeat.worst { () async throws -> Void in
            try await Self.monitor(saying: Array(line.utf8))
        }
        print("a monitor that says \(line.prefix(30)): \(worst)")
        #expect(worst.used < Heartbeat.turnMax, "\(worst)")
    }

    // MARK: Steps

    @LoopActor
    private static func monitor(saying line: [UInt8]) async throws {
        let pair = try SocketPair()
        let theirs = Descriptor(dup(pair.theirs.number))
        let number = theirs.number
        let stream = ByteStream(pair.take())
        let monitor = QMP(stream)
        let chunk = Array(repeatElement(line, count: 100_000 / line.count + 1).joined())
        let talking = Task.detached {
            await offload {
                while unsafe send(number, chunk, chunk.count, CInt(MSG_NOSIGNAL)) > 0 {}
            }
        }
        let begin = ContinuousClock.now
        await #expect(throws: MachineError.self) {
            try await monitor.command("cont", before: begin + .milliseconds(500))
        }
        #expect(.now - begin < .seconds(2))
        stream.cut()
        await talking.value
        _ = theirs.number
    }

    /// How a job ended whose guest floods.
    @LoopActor
    private static func end(of flood: Flood) async throws -> Flood.End {
        var job = GuestJob(
            program: .python(source: String(repeating: "#", count: 600_000)),
            outputs: ["*.txt"], timeout: timeout)
        // Few enough frames that a busy host reads them within the timeout.
        job.limits.printed = .kibibytes(16)
        let network = TestNetwork(.silent)
        job.network = network.handler
        do {
            let report = try await ScriptedGuest.report(
                of: job, at: flood.point, sending: flood.bytes(), timeout: timeout)
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

    @LoopActor
    private static func honest() async throws -> String {
        let report = try await ScriptedGuest.report(
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
