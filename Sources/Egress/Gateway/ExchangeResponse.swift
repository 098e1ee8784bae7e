// A server's response to a request that this host has read, whole: its head, its body as HTTP/1.1
// has it, and its end, so that another request can follow and nothing else can come before that.

/// What goes to the client is framed anew; a secret that comes back is covered.
struct ExchangeResponse: FlowFilter {
    private enum Stage {
        case head
        case body(BodyDecoder)
    }
    private let method: String
    private let isVersion11: Bool
    private let limit: Int
    private var stage = Stage.head
    private var held: [UInt8] = []
    private var lines = HTTPHeadLines()
    private var mask: EchoMask?
    private var writesChunks = false
    /// Whether the client may send another request when this one's response is over.
    private(set) var keepsAlive: Bool

    init(to exchange: HTTPExchange, keepsAlive: Bool, limit: Int, mask: EchoMask? = nil) {
        (method, isVersion11) = (exchange.method, exchange.isVersion11)
        self.keepsAlive = keepsAlive && exchange.keepsAlive
        self.limit = limit
        self.mask = mask
    }
    var isExpecting: Bool { false }

    mutating func take(
        _ bytes: [UInt8], into out: inout [UInt8]
    ) throws(EgressRefusal) -> FlowState {
        guard case .head = stage else { return try takeBody(bytes, into: &out) }
        held += bytes
        while let head = try HTTPHead(held, &lines, limit: limit, reason: .badResponse) {
            held.removeFirst(head.byteCount)
            lines = HTTPHeadLines()
            let status = try ResponseFilter.status(head)
            if status < 200 {
                var answer = head
                try answer.removeHopByHop(reason: .badResponse)
                write(answer, into: &out)
                continue
            }
            let decoder = try begin(head, status, into: &out)
            let first = held
            held = []
            stage = .body(decoder)
            return try takeBody(first, into: &out)
        }
        return .filtered
    }
    private mutating func begin(
        _ head: HTTPHead, _ status: Int, into out: inout [UInt8]
    ) throws(EgressRefusal) -> BodyDecoder {
        let lengths = head.values("content-length")
        let encodings = head.values("transfer-encoding")
        guard lengths.count + encodings.count <= 1,
            encodings.allSatisfy({ $0.lowercased() == "chunked" }),
            encodings.isEmpty || head.startLine.hasPrefix("HTTP/1.1")
        else {
            throw EgressRefusal(.badResponse, "the response is not clear about where it ends")
        }
        let length = lengths.first.map { decimal($0, atMost: 1 << 50) }
        if case .some(.none) = length {
            throw EgressRefusal(.badResponse, "the response's Content-Length is no decimal number")
        }
        // What is compressed cannot be looked through; it was asked not to be.
        if mask != nil,
            head.values("content-encoding").contains(where: { $0.lowercased() != "identity" })
        {
            throw EgressRefusal(.badResponse, "the response is compressed, which was not asked for")
        }
        var answer = head
        try answer.removeHopByHop(reason: .badResponse)
        answer.fields.removeAll { ["content-length", "transfer-encoding"].contains($0.name) }
        let decoder: BodyDecoder
        let isEmpty = method == "HEAD" || status == 204 || status == 304
        if let length = length ?? nil {
            if status != 204 {
                answer.fields.append(.init(name: "content-length", value: "\(length)"))
            }
            decoder = BodyDecoder(.length(isEmpty ? 0 : UInt64(length)))
        } else if isEmpty {
            decoder = BodyDecoder(.length(0))
        } else {
            decoder = BodyDecoder(encodings.isEmpty ? nil : .chunked)
            writesChunks = isVersion11
            keepsAlive = keepsAlive && isVersion11
            if writesChunks {
                answer.fields.append(.init(name: "transfer-encoding", value: "chunked"))
            }
        }
        if !keepsAlive { answer.fields.append(.init(name: "connection", value: "close")) }
        write(answer, into: &out)
        return decoder
    }
    private func write(_ head: HTTPHead, into out: inout [UInt8]) {
        // Of the version that is spoken here.
        let bytes = head.bytes(startLine: "HTTP/1.1" + head.startLine.dropFirst(8))
        guard var mask else {
            out += bytes
            return
        }
        out += mask.pass(bytes) + mask.rest()
    }
    private mutating func takeBody(
        _ bytes: [UInt8], into out: inout [UInt8]
    ) throws(EgressRefusal) -> FlowState {
        guard case .body(var decoder) = stage else { return .filtered }
        var content: [UInt8] = []
        let isOver = try decoder.take(bytes, into: &content)
        stage = .body(decoder)
        write(content: content, into: &out)
        guard isOver else { return .filtered }
        writeEnd(into: &out)
        return .complete
    }
    private mutating func write(content: [UInt8], into out: inout [UInt8]) {
        write(chunk: mask?.pass(content) ?? content, into: &out)
    }
    private func write(chunk: [UInt8], into out: inout [UInt8]) {
        guard !chunk.isEmpty else { return }
        if writesChunks { out += Array("\(String(chunk.count, radix: 16))\r\n".utf8) }
        out += chunk
        if writesChunks { out += [0x0D, 0x0A] }
    }
    private mutating func writeEnd(into out: inout [UInt8]) {
        write(chunk: mask?.rest() ?? [], into: &out)
        if writesChunks { out += Array("0\r\n\r\n".utf8) }
    }

    mutating func end(into out: inout [UInt8]) throws(EgressRefusal) -> FlowState {
        guard case .body(let decoder) = stage else {
            throw EgressRefusal(.badResponse, "the server ended the connection without a response")
        }
        guard decoder.endsWithConnection else {
            throw EgressRefusal(.badResponse, "the server ended the connection in its response")
        }
        writeEnd(into: &out)
        return keepsAlive ? .complete : .open
    }
}

/// A response's body without what frames it.
struct BodyDecoder {
    private enum Stage {
        case bytes(UInt64)
        case size
        case chunk(UInt64)
        case afterChunk
        case trailers
        case untilEnd
    }
    private var stage: Stage
    private var line = ChunkLine()
    private var trailerByteCount = 0
    private static let trailerByteCountMax = 8 << 10

    /// - Parameter body: how it ends; `nil`: with the connection.
    init(_ body: HTTPBody?) {
        stage =
            switch body {
            case Optional.none: .untilEnd
            case .some(HTTPBody.none): .bytes(0)
            case .some(.length(let length)): .bytes(length)
            case .some(.chunked): .size
            }
    }
    var endsWithConnection: Bool {
        if case .untilEnd = stage { true } else { false }
    }
    /// - Returns: whether that was all; what comes behind it is nobody's.
    mutating func take(
        _ bytes: [UInt8], into out: inout [UInt8]
    ) throws(EgressRefusal) -> Bool {
        var place = 0
        while true {
            switch stage {
            case .untilEnd:
                out += bytes[place...]
                return false
            case .bytes(let left):
                let count = Int(min(left, UInt64(bytes.count - place)))
                out += bytes[place..<(place + count)]
                stage = .bytes(left - UInt64(count))
                return left == UInt64(count)
            case .chunk(let left):
                let count = Int(min(left, UInt64(bytes.count - place)))
                out += bytes[place..<(place + count)]
                place += count
                stage = left == UInt64(count) ? .afterChunk : .chunk(left - UInt64(count))
                if left > UInt64(count) { return false }
            case .size, .afterChunk, .trailers:
                let limit = lineByteCountMax
                guard try line.take(bytes, &place, atMost: limit, malformed: Self.malformed)
                else { return false }
                if try endLine() { return true }
            }
        }
    }
    private var lineByteCountMax: Int {
        if case .trailers = stage { return Self.trailerByteCountMax - trailerByteCount }
        return 16
    }
    /// - Returns: whether that was the end of the body.
    private mutating func endLine() throws(EgressRefusal) -> Bool {
        defer { line.clear() }
        switch stage {
        case .size:
            guard let size = line.size else { throw Self.malformed }
            stage = size == 0 ? .trailers : .chunk(size)
        case .afterChunk:
            guard line.isEmpty else { throw Self.malformed }
            stage = .size
        default:
            // Trailers are left out: nobody may read there what no head has.
            if line.isEmpty { return true }
            trailerByteCount += line.bytes.count + 2
        }
        return false
    }
    private static let malformed = EgressRefusal(
        .badResponse, "the response's chunks are not as HTTP/1.1 has them (no extensions)")
}

/// Covers a secret in what passes, across pieces, with as many stars.
struct EchoMask: Sendable {
    private let secret: [UInt8]
    /// What may be its beginning.
    private var held: [UInt8] = []

    /// - Parameter secret: not empty.
    init?(_ secret: [UInt8]) {
        guard !secret.isEmpty else { return nil }
        self.secret = secret
    }
    mutating func pass(_ bytes: [UInt8]) -> [UInt8] {
        var all = held + bytes
        var place = 0
        while place < all.count {
            guard all[place] == secret[0] else {
                place += 1
                continue
            }
            let rest = all[place...].prefix(secret.count)
            guard secret.starts(with: rest) else {
                place += 1
                continue
            }
            guard rest.count == secret.count else { break }
            for covered in place..<(place + secret.count) { all[covered] = 0x2A }
            place += secret.count
        }
        held = Array(all[place...])
        all.removeLast(held.count)
        return all
    }
    mutating func rest() -> [UInt8] {
        defer { held = [] }
        return held
    }
}
