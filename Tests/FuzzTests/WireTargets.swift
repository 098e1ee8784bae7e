// Both ends of the wire, each given the other's bytes: whole or in pieces they mean the same, what a
// message was read from is what it is written as, and what is kept stays within the limits.

import Wire

private let nonce = [UInt8](repeating: 7, count: Limits.nonceByteCount)
private let token = [UInt8](repeating: 8, count: Limits.tokenByteCount)
private let agent = [UInt8](repeating: 9, count: Limits.digestByteCount)
private let ready = ReadyReport(
    steps: ReadyReport.requiredSteps.map { .init(name: $0, isDone: true) }, realtime: 5,
    sample: [UInt8](repeating: 3, count: Limits.sampleByteCount))

/// What an end made of some bytes.
private struct Reading<Event: Equatable>: Equatable {
    var events: [Event] = []
    var violation: WireError?
}

/// The bytes in pieces of one to sixteen, as a slow sender's come.
private func pieces(_ bytes: ArraySlice<UInt8>) -> [ArraySlice<UInt8>] {
    var rest = bytes
    var pieces: [ArraySlice<UInt8>] = []
    while let first = rest.first {
        let piece = rest.prefix(Int(first & 15) + 1)
        pieces.append(piece)
        rest = rest.dropFirst(piece.count)
    }
    return pieces
}

func fuzzGuestBytes(_ bytes: [UInt8]) throws(BrokenPromise) {
    func read(_ pieces: [ArraySlice<UInt8>]) -> Reading<HostConnection.Event> {
        var reading = Reading<HostConnection.Event>()
        do throws(WireError) {
            var host = try busyHost()
            for piece in pieces {
                host.receive(Array(piece))
                while let event = try host.next() { reading.events.append(event) }
            }
        } catch { reading.violation = error }
        return reading
    }
    let whole = read([bytes[...]])
    let parts = read(pieces(bytes[...]))
    try promise(whole == parts, "whole: \(whole); in pieces: \(parts)")
    for case .message(let stream, let message) in whole.events {
        do throws(WireError) {
            var encoded: [UInt8] = []
            try message.encode(stream: stream, into: &encoded)
            var decoder = FrameDecoder(from: .guest)
            decoder.feed(encoded)
            let again = try decoder.next().map { frame throws(WireError) in
                try GuestMessage(decoding: frame)
            }
            try promiseSame(again == message, "\(message) became \(String(describing: again))")
        } catch { throw BrokenPromise("\(message) was read but cannot be written: \(error)") }
    }
}

func fuzzHostBytes(_ bytes: [UInt8]) throws(BrokenPromise) {
    // The first byte says where they come: over the port or over AF_VSOCK, behind an honest preamble or
    // from the first byte on.
    guard let first = bytes.first else { return }
    var bytes = Array(bytes.dropFirst())
    if first & 1 == 1, let preamble = try? HostPreamble(nonce: nonce, token: token).encode() {
        bytes = preamble + bytes
    }
    let trust: GuestConnection.Trust = first & 2 == 0 ? .theWay : .token(token)
    func read(_ pieces: [ArraySlice<UInt8>]) -> Reading<GuestConnection.Event> {
        var reading = Reading<GuestConnection.Event>()
        var guest = GuestConnection(agent: agent, trust: trust)
        do throws(WireError) {
            for piece in pieces {
                guest.receive(Array(piece))
                while let event = try guest.next() {
                    reading.events.append(event)
                    // What the agent answers when it has done as told.
                    if case .message(_, .prepare) = event { try guest.send(.ready(ready)) }
                }
            }
        } catch { reading.violation = error }
        return reading
    }
    let whole = read([bytes[...]])
    let parts = read(pieces(bytes[...]))
    try promise(whole == parts, "whole: \(whole); in pieces: \(parts)")
    for case .message(let stream, let message) in whole.events {
        do throws(WireError) {
            var encoded: [UInt8] = []
            try message.encode(stream: stream, into: &encoded)
            var decoder = FrameDecoder(from: .host)
            decoder.feed(encoded)
            let again = try decoder.next().map { frame throws(WireError) in
                try HostMessage(decoding: frame)
            }
            try promiseSame(again == message, "\(message) became \(String(describing: again))")
        } catch { throw BrokenPromise("\(message) was read but cannot be written: \(error)") }
    }
}

private func promiseSame(_ holds: Bool, _ sentence: String) throws(WireError) {
    if !holds { throw .unexpected(sentence) }
}

/// A host in the middle of a job: greeted, with a program (stream 1), a file coming (3), one going (5),
/// a list (7), a READY and a PONG owed.
private func busyHost() throws(WireError) -> HostConnection {
    var host = try HostConnection(nonce: nonce, token: token)
    host.receive(try GuestPreamble(nonce: nonce, agent: agent).encode())
    _ = try host.next()
    let preparation = Preparation(
        entropy: [UInt8](repeating: 1, count: Limits.entropyByteCount),
        interpreterSeed: [UInt8](repeating: 2, count: Limits.seedByteCount),
        realtime: 1_700_000_000_000_000_000, hostname: "a",
        machineID: "0123456789abcdef0123456789abcdef", generation: "b")
    try host.send(.prepare(preparation))
    _ = try host.open(
        .exec(
            ExecRequest(
                program: .command, arguments: ["a"], hasStandardInput: true, allowsNetwork: true)))
    _ = try host.open(.get(GetRequest(name: "a", maximumByteCount: 1 << 20)))
    _ = try host.open(.put(PutRequest(name: "b", byteCount: 9)))
    _ = try host.open(.list(ListRequest(patterns: ["**/*"], maximumEntries: 9)))
    try host.send(.ping(1))
    _ = host.takeOutput()
    return host
}
