// Stars in the place of secrets.

import TestSupport
import Testing

@testable import Secrets

@Suite("The mask of secrets")
struct SecretMaskTests {
    private func mask(_ texts: String...) -> SecretMask { SecretMask(texts.map { Secret($0) }) }

    @Test func `covers every literal occurrence and nothing else`() {
        let mask = mask("s3cret", "other-token")
        #expect(mask.masked("a s3cret, s3cret; other-token.") == "a ******, ******; ***********.")
        #expect(mask.masked("s3cre s3cre t") == "s3cre s3cre t")
        #expect(mask.masked("s3s3cret") == "s3******")
        #expect(mask.masked("s3cret") == "******")
        #expect(mask.masked("") == "")
        // Neighbours and overlaps.
        #expect(mask.masked("s3crets3cretother-token!") == "***********************!")
        #expect(self.mask("aaaaaa").masked("xaaaaaaaaaay") == "x**********y")
        #expect(self.mask("abcdef", "defghi").masked("-abcdefghi-") == "-*********-")
        #expect(self.mask("größer").masked("viel größer") == "viel ********")
    }

    @Test func `leaves short secrets alone, for they stand in every word`() {
        #expect(mask("a", "12345", "").isEmpty)
        #expect(mask("12345").masked("12345") == "12345")
    }

    @Test func `covers what a cut left of a secret`() {
        let mask = mask("0123456789")
        let marker = Array("\n[cut]\n".utf8)
        func masked(_ text: String, isCutShort: Bool = false) -> String {
            String(
                decoding: mask.masked(
                    Array(text.utf8), marker: marker, isCutShort: isCutShort), as: UTF8.self)
        }
        #expect(masked("a 01234\n[cut]\n6789 b") == "a *****\n[cut]\n**** b")
        #expect(masked("a 01\n[cut]\n89 b") == "a 01\n[cut]\n89 b")
        #expect(masked("a 0123456789\n[cut]\n b") == "a **********\n[cut]\n b")
        #expect(masked("ends in 012345") == "ends in 012345")
        #expect(masked("ends in 012345", isCutShort: true) == "ends in ******")
        #expect(masked("\n[cut]\n") == "\n[cut]\n")
    }

    @Test func `covers a stream that grows, wherever it is looked at`() {
        let mask = mask("0123456789", "s3cret")
        let text = Array("a 0123456789 b s3crets3cret 01234 c".utf8)
        let expected = Array("a ********** b ************ 01234 c".utf8)
        // Looks at any distance, each from where the one before left off.
        for length in 10...text.count {
            var (shown, offset): ([UInt8], Int) = ([], 0)
            while offset < text.count {
                let piece = Array(text[offset...].prefix(length))
                let (bytes, whole) = mask.covered(piece, followsGap: false)
                #expect(whole > 0)
                guard whole > 0 else { break }
                shown += bytes.prefix(whole)
                offset += whole
            }
            #expect(shown == expected, "looks of \(length) bytes")
        }
        // The beginning of a secret waits for its rest; after a gap its end is covered.
        #expect(mask.covered(Array("x 01234".utf8), followsGap: false).whole == 2)
        #expect(self.mask("aaaaaa").covered(Array("aaaaaa".utf8), followsGap: false).whole == 6)
        let late = mask.covered(Array("56789 x".utf8), followsGap: true)
        #expect(late.bytes == Array("***** x".utf8))
        #expect(mask.covered(Array("56789 x".utf8), followsGap: false).bytes.first == 0x35)
    }

    @Test func `finds what a plain search finds, in any text`() {
        var random = SeededGenerator(for: "masks")
        func word(_ count: ClosedRange<Int>) -> [UInt8] {
            (0..<Int.random(in: count, using: &random)).map { _ in
                UInt8.random(in: 97...98, using: &random)
            }
        }
        for _ in 0..<500 {
            let (secret, text) = (word(6...9), word(0...60))
            var covered = [Bool](repeating: false, count: text.count)
            for start in text.indices where text[start...].starts(with: secret) {
                for index in start..<start + secret.count { covered[index] = true }
            }
            let expected = text.indices.map { covered[$0] ? UInt8(ascii: "*") : text[$0] }
            #expect(SecretMask([Secret(secret)]).masked(text) == expected)
        }
    }
}
