// Ways out that have been tried on proxies, and what must become of each. Every rule allows them (`*`
// on 80, 443 and 2222): what refuses is never only the allow-list.

import Egress

/// One attempt: what a client sends, and the reason it is refused for; `nil` when it must get through.
struct Vector: Sendable, CustomStringConvertible {
    let description: String
    let bytes: [UInt8]
    let reason: EgressReason?
    /// What is sent once the tunnel stands.
    var inTunnel: [UInt8] = []
    /// The host that the record must name, where it is not the obvious.
    var host: String?

    static func connect(
        _ authority: String, _ reason: EgressReason?, tunnel: [UInt8] = Array("hello".utf8),
        fields: String = ""
    ) -> Vector {
        Vector(
            description: "CONNECT \(authority) \(fields.debugDescription)",
            bytes: Array("CONNECT \(authority) HTTP/1.1\r\n\(fields)\r\n".utf8), reason: reason,
            inTunnel: tunnel)
    }
    static func raw(_ text: String, _ reason: EgressReason?) -> Vector {
        Vector(description: text.debugDescription, bytes: Array(text.utf8), reason: reason)
    }
    static func tls(
        _ what: String, _ hello: [UInt8], _ reason: EgressReason?, to host: String = "good.test:443"
    )
        -> Vector
    {
        var vector = connect(host, reason, tunnel: hello)
        vector = Vector(
            description: "TLS: \(what)", bytes: vector.bytes, reason: reason, inTunnel: hello)
        return vector
    }
    static func socks(name: String, port: UInt16 = 2222, _ reason: EgressReason?) -> Vector {
        let bytes: [UInt8] =
            [5, 1, 0, 5, 1, 0, 3, UInt8(name.utf8.count)] + Array(name.utf8)
            + [UInt8(port >> 8), UInt8(port & 0xFF)]
        return Vector(
            description: "SOCKS \(name):\(port)", bytes: bytes, reason: reason,
            inTunnel: Array("hello".utf8))
    }
    static func socks(address: [UInt8], _ reason: EgressReason?) -> Vector {
        let bytes: [UInt8] = [5, 1, 0, 5, 1, 0, address.count == 4 ? 1 : 4] + address + [8, 174]
        return Vector(description: "SOCKS \(address)", bytes: bytes, reason: reason)
    }

    /// Spellings and kinds of addresses, all listed as rules where a rule can say them.
    static let literals = [
        "127.0.0.1", "10.0.0.1", "172.16.5.4", "192.168.1.1", "100.64.0.1", "169.254.169.254",
        "100.100.100.200", "168.63.129.16", "192.0.0.192", "0.0.0.0", "0.1.2.3", "192.0.2.1",
        "198.18.0.1", "198.51.100.1", "203.0.113.1", "192.88.99.1", "224.0.0.1", "240.0.0.1",
        "255.255.255.255", "[::]", "[::1]", "[::ffff:127.0.0.1]", "[::ffff:8.8.8.8]",
        "[::127.0.0.1]",
        "[::ffff:0:127.0.0.1]", "[64:ff9b::7f00:1]", "[64:ff9b:1::7f00:1]", "[2002:7f00:1::]",
        "[2001:0:7f00:1::]", "[2001:10::1]", "[2001:20::1]", "[2001:db8::1]", "[2001:2::1]",
        "[fc00::1]", "[fd00:ec2::254]", "[fe80::1]", "[fec0::1]", "[ff02::1]", "[100::1]",
        "[3fff::1]", "[5f00::1]", "[4000::1]", "[3ffe::1]",
    ]
    static let spellings = [
        "2130706433", "0x7f000001", "0x7f.1", "127.1", "127.0.1", "0177.0.0.1", "017700000001",
        "127.0.0.01", "0x7f.0.0.0x1", "127.0.0.1.", "1.2.3", "foo.1", "foo.0x1", "0x",
        "127.0.0.256",
        "①②⑦.0.0.1", "127。0。0。1", "[::1%25lo]", "[fe80::1%lo]", "[127.0.0.1]", "[::1", "::1",
        "a..test", ".test", "good.test..", "-a.test", "a-.test", "good%2etest", "good_test!",
        "exämple.test", "*.test", "a b.test", "\(String(repeating: "a", count: 64)).test",
    ]
    /// Names whose answers are the trap.
    static let trapNames: [(String, EgressReason)] = [
        ("private.test", .addressNotPublic), ("mixed.test", .addressNotPublic),
        ("mixed6.test", .addressNotPublic), ("chain.test", .addressNotPublic),
        ("mapped.test", .addressNotPublic), ("nat64.test", .addressNotPublic),
        ("metadata.test", .addressNotPublic), ("zero.test", .addressNotPublic),
        ("missing.test", .nameNotFound), ("empty.test", .nameNotFound),
        ("broken.test", .nameFailed), ("garbage.test", .nameFailed), ("silent.test", .nameFailed),
        ("cut.test", .nameFailed), ("localhost", .nameFailed),

        ("forbidden.test", .addressNotPublic), ("many.test", .nameFailed),
    ]
    static var all: [Vector] {
        var all: [Vector] = []
        all += literals.map { .connect("\($0):2222", .addressNotPublic) }
        all += spellings.map { spelling in
            let isRequest = spelling.contains(" ") || spelling.utf8.contains { $0 >= 0x80 }
            let isAddress = spelling == "127.0.0.1."
            return .connect(
                "\(spelling):2222",
                isRequest ? .badRequest : isAddress ? .addressNotPublic : .badHost)
        }
        all += trapNames.map { .connect("\($0):2222", $1) }
        all += requests + socksRequests + handshakes
        return all
    }
    private static let requests: [Vector] = [
        .connect("good.test:2222", nil), .connect("GOOD.test.:2222", nil),
        .connect("good.test:2222", nil, fields: "Host: good.test:2222\r\nProxy-Connection: x\r\n"),
        .connect("good.test:22", .notAllowed), .connect("good.test:2223", .notAllowed),
        .connect("good.test:0", .badHost), .connect("good.test:65536", .badHost),
        .connect("good.test:02222", .badHost), .connect("good.test:+2222", .badHost),
        .connect("good.test", .badHost), .connect("good.test:", .badHost),
        .connect("good.test:2222:80", .badHost), .connect("user@good.test:2222", .badRequest),
        .connect("good.test:80@forbidden.test:2222", .badRequest),
        .connect("good.test:2222/", .badHost), .connect("http://good.test:2222", .badHost),
        .connect("good.test:2222", .badRequest, fields: "Host: forbidden.test:2222\r\n"),
        .connect("good.test:2222", .badRequest, fields: "Host: good.test:80\r\n"),
        .connect("good.test:2222", .badRequest, fields: "Host: good.test\r\nHost: good.test\r\n"),
        .connect("good.test:2222", .badRequest, fields: "Content-Length: 5\r\n"),
        .connect("good.test:2222", .badRequest, fields: "Transfer-Encoding: chunked\r\n"),
        .connect("good.test:2222", .badRequest, fields: "X: a\r\n b\r\n"),
        .connect("good.test:2222", .badRequest, fields: "X: a\rY: b\r\n"),
        .connect("good.test:2222", .badRequest, fields: "X: a\nY: b\r\n"),
        .connect("good.test:2222", .badRequest, fields: "X : a\r\n"),
        .connect("good.test:2222", .badRequest, fields: "X: a\u{0}b\r\n"),
        .connect("good.test:2222", .badRequest, fields: ": a\r\n"),
        .connect(
            "good.test:2222", .badRequest, fields: "X: \(String(repeating: "a", count: 66000))\r\n"),
        .connect("good.test:2222", .badRequest, fields: String(repeating: "X: a\r\n", count: 1025)),
        .raw("CONNECT good.test:2222 HTTP/2.0\r\n\r\n", .badRequest),
        .raw("CONNECT  good.test:2222 HTTP/1.1\r\n\r\n", .badRequest),
        .raw("CONNECT good.test:2222\r\n\r\n", .badRequest),
        .raw("CONNECT good.test:2222 HTTP/1.1\n\n", .badRequest),
        .raw("GET / HTTP/1.1\r\nHost: good.test\r\n\r\n", .badRequest),
        .raw("GET http://good.test/ HTTP/1.1\r\nHost: good.test\r\n\r\n", nil),
        .raw("GET http://good.test HTTP/1.1\r\nHost: good.test:80\r\n\r\n", nil),
        .raw("GET HTTP://good.test?q HTTP/1.0\r\n\r\n", nil),
        .raw("GET http://good.test/ HTTP/1.1\r\n\r\n", .badRequest),
        .raw("GET http://good.test/ HTTP/1.1\r\nHost: forbidden.test\r\n\r\n", .badRequest),
        .raw("GET http://good.test@forbidden.test/ HTTP/1.1\r\nHost: x\r\n\r\n", .badRequest),
        .raw("GET http://forbidden.test\\@good.test/ HTTP/1.1\r\nHost: x\r\n\r\n", .badRequest),
        .raw("GET http://forbidden.test#@good.test/ HTTP/1.1\r\nHost: x\r\n\r\n", .badRequest),
        .raw("GET https://good.test/ HTTP/1.1\r\nHost: good.test\r\n\r\n", .badRequest),
        .raw("GET file:///etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n", .badRequest),
        .raw("GET ftp://good.test/ HTTP/1.1\r\nHost: good.test\r\n\r\n", .badRequest),
        .raw("GET http://good.test:443/ HTTP/1.1\r\nHost: good.test:443\r\n\r\n", .notTLS),
        .raw("GET http://private.test/ HTTP/1.1\r\nHost: private.test\r\n\r\n", .addressNotPublic),
        .raw("GET http://2130706433/ HTTP/1.1\r\nHost: 2130706433\r\n\r\n", .badHost),
        .raw("GET http:///etc HTTP/1.1\r\nHost: x\r\n\r\n", .badHost),
        .raw(
            "POST http://good.test/ HTTP/1.1\r\nHost: good.test\r\nContent-Length: 1\r\n"
                + "Content-Length: 2\r\n\r\nab", .badRequest),
        .raw(
            "POST http://good.test/ HTTP/1.1\r\nHost: good.test\r\nContent-Length: 2\r\n"
                + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", .badRequest),
        .raw(
            "POST http://good.test/ HTTP/1.1\r\nHost: good.test\r\n"
                + "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", .badRequest),
        .raw(
            "POST http://good.test/ HTTP/1.1\r\nHost: good.test\r\n"
                + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", .badRequest),
        .raw(
            "POST http://good.test/ HTTP/1.0\r\nHost: good.test\r\n"
                + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", .badRequest),
        .raw(
            "POST http://good.test/ HTTP/1.1\r\nHost: good.test\r\nContent-Length: +1\r\n\r\na",
            .badRequest),
        .raw(
            "POST http://good.test/ HTTP/1.1\r\nHost: good.test\r\nContent-Length: 1, 1\r\n\r\na",
            .badRequest),
        .raw(
            "GET http://good.test/ HTTP/1.1\r\nHost: good.test\r\nConnection: host\r\n\r\n",
            .badRequest),
        .raw("\u{16}\u{3}\u{1}\u{0}\u{5}hello", .badRequest), .raw("\u{4}\u{1}abcdef", .badRequest),
    ]
    private static let socksRequests: [Vector] = [
        .socks(name: "good.test", nil), .socks(name: "good.test", port: 25, .notAllowed),
        .socks(name: "private.test", .addressNotPublic), .socks(name: "2130706433", .badHost),
        .socks(name: "127.0.0.1", .addressNotPublic), .socks(name: "good.test\u{0}x", .badHost),
        .socks(name: "", .badHost), .socks(name: "good.test:80", .badHost),
        .socks(name: "missing.test", .nameNotFound),
        .socks(name: "good.test", port: 0, .badRequest),
        .socks(address: [127, 0, 0, 1], .addressNotPublic),
        .socks(address: [10, 0, 0, 1], .addressNotPublic),
        .socks(address: [8, 8, 8, 8], .notAllowed),
        .socks(address: [UInt8](repeating: 0, count: 15) + [1], .addressNotPublic),
        Vector(
            description: "SOCKS: BIND", bytes: [5, 1, 0, 5, 2, 0, 1, 1, 1, 1, 1, 0, 80],
            reason: .badRequest),
        Vector(
            description: "SOCKS: UDP", bytes: [5, 1, 0, 5, 3, 0, 1, 1, 1, 1, 1, 0, 80],
            reason: .badRequest),
        Vector(description: "SOCKS: password only", bytes: [5, 1, 2], reason: .badRequest),
        Vector(
            description: "SOCKS: unknown address", bytes: [5, 1, 0, 5, 1, 0, 9, 1, 1, 1, 1, 0, 80],
            reason: .badRequest),
    ]
    private static let handshakes: [Vector] = [
        .tls("the right name", Hello().bytes, nil),
        .tls("the right name in capitals", Hello(name: "GOOD.Test").bytes, nil),
        .tls("one byte in each record", Hello(recordSize: 1).bytes, nil),
        .tls("records of 100 bytes", Hello(recordSize: 100, padding: 3000).bytes, nil),
        .tls("another name", Hello(name: "other.test").bytes, .sniMismatch),
        .tls("a name with a dot behind", Hello(name: "good.test.").bytes, .sniMismatch),
        .tls("no name", Hello(name: nil).bytes, .sniMissing),
        .tls("an encrypted hello", Hello(ech: true).bytes, .encryptedHello),
        .tls(
            "an encrypted hello, another name", Hello(name: "other.test", ech: true).bytes,
            .encryptedHello),
        .tls("two names", Hello(isTwice: true).bytes, .notTLS),
        .tls(
            "two names in one list",
            Hello(rawName: [0, 10, 0, 0, 2, 97, 98, 0, 0, 2, 99, 100]).bytes, .notTLS),
        .tls("an empty list", Hello(rawName: [0, 0]).bytes, .notTLS),
        .tls("a name of another kind", Hello(rawName: [0, 5, 1, 0, 2, 97, 98]).bytes, .notTLS),
        .tls("a name with a zero byte", Hello(rawName: [0, 6, 0, 0, 3, 97, 0, 98]).bytes, .notTLS),
        .tls("too long", Hello(padding: 30000).bytes, .notTLS),
        .tls("an empty record first", [22, 3, 1, 0, 0] + Hello().bytes, .notTLS),
        .tls("an alert first", [21, 3, 1, 0, 2, 1, 0] + Hello().bytes, .notTLS),
        .tls("a server's hello", [22, 3, 1, 0, 4, 2, 0, 0, 0], .notTLS),
        .tls("SSL 2", [0x80, 0x2E, 1, 0, 2, 0, 0, 0, 0, 0], .notTLS),
        .tls("plain HTTP", Array("GET / HTTP/1.1\r\n\r\n".utf8), .notTLS),
        .tls("SSH", Array("SSH-2.0-x\r\n".utf8), .notTLS),
        .tls(
            "another name on another port", Hello(name: "other.test").bytes, .sniMismatch,
            to: "good.test:2222"),
        .tls("the right name on another port", Hello().bytes, nil, to: "good.test:2222"),
        .tls(
            "a second hello with another name",
            Hello().bytes + [20, 3, 3, 0, 1, 1] + Hello(name: "other.test").bytes, .sniMismatch),
        .tls("a second hello with the right name", Hello().bytes + Hello().bytes, nil),
    ]
}
