// What looks at the beginning of a flow before it goes on by itself: nothing reaches the other side
// that a filter has not let through.

/// Looks at bytes on their way in one direction.
protocol FlowFilter: Sendable {
    /// Takes what has come and appends to `out` what may go on.
    ///
    /// - Throws: ``EgressRefusal``, which ends the connection.
    mutating func take(_ bytes: [UInt8], into out: inout [UInt8]) throws(EgressRefusal) -> FlowState
    /// The sender has ended its way; appends to `out` what is left.
    ///
    /// - Returns: whether the receiver's way ends as well, `open`, or goes on, `complete`.
    mutating func end(into out: inout [UInt8]) throws(EgressRefusal) -> FlowState
    /// Whether more must come within the time for a request.
    var isExpecting: Bool { get }
}

enum FlowState {
    /// The filter goes on looking.
    case filtered
    /// Everything from here on may pass.
    case open
    /// Nothing more will pass.
    case complete
}

/// The client's way into a tunnel: a TLS handshake must mean the host that was asked for.
///
/// Its second hello as well, where the server asks for one (HelloRetryRequest).
struct TLSFilter: FlowFilter {
    private enum Stage { case first, second }
    private let destination: EgressDestination
    private let policy: EgressPolicy
    private let limit: Int
    private var stage = Stage.first
    private var held: [UInt8] = []
    private var mustBeTLS: Bool { destination.port == 443 }

    init(_ destination: EgressDestination, policy: EgressPolicy, limit: Int) {
        self.destination = destination
        self.policy = policy
        self.limit = limit
    }
    var isExpecting: Bool { stage == .first && (mustBeTLS || !held.isEmpty) || !held.isEmpty }

    mutating func take(
        _ bytes: [UInt8], into out: inout [UInt8]
    ) throws(EgressRefusal) -> FlowState {
        held += bytes
        while let first = held.first {
            if stage == .first, first != 22, !mustBeTLS { return open(&out) }
            if stage == .second {
                // A change of cipher stands between the hellos of some clients and says nothing.
                if first == 20 {
                    guard held.count >= 6 else { return .filtered }
                    guard held[3] == 0, held[4] == 1 else { return open(&out) }
                    out += held.prefix(6)
                    held.removeFirst(6)
                    continue
                }
                guard first == 22 else { return open(&out) }
                guard held.count >= 6 else { return .filtered }
                // Any other message of the handshake: there was no second hello.
                guard held[5] == 1 else { return open(&out) }
            }
            guard let hello = try ClientHello(held, limit: limit) else { return .filtered }
            try hello.check(host: destination.host, policy: policy)
            out += held.prefix(hello.byteCount)
            held.removeFirst(hello.byteCount)
            if stage == .second { return open(&out) }
            stage = .second
        }
        return .filtered
    }
    private mutating func open(_ out: inout [UInt8]) -> FlowState {
        out += held
        held = []
        return .open
    }
    mutating func end(into out: inout [UInt8]) throws(EgressRefusal) -> FlowState {
        if isExpecting {
            throw EgressRefusal(
                .notTLS, "the connection with \(destination) ended before its TLS handshake began")
        }
        return .open
    }
}

/// A request's body, up to its end and not a byte further.
struct BodyFilter: FlowFilter {
    private enum Stage {
        case bytes(UInt64)
        case size
        case chunk(UInt64)
        case afterChunk
        case lastLine
    }
    private var stage: Stage
    /// A line that is not complete.
    private var line = ChunkLine()
    /// What came behind the body's end: another request.
    private(set) var rest: [UInt8] = []

    init(_ body: HTTPBody) {
        stage =
            switch body {
            case .none: .bytes(0)
            case .length(let length): .bytes(length)
            case .chunked: .size
            }
    }
    var isExpecting: Bool { false }

    mutating func take(
        _ bytes: [UInt8], into out: inout [UInt8]
    ) throws(EgressRefusal) -> FlowState {
        var place = 0
        while true {
            switch stage {
            case .bytes(let left):
                let count = Int(min(left, UInt64(bytes.count - place)))
                out += bytes[place..<(place + count)]
                stage = .bytes(left - UInt64(count))
                guard left == UInt64(count) else { return .filtered }
                rest += bytes[(place + count)...]
                return .complete
            case .chunk(let left):
                let count = Int(min(left, UInt64(bytes.count - place)))
                out += bytes[place..<(place + count)]
                place += count
                stage = left == UInt64(count) ? .afterChunk : .chunk(left - UInt64(count))
                if left > UInt64(count) { return .filtered }
            case .size, .afterChunk, .lastLine:
                guard try line.take(bytes, &place, atMost: 18, malformed: Self.malformed)
                else { return .filtered }
                guard try endLine(&out) else { continue }
                rest += bytes[place...]
                return .complete
            }
        }
    }
    /// - Returns: whether that was the end of the body.
    private mutating func endLine(_ out: inout [UInt8]) throws(EgressRefusal) -> Bool {
        defer { line.clear() }
        switch stage {
        case .size:
            guard let size = line.size else { throw Self.malformed }
            // The body's end goes out as one, when all of it is there.
            if size > 0 { out += Array("\(String(size, radix: 16))\r\n".utf8) }
            stage = size == 0 ? .lastLine : .chunk(size)
            return false
        case .afterChunk:
            guard line.isEmpty else { throw Self.malformed }
            out += [0x0D, 0x0A]
            stage = .size
            return false
        default:
            guard line.isEmpty else { throw Self.malformed }
            out += Array("0\r\n\r\n".utf8)
            return true
        }
    }
    private static let malformed = EgressRefusal(
        .badRequest,
        "the request's chunks are not as HTTP/1.1 has them (no extensions, no trailers)")

    mutating func end(into out: inout [UInt8]) throws(EgressRefusal) -> FlowState {
        throw EgressRefusal(.badRequest, "the request ended before its body did")
    }
}

/// A server's response to one request: its heads are read, its body goes by itself.
struct ResponseFilter: FlowFilter {
    private let limit: Int
    private var held: [UInt8] = []
    private var lines = HTTPHeadLines()

    init(limit: Int) { self.limit = limit }
    var isExpecting: Bool { false }

    mutating func take(
        _ bytes: [UInt8], into out: inout [UInt8]
    ) throws(EgressRefusal) -> FlowState {
        held += bytes
        while let head = try HTTPHead(held, &lines, limit: limit, reason: .badResponse) {
            held.removeFirst(head.byteCount)
            lines = HTTPHeadLines()
            let status = try Self.status(head)
            var answer = head
            try answer.removeHopByHop(reason: .badResponse)
            if status < 200 {
                out += answer.bytes(startLine: head.startLine)
                continue
            }
            answer.fields.append(.init(name: "connection", value: "close"))
            out += answer.bytes(startLine: head.startLine) + held
            held = []
            return .open
        }
        return .filtered
    }
    /// A response changes no protocol: that was not asked for.
    static func status(_ head: HTTPHead) throws(EgressRefusal) -> Int {
        let words = head.startLine.split(
            separator: " ", maxSplits: 2, omittingEmptySubsequences: false)
        guard words.count >= 2, words[0] == "HTTP/1.1" || words[0] == "HTTP/1.0",
            words[1].utf8.count == 3, let status = decimal(words[1], atMost: 599),
            status >= 100, status != 101
        else {
            throw EgressRefusal(.badResponse, "the server's response has no proper status line")
        }
        return Int(status)
    }
    mutating func end(into out: inout [UInt8]) throws(EgressRefusal) -> FlowState {
        throw EgressRefusal(.badResponse, "the server ended the connection without a response")
    }
}
