// What a guest's programs say to the network's gateway: requests to a proxy, TLS handshakes, queries for
// names, and rules as producers write them. Cut anywhere they mean the same, and what goes on to a
// server is what was checked.

@testable import Egress

/// A result or a refusal, to be compared.
private func outcome<Value>(
    _ body: () throws(EgressRefusal) -> Value
) -> Result<Value, EgressRefusal> {
    do throws(EgressRefusal) { return .success(try body()) } catch { return .failure(error) }
}

/// What reads a message from the beginning of bytes, says how long it was.
private func promiseWhole<Value: Equatable>(
    _ bytes: [UInt8], _ count: (Value) -> Int, _ read: ([UInt8]) throws(EgressRefusal) -> Value?
) throws(BrokenPromise) -> Value? {
    guard case .success(let value?) = outcome({ () throws(EgressRefusal) in try read(bytes) })
    else { return nil }
    let end = count(value)
    try promise((1...bytes.count).contains(end), "\(end) bytes were read of \(bytes.count)")
    for cut in [end - 1, end / 2, Int(bytes[0]) % end] {
        let part = outcome { () throws(EgressRefusal) in try read(Array(bytes.prefix(cut))) }
        try promise(part == .success(nil), "the first \(cut) bytes of \(end) were \(part)")
    }
    let exact = outcome { () throws(EgressRefusal) in try read(Array(bytes.prefix(end))) }
    try promise(exact == .success(value), "without what follows it was \(exact), not \(value)")
    return value
}

func fuzzProxyRequests(_ bytes: [UInt8]) throws(BrokenPromise) {
    guard let first = bytes.first else { return }
    if first == 5 {
        let connect = try promiseWhole(bytes, \.byteCount) { bytes throws(EgressRefusal) in
            try SOCKSRequest.Connect(bytes)
        }
        if let connect { try promiseSame(connect.destination) }
        _ = try promiseWhole(bytes, \.byteCount) { bytes throws(EgressRefusal) in
            try SOCKSRequest.Greeting(bytes)
        }
        return
    }
    let request = try promiseWhole(bytes, \.byteCount) { bytes throws(EgressRefusal) in
        var lines = HTTPHeadLines()
        return try HTTPRequest(bytes, &lines, limit: 4096)
    }
    try promiseSameInPieces(bytes, request)
    guard let request else { return }
    try promiseSame(request.destination)
    guard case .exchange(let exchange) = request.kind else { return }
    let body = exchange.body
    let forwarded = exchange.head(for: request.destination, defaultPort: 80)
    let read = outcome { () throws(EgressRefusal) in
        try HTTPHead(forwarded, limit: 1 << 20, reason: .badRequest)
    }
    guard case .success(let head?) = read else {
        throw BrokenPromise("what goes to the server is no head: \(read)")
    }
    try promise(head.byteCount == forwarded.count, "a second head goes to the server")
    let destination = try? EgressDestination(
        authority: head.values("host").joined(separator: ","), defaultPort: 80)
    try promise(destination == request.destination, "the server is told another host")
    let framing = head.values("content-length").count + head.values("transfer-encoding").count
    try promise(framing == (body == .none ? 0 : 1), "\(framing) fields say how the body ends")
    try promise(head.values("connection") == ["close"], "the connection is not closed")
    let rest = Array(bytes.dropFirst(request.byteCount))
    try promisePieces(rest, BodyFilter(body))
}

extension HTTPHead {
    /// Of bytes that are all there.
    fileprivate init?(
        _ bytes: [UInt8], limit: Int, reason: EgressReason
    ) throws(EgressRefusal) {
        var lines = HTTPHeadLines()
        try self.init(bytes, &lines, limit: limit, reason: reason)
    }
}

/// A request that comes in pieces is the one that comes at once.
private func promiseSameInPieces(
    _ bytes: [UInt8], _ whole: HTTPRequest?
) throws(BrokenPromise) {
    var lines = HTTPHeadLines()
    var held: [UInt8] = []
    for piece in pieces(of: bytes) {
        held += piece
        let read = outcome { () throws(EgressRefusal) in
            try HTTPRequest(held, &lines, limit: 4096)
        }
        switch read {
        case .success(nil): continue
        case .success(let read?):
            try promise(read == whole, "whole: \(String(describing: whole)); in pieces: \(read)")
        case .failure: try promise(whole == nil, "refused only when it comes in pieces")
        }
        return
    }
    try promise(whole == nil, "without an end when it comes in pieces")
}

/// What is said within TLS that is ended here, and what a server answers to it.
func fuzzExchanges(_ bytes: [UInt8]) throws(BrokenPromise) {
    let destination = EgressDestination(host: .name("good.test"), port: 443)
    let first = outcome { () throws(EgressRefusal) in
        var lines = HTTPHeadLines()
        return try HTTPRequest.within(destination, bytes, &lines, limit: 4096)
    }
    guard case .success(let read?) = first else { return }
    let (exchange, byteCount) = read
    let forwarded = exchange.head(for: destination, defaultPort: 443)
    let again = outcome { () throws(EgressRefusal) in
        var lines = HTTPHeadLines()
        return try HTTPRequest.within(destination, forwarded, &lines, limit: 1 << 20)
    }
    guard case .success(let second?) = again else {
        throw BrokenPromise("what goes to the server is no request: \(again)")
    }
    try promise(second.byteCount == forwarded.count, "a second head goes to the server")
    try promise(
        second.exchange.method == exchange.method && second.exchange.target == exchange.target
            && second.exchange.body == exchange.body, "the server reads another request")
    let asked = EgressRequest(
        method: exchange.method, isTLS: true, destination: destination, path: exchange.path)
    guard let rule = try? EgressRule("* https://good.test/v1/*") else { return }
    if rule.matches(asked) {
        try promise(exchange.path.hasPrefix("/v1/"), "the rule matches \(exchange.path)")
        try promise(
            !exchange.path.split(separator: "/").contains(".."), "it climbs: \(exchange.path)")
    }
    let rest = Array(bytes.dropFirst(byteCount))
    let whole = try promiseResponse([rest[...]], to: exchange)
    let parts = try promiseResponse(pieces(of: rest), to: exchange)
    try promise(whole == parts, "whole: \(whole ?? []); in pieces: \(parts ?? [])")
}

/// A server's answer: what comes out is a response that a second reader reads to the same end.
///
/// - Returns: its content; `nil` when it is refused or not whole.
private func promiseResponse(
    _ pieces: [ArraySlice<UInt8>], to exchange: HTTPExchange
) throws(BrokenPromise) -> [UInt8]? {
    let secret = Array("s3cr3t".utf8)
    var filter = ExchangeResponse(
        to: exchange, keepsAlive: true, limit: 4096, mask: EchoMask(secret))
    var out: [UInt8] = []
    var isOver = false
    for piece in pieces where !isOver {
        let state = outcome { () throws(EgressRefusal) in
            try filter.take(Array(piece), into: &out)
        }
        guard case .success(let state) = state else { return nil }
        try promise(state != .open, "the rest of a response is not looked at")
        isOver = state == .complete
    }
    guard isOver else { return nil }
    for place in out.indices {
        try promise(!out[place...].starts(with: secret), "the secret comes back")
    }
    var rest = out[...]
    while true {
        let read = outcome { () throws(EgressRefusal) in
            try HTTPHead(Array(rest), limit: 1 << 20, reason: .badResponse)
        }
        guard case .success(let head?) = read else { throw BrokenPromise("no head: \(read)") }
        rest = rest.dropFirst(head.byteCount)
        if head.startLine.dropFirst(9).hasPrefix("1") { continue }
        let isEmpty =
            exchange.method == "HEAD"
            || ["204", "304"].contains(head.startLine.dropFirst(9).prefix(3))
        let length = head.values("content-length").first.flatMap { UInt64($0) }
        let isChunked = head.values("transfer-encoding") == ["chunked"]
        try promise(!(isChunked && length != nil), "two ends are told")
        var decoder = BodyDecoder(
            isEmpty ? HTTPBody.none : length.map { .length($0) } ?? (isChunked ? .chunked : nil))
        var content: [UInt8] = []
        let end = outcome { () throws(EgressRefusal) in
            try decoder.take(Array(rest), into: &content)
        }
        try promise(end == .success(true) || !filter.keepsAlive, "the client would wait: \(end)")
        return content
    }
}

func fuzzHandshakes(_ bytes: [UInt8]) throws(BrokenPromise) {
    let hello = try promiseWhole(bytes, \.byteCount) { bytes throws(EgressRefusal) in
        try ClientHello(bytes, limit: 8192)
    }
    if let name = hello?.serverName {
        try promise(name.utf8.allSatisfy { $0 > 0x20 && $0 < 0x7F }, "a name is \(name)")
    }
    let destination = EgressDestination(host: .name("good.test"), port: 443)
    let policy = EgressPolicy(rules: [], ceiling: [])
    let filter = TLSFilter(destination, policy: policy, limit: 8192)
    let passed = try promisePieces(bytes, filter)
    if let passed, !passed.isEmpty {
        try promise(hello?.serverName == "good.test", "passed for \(hello?.serverName ?? "nobody")")
    }
}

func fuzzNameQueries(_ bytes: [UInt8]) throws(BrokenPromise) {
    guard case .query(let query) = NameQuery.read(bytes) else { return }
    try promise(
        query.name.utf8.allSatisfy {
            (0x61...0x7A).contains($0) || (0x30...0x39).contains($0)
                || [0x2D, 0x2E, 0x5F, 0x3F].contains($0)
        }, "a name is \(query.name.debugDescription)")
    try promise(query.name.utf8.count <= 253, "a name of \(query.name.utf8.count) bytes")
    let addresses = [
        IPAddress(bytes: [1, 2, 3, 4]), IPAddress(bytes: [UInt8](repeating: 9, count: 16)),
    ].compactMap { $0 }
    let answer = query.answer(.found, addresses: addresses)
    try promise(answer.count <= 12 + 259 + 28, "an answer of \(answer.count) bytes")
    try promise(answer.starts(with: bytes.prefix(2)), "the answer is to another query")
    let question = bytes.dropFirst(12).prefix(answer.count - 12)
    let asked = query.answer(.noSuchName)
    try promise(
        question.starts(with: asked.dropFirst(12)), "the question is not given back as it was")
    let again = NameQuery.read(Array(bytes[0..<2]) + [1, 0, 0, 1, 0, 0, 0, 0, 0, 0] + asked[12...])
    guard case .query(let second) = again else { throw BrokenPromise("read once, then \(again)") }
    try promise(second.name == query.name && second.type == query.type, "\(second) is not \(query)")
}

func fuzzRules(_ bytes: [UInt8]) throws(BrokenPromise) {
    let text = String(decoding: bytes, as: UTF8.self)
    switch Result(catching: { () throws(EgressRuleError) in try EgressRule(text) }) {
    case .success(let rule):
        let again = try? EgressRule(rule.description)
        try promise(rule == again, "\(rule) became \(String(describing: again))")
    case .failure(let error): try promiseSentence(error.description)
    }
    switch Result(catching: { () throws(EgressRuleError) in try IPNetwork(text) }) {
    case .success(let network):
        let again = try? IPNetwork(network.description)
        try promise(network == again, "\(network) became \(String(describing: again))")
    case .failure(let error): try promiseSentence(error.description)
    }
    guard let destination = try? EgressDestination(authority: text) else { return }
    try promiseSame(destination)
    guard let own = try? EgressRule("\(destination)") else {
        throw BrokenPromise("the rule that is told for \(destination) is none")
    }
    try promise(own.matches(destination), "the rule \(own) does not match \(destination)")
}

/// A sentence goes to people: one printable line.
private func promiseSentence(_ sentence: String) throws(BrokenPromise) {
    try promise(sentence.utf8.allSatisfy { (0x20...0x7E).contains($0) }, sentence.debugDescription)
}
/// A destination is told to people as it would be asked for.
private func promiseSame(_ destination: EgressDestination) throws(BrokenPromise) {
    let again = try? EgressDestination(authority: destination.description)
    try promise(again == destination, "\(destination) became \(String(describing: again))")
}
/// Whole or in pieces, the same is let through.
@discardableResult
private func promisePieces(
    _ bytes: [UInt8], _ filter: some FlowFilter
) throws(BrokenPromise) -> [UInt8]? {
    func pass(_ pieces: [ArraySlice<UInt8>]) -> [UInt8]? {
        var filter = filter
        var out: [UInt8] = []
        var isOpen = false
        for piece in pieces {
            if isOpen {
                out += piece
                continue
            }
            switch outcome({ () throws(EgressRefusal) in try filter.take(Array(piece), into: &out) }
            ) {
            case .failure: return nil
            case .success(.filtered): continue
            case .success(.open): isOpen = true
            case .success(.complete): return out
            }
        }
        return out
    }
    let whole = pass([bytes[...]])
    let parts = pass(pieces(of: bytes))
    try promise(
        whole == parts,
        "whole: \(String(describing: whole)); in pieces: \(String(describing: parts))")
    return whole
}

private func pieces(of bytes: [UInt8]) -> [ArraySlice<UInt8>] {
    var pieces: [ArraySlice<UInt8>] = []
    var rest = bytes[...]
    while let first = rest.first {
        let piece = rest.prefix(Int(first & 31) + 1)
        pieces.append(piece)
        rest = rest.dropFirst(piece.count)
    }
    return pieces
}
