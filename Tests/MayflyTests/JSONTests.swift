// The strict JSON reader and base64: what they take, what they refuse, and that nothing makes them
// trap.

import Foundation
import StrictJSON
import TestSupport
import Testing

@testable import Mayfly

@Suite("JSON")
struct JSONTests {
    @Test func `what it writes it reads again`() throws {
        let value: JSON = .object([
            "a": .array([.null, .bool(true), .number(-3), .number(2.5), .string("é\"\\\n\u{1}😀")]),
            "b": .object([]), "": .string(""),
        ])
        #expect(try JSON(parsing: value.text) == value)
    }

    @Test func `escapes become characters`() throws {
        let text = #""\u0041\n\t\/\\\"\ud83d\ude00\u0000""#
        #expect(try JSON(parsing: text) == .string("A\n\t/\\\"😀\0"))
    }

    private static let refused = [
        "", " ", "{", "[", "\"", "{\"a\"}", "{\"a\":}", "{a:1}", "{'a':1}", "[1,]", "{\"a\":1,}",
        "01", "-", "1.", ".5", "+1", "1e", "tru", "nul", "NaN", "Infinity", "\"\\x\"", "\"\\u12\"",
        "\"\\ud800\"", "\"\\ud800\\u0041\"", "\"\\udc00\"", "\"\n\"", "1 2", "[1]]",
        "{\"a\":1,\"a\":2}",
        "{\"\\u0061\":1,\"a\":2}", "\u{FEFF}1", "/**/1",
    ]
    @Test("refuses what is no strict JSON", arguments: refused)
    func refuses(_ text: String) {
        #expect(throws: JSONError.self) { try JSON(parsing: text) }
    }

    @Test func `depth, size and count are bounded`() {
        let deep = String(repeating: "[", count: 100_000)
        #expect(throws: JSONError.self) { try JSON(parsing: deep) }
        let wide = "[" + String(repeating: "0,", count: 300_000) + "0]"
        #expect(throws: JSONError.self) { try JSON(parsing: wide) }
        #expect(throws: JSONError.self) {
            try JSON(parsing: [UInt8](repeating: 0x20, count: 129 << 20))
        }
        #expect(throws: JSONError.self) { try JSON(parsing: [0x22, 0xFF, 0x22]) }
    }

    @Test func `agrees with Foundation on every mutation of a payload`() throws {
        var random = SeededGenerator(for: "JSON fuzz")
        let seed = Array(
            #"{"language":"python","args":["a\u00e9",1.5e3,-0],"env":{"A":"\ud83d\ude00"},"x":[true,null]}"#
                .utf8)
        for _ in 0..<50_000 {
            var bytes = seed
            for _ in 0..<Int.random(in: 1...4, using: &random) {
                let place = Int.random(in: 0..<bytes.count, using: &random)
                switch Int.random(in: 0..<3, using: &random) {
                case 0: bytes[place] = UInt8.random(in: 0...255, using: &random)
                case 1: bytes.remove(at: place)
                default:
                    bytes.insert(bytes[Int.random(in: 0..<bytes.count, using: &random)], at: place)
                }
            }
            guard let value = try? JSON(parsing: bytes) else { continue }
            // JSON sets its numbers no limit, and PostgreSQL's numeric takes them; Foundation's do not.
            guard !hasNumberBeyondDouble(value) else { continue }
            // Whatever is accepted is JSON to others as well, and survives being written.
            let object = try? JSONSerialization.jsonObject(
                with: Data(bytes), options: .fragmentsAllowed)
            #expect(object != nil, "\(String(decoding: bytes, as: UTF8.self))")
            #expect(try JSON(parsing: value.text) == value)
        }
    }

    private func hasNumberBeyondDouble(_ value: JSON) -> Bool {
        switch value {
        case .number(let text): Double(text)?.isInfinite ?? false
        case .array(let values): values.contains(where: hasNumberBeyondDouble)
        case .object(let members): members.contains { hasNumberBeyondDouble($0.value) }
        case .null, .bool, .string: false
        }
    }

    @Test func `keeps a number that no Double can hold as it was written`() throws {
        #expect(try JSON(parsing: "[1.5e380]").text == "[1.5e380]")
    }
}

@Suite("base64")
struct Base64Tests {
    @Test func `agrees with Foundation on random bytes`() {
        var random = SeededGenerator(for: "base64")
        for count in 0..<300 {
            let bytes = (0..<count).map { _ in UInt8.random(in: 0...255, using: &random) }
            let text = Data(bytes).base64EncodedString()
            #expect(Base64.encode(bytes) == text)
            #expect(Base64.decode(text) == bytes)
        }
    }
    @Test(
        "refuses what is not strict",
        arguments: [
            "A", "AA", "AAA", "AA=", "A===", "====", "AB==", "AAB=", "AA=A", "AA\n=", "AAA_",
            "AAA-",
            " AAA", "AAA ", "AAAA=", "=AAA", "AAAA\n", "é===",
        ])
    func refuses(_ text: String) { #expect(Base64.decode(text) == nil) }
}
