// The host's side of one conversation with a guest agent: one driver that writes, reads, keeps
// deadlines and notices the hypervisor's death. The protocol itself is Wire's HostConnection; how a
// session begins is in SessionOpening.swift, and what a job does over it in GuestRun.swift.

import Events
import Glibc
import Processes
import Wire

/// A session over one connected stream; any violation by the guest ends it.
@LoopActor
final class AgentSession {
    /// A guest that says nothing for this long while we wait for it is asked; after three times
    /// as long it is lost.
    private static let silence = Duration.seconds(10)
    /// How much is still read when a deadline has passed: what was on its way while this process
    /// stood still, which is what a socket holds.
    ///
    /// A guest that goes on for ever is cut off there.
    private static let overtime = 320 << 10

    private let channel: ByteStream
    private let processDescriptor: CInt
    private var connection: HostConnection
    private var outgoing: [UInt8] = []
    private var outgoingStart = 0
    private var pings: UInt64 = 0
    private let turn = LoopTurn()
    private var overdue: (deadline: ContinuousClock.Instant, byteCount: Int)?
    /// Why the session stopped waiting for a guest that was too slow, rather than wrong or gone.
    private(set) var slowness: Slowness?
    enum Slowness { case deadline, silence }
    /// What becomes of the streams that the guest opens; there are none without it.
    var network: NetworkRelay?
    /// For each step around the program: files in, files out.
    var transferTimeout = Duration.seconds(120)
    /// How many connections it took until one was greeted.
    var tries = 1
    /// What the agent was told over the port when the session is over AF_VSOCK.
    var invitation: Invitation?
    /// Held for as long as the session: the agent takes its end for a lost host.
    var port: ByteStream?

    /// `token`: what the machine was invited with; over the port any will do.
    init(
        _ channel: ByteStream, _ processDescriptor: CInt,
        token: [UInt8] = randomBytes(Limits.tokenByteCount)
    ) throws(MachineError) {
        do throws(WireError) {
            connection = try HostConnection(
                nonce: randomBytes(Limits.nonceByteCount), token: token)
        } catch { throw Self.violation(error) }
        self.channel = channel
        self.processDescriptor = processDescriptor
    }

    /// Cuts the connection, as a fault would.
    func cut() { channel.cut() }

    // MARK: Sending

    func send(_ message: HostMessage, on stream: UInt32 = 0) throws(MachineError) {
        do throws(WireError) { try connection.send(message, on: stream) } catch {
            throw Self.violation(error)
        }
    }
    /// Opens a stream; a request that does not fit the protocol is the job's fault, not ours.
    func open(_ message: HostMessage) throws(MachineError) -> UInt32 {
        do throws(WireError) { return try connection.open(message) } catch {
            throw MachineError(.protocolViolation, "the job cannot be sent: \(error)")
        }
    }
    func capacity(of stream: UInt32) -> Int { connection.sendCapacity(of: stream) }
    func sendData(
        _ bytes: ArraySlice<UInt8>, on stream: UInt32, isFinal: Bool
    ) throws(MachineError) {
        do throws(WireError) {
            try connection.sendData(bytes, on: stream, isFinal: isFinal)
        } catch { throw Self.violation(error) }
    }
    func release(_ count: Int, of stream: UInt32) throws(MachineError) {
        do throws(WireError) { try connection.release(count, of: stream) } catch {
            throw Self.violation(error)
        }
    }

    /// A round trip; also the cheapest proof that a resumed machine is alive.
    func ping(before deadline: ContinuousClock.Instant) async throws(MachineError) {
        pings += 1
        let value = pings
        try send(.ping(value))
        while true {
            guard let event = try await next(before: deadline, sendingOn: nil) else { continue }
            if case .pong(value, _) = try Self.message(of: event).1 { return }
        }
    }

    // MARK: Receiving

    /// The guest's preamble.
    func greeting(before deadline: ContinuousClock.Instant) async throws(MachineError)
        -> GuestPreamble
    {
        while true {
            switch try await next(before: deadline, sendingOn: nil) {
            case .greeted(let preamble): return preamble
            case .message:
                throw MachineError(.protocolViolation, "the guest did not greet")
            case nil: continue
            }
        }
    }
    /// The next message that is not an answer to our own liveness PING.
    func message(
        before deadline: ContinuousClock.Instant
    ) async throws(MachineError) -> (stream: UInt32, GuestMessage) {
        while true {
            if let message = try await messageOrCredit(before: deadline, sendingOn: nil) {
                return message
            }
        }
    }
    /// As `message`, but `nil` as soon as there is credit to send more on `stream`.
    func messageOrCredit(
        before deadline: ContinuousClock.Instant, sendingOn stream: UInt32?
    ) async throws(MachineError) -> (stream: UInt32, GuestMessage)? {
        while let event = try await next(before: deadline, sendingOn: stream) {
            let (stream, message) = try Self.message(of: event)
            if case .pong = message { continue }
            return (stream, message)
        }
        return nil
    }
    private static func message(
        of event: HostConnection.Event
    ) throws(MachineError) -> (UInt32, GuestMessage) {
        guard case .message(let stream, let message) = event else {
            throw MachineError(.protocolViolation, "the guest greeted twice")
        }
        if case .error(let words) = message {
            throw MachineError(.machineLost, "the guest agent gave up: \(words)")
        }
        return (stream, message)
    }

    // MARK: Driving

    /// The next event, or `nil` when `stream` has credit.
    ///
    /// However fast a guest talks: between two events the deadline and cancellation are looked at,
    /// and the thread is given back when this session's turn is over.
    private func next(
        before deadline: ContinuousClock.Instant, sendingOn stream: UInt32?
    ) async throws(MachineError) -> HostConnection.Event? {
        var lastRead = ContinuousClock.now
        var isAsked = false
        while true {
            try await takeTurn(before: deadline)
            do throws(WireError) {
                if let event = try connection.next() {
                    if try relay(event) { continue }
                    return event
                }
            } catch { throw Self.violation(error) }
            if let stream, connection.sendCapacity(of: stream) > 0 { return nil }
            try pumpNetwork()
            try flush()
            switch channel.receive() {
            case .bytes(let bytes):
                receive(bytes)
                (lastRead, isAsked) = (.now, false)
                continue
            case .ended: throw MachineError(.machineLost, "the machine ended before its job did")
            case .nothingYet: break
            }
            if try await wait(until: min(deadline, lastRead + Self.silence * (isAsked ? 3 : 1))) {
                continue
            }
            guard .now < deadline else { throw giveUp(.deadline) }
            guard !isAsked else { throw giveUp(.silence) }
            // From the question on, and not from before a pause of this process or its host: nobody
            // could answer in the meantime.
            (lastRead, isAsked) = (.now - Self.silence, true)
            pings += 1
            try send(.ping(pings))
        }
    }

    /// Checks what ends a session whatever its guest does, and lets others go first when it has
    /// had its share of the thread.
    private func takeTurn(before deadline: ContinuousClock.Instant) async throws(MachineError) {
        if Task.isCancelled { throw .stopped }
        guard await turn.take() >= deadline else { return }
        if overdue?.deadline != deadline { overdue = (deadline, 0) }
        guard overdue?.byteCount ?? 0 < Self.overtime else { throw giveUp(.deadline) }
    }
    private func giveUp(_ why: Slowness) -> MachineError {
        slowness = why
        return why == .deadline ? .deadline : .silence
    }
    private func receive(_ bytes: [UInt8]) {
        overdue?.byteCount += bytes.count
        connection.receive(bytes)
    }

    /// Waits for the guest or for room to write; `false` when time is up.
    private func wait(until limit: ContinuousClock.Instant) async throws(MachineError) -> Bool {
        let wantsWrite = outgoingStart < outgoing.count
        let readiness = await EventLoop.shared.ready(
            [
                (channel.number, wantsWrite ? [.read, .write] : .read),
                (processDescriptor, .read),
            ] + (network?.interests(connection, backlog: backlog) ?? []), before: limit)
        turn.begin()
        switch readiness {
        case .cancelled: throw .stopped
        case .timedOut: return false
        case .ready(processDescriptor, _):
            // What was sent before the hypervisor's end may still wait.
            guard case .bytes(let bytes) = channel.receive() else {
                throw MachineError(.machineLost, "the hypervisor ended before the job did")
            }
            receive(bytes)
            return true
        case .ready: return true
        }
    }

    // MARK: The network

    private var backlog: Int { outgoing.count - outgoingStart }

    /// Whether it was on a stream of the guest's own.
    private func relay(_ event: HostConnection.Event) throws(WireError) -> Bool {
        guard case .message(let stream, let message) = event, message.isOfNetwork else {
            return false
        }
        // Without a relay no program was allowed the network, and this would be a violation.
        try network?.take(message, on: stream, &connection)
        return true
    }
    private func pumpNetwork() throws(MachineError) {
        guard let network else { return }
        do throws(WireError) { try network.pump(&connection, backlog: backlog) } catch {
            throw Self.violation(error)
        }
    }

    /// Writes what can be written now; the driver calls it whenever it waits.
    func flush() throws(MachineError) {
        if outgoingStart == outgoing.count {
            outgoing = connection.takeOutput()
            outgoingStart = 0
        }
        while outgoingStart < outgoing.count {
            guard let count = channel.send(outgoing, from: outgoingStart) else {
                throw MachineError(.machineLost, "the machine accepts no more bytes")
            }
            if count == 0 { return }
            outgoingStart += count
            if outgoingStart == outgoing.count {
                outgoing = connection.takeOutput()
                outgoingStart = 0
            }
        }
    }

    nonisolated static func violation(_ error: WireError) -> MachineError {
        MachineError(.protocolViolation, "the guest broke the protocol: \(error)")
    }
}

extension MachineError {
    static let deadline = MachineError(
        .restoreFailed, "the machine did not answer in time; the host may be overloaded")
    static let silence = MachineError(.machineLost, "the guest agent has fallen silent")
    static let stopped = MachineError(.cancelled, "the job was stopped")
}
