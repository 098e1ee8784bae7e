// A guest in a few lines: Wire's own guest side on a socket pair, honest but at one point of a job.
// Used by the tests of hostile guests.

import CLinux
import Events
import Foundation
import Processes
import Wire

@testable import Machines

/// The other end of a session on a thread of its own: answers honestly until its point has come,
/// and then sends what it was told to.
final class ScriptedGuest: Sendable {
    enum Point: Sendable { case put, run, list, get, afterExit }

    private let number: CInt
    private let point: Point?
    private let bytes: [UInt8]
    /// For ever, or once and then honestly on.
    private let isFlood: Bool
    private let before: @Sendable () -> Void
    private let after: @Sendable () -> Void

    init(
        _ number: CInt, at point: Point?, sending bytes: [UInt8], isFlood: Bool,
        before: @escaping @Sendable () -> Void, after: @escaping @Sendable () -> Void
    ) {
        self.number = number
        self.point = point
        self.bytes = bytes
        self.isFlood = isFlood
        self.before = before
        self.after = after
    }

    /// Runs a job against such a guest, over a real socket pair.
    @LoopActor
    static func report(
        of job: GuestJob, at point: Point? = nil, sending bytes: [UInt8] = [], isFlood: Bool = true,
        timeout: Duration = .seconds(30),
        onOutput: (@Sendable (Machines.OutputStream, [UInt8]) -> Void)? = nil,
        before: @escaping @Sendable () -> Void = {}, after: @escaping @Sendable () -> Void = {}
    ) async throws -> GuestReport {
        let pair = try SocketPair()
        let theirs = dup(pair.theirs.number)
        let living = Descriptor(mayfly_pidfd_open(getpid()))
        let session = try AgentSession(ByteStream(pair.take()), living.number)
        session.transferTimeout = timeout
        let guest = ScriptedGuest(
            theirs, at: point, sending: bytes, isFlood: isFlood, before: before, after: after)
        defer { session.cut() }
        guest.start()
        let deadline = ContinuousClock.now + .seconds(30)
        try await session.greet(agent: Peer.agent, before: deadline)
        _ = try await session.prepare(
            Freshness(pin: nil), id: "m-1", generation: "0", before: deadline)
        return try await session.run(job, onOutput: onOutput)
    }

    func start() {
        Thread.detachNewThread { [self] in
            try? talk()
            close(number)
        }
    }

    private struct HungUp: Error {}

    private func talk() throws {
        var guest = GuestConnection(
            agent: [UInt8](repeating: 0, count: 32), trust: .theWay)
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
        case .put: try act(.put, header: frame(60_000, 0x47, stream: stream), &guest)
        case .file(let bytes, let isFinal):
            try guest.release(bytes.count, of: stream)
            if isFinal { try guest.send(.ack(.ok, message: ""), on: stream) }
        case .exec:
            before()
            try guest.send(.started(isParked: false, startMicroseconds: 1), on: stream)
            try act(.run, header: frame(60_000, 0x43, stream: stream), &guest)
            try guest.sendData(.stdout, Array("42\n".utf8).span, on: stream, isFinal: true)
            try guest.sendData(.stderr, [UInt8]().span, on: stream, isFinal: true)
            try guest.send(.exit(ExitReport(ending: .code(0))), on: stream)
            try act(.afterExit, header: [], &guest)
            try write(guest.takeOutput())
            after()
        case .list:
            try act(.list, header: frame(60_000, 0x46, stream: stream), &guest)
            try guest.send(
                .listed([ListedFile(name: "a.txt", byteCount: 3)], isTruncated: false), on: stream)
        case .get:
            try act(.get, header: frame(60_000, 0x21, stream: stream), &guest)
            try guest.sendData(.file, [UInt8(1), 2, 3].span, on: stream, isFinal: true)
        default: break
        }
    }

    /// When the point has come: its bytes once or for ever, or, without any, a frame with this
    /// header byte by byte.
    private func act(
        _ here: Point, header: [UInt8], _ guest: inout GuestConnection
    ) throws {
        guard here == point else { return }
        try write(guest.takeOutput())
        guard isFlood else { return try write(bytes) }
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

/// One frame of an honest encoder.
func message(_ message: GuestMessage, _ stream: UInt32) throws -> [UInt8] {
    var bytes: [UInt8] = []
    try message.encode(stream: stream, into: &bytes)
    return bytes
}
/// Only a header: what follows is up to the caller.
func frame(_ length: UInt32, _ type: UInt8, stream: UInt32) -> [UInt8] {
    var bytes: [UInt8] = []
    for value in [length, stream] {
        bytes += [24, 16, 8, 0].map { UInt8(truncatingIfNeeded: value >> $0) }
    }
    return bytes + [type, 0, 0, 0]
}
