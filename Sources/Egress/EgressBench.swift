// What the host's side of a job's network does on this host: bytes through a real gateway, between
// a server on loopback and the socket whose other end a guest has.

import Events
import Glibc
import Processes

/// Measures the gateway, for `mayfly bench egress`.
package enum EgressBench {
    /// One way of sending, measured.
    package struct Row: Sendable {
        package let name: String
        package let streams: Int
        /// 10⁶ bytes, of all streams together, from the first request to the last byte.
        package let megabytesPerSecond: Double
        /// How late a timer of the loop fired meanwhile, what a heartbeat would feel.
        package let latenessMedian: Duration
        package let lateness99: Duration
    }

    /// - Parameter bytes: of all streams of a row together.
    /// - Throws: ``EgressBenchError`` with a sentence.
    package static func run(bytes: Int) async throws -> [Row] {
        var rows: [Row] = []
        for streams in [1, 8] {
            rows.append(try await row(.toGuest, streams: streams, bytes: bytes / streams))
            rows.append(try await row(.fromGuest, streams: streams, bytes: bytes / streams))
        }
        return rows
    }

    private enum Direction { case toGuest, fromGuest }

    private static func row(
        _ direction: Direction, streams: Int, bytes: Int
    ) async throws -> Row {
        let listening = try LoopbackListener(isBlocking: true)
        let (listener, port) = (listening.descriptor.number, listening.port)
        var limits = EgressLimits()
        (limits.bytesSent, limits.bytesReceived) = (.max, .max)
        let policy = EgressPolicy(
            rules: [try EgressRule("127.0.0.1:\(port)")],
            ceiling: [try EgressRule("127.0.0.1:\(port)")],
            permittedNetworks: [try IPNetwork("127.0.0.1/32")])
        let gateway = await EgressGateway(
            policy: policy, resolver: try await Resolver(), limits: limits)
        let measuring = Task { await lateness() }
        let begin = ContinuousClock.now
        let moved = try await withThrowingTaskGroup(of: Int.self) { group in
            for _ in 0..<streams {
                group.addTask {
                    await offload {
                        let server = Descriptor(accept(listener, nil, nil))
                        if direction == .fromGuest {
                            _ = receive(from: server.number, untilLine: false)
                        } else {
                            send(bytes, to: server.number)
                        }
                        return 0
                    }
                }
                let pair = try SocketPair()
                // The pair's own goes with the pair; this one is closed by its thread.
                let number = dup(pair.theirs.number)
                await gateway.serve(pair.take(), as: .proxy)
                group.addTask {
                    await offload {
                        let guest = Descriptor(number)
                        return converse(guest.number, port: port, direction, bytes)
                    }
                }
            }
            return try await group.reduce(0, +)
        }
        let seconds = (ContinuousClock.now - begin) / Duration.seconds(1)
        measuring.cancel()
        let late = await measuring.value.sorted()
        await gateway.close()
        guard moved == bytes * streams else {
            throw EgressBenchError("\(moved) bytes arrived of \(bytes * streams)")
        }
        return Row(
            name: direction == .toGuest ? "to the guest" : "from the guest", streams: streams,
            megabytesPerSecond: Double(moved) / seconds / 1e6,
            latenessMedian: late[late.count / 2], lateness99: late[late.count * 99 / 100])
    }
    /// How late a timer of a millisecond fires, again and again.
    @LoopActor
    private static func lateness() async -> [Duration] {
        var all = [Duration.zero]
        while !Task.isCancelled, all.count < 1_000_000 {
            let due = ContinuousClock.now + .milliseconds(1)
            _ = await EventLoop.shared.ready([], before: due)
            all.append(.now - due)
        }
        return all
    }
    /// The guest's side: asks for a tunnel, then sends or takes everything.
    private static func converse(
        _ number: CInt, port: UInt16, _ direction: Direction, _ bytes: Int
    ) -> Int {
        let request = Array("CONNECT 127.0.0.1:\(port) HTTP/1.1\r\n\r\n".utf8)
        guard unsafe Glibc.send(number, request, request.count, 0) == request.count else {
            return 0
        }
        _ = receive(from: number, untilLine: true)
        guard direction == .fromGuest else { return receive(from: number, untilLine: false) }
        let sent = send(bytes, to: number)
        shutdown(number, CInt(SHUT_WR))
        // The server's end says that it has had everything.
        return receive(from: number, untilLine: false) == 0 ? sent : 0
    }
}

/// Why nothing could be measured; a sentence.
package struct EgressBenchError: Error, CustomStringConvertible {
    package let description: String
    init(_ description: String) { self.description = description }
}

@discardableResult
private func send(_ count: Int, to number: CInt) -> Int {
    let block = [UInt8](repeating: 7, count: 256 << 10)
    var sent = 0
    while sent < count {
        let done = unsafe Glibc.send(
            number, block, min(block.count, count - sent), CInt(MSG_NOSIGNAL))
        guard done > 0 else { break }
        sent += done
    }
    return sent
}
/// Counts what comes, up to the end or to the end of an HTTP head.
private func receive(from number: CInt, untilLine: Bool) -> Int {
    var block = [UInt8](repeating: 0, count: untilLine ? 1 : 256 << 10)
    var (count, lines) = (0, 0)
    while true {
        let done = unsafe recv(number, &block, block.count, 0)
        guard done > 0 else { return count }
        count += done
        guard untilLine else { continue }
        lines = block[0] == 0x0A ? lines + 1 : block[0] == 0x0D ? lines : 0
        if lines == 2 { return count }
    }
}
