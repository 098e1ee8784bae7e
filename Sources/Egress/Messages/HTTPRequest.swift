// What a client asks for: of a proxy a tunnel, or one exchange in plain text; within TLS that is
// ended here one exchange after another.

/// A request to a proxy.
struct HTTPRequest: Equatable {
    enum Kind: Equatable {
        /// CONNECT: bytes both ways.
        case tunnel
        /// An absolute http:// target.
        case exchange(HTTPExchange)
    }
    let destination: EgressDestination
    let kind: Kind
    /// How much of the input the head was; what follows is body or tunnel.
    let byteCount: Int

    /// Reads a request from the beginning of `bytes`; `nil` while it is incomplete.
    ///
    /// - Parameter lines: what was found in the pieces of it that came before.
    /// - Throws: ``EgressRefusal``.
    init?(
        _ bytes: [UInt8], _ lines: inout HTTPHeadLines, limit: Int
    ) throws(EgressRefusal) {
        guard let head = try HTTPHead(bytes, &lines, limit: limit, reason: .badRequest) else {
            return nil
        }
        let line = try HTTPRequestLine(head)
        byteCount = head.byteCount
        if line.method == "CONNECT" {
            destination = try Self.destination(line.target, defaultPort: nil)
            kind = .tunnel
            try Self.check(host: head, against: destination, defaultPort: destination.port)
            guard head.values("transfer-encoding").isEmpty,
                head.values("content-length").allSatisfy({ $0 == "0" })
            else { throw EgressRefusal(.badRequest, "a CONNECT request has no body") }
            return
        }
        let (authority, path) = try Self.parts(of: line.target)
        destination = try Self.destination(authority, defaultPort: 80)
        try Self.check(host: head, against: destination, defaultPort: 80)
        if line.isVersion11, head.values("host").isEmpty {
            throw EgressRefusal(.badRequest, "the request has no field Host")
        }
        kind = .exchange(try HTTPExchange(head, line, target: String(path)))
    }

    /// Reads a request within TLS with that destination; `nil` while it is incomplete.
    ///
    /// - Parameter lines: what was found in the pieces of it that came before.
    /// - Throws: ``EgressRefusal``, also for a host that is another one.
    static func within(
        _ destination: EgressDestination, _ bytes: [UInt8], _ lines: inout HTTPHeadLines,
        limit: Int
    ) throws(EgressRefusal) -> (exchange: HTTPExchange, byteCount: Int)? {
        guard let head = try HTTPHead(bytes, &lines, limit: limit, reason: .badRequest) else {
            return nil
        }
        let line = try HTTPRequestLine(head)
        guard line.method != "CONNECT", line.target.first == "/", !line.target.utf8.contains(0x23),
            !line.target.utf8.contains(0x5C)
        else {
            throw EgressRefusal(
                .badRequest,
                "a request to a server names a path, without scheme, fragment and backslash")
        }
        guard !head.values("host").isEmpty else {
            throw EgressRefusal(.badRequest, "the request has no field Host")
        }
        try check(host: head, against: destination, defaultPort: 443)
        return (try HTTPExchange(head, line, target: String(line.target)), head.byteCount)
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

/// Method, target and version.
struct HTTPRequestLine {
    let method: Substring
    let target: Substring
    let isVersion11: Bool

    init(_ head: HTTPHead) throws(EgressRefusal) {
        let words = head.startLine.split(separator: " ", omittingEmptySubsequences: false)
        guard words.count == 3, words[2] == "HTTP/1.1" || words[2] == "HTTP/1.0" else {
            throw EgressRefusal(
                .badRequest, "the request line is not METHOD TARGET HTTP/1.1, with single spaces")
        }
        (method, target, isVersion11) = (words[0], words[1], words[2] == "HTTP/1.1")
        guard (1...32).contains(method.utf8.count), method.utf8.allSatisfy(HTTPHead.isTokenByte)
        else { throw EgressRefusal(.badRequest, "the request has no proper method") }
        guard head.values("host").count <= 1 else {
            throw EgressRefusal(.badRequest, "the request has more than one field Host")
        }
    }
}

/// A request that goes on to a server, as far as it is the client's to say.
struct HTTPExchange: Equatable {
    let method: String
    /// Path and query.
    let target: String
    /// Without those of this hop, the host, and how the body ends.
    var fields: [HTTPHead.Field]
    let body: HTTPBody
    let isVersion11: Bool
    /// The client would send another request.
    let keepsAlive: Bool
    var path: Substring { target.prefix { $0 != "?" } }

    init(_ head: HTTPHead, _ line: HTTPRequestLine, target: String) throws(EgressRefusal) {
        method = String(line.method)
        self.target = target
        isVersion11 = line.isVersion11
        body = try HTTPBody(of: head, isVersion11: line.isVersion11)
        keepsAlive =
            line.isVersion11
            && !head.values("connection").contains { $0.lowercased().contains("close") }
        var head = head
        try head.removeHopByHop(reason: .badRequest)
        head.fields.removeAll { Self.own.contains($0.name) }
        fields = head.fields
    }
    private static let own: Set = ["host", "content-length", "transfer-encoding"]

    /// What is sent to the server: written anew, so that it reads what was checked here, and only
    /// that.
    func head(
        for destination: EgressDestination, defaultPort: UInt16, target: String? = nil
    ) -> [UInt8] {
        let host =
            destination.port == defaultPort ? "\(destination.host)" : "\(destination)"
        var lines = [HTTPHead.Field(name: "host", value: host)] + fields
        switch body {
        case .none: break
        case .length(let length):
            lines.append(.init(name: "content-length", value: "\(length)"))
        case .chunked: lines.append(.init(name: "transfer-encoding", value: "chunked"))
        }
        lines.append(.init(name: "connection", value: "close"))
        return HTTPHead.bytes("\(method) \(target ?? self.target) HTTP/1.1", lines)
    }

    /// Refuses fields by which a server would do something else than the request line says.
    func checkOverrides() throws(EgressRefusal) {
        if let field = fields.first(where: { Self.overrides.contains($0.name.dashed) }) {
            throw EgressRefusal(
                .badRequest,
                "the field \(field.name) can say another method or path than the request line")
        }
    }
    private static let overrides: Set = [
        "x-http-method-override", "x-http-method", "x-method-override", "x-original-url",
        "x-rewrite-url", "x-original-method",
    ]
}

extension String {
    /// A field's name as programs behind a gateway may see it, to whom _ and - are the same.
    var dashed: String { String(map { $0 == "_" ? "-" : $0 }) }
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
