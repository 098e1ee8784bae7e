// QEMU's monitor protocol over an inherited socket: one command at a time, one JSON object a line.
// QEMU parses guest data, so its answers are read with a bound and a deadline like anything else.

import Events
import Glibc
import Processes
import StrictJSON

/// A QMP conversation.
@LoopActor
final class QMP {
    /// Longest line taken from QEMU; its replies to our commands are far below.
    private static let lineByteCountMax = 64 << 10
    /// The events that somebody waits for; a guest can make QEMU report any number of others.
    private static let awaitedEvents: Set = ["MIGRATION"]
    /// Lines that are still read when a deadline has passed: a reply that was on its way while
    /// this process stood still, and what came before it.
    private static let lateLines = 64

    private let stream: ByteStream
    private var received: [UInt8] = []
    /// Where the next line begins, and up to where it has no end.
    private var (start, scanned) = (0, 0)
    private let turn = LoopTurn()
    private var late: (deadline: ContinuousClock.Instant, lines: Int)?
    private var events: [String: JSON] = [:]

    init(_ stream: ByteStream) { self.stream = stream }

    /// Takes the greeting, enters command mode, and runs these commands: with one write, because
    /// each wait for an answer costs both sides a turn.
    func negotiate(
        _ commands: [(name: String, arguments: JSON)], before deadline: ContinuousClock.Instant
    ) async throws(MachineError) {
        let all = [(name: "qmp_capabilities", arguments: [:] as JSON)] + commands
        try await write(all.flatMap { Self.line($0, $1) }, before: deadline)
        let greeting = try await object(before: deadline)
        guard greeting["QMP"] != nil else {
            throw MachineError(.restoreFailed, "QEMU's monitor did not greet")
        }
        for (name, _) in all { try await reply(to: name, before: deadline) }
    }

    /// Runs one command; what it returns is of no use to us.
    func command(
        _ name: String, _ arguments: JSON = [:], passing descriptor: CInt? = nil,
        before deadline: ContinuousClock.Instant
    ) async throws(MachineError) {
        let line = Self.line(name, arguments)
        if let descriptor {
            guard stream.send(line, passing: descriptor) else {
                throw MachineError(.machineLost, "QEMU accepts no descriptor")
            }
        } else {
            try await write(line, before: deadline)
        }
        try await reply(to: name, before: deadline)
    }
    private static func line(_ name: String, _ arguments: JSON) -> [UInt8] {
        let command: JSON = ["execute": .string(name), "arguments": arguments]
        return Array(command.text.utf8) + [0x0A]
    }
    private func reply(
        to name: String, before deadline: ContinuousClock.Instant
    ) async throws(MachineError) {
        while true {
            let reply = try await object(before: deadline)
            if reply["return"] != nil { return }
            if let error = reply["error"] {
                let words = error["desc"]?.string ?? "no reason given"
                throw MachineError(.restoreFailed, "QEMU refused \(name): \(words)")
            }
        }
    }

    /// Waits for an event whose data satisfies `isWanted`; one seen since the last call counts.
    func event(
        _ name: String, before deadline: ContinuousClock.Instant, where isWanted: (JSON) -> Bool
    ) async throws(MachineError) {
        while true {
            if let data = events.removeValue(forKey: name), isWanted(data) { return }
            _ = try await object(before: deadline)
        }
    }

    /// The next object; events are remembered by name on the way.
    private func object(before deadline: ContinuousClock.Instant) async throws(MachineError) -> JSON
    {
        let line = try await line(before: deadline)
        guard let object = try? JSON(parsing: line), case .object = object else {
            throw MachineError(.restoreFailed, "QEMU's monitor did not send JSON")
        }
        if let name = object["event"]?.string, Self.awaitedEvents.contains(name) {
            events[name] = object["data"] ?? [:]
        }
        return object
    }
    private func line(
        before deadline: ContinuousClock.Instant
    ) async throws(MachineError) -> [UInt8] {
        while true {
            try await takeTurn(before: deadline)
            if let end = received[scanned...].firstIndex(of: 0x0A) {
                defer { (start, scanned) = (end + 1, end + 1) }
                return Array(received[start..<end])
            }
            scanned = received.count
            guard received.count - start < Self.lineByteCountMax else {
                throw MachineError(.restoreFailed, "QEMU's monitor sent an endless line")
            }
            switch stream.receive() {
            case .bytes(let bytes):
                received.removeSubrange(..<start)
                (start, scanned) = (0, scanned - start)
                received += bytes
            case .ended: throw MachineError(.machineLost, "QEMU ended")
            case .nothingYet: try await wait(.read, deadline)
            }
        }
    }
    /// However much QEMU says: the deadline and cancellation are looked at, and others are served.
    private func takeTurn(before deadline: ContinuousClock.Instant) async throws(MachineError) {
        if Task.isCancelled { throw Self.cancelled }
        guard await turn.take() >= deadline else { return }
        if late?.deadline != deadline { late = (deadline, 0) }
        late?.lines += 1
        guard late?.lines ?? 0 <= Self.lateLines else { throw Self.timedOut }
    }
    private func write(
        _ bytes: [UInt8], before deadline: ContinuousClock.Instant
    ) async throws(MachineError) {
        var sent = 0
        while sent < bytes.count {
            guard let count = stream.send(bytes, from: sent) else {
                throw MachineError(.machineLost, "QEMU ended")
            }
            sent += count
            if count == 0 { try await wait(.write, deadline) }
        }
    }
    private func wait(
        _ interest: EventLoop.Interest, _ deadline: ContinuousClock.Instant
    ) async throws(MachineError) {
        switch await EventLoop.shared.ready([(stream.number, interest)], before: deadline) {
        case .ready: turn.begin()
        case .timedOut: throw Self.timedOut
        case .cancelled: throw Self.cancelled
        }
    }
    private nonisolated static let timedOut = MachineError(
        .restoreFailed, "QEMU's monitor did not answer in time")
    private nonisolated static let cancelled = MachineError(
        .cancelled, "stopped while talking to QEMU")
}
