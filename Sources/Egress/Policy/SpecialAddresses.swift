// Which addresses are not part of the public Internet: the special-purpose registries of IANA (IPv4
// and IPv6), multicast, and what clouds answer on.

/// Addresses that a job must not reach unless the operator permits their network.
package enum SpecialAddresses {
    /// What kind of address it is; `nil` for one that is globally routable.
    package static func purpose(of address: IPAddress) -> String? {
        for entry in address.isV6 ? v6 : v4 where entry.network.contains(address) {
            return entry.purpose
        }
        // Whatever else is not global unicast is reserved today, and may mean anything tomorrow.
        return address.isV6 && address.bytes[0] & 0xE0 != 0x20 ? "reserved" : nil
    }

    private typealias Entry = (network: IPNetwork, purpose: String)

    private static func entries(_ list: [(String, String)]) -> [Entry] {
        list.map { text, purpose in
            guard let network = try? IPNetwork(text) else {
                preconditionFailure("the table of special addresses has \(text)")
            }
            return (network, purpose)
        }
    }
    // RFC 6890 and its registry; the order matters only where the word shall be the narrower one.
    private static let v4 = entries([
        ("169.254.169.254/32", "metadata"),
        ("100.100.100.200/32", "metadata"),  // Alibaba
        ("168.63.129.16/32", "metadata"),  // Azure; looks public, is the host
        ("192.0.0.192/32", "metadata"),  // Oracle
        ("0.0.0.0/8", "this network"),
        ("10.0.0.0/8", "private"),
        ("100.64.0.0/10", "shared by a carrier"),
        ("127.0.0.0/8", "loopback"),
        ("169.254.0.0/16", "link-local"),
        ("172.16.0.0/12", "private"),
        ("192.0.0.0/24", "protocol assignments"),
        ("192.0.2.0/24", "documentation"),
        ("192.31.196.0/24", "AS112"),
        ("192.52.193.0/24", "AMT"),
        ("192.88.99.0/24", "6to4 relay"),
        ("192.168.0.0/16", "private"),
        ("192.175.48.0/24", "AS112"),
        ("198.18.0.0/15", "benchmarking"),
        ("198.51.100.0/24", "documentation"),
        ("203.0.113.0/24", "documentation"),
        ("224.0.0.0/4", "multicast"),
        ("240.0.0.0/4", "reserved"),
    ])
    // Those that carry an IPv4 address inside are refused whole: what they lead to is decided by a
    // translator that nobody here knows.
    private static let v6 = entries([
        ("fd00:ec2::254/128", "metadata"),  // AWS
        ("fd20:ce::254/128", "metadata"),  // Google
        ("::/128", "unspecified"),
        ("::1/128", "loopback"),
        ("::ffff:0:0/96", "IPv4-mapped"),
        ("::ffff:0:0:0/96", "IPv4-translated"),
        ("::/96", "IPv4-compatible"),
        ("64:ff9b::/96", "NAT64"),
        ("64:ff9b:1::/48", "NAT64"),
        ("100::/64", "discarded"),
        ("100:0:0:1::/64", "dummy prefix"),
        ("2001::/32", "Teredo"),
        ("2001:2::/48", "benchmarking"),
        ("2001:10::/28", "ORCHID"),
        ("2001:20::/28", "ORCHIDv2"),
        ("2001::/23", "protocol assignments"),
        ("2001:db8::/32", "documentation"),
        ("2002::/16", "6to4"),
        ("2620:4f:8000::/48", "AS112"),
        ("3ffe::/16", "6bone"),
        ("3fff::/20", "documentation"),
        ("5f00::/16", "segment routing"),
        ("fc00::/7", "unique local"),
        ("fe80::/10", "link-local"),
        ("fec0::/10", "site-local"),
        ("ff00::/8", "multicast"),
    ])
}
