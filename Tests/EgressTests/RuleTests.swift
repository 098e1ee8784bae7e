// Rules, hosts, networks and the tables of special addresses: pure functions.

import Egress
import Testing

@Suite("Rules of the network")
struct RuleTests {
    private func destination(_ text: String) throws -> EgressDestination {
        try EgressDestination(authority: text)
    }

    @Test(
        "a rule matches what it says and nothing beside it",
        arguments: [
            (
                "example.com", ["example.com:443", "example.com:80", "EXAMPLE.com.:443"],
                [
                    "example.com:22", "www.example.com:443", "example.com.evil.test:443",
                    "xample.com:443",
                ]
            ),
            (
                "*.example.com:443", ["a.example.com:443", "b.a.example.com:443"],
                ["example.com:443", "aexample.com:443", "a.example.com:80", "a.example.com.x:443"]
            ),
            (
                "198.51.100.7:22", ["198.51.100.7:22"],
                ["198.51.100.70:22", "[::ffff:198.51.100.7]:22"]
            ),
            (
                "[2001:db8::1]:443", ["[2001:db8::1]:443", "[2001:DB8:0::1]:443"],
                ["[2001:db8::2]:443"]
            ),
            ("*:8080", ["a.b:8080", "localhost:8080"], ["a.b:80", "1.2.3.4:8080", "[::1]:8080"]),
        ])
    func matches(_ text: String, _ inside: [String], _ outside: [String]) throws {
        let rule = try EgressRule(text)
        #expect("\(rule)" == text)
        for one in inside { #expect(rule.matches(try destination(one)), "\(one)") }
        for one in outside { #expect(!rule.matches(try destination(one)), "\(one)") }
    }

    @Test(
        "what is no rule is refused with a sentence",
        arguments: [
            "", ":443", "example.com:", "example.com:0", "example.com:65536", "example.com:https",
            "https://example.com", "example.com/path", "user@example.com", "*.*:443", "a.*.com:443",
            "*example.com", "**", "exämple.com:443", "2130706433:80", "0x7f.1:80", "127.1:80",
            "2001:db8::1", "[2001:db8::1", "[::1%lo]:80", "*.127.0.0.1:80", "a b:80", "-a.com:80",
            "a..b:80", "*.", "GET https://a.test",
            "get https://a.test/", "GET,, https://a.test/", "GET https://a.test/v1/../x",
            "GET https://a.test/a*b", "GET https://a.test/%2f", "GET ftp://a.test/",
            "GET https://u@a.test/", "GET  https://a.test/", "GET https://a.test/?q",
            "https://a.test/ GET", "GET https://127.1/",
            String(repeating: "a.", count: 130) + "a:80", "a\u{0}b:80", "a:80:80",
        ])
    func refuses(_ text: String) {
        let error = #expect(throws: EgressRuleError.self) { try EgressRule(text) }
        #expect((error?.description.count ?? 0) > 20)
        #expect(error?.description.utf8.allSatisfy { (0x20...0x7E).contains($0) } == true)
    }

    @Test func `a rule by method and path has one spelling, and matches no whole host`() throws {
        for (text, canonical) in [
            ("GET https://A.test/v1/*", "GET https://a.test/v1/*"),
            ("POST,GET,GET https://a.test:443/x", "GET,POST https://a.test/x"),
            ("* http://*.a.test:8080/", "* http://*.a.test:8080/"),
            ("GET https://[2001:DB8::1]/*", "GET https://[2001:db8::1]/*"),
        ] {
            let rule = try EgressRule(text)
            #expect("\(rule)" == canonical)
            #expect(try EgressRule(canonical) == rule)
            #expect(!rule.matches(try destination("a.test:443")))
        }
    }

    @Test func `a network holds its addresses and no others`() throws {
        let network = try IPNetwork("10.8.0.0/13")
        for (text, isInside) in [
            ("10.8.0.0", true), ("10.15.255.255", true), ("10.16.0.0", false),
            ("10.7.255.255", false),
            ("::ffff:10.8.0.1", false), ("::", false),
        ] {
            #expect(network.contains(try #require(IPAddress(text))) == isInside, "\(text)")
        }
        #expect(try IPNetwork("0.0.0.0/0").contains(try #require(IPAddress("255.1.2.3"))))
        #expect(try IPNetwork("192.0.2.1").length == 32)
        for text in [
            "10.0.0.1/8", "10.0.0.0/33", "10.0.0.0/", "10.0.0.0/-1", "10/8", "fd00::/129", "x",
        ] {
            #expect(throws: EgressRuleError.self, "\(text)") { try IPNetwork(text) }
        }
    }

    @Test func `the edges of every special network are special, and their neighbours are not`()
        throws
    {
        let v4 = [
            ("1.0.0.0", "0.255.255.255"), ("9.255.255.255", "10.0.0.0"),
            ("11.0.0.0", "10.255.255.255"),
            ("100.63.255.255", "100.64.0.0"), ("100.128.0.0", "100.127.255.255"),
            ("126.255.255.255", "127.0.0.0"), ("128.0.0.0", "127.255.255.255"),
            ("169.253.255.255", "169.254.0.0"), ("172.15.255.255", "172.16.0.0"),
            ("172.32.0.0", "172.31.255.255"), ("192.0.1.0", "192.0.0.255"),
            ("192.167.255.255", "192.168.0.0"), ("198.17.255.255", "198.18.0.0"),
            ("198.20.0.0", "198.19.255.255"), ("223.255.255.255", "224.0.0.0"),
            ("8.8.8.8", "255.255.255.255"),
            ("168.63.129.15", "168.63.129.16"),
        ]
        let v6 = [
            ("2001:200::", "2001:1ff:ffff::"), ("2001:db7:ffff::", "2001:db8::"),
            ("2001:db9::", "2001:db8:ffff::"), ("2003::", "2002:ffff::"), ("2a00::1", "4000::"),
            ("2606:4700::1111", "1fff::"), ("3ffd::", "3ffe::"), ("3fff:1000::", "3fff:fff::"),
            ("2620:4f:8001::", "2620:4f:8000::"),
        ]
        for (open, special) in v4 + v6 {
            #expect(SpecialAddresses.purpose(of: try #require(IPAddress(open))) == nil, "\(open)")
            #expect(
                SpecialAddresses.purpose(of: try #require(IPAddress(special))) != nil, "\(special)")
        }
    }
}
