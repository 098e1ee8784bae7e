// What is a sealed secret and what is none; who can open one. Vectors are others' work.

import Foundation
import StrictJSON
import TestSupport
import Testing

@testable import Secrets

@Suite("A sealed secret")
struct SealedSecretTests {
    private func opened(
        _ text: String, tenant: String? = nil, key: PrivateKey? = nil
    ) throws -> String? {
        try SealedSecret(text).open(with: key ?? Vectors.privateKey(), tenant: tenant).text
    }
    /// Why a text is refused.
    private func refusal(_ text: String, tenant: String? = nil) throws -> SecretError? {
        let key = try Vectors.privateKey()
        do throws(SecretError) {
            _ = try SealedSecret(text).open(with: key, tenant: tenant)
            return nil
        } catch { return error }
    }
    /// A secret for the vectors' key with another header.
    private func with(_ change: (inout [String: JSON]) -> Void) throws -> String {
        let parts = Vectors.jwcrypto.split(separator: ".", omittingEmptySubsequences: false)
        let header = try JSON(parsing: try #require(Base64URL.decode(parts[0])))
        guard case .object(let members) = header else { return "" }
        var fields = Dictionary(uniqueKeysWithValues: members.map { ($0.name, $0.value) })
        change(&fields)
        let changed = JSON.object(fields.map { .init(name: $0.key, value: $0.value) })
        return Base64URL.encode(Array(changed.text.utf8))
            + Vectors.jwcrypto.dropFirst(
                parts[0].count)
    }

    @Test func `opens what other libraries sealed`() throws {
        #expect(try opened(Vectors.jwcrypto) == "correct horse battery staple – ünïcode")
        #expect(try opened(Vectors.joserfc) == "from joserfc")
        #expect(try opened(Vectors.parties) == "with parties")
        #expect(try opened(Vectors.empty) == "")
        #expect(try opened(Vectors.acme, tenant: "acme") == "for acme only")
        #expect(try SealedSecret(Vectors.acme).byteCount == 13)
    }

    @Test func `derives the key of RFC 7518, appendix C`() throws {
        let alice = try PrivateKey(
            [
                "kty": "EC", "crv": "P-256", "x": "gI0GAILBdu7T53akrFmMyGcsF3n5dO7MmwNBHKW5SV0",
                "y": "SLW_xSffzlPWrHEVI30DHM_4egVwt3NQqeUD7nMFpps",
                "d": "0_NxaRPUMQoAJt50Gz8YiTr8gRTwyEaCumd-MToTmIo",
            ])
        let bob = try PublicKey(
            [
                "kty": "EC", "crv": "P-256", "x": "weNJy2HscCSM6AEDTDg04biOvhFhyyWvOHQfeF_PxMQ",
                "y": "e8lnCO-AlStT-NJVX-crhB7QRYhiix03illJOVAOyck",
            ])
        let shared = try #require(alice.agree(with: bob))
        #expect(
            shared == [
                158, 86, 217, 29, 129, 113, 53, 211, 114, 131, 66, 131, 191, 132, 38, 156, 251, 49,
                110, 163, 218, 128, 106, 72, 246, 218, 167, 121, 140, 254, 144, 196,
            ])
        let derived = KeyAgreement.derive(
            shared, algorithm: "A128GCM", bitCount: 128, producer: Array("Alice".utf8),
            consumer: Array("Bob".utf8))
        #expect(Base64URL.encode(derived) == "VqqN6vgjbSBcIijNcacQGg")
    }

    @Test func `is opened by its own key alone, and for its own tenant`() throws {
        let key = PrivateKey.generate()
        let text = try SealedSecret.seal(Secret("s3cret"), for: key.publicKey, tenant: "acme")
        #expect(try opened(text, tenant: "acme", key: key) == "s3cret")
        #expect(try opened(text, tenant: nil, key: key) == "s3cret")
        #expect(throws: SecretError.unreadable("was sealed for another tenant")) {
            try opened(text, tenant: "", key: key)
        }
        #expect(throws: SecretError.self) { try opened(text, tenant: "acme") }
        // Sealed twice, it is twice something else.
        let again = try SealedSecret.seal(Secret("s3cret"), for: key.publicKey, tenant: "acme")
        #expect(text != again)
        #expect(try SealedSecret(text).keyID == key.publicKey.id)
    }

    @Test func `that was changed anywhere is not opened`() throws {
        let text = Array(Vectors.jwcrypto.utf8)
        for index in text.indices {
            var changed = text
            changed[index] = text[index] == UInt8(ascii: "A") ? UInt8(ascii: "B") : 65
            let words = String(decoding: changed, as: UTF8.self)
            #expect(try refusal(words) != nil, "\(words)")
        }
        for length in stride(from: 0, to: text.count, by: 7) {
            #expect(try refusal(String(decoding: text[..<length], as: UTF8.self)) != nil)
        }
    }

    @Test func `is of one form only`() throws {
        let refused: [(String, (inout [String: JSON]) -> Void)] = [
            ("no algorithm", { $0["alg"] = "none" }),
            ("another algorithm", { $0["alg"] = "dir" }),
            ("a wrapped key", { $0["alg"] = "ECDH-ES+A256KW" }),
            ("another encryption", { $0["enc"] = "A128GCM" }),
            ("compression", { $0["zip"] = "DEF" }),
            ("a critical extension", { $0["crit"] = ["exp"] }),
            ("a key by its address", { $0["jku"] = "https://example.org/keys" }),
            ("no key id", { $0["kid"] = nil }),
            ("a path for a key id", { $0["kid"] = "../../../etc/pass" }),
            ("a long key id", { $0["kid"] = .string(String(repeating: "a", count: 17)) }),
            ("a number for a tenant", { $0["tenant"] = 1 }),
            ("no ephemeral key", { $0["epk"] = nil }),
            ("a text for a key", { $0["epk"] = "P-256" }),
            ("parties in no base64url", { $0["apu"] = "a=" }),
        ]
        for (what, change) in refused {
            guard case .malformed? = try refusal(with(change)) else {
                Issue.record("\(what) is not refused as malformed")
                continue
            }
        }
        let parts = Vectors.jwcrypto.split(separator: ".", omittingEmptySubsequences: false)
        for text in [
            "", "hunter2", "....", "a.b.c.d.e", String(repeating: "A", count: 1 << 20),
            String(repeating: ".", count: 1 << 14), Vectors.jwcrypto + "=", Vectors.jwcrypto + ".",
            " " + Vectors.jwcrypto, "\(parts[0]).AAAA.\(parts[2]).\(parts[3]).\(parts[4])",
            "\(parts[0])..\(parts[2]).\(parts[3]).\(parts[4])\u{301}",
        ] {
            guard case .malformed? = try refusal(text) else {
                Issue.record("\(text.prefix(40)) is not refused as malformed")
                continue
            }
        }
    }

    @Test func `has one spelling: bits that base64 leaves over are zero`() throws {
        // 16 bytes of tag are 22 digits with four bits to spare.
        let digits = Array("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
        let last = try #require(Vectors.jwcrypto.last)
        let place = try #require(digits.firstIndex(of: last))
        #expect(place % 16 == 0)
        for other in 1..<16 {
            let text = Vectors.jwcrypto.dropLast() + String(digits[place + other])
            guard case .malformed? = try refusal(String(text)) else {
                Issue.record("a second spelling is read")
                continue
            }
        }
    }

    @Test func `with a point that is not on the curve is not opened`() throws {
        let other = try with { fields in
            guard case .object(var epk)? = fields["epk"] else { return }
            let place = epk.firstIndex { $0.name == "y" } ?? 0
            epk[place].value = .string(Base64URL.encode([UInt8](repeating: 7, count: 32)))
            fields["epk"] = .object(epk)
        }
        #expect(
            try refusal(other) == .unreadable("cannot be opened: its epk is no point of P-256"))
        let zero = JSON.string(Base64URL.encode([UInt8](repeating: 0, count: 32)))
        let infinite = try with {
            $0["epk"] = ["kty": "EC", "crv": "P-256", "x": zero, "y": zero]
        }
        guard case .unreadable? = try refusal(infinite) else {
            Issue.record("the point at infinity is taken")
            return
        }
    }

    @Test func `never traps, whatever stands in its place`() throws {
        var random = SeededGenerator(for: "sealed secrets")
        let key = try Vectors.privateKey()
        let seeds = [Vectors.jwcrypto, Vectors.parties, Vectors.acme, Vectors.empty].map {
            Array($0.utf8)
        }
        for _ in 0..<3000 {
            var bytes = seeds.randomElement(using: &random) ?? []
            for _ in 0..<Int.random(in: 1...4, using: &random) {
                let place = Int.random(in: 0..<bytes.count, using: &random)
                switch Int.random(in: 0..<3, using: &random) {
                case 0: bytes[place] = UInt8.random(in: 0...255, using: &random)
                case 1: bytes.remove(at: place)
                default: bytes.insert(UInt8.random(in: 32...126, using: &random), at: place)
                }
            }
            if seeds.contains(bytes) { continue }
            let text = String(decoding: bytes, as: UTF8.self)
            #expect((try? SealedSecret(text).open(with: key, tenant: nil)) == nil, "\(text)")
        }
    }

    @Test func `of more than 16 KiB is neither made nor read`() throws {
        let key = PrivateKey.generate().publicKey
        let large = Secret([UInt8](repeating: 65, count: 12_000))
        let text = try SealedSecret.seal(large, for: key, tenant: nil)
        #expect(try SealedSecret(text).byteCount == 12_000)
        #expect(throws: SecretError.self) {
            try SealedSecret.seal(
                Secret([UInt8](repeating: 65, count: 12_288)), for: key, tenant: nil)
        }
    }

    @Test func `prints as dots once it is open, however it is printed`() throws {
        let secret = Secret("s3cret")
        struct Holder { var secret: Secret }
        var dumped = ""
        dump(Holder(secret: secret), to: &dumped)
        for text in ["\(secret)", "\(Holder(secret: secret))", String(reflecting: secret), dumped] {
            #expect(!text.contains("s3cret"))
            #expect(text.contains(Secret.dots))
        }
        let key = try Vectors.privateKey()
        dumped = ""
        dump(key, to: &dumped)
        #expect(!"\(key) \(dumped)".contains("fqTs2HKM"))
    }
}
