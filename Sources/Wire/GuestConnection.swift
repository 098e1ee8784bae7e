// The guest's end of a connection, without a descriptor: the mirror of HostConnection. The agent
// owns one per connection. A WireError drops the connection (before a job) or the machine (after).

/// A protocol session as the guest sees it.
package struct GuestConnection: Sendable {
    package enum Event: Equatable, Sendable {
        /// Only over a way that nobody else has: where to expect the worker.
        case invited(Invitation)
        /// The host's preamble was accepted; the answer is in the output. Whatever an earlier
        /// session on the same byte stream had left is gone.
        case greeted(HostPreamble)
        case message(stream: UInt32, HostMessage)
    }
    /// How the byte stream itself is known to come from the worker.
    package enum Trust: Equatable, Sendable {
        /// Nobody else can write there, as on a virtio-serial port.
        case theWay
        /// Its preamble carries what the invitation named.
        case token([UInt8])
    }
    package enum State: Equatable, Sendable {
        /// For a preamble.
        case waiting
        /// PREPARE is all that can follow, or WARM and PARK while an image is built. A rehearsed
        /// machine is here again.
        case greeted
        /// Proven fresh: a job may come.
        case prepared
        /// A job is here: this host or none.
        case bound
    }

    private let agent: [UInt8]
    package let trust: Trust
    private var decoder = FrameDecoder(from: .host)
    private var streams = StreamTable()
    private var network = NetworkStreams()
    /// The exec stream that is open or was open last: late STDIN, SIGNAL and KILL are for it.
    private var lastExec: UInt32 = 0
    package private(set) var state = State.waiting
    /// What is to be written; take it with `takeOutput()`.
    package private(set) var output: [UInt8] = []

    /// `agent`: the 32 bytes that name the agent's build.
    package init(agent: [UInt8], trust: Trust) {
        self.agent = agent
        self.trust = trust
    }
    /// One that an agent plays a job's way on, all by itself: there is no host, and nobody greets.
    package init(rehearsing agent: [UInt8]) {
        self.init(agent: agent, trust: .theWay)
        state = .prepared
    }

    package mutating func takeOutput() -> [UInt8] {
        let bytes = output
        output = []
        return bytes
    }

    // MARK: Receiving

    package mutating func receive(_ bytes: Span<UInt8>) { decoder.feed(bytes) }
    package mutating func receive(_ bytes: [UInt8]) { decoder.feed(bytes) }

    /// The next event, or `nil` until more bytes arrive.
    package mutating func next() throws(WireError) -> Event? {
        while true {
            switch try beginning() {
            case .frame: break
            case .incomplete: return nil
            case .event(let event): return event
            }
            guard let frame = try decoder.next() else { return nil }
            let message = try HostMessage(decoding: frame)
            if try check(message, on: frame.stream) {
                return .message(stream: frame.stream, message)
            }
        }
    }

    private enum Beginning { case frame, incomplete, event(Event) }
    /// What stands where a session may begin.
    ///
    /// Not only at the first byte: a host can take the place of another unseen on a virtio-serial
    /// port. Read as a frame's length both magics are over the limit, so nothing is confused. Once
    /// a job is here this is a violation as any other.
    private mutating func beginning() throws(WireError) -> Beginning {
        if state != .bound, trust == .theWay, decoder.isNext(Invitation.magic) {
            guard let bytes = decoder.take(Limits.invitationByteCount) else { return .incomplete }
            return .event(.invited(try Invitation(decoding: bytes)))
        }
        guard state == .waiting || state != .bound && decoder.isNext(HostPreamble.magic) else {
            return .frame
        }
        // An invitation is shorter: without a whole magic it cannot be told apart yet.
        guard let bytes = decoder.take(Limits.hostPreambleByteCount) else { return .incomplete }
        return .event(try greet(HostPreamble(decoding: bytes)))
    }
    private mutating func greet(_ preamble: HostPreamble) throws(WireError) -> Event {
        if case .token(let token) = trust, !preamble.shows(token) { throw .wrongToken }
        streams = StreamTable()
        network = NetworkStreams()
        // Answered even when no version fits: the host can then say which one this is.
        output = try GuestPreamble(nonce: preamble.nonce, agent: agent).encode()
        state = .greeted
        return .greeted(preamble)
    }

    /// `false` when the message was for this connection alone, or came too late to matter.
    private mutating func check(
        _ message: HostMessage, on number: UInt32
    ) throws(WireError) -> Bool {
        try checkState(message)
        switch message {
        case .credit(let stream, let count):
            guard number == 0 else { throw .badStream(number) }
            try grant(count, of: stream)
            return false
        case .ping, .shutdown:
            guard number == 0 else { throw .badStream(number) }
            return true
        case .prepare:
            guard number == 0 else { throw .badStream(number) }
            guard state != .bound else { throw .unexpected("'prepare' after 'exec'") }
            return true
        case .warm, .park:
            guard number == 0 else { throw .badStream(number) }
            guard state == .greeted else { throw .unexpected("'\(message.type)' now") }
            return true
        case .rehearse:
            guard number == 0 else { throw .badStream(number) }
            guard state == .prepared, streams.open.isEmpty else {
                throw .unexpected("'rehearse' now")
            }
            // A job needs another PREPARE: its own.
            state = .greeted
            return true
        case .put:
            try streams.add(OpenStream(number: number, kind: .put, isInputFinal: false))
            return true
        case .exec(let request):
            guard streams.index(of: lastExec) == nil else {
                throw .unexpected("a second program beside the first")
            }
            var stream = OpenStream(
                number: number, kind: .exec, isInputFinal: !request.hasStandardInput)
            stream.allowsNetwork = request.allowsNetwork
            try streams.add(stream)
            lastExec = number
            state = .bound
            return true
        case .list:
            try streams.add(OpenStream(number: number, kind: .list, isInputFinal: true))
            return true
        case .get:
            try streams.add(OpenStream(number: number, kind: .get, isInputFinal: true))
            return true
        case .file(let bytes, let isFinal):
            guard let index = streams.index(of: number), streams[index].kind == .put else {
                throw .badStream(number)
            }
            return try checkData(bytes.count, isFinal, index)
        case .stdin(let bytes, let isFinal):
            guard number != 0, number == lastExec else { throw .badStream(number) }
            guard let index = streams.index(of: number) else {
                // The program ended while this was on its way.
                try streams.receiving.receive(bytes.count, stream: 0)
                try release(bytes.count, of: 0)
                return false
            }
            return try checkData(bytes.count, isFinal, index)
        case .signal, .kill:
            guard number != 0, number == lastExec else { throw .badStream(number) }
            return streams.index(of: number) != nil
        case .data, .close: return try checkNetwork(message, on: number)
        }
    }
    private mutating func grant(_ count: UInt32, of stream: UInt32) throws(WireError) {
        if NetworkStreams.isNumber(stream) { return try network.grant(stream, count) }
        // For a stream that was closed meanwhile it comes too late, and means nothing.
        _ = try streams.grant(stream, count)
    }
    private mutating func checkNetwork(
        _ message: HostMessage, on number: UInt32
    ) throws(WireError) -> Bool {
        guard case .data(let bytes, let isFinal) = message else {
            return try network.closedThere(number)
        }
        return try network.receive(bytes.count, isFinal: isFinal, on: number)
    }
    /// Nothing of a job before the machine is proven fresh: there is nothing to read and nowhere to
    /// write to.
    private func checkState(_ message: HostMessage) throws(WireError) {
        switch message {
        case .put, .exec, .list, .get:
            guard state == .prepared || state == .bound else {
                throw .unexpected("'\(message.type)' before a proven 'prepare'")
            }
        default: break
        }
    }
    private mutating func checkData(
        _ count: Int, _ isFinal: Bool, _ index: Int
    ) throws(WireError) -> Bool {
        guard !streams[index].isInputFinal else { throw .unexpected("data after the last") }
        try streams.receive(count, at: index)
        streams[index].isInputFinal = isFinal
        return true
    }

    // MARK: Sending

    /// Sends a message without data; ACK, LISTED and EXIT close their stream.
    package mutating func send(_ message: GuestMessage, on stream: UInt32 = 0) throws(WireError) {
        try message.encode(stream: stream, into: &output)
        switch message {
        case .ack, .listed, .exit:
            if let index = streams.index(of: stream) { streams.close(index) }
        case .ready(let report) where state != .bound:
            state = report.unproven == nil ? .prepared : .greeted
        default: break
        }
    }

    /// How many bytes of STDOUT, STDERR or FILE may go out on a stream now.
    package func sendCapacity(of stream: UInt32) -> Int { streams.sendCapacity(stream) }

    /// Sends data, at most `sendCapacity` bytes.
    ///
    /// The last FILE frame closes its stream.
    package mutating func sendData(
        _ type: FrameType, _ bytes: Span<UInt8>, on stream: UInt32, isFinal: Bool
    ) throws(WireError) {
        guard let index = streams.index(of: stream) else { throw .badStream(stream) }
        guard type.isData, bytes.count <= Limits.payloadByteCount else {
            throw .payloadTooLong(bytes.count)
        }
        guard isFinal || !bytes.isEmpty else { throw .emptyData }
        try streams.spend(bytes.count, at: index)
        FrameHeader(length: bytes.count, stream: stream, type: type, isFinal: isFinal)
            .encode(into: &output)
        // SAFETY: the pointer lives for this call only; Array has no append of a span yet.
        unsafe bytes.withUnsafeBufferPointer { unsafe output.append(contentsOf: $0) }
        if type == .file, isFinal { streams.close(index) }
    }

    /// Tells the host that `count` bytes of STDIN or FILE have been used up.
    package mutating func release(_ count: Int, of stream: UInt32) throws(WireError) {
        let grant = streams.release(count, of: stream)
        if let bytes = grant.stream {
            try GuestMessage.credit(stream: stream, bytes).encode(stream: 0, into: &output)
        }
        if let bytes = grant.all {
            try GuestMessage.credit(stream: 0, bytes).encode(stream: 0, into: &output)
        }
    }

    // MARK: Streams of our own

    /// Whether a stream may be opened: a program runs that may, and not too many are open.
    package var mayOpen: Bool {
        network.nextNumber != nil && streams.open.contains(where: \.allowsNetwork)
    }
    /// Whether a program runs that may reach the network, however many streams are open.
    package var allowsNetwork: Bool { streams.open.contains(where: \.allowsNetwork) }
    /// Opens a stream to a service of the host's; `nil` when that may not be now.
    package mutating func open(_ service: NetworkService) throws(WireError) -> UInt32? {
        guard mayOpen, let number = network.nextNumber else { return nil }
        try network.add(number)
        try GuestMessage.open(service).encode(stream: number, into: &output)
        return number
    }
    /// How many bytes of DATA may go out on a stream now; 0 also when it is closed.
    package func networkCapacity(of stream: UInt32) -> Int { network.sendCapacity(stream) }
    /// Sends DATA, at most `networkCapacity` bytes; dropped when the host reads it no more.
    package mutating func sendNetwork(
        _ bytes: Span<UInt8>, on stream: UInt32, isFinal: Bool
    ) throws(WireError) {
        guard try network.send(bytes.count, isFinal: isFinal, on: stream) else { return }
        FrameHeader(length: bytes.count, stream: stream, type: .data, isFinal: isFinal)
            .encode(into: &output)
        // SAFETY: the pointer lives for this call only; Array has no append of a span yet.
        unsafe bytes.withUnsafeBufferPointer { unsafe output.append(contentsOf: $0) }
    }
    /// `count` bytes of DATA have been used up.
    package mutating func releaseNetwork(_ count: Int, of stream: UInt32) throws(WireError) {
        if let bytes = try network.release(count, of: stream) {
            try GuestMessage.credit(stream: stream, bytes).encode(stream: 0, into: &output)
        }
    }
    /// Says nothing more on a stream, and reads nothing more of it.
    package mutating func closeNetwork(_ stream: UInt32) throws(WireError) {
        if try network.closeHere(stream) {
            try GuestMessage.close.encode(stream: stream, into: &output)
        }
    }
}
