// Credentials that stay on this host: what a job may ask for at http://cap.internal/NAME/…, where
// it leads, and what is added on the way.

/// One capability of a job's, with its secret.
package struct EgressCapability: Sendable, CustomStringConvertible, CustomReflectable {
    /// What jobs ask; ICANN has reserved .internal: it is no name of the DNS.
    package static let host = "cap.internal"

    package let name: String
    package let destination: EgressDestination
    /// Before every path: empty, or with a slash at its beginning and none at its end.
    let prefix: String
    /// In lower case.
    let field: String
    /// What stands in that field: the scheme and the secret; `nil` when there is none to be had.
    let value: [UInt8]?
    /// The part of it that must not come back.
    let secret: [UInt8]
    /// What may be asked for, behind the prefix; `nil`: everything.
    let rules: [RequestRule]
    /// Not globally routable, and allowed all the same.
    let permittedNetworks: [IPNetwork]

    /// - Parameters:
    ///   - base: `https://host[:port][/prefix]`.
    ///   - header: `Authorization`, or with what stands before the secret: `Authorization: Bearer`.
    ///   - allow: `GET /repos/*`; empty: whatever is asked for.
    ///   - secret: `nil`: it cannot be had now, and every request is answered so.
    /// - Throws: ``EgressRuleError`` that says what is wrong.
    package init(
        name: String, base: String, header: String, allow: [String], networks: [String],
        secret: [UInt8]?
    ) throws(EgressRuleError) {
        guard Self.isName(name) else {
            throw EgressRuleError(
                "a capability's name is 1 to 63 lower-case letters, digits, hyphens and underscores"
            )
        }
        self.name = name
        (destination, prefix) = try Self.base(base)
        let parts = header.split(separator: ":", maxSplits: 1, omittingEmptySubsequences: false)
        field = String(parts.first ?? "").lowercased()
        guard (1...64).contains(field.utf8.count), field.utf8.allSatisfy(HTTPHead.isTokenByte),
            !Self.ownFields.contains(field)
        else {
            throw EgressRuleError(
                "\"\(shownText(header))\" names no field that a secret can stand in; write "
                    + "Authorization: Bearer, or X-Api-Key")
        }
        var scheme = parts.count == 2 ? Array(parts[1].utf8) : []
        while scheme.first == 0x20 { scheme.removeFirst() }
        while scheme.last == 0x20 { scheme.removeLast() }
        guard scheme.allSatisfy({ (0x20...0x7E).contains($0) }) else {
            throw EgressRuleError("what stands before the secret is not printable ASCII")
        }
        if let secret {
            guard Self.isSecret(secret) else {
                throw EgressRuleError(
                    "the secret is not one line of 6 to 8192 printable ASCII characters")
            }
            value = (scheme.isEmpty ? [] : scheme + [0x20]) + secret
            self.secret = secret
        } else {
            (value, self.secret) = (nil, [])
        }
        var rules: [RequestRule] = []
        for text in allow { rules.append(try Self.rule(text)) }
        self.rules = rules
        permittedNetworks = try networks.map { text throws(EgressRuleError) in try IPNetwork(text) }
    }

    private static let ownFields: Set = [
        "host", "content-length", "transfer-encoding", "connection", "upgrade", "te", "trailer",
    ]
    static func isName(_ text: some StringProtocol) -> Bool {
        (1...63).contains(text.utf8.count)
            && text.utf8.allSatisfy {
                (0x61...0x7A).contains($0) || (0x30...0x39).contains($0) || $0 == 0x2D || $0 == 0x5F
            }
    }
    /// Shorter ones would stand in every other response by chance.
    private static func isSecret(_ bytes: [UInt8]) -> Bool {
        (6...8192).contains(bytes.count) && bytes.allSatisfy { (0x21...0x7E).contains($0) }
    }
    private static func base(
        _ text: String
    ) throws(EgressRuleError) -> (EgressDestination, String) {
        guard text.hasPrefix("https://"), !text.contains("@") else {
            throw EgressRuleError("\"\(shownText(text))\" is not https://host[:port][/path]")
        }
        let rest = text.dropFirst(8)
        let end = rest.firstIndex(of: "/") ?? rest.endIndex
        var prefix = String(rest[end...])
        if prefix.hasSuffix("/") { prefix.removeLast() }
        guard prefix.isEmpty || RequestRule.isPlain(prefix) else {
            throw EgressRuleError(
                "the path of \"\(shownText(text))\" is not plain: no query, no empty or dotted "
                    + "segments, no encoded slashes")
        }
        return (try EgressDestination(authority: rest[..<end], defaultPort: 443), prefix)
    }
    private static func rule(_ text: String) throws(EgressRuleError) -> RequestRule {
        let words = text.split(separator: " ")
        do throws(EgressRuleError) {
            guard words.count == 2 else { throw EgressRuleError("it is not METHOD /path") }
            return try RequestRule(methods: words[0], isTLS: true, path: words[1])
        } catch {
            throw EgressRuleError(
                "\"\(shownText(text))\" is not what may be asked for, such as GET /repos/*: "
                    + error.description
            )
        }
    }

    /// Holds a secret: whatever prints it prints nothing of that.
    package var description: String { "the capability \(name)" }
    package var customMirror: Mirror { Mirror(self, children: []) }
}
