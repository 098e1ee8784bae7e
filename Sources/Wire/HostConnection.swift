// The host's end of a connection, without a descriptor: bytes in, events out, bytes to write.
// AgentSession owns one and does the reading, writing and deadlines. All that a hostile guest
// may send ends here in an event or in a WireError; after a WireError the machine must be ended.

/// A protocol session as the host sees it.
package struct HostConnection: Sendable {
    package enum Event: Equatable, Sendable {
        /// The guest's preamble: versions and nonce match.
        case greeted(GuestPreamble)
        /// A message that is allowed now; stream 0 is the control stream.
        case message(stream: UInt32, GuestMessage)
    }

    private enum State {
        /// Until the guest's preamble.
        case greeting
        case open
        /// PARK is said; the guest ends what it has begun, and then says PARKED.
        case parking
        /// Nothing can come after PARKED.
        case parked
    }

    private let nonce: [UInt8]
    private var state = State.greeting
    private var decoder = FrameDecoder(from: .guest)
    private var streams = StreamTable()
    private var network = NetworkStreams()
    /// What the guest owes: READY for each PREPARE, ACK for each WARM and REHEARSE, PONG for each
    /// PING.
    private var preparations = 0
    private var acknowledgements = 0
    private var pings: [UInt64] = []
    /// What is to be written; take it with `takeOutput()`.
    package private(set) var output: [UInt8]

    /// `nonce`: 32 fresh random bytes; `token`: what the machine was invited with.
    ///
    /// The preamble is the first output; messages may be queued behind it before the guest has
    /// answered.
    package init(nonce: [UInt8], token: [UInt8]) throws(WireError) {
        self.nonce = nonce
        output = try HostPreamble(nonce: nonce, token: token).encode()
    }

    package mutating func takeOutput() -> [UInt8] {
        let bytes = output
        output = []
        return bytes
    }

    // MARK: Sending

    /// Opens a stream with PUT, EXEC, LIST or GET and answers its number.
    package mutating func open(_ message: HostMessage) throws(WireError) -> UInt32 {
        let number = streams.nextNumber
        var stream: OpenStream
        switch message {
        case .put: stream = OpenStream(number: number, kind: .put, isInputFinal: false)
        case .exec(let request):
            stream = OpenStream(
                number: number, kind: .exec, isInputFinal: !request.hasStandardInput)
            stream.isEventsFinal = !request.hasEvents
            stream.allowsNetwork = request.allowsNetwork
        case .list: stream = OpenStream(number: number, kind: .list, isInputFinal: true)
        case .get: stream = OpenStream(number: number, kind: .get, isInputFinal: true)
        default: throw .unexpected("opening a stream with '\(message.type)'")
        }
        guard state == .greeting || state == .open else {
            throw .unexpected("a stream after 'park'")
        }
        // Encoded before the stream counts: a message that cannot be sent must leave no trace.
        var frame: [UInt8] = []
        try message.encode(stream: number, into: &frame)
        try streams.add(stream)
        output.append(contentsOf: frame)
        return number
    }

    /// Sends a control message (stream 0), SIGNAL or KILL (an exec stream).
    package mutating func send(_ message: HostMessage, on stream: UInt32 = 0) throws(WireError) {
        switch message {
        case .signal, .kill:
            // The program may have ended meanwhile: then there is nobody to tell.
            guard streams.wasUsed(stream) else { throw .badStream(stream) }
            guard streams.index(of: stream) != nil else { return }
        case .prepare, .ping, .warm, .park, .shutdown, .rehearse:
            guard stream == 0 else { throw .badStream(stream) }
            if case .park = message, state != .open { throw .unexpected("'park' now") }
        default: throw .unexpected("sending '\(message.type)' this way")
        }
        if case .ping = message, pings.count >= Limits.pendingPings { throw .tooMany("pings") }
        try message.encode(stream: stream, into: &output)
        switch message {
        case .prepare: preparations += 1
        case .ping(let value): pings.append(value)
        case .warm, .rehearse: acknowledgements += 1
        case .park: state = .parking
        default: break
        }
    }

    /// How many bytes of FILE or STDIN may go out on a stream now; 0 also when it is closed.
    package func sendCapacity(of stream: UInt32) -> Int { streams.sendCapacity(stream) }

    /// Sends FILE (put) or STDIN (exec) data: at most `sendCapacity` bytes.
    ///
    /// Data for a stream that the guest has closed is dropped, as nobody reads it any more.
    package mutating func sendData(
        _ bytes: ArraySlice<UInt8>, on stream: UInt32, isFinal: Bool
    ) throws(WireError) {
        guard let index = streams.index(of: stream) else {
            guard streams.wasUsed(stream) else { throw .badStream(stream) }
            return
        }
        let type: FrameType
        switch streams[index].kind {
        case .put: type = .file
        case .exec: type = .stdin
        case .list, .get: throw .badStream(stream)
        }
        guard !streams[index].isInputFinal else { throw .unexpected("data after the last") }
        guard bytes.count <= Limits.payloadByteCount else { throw .payloadTooLong(bytes.count) }
        guard isFinal || !bytes.isEmpty else { throw .emptyData }
        try streams.spend(bytes.count, at: index)
        streams[index].isInputFinal = isFinal
        FrameHeader(length: bytes.count, stream: stream, type: type, isFinal: isFinal)
            .encode(into: &output)
        output.append(contentsOf: bytes)
    }

    /// Tells the guest that `count` data bytes of a stream have been used up, so that it may send
    /// more.
    ///
    /// Until then a guest can have no more than its credit on its way.
    package mutating func release(_ count: Int, of stream: UInt32) throws(WireError) {
        let grant = streams.release(count, of: stream)
        if let bytes = grant.stream {
            try HostMessage.credit(stream: stream, bytes).encode(stream: 0, into: &output)
        }
        if let bytes = grant.all {
            try HostMessage.credit(stream: 0, bytes).encode(stream: 0, into: &output)
        }
    }

    // MARK: Receiving

    package mutating func receive(_ bytes: Span<UInt8>) { decoder.feed(bytes) }
    package mutating func receive(_ bytes: [UInt8]) { decoder.feed(bytes) }

    /// The next event, or `nil` until more bytes arrive.
    package mutating func next() throws(WireError) -> Event? {
        guard state != .greeting else {
            guard let bytes = decoder.take(Limits.guestPreambleByteCount) else { return nil }
            let preamble = try GuestPreamble(decoding: bytes)
            guard preamble.version == Limits.version else {
                throw .unsupportedVersion(preamble.version)
            }
            guard preamble.nonce == nonce else { throw .wrongNonce }
            state = .open
            return .greeted(preamble)
        }
        while let frame = try decoder.next() {
            let message = try GuestMessage(decoding: frame)
            guard state != .parked else { throw .unexpected("a message after 'parked'") }
            if frame.stream == 0 {
                if try checkControl(message) { return .message(stream: 0, message) }
            } else if NetworkStreams.isNumber(frame.stream) {
                if try checkNetwork(message, on: frame.stream) {
                    return .message(stream: frame.stream, message)
                }
            } else {
                try check(message, on: frame.stream)
                return .message(stream: frame.stream, message)
            }
        }
        return nil
    }

    /// Messages on stream 0; `false` when it was for this connection alone.
    private mutating func checkControl(_ message: GuestMessage) throws(WireError) -> Bool {
        switch message {
        case .credit(let stream, let count) where NetworkStreams.isNumber(stream):
            try network.grant(stream, count)
            return false
        case .credit(let stream, let count):
            // The guest itself closes streams, so its credit cannot have crossed the end of one.
            guard try streams.grant(stream, count) else { throw .badStream(stream) }
            return false
        case .ready:
            guard preparations > 0 else { throw .unexpected("'ready'") }
            preparations -= 1
        case .pong(let value, _):
            guard pings.first == value else { throw .unexpected("'pong'") }
            pings.removeFirst()
        case .ack:
            guard acknowledgements > 0 else { throw .unexpected("'ack' on stream 0") }
            acknowledgements -= 1
        case .parked:
            guard state == .parking else { throw .unexpected("'parked'") }
            state = .parked
        case .error: break
        default: throw .unexpected("'\(message.type)' on stream 0")
        }
        return true
    }

    private mutating func check(
        _ message: GuestMessage, on number: UInt32
    ) throws(WireError) {
        // The guest itself ends every stream, with its last word: nothing can come after it.
        guard let index = streams.index(of: number) else { throw .badStream(number) }
        switch (streams[index].kind, message) {
        case (.put, .ack):
            guard streams[index].isInputFinal else { throw .unexpected("'ack' before the end") }
            streams.close(index)
        case (.list, .listed): streams.close(index)
        case (.list, .ack(let status, _)), (.get, .ack(let status, _)):
            guard status != .ok else { throw .unexpected("'ack' of success") }
            streams.close(index)
        case (.get, .file(let bytes, let isFinal)):
            try streams.receive(bytes.count, at: index)
            if isFinal { streams.close(index) }
        case (.exec, _): try checkExec(message, index)
        default: throw .unexpected("'\(message.type)' on stream \(number)")
        }
    }

    private mutating func checkExec(
        _ message: GuestMessage, _ index: Int
    ) throws(WireError) {
        let stream = streams[index]
        switch message {
        case .ack(let status, _) where !stream.isStarted && status != .ok:
            try checkNetworkEnded()
            streams.close(index)
        case .started where !stream.isStarted:
            streams[index].isStarted = true
        case .stdout(let bytes, let isFinal) where stream.isStarted && !stream.isStdoutFinal:
            try streams.receive(bytes.count, at: index)
            streams[index].isStdoutFinal = isFinal
        case .stderr(let bytes, let isFinal) where stream.isStarted && !stream.isStderrFinal:
            try streams.receive(bytes.count, at: index)
            streams[index].isStderrFinal = isFinal
        case .events(let bytes, let isFinal) where stream.isStarted && !stream.isEventsFinal:
            try streams.receive(bytes.count, at: index)
            streams[index].isEventsFinal = isFinal
        case .exit where stream.isStdoutFinal && stream.isStderrFinal && stream.isEventsFinal:
            try checkNetworkEnded()
            streams.close(index)
        default: throw .unexpected("'\(message.type)' of a program")
        }
    }

    // MARK: The guest's own streams

    /// `false` when it comes too late to matter.
    private mutating func checkNetwork(
        _ message: GuestMessage, on number: UInt32
    ) throws(WireError) -> Bool {
        switch message {
        case .open:
            guard streams.open.contains(where: \.allowsNetwork) else {
                throw .unexpected("'open' without a program that may")
            }
            try network.add(number)
            return true
        case .data(let bytes, let isFinal):
            return try network.receive(bytes.count, isFinal: isFinal, on: number)
        case .close: return try network.closedThere(number)
        default: throw .badStream(number)
        }
    }
    /// With its program everything of it ends.
    private func checkNetworkEnded() throws(WireError) {
        guard network.areAllClosedThere else {
            throw .unexpected("the end of a program before its streams'")
        }
    }
    /// How many bytes of DATA may go out on a stream of the guest's now; 0 also when it is closed.
    package func networkCapacity(of stream: UInt32) -> Int { network.sendCapacity(stream) }
    /// Sends DATA, at most `networkCapacity` bytes.
    ///
    /// Dropped when the guest has closed the stream, as nobody reads it any more.
    package mutating func sendNetwork(
        _ bytes: ArraySlice<UInt8>, on stream: UInt32, isFinal: Bool
    ) throws(WireError) {
        guard try network.send(bytes.count, isFinal: isFinal, on: stream) else { return }
        FrameHeader(length: bytes.count, stream: stream, type: .data, isFinal: isFinal)
            .encode(into: &output)
        output.append(contentsOf: bytes)
    }
    /// `count` bytes of DATA have been used up.
    package mutating func releaseNetwork(_ count: Int, of stream: UInt32) throws(WireError) {
        if let bytes = try network.release(count, of: stream) {
            try HostMessage.credit(stream: stream, bytes).encode(stream: 0, into: &output)
        }
    }
    /// Says nothing more on a stream of the guest's, and reads nothing more of it.
    package mutating func closeNetwork(_ stream: UInt32) throws(WireError) {
        if try network.closeHere(stream) {
            try HostMessage.close.encode(stream: stream, into: &output)
        }
    }
}
