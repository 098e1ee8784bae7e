// Firecracker's API: HTTP/1.1 over its Unix socket, one request at a time, JSON in and JSON out. A
// small strict client: it knows what Firecracker sends and takes nothing else. Firecracker handles
// what its guest does, so its answers are read with a bound and a deadline like anything else.

import Events
import Glibc
import Processes
import StrictJSON

@LoopActor
final class FirecrackerAPI {
    /// Longest answer taken; real ones are below 1 KiB.
    private static let answerByteCountMax = 64 << 10
    /// Between two tries to connect: a start takes about 1.5 ms.
    private static let pause = Duration.microseconds(500)

    private let socket: FirecrackerSocket
    private var stream: ByteStream?
    private var received: [UInt8] = []
    private let turn = LoopTurn()

    init(_ socket: FirecrackerSocket) { self.socket = socket }

    /// Connects as soon as the process listens.
    func connect(
        watching process: CInt, before deadline: ContinuousClock.Instant
    ) async throws(MachineError) {
        while true {
            if let number = try socket.connect() {
                stream = ByteStream(Descriptor(number))
                return
            }
            switch await EventLoop.shared.ready(
                [(process, .read)], before: min(deadline, .now + Self.pause))
            {
            case .ready: throw Self.ended
            case .cancelled: throw Self.cancelled
            case .timedOut: if .now >= deadline { throw Self.timedOut }
            }
        }
    }

    func put(
        _ path: String, _ body: JSON, before deadline: ContinuousClock.Instant
    ) async throws(MachineError) {
        try await call("PUT", path, body, before: deadline)
    }
    func patch(
        _ path: String, _ body: JSON, before deadline: ContinuousClock.Instant
    ) async throws(MachineError) {
        try await call("PATCH", path, body, before: deadline)
    }

    /// - Throws: `restoreFailed` with Firecracker's own words when it refuses.
    private func call(
        _ method: String, _ path: String, _ body: JSON,
        before deadline: ContinuousClock.Instant
    ) async throws(MachineError) {
        let content = Array(body.text.utf8)
        let head =
            "\(method) \(path) HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n"
            + "Content-Type: application/json\r\nContent-Length: \(content.count)\r\n\r\n"
        try await write(Array(head.utf8) + content, before: deadline)
        let answer = try await answer(before: deadline)
        guard (200..<300).contains(answer.status) else {
            let fault = (try? JSON(parsing: answer.body))?["fault_message"]?.string
            throw MachineError(
                .restoreFailed,
                "Firecracker refused \(method) \(path): \(fault ?? "status \(answer.status)")")
        }
    }

    private func write(
        _ bytes: [UInt8], before deadline: ContinuousClock.Instant
    ) async throws(MachineError) {
        guard let stream else { throw Self.ended }
        var sent = 0
        while sent < bytes.count {
            guard let count = stream.send(bytes, from: sent) else { throw Self.ended }
            sent += count
            if count == 0 { try await wait(stream, .write, deadline) }
        }
    }
    private func answer(
        before deadline: ContinuousClock.Instant
    ) async throws(MachineError) -> HTTPAnswer {
        guard let stream else { throw Self.ended }
        received = []
        while true {
            if Task.isCancelled { throw Self.cancelled }
            guard await turn.take() < deadline else { throw Self.timedOut }
            switch stream.receive() {
            case .bytes(let bytes):
                received += bytes
                guard received.count <= Self.answerByteCountMax else {
                    throw MachineError(.restoreFailed, "Firecracker sent an endless answer")
                }
                switch HTTPAnswer.parse(received) {
                case .incomplete: continue
                case .wrong:
                    throw MachineError(.restoreFailed, "Firecracker's answer is not HTTP")
                case .answer(let answer): return answer
                }
            case .ended: throw Self.ended
            case .nothingYet: try await wait(stream, .read, deadline)
            }
        }
    }
    private func wait(
        _ stream: ByteStream, _ interest: EventLoop.Interest, _ deadline: ContinuousClock.Instant
    ) async throws(MachineError) {
        switch await EventLoop.shared.ready([(stream.number, interest)], before: deadline) {
        case .ready: turn.begin()
        case .timedOut: throw Self.timedOut
        case .cancelled: throw Self.cancelled
        }
    }

    private nonisolated static let ended = MachineError(.machineLost, "Firecracker ended")
    private nonisolated static let timedOut = MachineError(
        .restoreFailed, "Firecracker did not answer in time")
    private nonisolated static let cancelled = MachineError(
        .cancelled, "stopped while talking to Firecracker")
}

/// An answer as Firecracker's server writes it: a status line, headers, and a body whose length is
/// said; pure.
struct HTTPAnswer: Equatable {
    enum Parsed: Equatable {
        case incomplete
        case wrong
        case answer(HTTPAnswer)
    }
    var status: Int
    var body: [UInt8]

    /// All of one answer, and nothing behind it.
    static func parse(_ bytes: [UInt8]) -> Parsed {
        let blank = Array("\r\n\r\n".utf8)
        guard let end = bytes.indices.first(where: { bytes[$0...].starts(with: blank) }) else {
            return bytes.count > 8 << 10 ? .wrong : .incomplete
        }
        let lines = String(decoding: bytes[..<end], as: UTF8.self).split(
            separator: "\r\n", omittingEmptySubsequences: false)
        let words = lines[0].split(separator: " ", omittingEmptySubsequences: false)
        guard words.count >= 2, words[0] == "HTTP/1.1", words[1].count == 3,
            let status = Int(words[1])
        else { return .wrong }
        var length = 0
        for line in lines.dropFirst() {
            let parts = line.split(separator: ":", maxSplits: 1)
            guard parts.count == 2 else { return .wrong }
            switch parts[0].lowercased() {
            case "content-length":
                guard let value = Int(parts[1].drop { $0 == " " }), (0...(64 << 10)).contains(value)
                else { return .wrong }
                length = value
            case "transfer-encoding": return .wrong
            default: break
            }
        }
        let body = bytes[(end + blank.count)...]
        if body.count < length { return .incomplete }
        return body.count == length
            ? .answer(HTTPAnswer(status: status, body: Array(body))) : .wrong
    }
}
