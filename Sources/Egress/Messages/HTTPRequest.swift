// What a client asks an HTTP proxy for: a tunnel, or one exchange in plain text.

/// A request to a proxy.
struct HTTPRequest: Equatable {
    enum Kind: Equatable {
        /// CONNECT: bytes both ways.
        case tunnel
        /// An absolute http:// target: the head for the server, and how its body ends.
        case exchange(head: [UInt8], body: HTTPBody)
    }
    let destination: EgressDestination
    let kind: Kind
    /// How much of the input the head was; what follows is body or tunnel.
    let byteCount: Int

    /// Reads a request from the beginning of `bytes`; `nil` while it is incomplete.
    ///
    /// - Throws: ``EgressRefusal``.
    init?(_ bytes: some RandomAccessCollection<UInt8>, limit: Int) throws(EgressRefusal) {
        guard let head = try HTTPHead(bytes, limit: limit, reason: .badRequest) else { return nil }
        let words = head.startLine.split(separator: " ", omittingEmptySubsequences: false)
        guard words.count == 3, words[2] == "HTTP/1.1" || words[2] == "HTTP/1.0" else {
            throw EgressRefusal(
                .badRequest, "the request line is not METHOD TARGET HTTP/1.1, with single spaces")
        }
        let (method, target) = (words[0], words[1])
        guard (1...32).contains(method.utf8.count), method.utf8.allSatisfy(HTTPHead.isTokenByte)
        else { throw EgressRefusal(.badRequest, "the request has no proper method") }
        guard head.values("host").count <= 1 else {
            throw EgressRefusal(.badRequest, "the request has more than one field Host")
        }
        byteCount = head.byteCount
        if method == "CONNECT" {
            destination = try Self.destination(target, defaultPort: nil)
            kind = .tunnel
            try Self.check(host: head, against: destination, defaultPort: destination.port)
            guard head.values("transfer-encoding").isEmpty,
                head.values("content-length").allSatisfy({ $0 == "0" })
            else { throw EgressRefusal(.badRequest, "a CONNECT request has no body") }
            return
        }
        let (authority, path) = try Self.parts(of: target)
        destination = try Self.destination(authority, defaultPort: 80)
        try Self.check(host: head, against: destination, defaultPort: 80)
        if words[2] == "HTTP/1.1", head.values("host").isEmpty {
            throw EgressRefusal(.badRequest, "the request has no field Host")
        }
        let body = try HTTPBody(of: head, isVersion11: words[2] == "HTTP/1.1")
        kind = .exchange(
            head: try Self.forwarded(head, "\(method) \(path) HTTP/1.1", destination, body),
            body: body)
    }
    private static func forwarded(
        _ head: HTTPHead, _ startLine: String, _ destination: EgressDestination, _ body: HTTPBody
    ) throws(EgressRefusal) -> [UInt8] {
        var head = head
        try head.removeHopByHop(reason: .badRequest)
        // Written anew, so that a server reads what was checked here, and only that.
        head.fields.removeAll { ["host", "content-length", "transfer-encoding"].contains($0.name) }
        let host = destination.port == 80 ? "\(destination.host)" : "\(destination)"
        head.fields.insert(.init(name: "host", value: host), at: 0)
        switch body {
        case .none: break
        case .length(let length):
            head.fields.append(.init(name: "content-length", value: "\(length)"))
        case .chunked: head.fields.append(.init(name: "transfer-encoding", value: "chunked"))
        }
        head.fields.append(.init(name: "connection", value: "close"))
        return head.bytes(startLine: startLine)
    }
    private static func destination(
        _ authority: some StringProtocol, defaultPort: UInt16?
    ) throws(EgressRefusal) -> EgressDestination {
        guard !authority.utf8.contains(0x40) else {
            throw EgressRefusal(
                .badRequest, "a user name before the host is not accepted",
                asked: shownText(authority))
        }
        do throws(EgressRuleError) {
            return try EgressDestination(authority: authority, defaultPort: defaultPort)
        } catch {
            throw EgressRefusal(.badHost, error.description, asked: shownText(authority))
        }
    }
    /// Parts an absolute target into its authority and the path with its query.
    private static func parts(
        of target: Substring
    ) throws(EgressRefusal) -> (authority: Substring, path: Substring) {
        guard target.prefix(7).lowercased() == "http://" else {
            let isTLS = target.prefix(8).lowercased() == "https://"
            throw EgressRefusal(
                .badRequest,
                isTLS
                    ? "https:// goes through a proxy by CONNECT"
                    : "a proxy is asked with a whole address, http://host/path, or by CONNECT"
            )
        }
        let rest = target.dropFirst(7)
        guard !rest.utf8.contains(0x23), !rest.utf8.contains(0x5C) else {
            throw EgressRefusal(.badRequest, "the target has a fragment or a backslash")
        }
        let end = rest.firstIndex { $0 == "/" || $0 == "?" } ?? rest.endIndex
        let path = rest[end...]
        return (rest[..<end], path.first == "/" ? path : "/" + path)
    }
    private static func check(
        host head: HTTPHead, against destination: EgressDestination, defaultPort: UInt16
    ) throws(EgressRefusal) {
        for value in head.values("host") {
            guard
                try Self.destination(value, defaultPort: defaultPort) == destination
            else {
                throw EgressRefusal(
                    .badRequest, "the field Host says something else than the target")
            }
        }
    }
}

/// How a request's body ends.
enum HTTPBody: Equatable {
    case none
    case length(UInt64)
    case chunked

    init(of head: HTTPHead, isVersion11: Bool) throws(EgressRefusal) {
        let lengths = head.values("content-length")
        let encodings = head.values("transfer-encoding")
        guard lengths.count + encodings.count <= 1 else {
            throw EgressRefusal(
                .badRequest, "the request says more than once how its body ends")
        }
        if let encoding = encodings.first {
            guard isVersion11, encoding.lowercased() == "chunked" else {
                throw EgressRefusal(.badRequest, "the only transfer encoding here is: chunked")
            }
            self = .chunked
        } else if let text = lengths.first {
            guard let length = decimal(text, atMost: 1 << 50) else {
                throw EgressRefusal(.badRequest, "Content-Length is no decimal number")
            }
            self = .length(UInt64(length))
        } else {
            self = .none
        }
    }
}
