// The check of payloads in SQL, given payloads that nobody would write: deep, wide, with numbers that
// print as gigabytes, with characters that PostgreSQL cannot hold. What is accepted must be readable by
// everybody after; what is not is refused in a known way. MAYFLY_TEST_SEED repeats a run.

import Foundation
import Postgres
import TestSupport
import Testing

@Suite("Any payload", .timeLimit(.minutes(5))) struct PayloadFuzzTests {
    private struct Payloads {
        var random: SeededGenerator

        mutating func pick<Element>(_ elements: [Element]) -> Element {
            elements[Int.random(in: 0..<elements.count, using: &random)]
        }
        /// Up to `limit`, small ones more often.
        mutating func count(_ limit: Int) -> Int {
            let bits = Int.random(
                in: 0...(Int.bitWidth - limit.leadingZeroBitCount), using: &random)
            return min(limit, (1 << bits) - 1)
        }
        mutating func number() -> String {
            pick([
                "0", "-0", "1", "-1.50", "1e2", "9007199254740993", "1.7976931348623157e308",
                "1.7976931348623158e308", "1e309", "-1e309", "1e400", "1e131071", "-1e131071",
                "1e131072", "4.9e-324", "1e-325", "1e-16383", "1e-16384", "1e999999999",
                "0e999999999", "0.\(String(repeating: "0", count: count(500)))1",
                String(repeating: "9", count: count(400) + 1),
                "1.\(String(repeating: "7", count: count(2000) + 1))",
                "\(Int64.random(in: .min ... .max, using: &random))",
            ])
        }
        mutating func text() -> String {
            let piece = pick([
                "a", "é", "😀", #"\u0000"#, #"\u0041"#, #"\ud800"#, #"\ud83d\ude00"#, #"\\"#, #"\""#,
                "blob", "source", "\u{202E}", "\u{7F}", #"\n"#, "%", "$", "'", "{}", "__proto__",
            ])
            return "\"" + String(repeating: piece, count: pick([1, 1, 1, 3, count(4000)])) + "\""
        }
        mutating func value(_ depth: Int) -> String {
            switch Int.random(in: 0..<(depth > 0 ? 9 : 6), using: &random) {
            case 0, 1: return number()
            case 2, 3: return text()
            case 4: return pick(["null", "true", "false"])
            case 5: return pick(["{}", "[]"])
            case 6:
                // The same value many times: small when packed, large as text.
                let element = value(0)
                return "["
                    + Array(repeating: element, count: count(3000) + 1).joined(separator: ",")
                    + "]"
            case 7:
                let values = (0...count(4)).map { _ in value(depth - 1) }
                return "[" + values.joined(separator: ",") + "]"
            default: return object(depth - 1)
            }
        }
        mutating func object(_ depth: Int) -> String {
            let members = (0..<count(5)).map { _ in "\(text()):\(value(depth))" }
            return "{" + members.joined(separator: ",") + "}"
        }
        mutating func payload() -> String {
            switch Int.random(in: 0..<20, using: &random) {
            case 0: return value(3)
            case 1:
                let depth = count(20_000)
                return #"{"a":"# + String(repeating: "[", count: depth)
                    + String(repeating: "]", count: depth) + "}"
            case 2:  // not even JSON
                var bytes = Array(object(2).utf8)
                bytes[Int.random(in: 0..<bytes.count, using: &random)] = 0x2C
                return String(decoding: bytes, as: UTF8.self)
            default: return object(3)
            }
        }
    }

    /// Ours; text that is no JSON; a character that jsonb cannot hold; nested too deep; a number that
    /// numeric cannot hold.
    private static let refusals: Set<String> = ["MF002", "22P02", "22P05", "54001", "22003"]

    @Test func `is refused in a known way, or can be claimed and read by a worker`() async throws {
        var payloads = Payloads(random: SeededGenerator(for: "payloads"))
        try await Database.make().withConnection { connection in
            try await connection.run("set statement_timeout = '10 s'")
            let worker = try await connection.register(lease: "10 min")
            var (accepted, refused) = (0, 0)
            for _ in 0..<400 {
                let text = payloads.payload()
                let state = await sqlstate { _ = try await connection.enqueue(text) }
                if let state {
                    refused += 1
                    #expect(Self.refusals.contains(state), "\(state): \(text.prefix(200))")
                    continue
                }
                accepted += 1
                // By the other way in, the same verdict.
                let inserted = await sqlstate {
                    try await connection.run(
                        "insert into mayfly.job (kind, payload) values ('code', \(text))")
                }
                #expect(inserted == nil, "\(text.prefix(200))")
                let ids = try await connection.claim(worker, 10).map(\.id)
                #expect(ids.count == 2, "claimed \(ids) of \(text.prefix(200))")
                let rows = try await connection.run(
                    "select payload::text as payload from mayfly.job where id = any (\(ids))")
                for row in 0..<rows.count {
                    let stored = rows.string(row, "payload")
                    #expect(stored.utf8.count <= 16 << 20)
                    // Foundation reads no more than 512 levels; what is so deep has nothing else.
                    guard !stored.contains(String(repeating: "[", count: 400)) else { continue }
                    let value = try? JSONSerialization.jsonObject(with: Data(stored.utf8))
                    #expect(value is [String: Any], "\(stored.prefix(200))")
                }
            }
            #expect(accepted > 100)
            #expect(refused > 50)
        }
    }
}
