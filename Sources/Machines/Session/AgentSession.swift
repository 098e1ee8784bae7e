// The host's side of one conversation with a guest agent: one driver that writes, reads, keeps
// deadlines and notices the hypervisor's death. The protocol itself is Wire's HostConnection; what
// a job does over it is in GuestRun.swift.

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

    private let channel: ByteStream
    private let processDescriptor: CInt
    private var connection: HostConnection
    private var outgoing: [UInt8] = []
    private var outgoingStart = 0
    private var pings: UInt64 = 0
    /// How many connections it took until one was greeted.
    private(set) var tries = 1

    private init(
        channel: ByteStream, processDescriptor: CInt, connection: HostConnection
    ) {
        self.channel = channel
        self.processDescriptor = processDescriptor
        self.connection = connection
    }

    // MARK: Opening

    /// Connects by the machine's transport and greets; `agent` is the digest that must answer.
    static func open(
        qemu: QEMU, contextID: UInt32?, agent: String, before deadline: ContinuousClock.Instant
    ) async throws(MachineError) -> AgentSession {
        guard let contextID else {
            guard let port = qemu.takePort() else {
                throw MachineError(.restoreFailed, "the agent's port was taken before")
            }
            let session = try AgentSession(port, qemu.pidDescriptor)
            try await session.greet(agent: agent, before: deadline)
            return session
        }
        // Right after a resume a connection may hang on a stale context id, or be accepted and
        // then reset: short tries until one is greeted. HELLO changes nothing in the guest. The
        // first are so short that hardware loses no time; a slow guest gets ever longer ones.
        var tries = 0
        var patience = VsockPort.firstTry
        var greeting = VsockPort.firstGreeting
        while .now < deadline {
            tries += 1
            if let channel = try await VsockPort.connect(contextID, within: patience) {
                let session = try AgentSession(channel, qemu.pidDescriptor)
                do throws(MachineError) {
                    try await session.greet(
                        agent: agent, before: min(deadline, .now + greeting))
                    session.tries = tries
                    return session
                } catch  where error.reason == .machineLost || error.reason == .restoreFailed {
                    greeting *= 2
                }
            }
            patience = min(patience * 2, VsockPort.longestTry)
            try await pauseBetweenTries(qemu)
        }
        throw MachineError(
            .restoreFailed, "the guest agent did not answer on vsock in time (\(tries) tries)")
    }
    private static func pauseBetweenTries(_ qemu: QEMU) async throws(MachineError) {
        let probe = await EventLoop.shared.ready(
            [(qemu.pidDescriptor, .read)], before: .now + .milliseconds(5))
        switch probe {
        case .timedOut: return
        case .ready: throw MachineError(.machineLost, "the hypervisor ended")
        case .cancelled: throw MachineError(.cancelled, "stopped while connecting")
        }
    }

    convenience init(_ channel: ByteStream, _ processDescriptor: CInt) throws(MachineError) {
        do throws(WireError) {
            let connection = try HostConnection(nonce: randomBytes(Limits.nonceByteCount))
            self.init(
                channel: channel, processDescriptor: processDescriptor, connection: connection)
        } catch { throw Self.violation(error) }
    }

    func greet(
        agent: String, before deadline: ContinuousClock.Instant
    ) async throws(MachineError) {
        guard case .greeted(let preamble) = try await event(before: deadline) else {
            throw MachineError(.protocolViolation, "the guest did not greet")
        }
        guard hexText(preamble.agent) == agent else {
            throw MachineError(
                .imageRefused,
                "another agent answers than the one that the image was built with; "
                    + "rebuild the image with `mayfly image build --force`")
        }
    }

    // MARK: PREPARE

    /// Makes the machine fresh and proves it; returns the clock that was set.
    ///
    /// - Throws: `restoreFailed` naming the step that the guest could not do.
    func prepare(
        _ freshness: Freshness, id: String, generation: String,
        before deadline: ContinuousClock.Instant
    ) async throws(MachineError) -> Int64 {
        // The time in PREPARE ages on its way; a slow answer is asked again, when the guest's code
        // is warm, until the clock is provably close or time is up.
        while .now < deadline {
            let clock = freshness.pinnedClock ?? realtimeNow()
            let sent = ContinuousClock.now
            try send(
                .prepare(
                    Preparation(
                        entropy: freshness.entropy, interpreterSeed: freshness.interpreterSeed,
                        realtime: clock, hostname: id,
                        machineID: String(
                            SHA256.hex(of: freshness.entropy + Array(id.utf8)).prefix(32)),
                        generation: generation)))
            let (_, message) = try await message(before: deadline)
            guard case .ready(let report) = message else {
                throw MachineError(.protocolViolation, "PREPARE was not answered with READY")
            }
            if let step = report.unproven {
                throw MachineError(
                    .restoreFailed, "the machine was not made fresh, so it runs nothing: \(step)")
            }
            guard SeenSamples.shared.insert(report.sample) else {
                throw MachineError(
                    .restoreFailed,
                    "two machines gave the same random bytes; rebuild the image with "
                        + "`mayfly image build --force`")
            }
            let expected = clock + (ContinuousClock.now - sent).nanoseconds
            if abs(expected - report.realtime) < 100_000_000 { return clock }
        }
        throw MachineError(
            .restoreFailed, "the guest's clock is more than 100 ms off; the host is overloaded")
    }

    // MARK: Building

    /// Starts and exercises the interpreters that the snapshot shall hold.
    func warm(before deadline: ContinuousClock.Instant) async throws(MachineError) {
        try send(.warm)
        let (_, message) = try await message(before: deadline)
        guard case .ack(.ok, _) = message else {
            throw MachineError(.buildFailed, "the interpreters did not start: \(message)")
        }
    }
    /// Makes the agent forget this connection; nothing is in flight afterwards.
    func park(before deadline: ContinuousClock.Instant) async throws(MachineError) {
        try send(.park)
        let (_, message) = try await message(before: deadline)
        guard case .parked = message else {
            throw MachineError(.buildFailed, "the agent did not park: \(message)")
        }
    }
    /// A round trip; also the cheapest proof that a resumed machine is alive.
    func ping(before deadline: ContinuousClock.Instant) async throws(MachineError) {
        pings += 1
        let value = pings
        try send(.ping(value))
        while true {
            let event = try await event(before: deadline)
            if case .pong(value, _) = try message(in: event).1 { return }
        }
    }

    /// Cuts the connection, as a fault would.
    func cut() { channel.cut() }

    // MARK: Driving

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

    /// The next message that is not an answer to our own liveness PING.
    func message(
        before deadline: ContinuousClock.Instant
    ) async throws(MachineError) -> (stream: UInt32, GuestMessage) {
        while true {
            let event = try await event(before: deadline)
            guard case .pong = try message(in: event).1 else { return try message(in: event) }
        }
    }
    private func message(
        in event: HostConnection.Event
    ) throws(MachineError) -> (stream: UInt32, GuestMessage) {
        guard case .message(let stream, let message) = event else {
            throw MachineError(.protocolViolation, "the guest greeted twice")
        }
        if case .error(let words) = message {
            throw MachineError(.machineLost, "the guest agent gave up: \(words)")
        }
        return (stream, message)
    }

    /// The next message, or `nil` as soon as there is more to send than there was credit for.
    func messageOrCredit(
        before deadline: ContinuousClock.Instant, sendingOn stream: UInt32
    ) async throws(MachineError) -> (stream: UInt32, GuestMessage)? {
        while let event = try await eventOrCapacity(before: deadline, of: stream) {
            guard case .pong = try message(in: event).1 else { return try message(in: event) }
        }
        return nil
    }

    private func event(
        before deadline: ContinuousClock.Instant
    ) async throws(MachineError) -> HostConnection.Event {
        while true {
            if let event = try await eventOrCapacity(before: deadline, of: nil) { return event }
        }
    }

    private func eventOrCapacity(
        before deadline: ContinuousClock.Instant, of stream: UInt32?
    ) async throws(MachineError) -> HostConnection.Event? {
        var heard = ContinuousClock.now
        var asked = false
        while true {
            do throws(WireError) {
                if let event = try connection.next() { return event }
            } catch { throw Self.violation(error) }
            if let stream, connection.sendCapacity(of: stream) > 0 { return nil }
            try flush()
            switch channel.receive() {
            case .bytes(let bytes):
                connection.receive(bytes)
                (heard, asked) = (.now, false)
                continue
            case .ended: throw MachineError(.machineLost, "the machine ended before its job did")
            case .nothingYet: break
            }
            let patience = min(deadline, heard + Self.silence * (asked ? 3 : 1))
            let wantsWrite = outgoingStart < outgoing.count
            let readiness = await EventLoop.shared.ready(
                [
                    (channel.number, wantsWrite ? [.read, .write] : .read),
                    (processDescriptor, .read),
                ], before: patience)
            switch readiness {
            case .cancelled: throw MachineError(.cancelled, "the job was stopped")
            case .ready(processDescriptor, _) where !hasMoreToRead:
                throw MachineError(.machineLost, "the hypervisor ended before the job did")
            case .ready: continue
            case .timedOut where .now >= deadline: throw MachineError.deadline
            case .timedOut where asked:
                throw MachineError(.machineLost, "the guest agent has fallen silent")
            case .timedOut:
                asked = true
                pings += 1
                try send(.ping(pings))
            }
        }
    }
    /// Whether bytes sent before the hypervisor's end still wait.
    private var hasMoreToRead: Bool {
        if case .bytes(let bytes) = channel.receive() {
            connection.receive(bytes)
            return true
        }
        return false
    }

    /// Writes what can be written now; the driver calls it whenever it waits.
    func flush() throws(MachineError) {
        if outgoingStart == outgoing.count {
            outgoing = connection.takeOutput()
            outgoingStart = 0
        }
        while outgoingStart < outgoing.count {
            guard let count = channel.send(outgoing, from: outgoingStart) else {
                throw MachineError(.machineLost, "the machine takes no more bytes")
            }
            if count == 0 { return }
            outgoingStart += count
            if outgoingStart == outgoing.count {
                outgoing = connection.takeOutput()
                outgoingStart = 0
            }
        }
    }

    private static func violation(_ error: WireError) -> MachineError {
        MachineError(.protocolViolation, "the guest broke the protocol: \(error)")
    }
}

extension MachineError {
    static let deadline = MachineError(
        .restoreFailed, "the machine did not answer in time; the host may be overloaded")
}

/// The last samples of /dev/urandom that machines sent with READY: none may come twice.
@LoopActor
final class SeenSamples {
    static let shared = SeenSamples()
    private static let capacity = 4096
    private var order: [[UInt8]] = []
    private var samples: Set<[UInt8]> = []

    /// False when it was seen before.
    func insert(_ sample: [UInt8]) -> Bool {
        guard samples.insert(sample).inserted else { return false }
        order.append(sample)
        if order.count > Self.capacity { samples.remove(order.removeFirst()) }
        return true
    }
}
