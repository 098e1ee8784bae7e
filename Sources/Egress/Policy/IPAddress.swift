// Addresses and networks: read strictly, so that one address has one spelling.

import Glibc

/// An IPv4 or IPv6 address.
package struct IPAddress: Hashable, Sendable, CustomStringConvertible {
    /// 4 or 16 bytes in network order.
    package let bytes: [UInt8]

    /// An address of 4 or 16 bytes; `nil` for any other number.
    package init?(bytes: some Collection<UInt8>) {
        guard bytes.count == 4 || bytes.count == 16 else { return nil }
        self.bytes = Array(bytes)
    }
    /// Reads four decimal numbers without leading zeros, or IPv6 as RFC 4291 writes it, without
    /// brackets or zone.
    ///
    /// Everything else that inet_aton(3) takes for an address is none: 127.1, 0x7f000001.
    package init?(_ text: some StringProtocol) {
        guard text.utf8.allSatisfy({ $0 > 0x20 && $0 < 0x7F && $0 != 0x25 }) else { return nil }
        let isV6 = text.utf8.contains(0x3A)
        var bytes = [UInt8](repeating: 0, count: isV6 ? 16 : 4)
        guard unsafe inet_pton(isV6 ? AF_INET6 : AF_INET, String(text), &bytes) == 1 else {
            return nil
        }
        self.bytes = bytes
    }
    package var isV6: Bool { bytes.count == 16 }

    package var description: String {
        var text = [CChar](repeating: 0, count: 64)
        guard unsafe inet_ntop(isV6 ? AF_INET6 : AF_INET, bytes, &text, 64) != nil else {
            return ""
        }
        return String(decoding: text.prefix { $0 != 0 }.map(UInt8.init(bitPattern:)), as: UTF8.self)
    }
    /// As it stands before a port: IPv6 in brackets.
    var inAuthority: String { isV6 ? "[\(description)]" : description }
}

/// A range of addresses that share their first bits.
package struct IPNetwork: Hashable, Sendable, CustomStringConvertible {
    package let address: IPAddress
    /// How many bits are shared: 0 to 32, or 0 to 128.
    package let length: Int

    /// Reads 10.0.0.0/8, fd00::/8, or one address.
    ///
    /// - Throws: ``EgressRuleError`` with a sentence.
    package init(_ text: String) throws(EgressRuleError) {
        let parts = text.split(separator: "/", maxSplits: 1, omittingEmptySubsequences: false)
        let shown = shownText(text)
        guard let address = IPAddress(parts[0]) else {
            throw EgressRuleError(
                "\"\(shown)\" is not a network; write its first address and length, such as "
                    + "10.0.0.0/8 or fd00::/8")
        }
        let whole = address.bytes.count * 8
        var length = whole
        if parts.count == 2 {
            guard let given = decimal(parts[1], atMost: whole) else {
                throw EgressRuleError(
                    "\"\(shown)\" has no length between 0 and \(whole) behind its slash")
            }
            length = given
        }
        self.init(address, length)
        guard self.contains(address), Self.masked(address.bytes, length) == address.bytes else {
            throw EgressRuleError(
                "\"\(shown)\" has bits behind its length \(length); a network begins at its first "
                    + "address")
        }
    }
    init(_ address: IPAddress, _ length: Int) {
        self.address = address
        self.length = length
    }
    /// An IPv4 network holds no IPv6 address, mapped or not.
    package func contains(_ other: IPAddress) -> Bool {
        other.bytes.count == address.bytes.count
            && Self.masked(other.bytes, length) == Self.masked(address.bytes, length)
    }
    private static func masked(_ bytes: [UInt8], _ length: Int) -> [UInt8] {
        bytes.enumerated().map { index, byte in
            let kept = min(8, max(0, length - index * 8))
            return kept == 8 ? byte : byte & ~(UInt8.max >> UInt8(kept))
        }
    }
    package var description: String { "\(address)/\(length)" }
}

/// A decimal number without sign or leading zero.
func decimal(_ text: some StringProtocol, atMost limit: Int) -> Int? {
    let digits = text.utf8
    guard (1...18).contains(digits.count), digits.allSatisfy({ (0x30...0x39).contains($0) }),
        digits.count == 1 || digits.first != 0x30, let value = Int(text), value <= limit
    else { return nil }
    return value
}

/// What somebody sent, fit for a line of a log: printable ASCII, short.
func shownText(_ text: some StringProtocol, atMost limit: Int = 255) -> String {
    String(
        decoding: text.utf8.prefix(limit).map { (0x21...0x7E).contains($0) ? $0 : 0x3F },
        as: UTF8.self)
}
