// How a session begins: the connection by the machine's transport, HELLO, PREPARE; and what only
// the image builder asks of an agent. Extends AgentSession.swift.

import Events
import Processes
import Wire

extension AgentSession {
    // MARK: Opening

    /// Connects by the machine's transport and greets; `agent` is the digest that must answer.
    static func open(
        _ hypervisor: any Hypervisor, agent: String, before deadline: ContinuousClock.Instant
    ) async throws(MachineError) -> AgentSession {
        switch try hypervisor.takeAgentWay() {
        case .port(let port):
            let session = try AgentSession(port, hypervisor.pidDescriptor)
            try await session.greet(agent: agent, before: deadline)
            return session
        case .vsock(let contextID, let port):
            let invitation = try invite(over: port)
            let session = try await open(
                hypervisor, token: invitation.token, agent: agent, before: deadline
            ) { patience throws(MachineError) in
                try await VsockPort.connect(contextID, port: invitation.port, within: patience)
            }
            session.port = port
            session.invitation = invitation
            return session
        case .socket(let socket):
            return try await open(
                hypervisor, token: randomBytes(Limits.tokenByteCount), agent: agent,
                before: deadline
            ) { patience throws(MachineError) in
                try await socket.connect(port: Firecracker.agentPort, within: patience)
            }
        }
    }
    /// Connects again and again until the agent greets.
    private static func open(
        _ hypervisor: any Hypervisor, token: [UInt8], agent: String,
        before deadline: ContinuousClock.Instant,
        _ connect: (Duration) async throws(MachineError) -> ByteStream?
    ) async throws(MachineError) -> AgentSession {
        // Right after a resume nobody listens yet, a connection may hang on a stale context id, or
        // be accepted and then reset: short tries until one is greeted. HELLO changes nothing in
        // the guest. The first are so short that hardware loses no time; a slow guest gets ever
        // longer ones.
        var tries = 0
        var patience = VsockPort.firstTry
        var pause = VsockPort.firstPause
        var greeting = VsockPort.firstGreeting
        while .now < deadline {
            tries += 1
            if let channel = try await connect(patience) {
                let session = try AgentSession(channel, hypervisor.pidDescriptor, token: token)
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
            try await wait(pause, for: hypervisor)
            pause = min(pause * 2, VsockPort.longestPause)
        }
        throw MachineError(
            .restoreFailed, "the guest agent did not answer on vsock in time (\(tries) tries)")
    }
    /// Tells the agent, over the way that only we have, where we shall come and what we shall show.
    private static func invite(over port: ByteStream) throws(MachineError) -> Invitation {
        let random = randomBytes(4).reduce(UInt32(0)) { $0 << 8 | UInt32($1) }
        let ports = Invitation.ports
        let invitation = Invitation(
            port: ports.lowerBound + random % UInt32(ports.count),
            token: randomBytes(Limits.tokenByteCount))
        let bytes: [UInt8]
        do throws(WireError) { bytes = try invitation.encode() } catch { throw violation(error) }
        // Nothing was written to it before, so it has room.
        guard port.send(bytes, from: 0) == bytes.count else {
            throw MachineError(.machineLost, "the hypervisor accepts no bytes for the agent's port")
        }
        return invitation
    }
    private static func wait(_ pause: Duration, for hypervisor: any Hypervisor)
        async throws(MachineError)
    {
        let probe = await EventLoop.shared.ready(
            [(hypervisor.pidDescriptor, .read)], before: .now + pause)
        switch probe {
        case .timedOut: return
        case .ready: throw MachineError(.machineLost, "the hypervisor ended")
        case .cancelled: throw MachineError(.cancelled, "stopped while connecting")
        }
    }

    func greet(
        agent: String, before deadline: ContinuousClock.Instant
    ) async throws(MachineError) {
        let preamble = try await greeting(before: deadline)
        guard hexText(preamble.agent) == agent else {
            throw MachineError(
                .imageRefused,
                "agent digest mismatch: the guest does not run the agent of its image; "
                    + "rebuild the image with `mayfly image build --force`")
        }
    }

    // MARK: PREPARE

    /// How far off a guest's clock may be after PREPARE.
    private static let clockError = Duration.milliseconds(100)
    /// Between two tries of PREPARE from the second on; at random, and longer each time.
    private static let longestPreparePause = Duration.seconds(1)

    /// Makes the machine fresh and proves it; returns the clock that was set.
    ///
    /// - Throws: `restoreFailed` naming the step that the guest could not do.
    func prepare(
        _ freshness: Freshness, id: String, generation: String,
        before deadline: ContinuousClock.Instant
    ) async throws(MachineError) -> Int64 {
        // The time in PREPARE ages on its way; a slow answer is asked again, when the guest's code
        // is warm, until the clock is provably close or time is up.
        var pause = Duration.zero
        while .now < deadline {
            if pause > .milliseconds(5) {
                // Machines that are all asked again at once keep each other from answering in time.
                try await Self.rest(pause * Double.random(in: 0.5...1.5), before: deadline)
            }
            pause = min(max(pause * 2, .milliseconds(5)), Self.longestPreparePause)
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
                    .restoreFailed, "the machine was not proven fresh, so it runs nothing: \(step)")
            }
            guard SeenSamples.shared.insert(report.sample) else {
                throw MachineError(
                    .restoreFailed,
                    "two machines returned the same random bytes; rebuild the image with "
                        + "`mayfly image build --force`")
            }
            // As durations: no value that a guest or a pin may name can overflow them.
            let passed = Duration.nanoseconds(report.realtime) - .nanoseconds(clock)
            let error = passed - (ContinuousClock.now - sent)
            if error < Self.clockError, error + Self.clockError > .zero { return clock }
        }
        throw MachineError(
            .restoreFailed, "the guest's clock is more than 100 ms off; the host is overloaded")
    }

    private static func rest(
        _ pause: Duration, before deadline: ContinuousClock.Instant
    ) async throws(MachineError) {
        let end = min(deadline, .now + pause)
        guard await EventLoop.shared.ready([], before: end) != .cancelled else {
            throw .stopped
        }
    }

    /// Walks a job's way once, so that the job does not walk it first; PREPARE must come again.
    ///
    /// - Throws: `restoreFailed` with the agent's words when it could not.
    func rehearse(before deadline: ContinuousClock.Instant) async throws(MachineError) {
        try send(.rehearse)
        let (_, message) = try await message(before: deadline)
        guard case .ack(let status, let words) = message else {
            throw MachineError(.protocolViolation, "REHEARSE was not answered with ACK")
        }
        guard status == .ok else {
            throw MachineError(.restoreFailed, "the machine could not rehearse: \(words)")
        }
    }

    // MARK: Building

    /// Starts and exercises the interpreters that the snapshot shall hold.
    func warm(before deadline: ContinuousClock.Instant) async throws(MachineError) {
        try send(.warm)
        let (_, message) = try await message(before: deadline)
        switch message {
        case .ack(.ok, _): return
        case .ack(_, let words): throw MachineError(.buildFailed, words)
        default: throw MachineError(.buildFailed, "the guest did not warm up: \(message)")
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
