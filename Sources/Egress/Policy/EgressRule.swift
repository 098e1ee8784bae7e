// What may be reached, as people write it, and hosts as clients ask for them. One parser for the
// job's rules, the operator's and every request: what two parsers read differently is a hole.

/// Why a rule or a network cannot be used; a sentence.
package struct EgressRuleError: Error, Equatable, Sendable, CustomStringConvertible {
    package let description: String
    package init(_ description: String) { self.description = description }
}

/// A host as it is asked for: a name in lower case without its trailing dot, or an address.
package enum EgressHost: Hashable, Sendable, CustomStringConvertible {
    case name(String)
    case address(IPAddress)

    /// Reads a name of ASCII labels, four decimal numbers, or IPv6 in brackets.
    ///
    /// - Throws: ``EgressRuleError`` for whatever else a resolver might take for a host.
    package init(_ text: some StringProtocol) throws(EgressRuleError) {
        let shown = shownText(text)
        if text.utf8.first == 0x5B {
            guard text.hasSuffix("]"), text.utf8.count > 2,
                let address = IPAddress(text.dropFirst().dropLast()), address.isV6
            else { throw EgressRuleError("\"\(shown)\" is no IPv6 address in brackets") }
            self = .address(address)
            return
        }
        if text.utf8.contains(where: { $0 >= 0x80 }) {
            throw EgressRuleError(
                "a host is written in ASCII: give the name in its xn-- form (IDNA A-label)")
        }
        var name = text.lowercased()
        if name.utf8.last == 0x2E { name.removeLast() }
        guard (1...253).contains(name.utf8.count) else {
            throw EgressRuleError("\"\(shown)\" is no host: a name has 1 to 253 characters")
        }
        if let address = IPAddress(name), !address.isV6 {
            self = .address(address)
            return
        }
        let labels = name.split(separator: ".", omittingEmptySubsequences: false)
        guard labels.allSatisfy(Self.isLabel) else {
            throw EgressRuleError(
                "\"\(shown)\" is no host: labels are 1 to 63 letters, digits, hyphens and "
                    + "underscores, and neither begin nor end with a hyphen")
        }
        // What ends in a number is an address to inet_aton(3) and to browsers, never a name.
        if let last = labels.last, Self.isNumber(last) {
            throw EgressRuleError(
                "\"\(shown)\" is an address in another spelling; write four decimal numbers "
                    + "without leading zeros")
        }
        self = .name(name)
    }
    package static func isLabel(_ label: some StringProtocol) -> Bool {
        let bytes = label.utf8
        return (1...63).contains(bytes.count) && bytes.first != 0x2D && !label.hasSuffix("-")
            && bytes.allSatisfy {
                (0x61...0x7A).contains($0) || (0x30...0x39).contains($0) || $0 == 0x2D || $0 == 0x5F
            }
    }
    private static func isNumber(_ label: some StringProtocol) -> Bool {
        let bytes = Array(label.utf8)
        if bytes.allSatisfy({ (0x30...0x39).contains($0) }) { return true }
        return bytes.starts(with: [0x30, 0x78])
            && bytes.dropFirst(2).allSatisfy {
                (0x30...0x39).contains($0) || (0x61...0x66).contains($0)
            }
    }
    /// As it stands before a port.
    package var description: String {
        switch self {
        case .name(let name): name
        case .address(let address): address.inAuthority
        }
    }
}

/// A host with its port, as a client asks for them.
package struct EgressDestination: Hashable, Sendable, CustomStringConvertible {
    package let host: EgressHost
    package let port: UInt16
    package var description: String { "\(host):\(port)" }

    package init(host: EgressHost, port: UInt16) {
        self.host = host
        self.port = port
    }
    /// Reads a host, a colon and a port; without a port only where there is a default.
    package init(
        authority text: some StringProtocol, defaultPort: UInt16? = nil
    ) throws(EgressRuleError) {
        let (host, port) = splitAuthority(text)
        let shown = shownText(text)
        if let port {
            guard let number = decimal(port, atMost: 65535), number > 0 else {
                throw EgressRuleError("\"\(shown)\" has no port between 1 and 65535")
            }
            self.port = UInt16(number)
        } else if let defaultPort {
            self.port = defaultPort
        } else {
            throw EgressRuleError("\"\(shown)\" names no port; write host:port")
        }
        self.host = try EgressHost(host)
    }
}

/// Parts a text at the colon of its port, which is behind the brackets of an IPv6 address.
private func splitAuthority<Text: StringProtocol>(
    _ text: Text
) -> (host: Text.SubSequence, port: Text.SubSequence?) {
    let from =
        text.utf8.first == 0x5B ? text.firstIndex(of: "]") ?? text.startIndex : text.startIndex
    guard let colon = text[from...].firstIndex(of: ":") else { return (text[...], nil) }
    return (text[..<colon], text[text.index(after: colon)...])
}

/// One line of an allow-list.
///
/// A rule example.com:443 is that host; *.example.com:443 is every name below it, not itself.
/// Without a port a rule means 443 and 80. Addresses are hosts: 198.51.100.7:22,
/// [2001:db8::1]:443. A star alone is every name, and no address.
/// GET https://example.com/v1/* is of that host's requests those that are read here and fit.
package struct EgressRule: Hashable, Sendable, CustomStringConvertible {
    private enum Pattern: Hashable {
        case host(EgressHost)
        case below(String)
        case everyName
    }
    private let pattern: Pattern
    /// `nil`: 443 and 80.
    package let port: UInt16?
    /// `nil`: whatever is said there.
    let request: RequestRule?

    /// - Throws: ``EgressRuleError`` with a sentence that says what is wrong and what to write.
    package init(_ text: String) throws(EgressRuleError) {
        let shown = shownText(text)
        let words = text.split(separator: " ", omittingEmptySubsequences: false)
        var authority = text[...]
        var defaultPort: UInt16?
        if words.count == 2, let (isTLS, rest) = Self.scheme(of: words[1]) {
            let end = rest.firstIndex(of: "/") ?? rest.endIndex
            authority = rest[..<end]
            defaultPort = isTLS ? 443 : 80
            do throws(EgressRuleError) {
                request = try RequestRule(methods: words[0], isTLS: isTLS, path: rest[end...])
            } catch { throw EgressRuleError("\"\(shown)\" is no rule: \(error)") }
        } else {
            request = nil
        }
        guard !authority.contains("/"), !authority.contains("@") else {
            throw EgressRuleError(
                "\"\(shown)\" is no rule: write host:port, without scheme, path or user; or with "
                    + "methods and path: GET https://host/path/*")
        }
        let (host, port) = splitAuthority(authority)
        if let port {
            guard let number = decimal(port, atMost: 65535), number > 0 else {
                throw EgressRuleError(
                    "\"\(shown)\" is no rule: behind the colon stands a port from 1 to 65535 (an "
                        + "IPv6 address stands in brackets)")
            }
            self.port = UInt16(number)
        } else {
            self.port = defaultPort
        }
        if host == "*" {
            pattern = .everyName
            return
        }
        guard host.hasPrefix("*.") else {
            pattern = .host(try EgressHost(host))
            return
        }
        guard case .name(let name) = try EgressHost(host.dropFirst(2)) else {
            throw EgressRuleError("\"\(shown)\" is no rule: an address has nothing below it")
        }
        pattern = .below(name)
    }
    private static func scheme(of text: Substring) -> (isTLS: Bool, rest: Substring)? {
        if text.hasPrefix("https://") { return (true, text.dropFirst(8)) }
        if text.hasPrefix("http://") { return (false, text.dropFirst(7)) }
        return nil
    }
    /// Whether the rule is about this host, on whatever port.
    package func matches(_ host: EgressHost) -> Bool {
        switch (pattern, host) {
        case (.host(let own), _): own == host
        case (.below(let parent), .name(let name)): name.hasSuffix(".\(parent)")
        case (.everyName, .name): true
        default: false
        }
    }
    /// Whether the rule is about this host and port, for some requests at least.
    func concerns(_ destination: EgressDestination) -> Bool {
        let isPort =
            port.map { $0 == destination.port }
            ?? (destination.port == 443 || destination.port == 80)
        return isPort && matches(destination.host)
    }
    /// Whether whatever is said there may be said.
    package func matches(_ destination: EgressDestination) -> Bool {
        request == nil && concerns(destination)
    }
    func matches(_ asked: EgressRequest) -> Bool {
        concerns(asked.destination) && request?.matches(asked) ?? true
    }
    /// For an operator's rule: TLS there is ended on this host, so that requests can be read.
    package var endsTLS: Bool { request?.isTLS ?? false }

    package var description: String {
        let host =
            switch pattern {
            case .host(let host): "\(host)"
            case .below(let name): "*.\(name)"
            case .everyName: "*"
            }
        guard let request else { return port.map { "\(host):\($0)" } ?? host }
        let standard: UInt16 = request.isTLS ? 443 : 80
        return request.description(
            port == standard ? host : port.map { "\(host):\($0)" } ?? host)
    }
}
