// Rules that name methods and paths, for requests that this host reads: those in plain text, and
// those within TLS that it ends. A path is compared byte by byte; one that a server might read as
// another is matched by no rule that names a path.

/// `GET,HEAD` and `/v1/*` of a rule `GET,HEAD https://api.example.com/v1/*`.
struct RequestRule: Hashable, Sendable {
    /// `nil`: all.
    let methods: [String]?
    let isTLS: Bool
    /// What the path is, or begins with.
    let path: String
    let isPrefix: Bool

    static let methodCountMax = 16

    /// - Throws: ``EgressRuleError``, a part of a sentence.
    init(
        methods: some StringProtocol, isTLS: Bool, path: some StringProtocol
    ) throws(EgressRuleError) {
        if methods == "*" {
            self.methods = nil
        } else {
            let names = methods.split(separator: ",", omittingEmptySubsequences: false)
            guard names.count <= Self.methodCountMax,
                names.allSatisfy({ Self.isMethod(String($0)) })
            else {
                throw EgressRuleError(
                    "before the address stands a method in capitals, several with commas, or *")
            }
            self.methods = Set(names.map { String($0) }).sorted()
        }
        self.isTLS = isTLS
        isPrefix = path.hasSuffix("*")
        self.path = String(isPrefix ? path.dropLast() : path[...])
        guard self.path.hasPrefix("/"), self.path.utf8.count <= 200, !self.path.contains("*"),
            Self.isPlain(self.path)
        else {
            throw EgressRuleError(
                "its path is one of up to 200 plain characters, with nothing but a star at its end "
                    + "and without query, empty or dotted segments and encoded slashes")
        }
    }
    private static func isMethod(_ name: String) -> Bool {
        (1...32).contains(name.utf8.count) && name.utf8.allSatisfy { (0x41...0x5A).contains($0) }
    }

    func matches(_ request: EgressRequest) -> Bool {
        guard request.isTLS == isTLS, methods?.contains(request.method) ?? true else {
            return false
        }
        if isPrefix, path == "/" { return true }
        guard request.isPlain else { return false }
        return isPrefix ? request.path.hasPrefix(path) : request.path == path
    }
    func description(_ authority: String) -> String {
        let methods = methods?.joined(separator: ",") ?? "*"
        return "\(methods) http\(isTLS ? "s" : "")://\(authority)\(path)\(isPrefix ? "*" : "")"
    }

    /// Whether every server reads the path as what it is: no segment is empty, or is a dot or two,
    /// or hides a slash, a backslash or a control character, however often it is decoded.
    static func isPlain(_ path: some StringProtocol) -> Bool {
        var bytes = Array(path.utf8)
        // Each round decodes what a server behind a server would.
        for _ in 0..<4 {
            guard isPlainOnce(bytes) else { return false }
            guard bytes.contains(0x25) else { return true }
            guard let decoded = decoded(bytes) else { return false }
            // An encoded slash is another segment to some.
            guard decoded.count(where: { $0 == 0x2F }) == bytes.count(where: { $0 == 0x2F }) else {
                return false
            }
            bytes = decoded
        }
        return false
    }
    private static func isPlainOnce(_ bytes: [UInt8]) -> Bool {
        guard bytes.first == 0x2F,
            bytes.allSatisfy({ $0 > 0x20 && $0 != 0x7F && $0 != 0x5C && $0 != 0x23 && $0 != 0x3F })
        else { return false }
        let segments = bytes.dropFirst().split(separator: 0x2F, omittingEmptySubsequences: false)
        for (number, segment) in segments.enumerated() {
            // What stands behind a semicolon is a parameter to some servers.
            let name = segment.prefix { $0 != 0x3B }
            if name.elementsEqual([0x2E]) || name.elementsEqual([0x2E, 0x2E]) { return false }
            if name.isEmpty, number < segments.count - 1 || !segment.isEmpty { return false }
        }
        return true
    }
    /// `nil` when a percent sign is not followed by two hexadecimal digits.
    private static func decoded(_ bytes: [UInt8]) -> [UInt8]? {
        var decoded: [UInt8] = []
        var rest = bytes[...]
        while let byte = rest.popFirst() {
            guard byte == 0x25 else {
                decoded.append(byte)
                continue
            }
            guard let high = rest.popFirst().flatMap(digit),
                let low = rest.popFirst().flatMap(digit)
            else { return nil }
            decoded.append(high << 4 | low)
        }
        return decoded
    }
    private static func digit(_ byte: UInt8) -> UInt8? {
        switch byte {
        case 0x30...0x39: byte - 0x30
        case 0x41...0x46: byte - 0x37
        case 0x61...0x66: byte - 0x57
        default: nil
        }
    }
}

/// A request that this host has read, as far as rules look at it.
struct EgressRequest: Equatable, CustomStringConvertible {
    let method: String
    let isTLS: Bool
    let destination: EgressDestination
    /// Without its query.
    let path: String
    let isPlain: Bool

    init(
        method: String, isTLS: Bool, destination: EgressDestination, path: some StringProtocol
    ) {
        self.method = method
        self.isTLS = isTLS
        self.destination = destination
        self.path = String(path)
        isPlain = RequestRule.isPlain(path)
    }
    /// As a rule for it would be written.
    var description: String {
        let authority =
            destination.port == (isTLS ? 443 : 80)
            ? "\(destination.host)" : "\(destination)"
        return "\(method) http\(isTLS ? "s" : "")://\(authority)\(path.prefix(200))"
    }
}
