// The README promises; each promise names what holds it. A name that no longer exists is a lie.

import Foundation
import Testing

@Suite("The README")
struct ReadmeTests {
    private static let root = URL(fileURLWithPath: #filePath).resolvingSymlinksInPath()
        .deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()

    private func text(_ path: String) throws -> String {
        try String(contentsOf: Self.root.appendingPathComponent(path), encoding: .utf8)
    }
    private func testSources() throws -> String {
        let base = Self.root.appendingPathComponent("Tests")
        let names =
            FileManager.default.enumerator(atPath: base.path)?
            .compactMap { $0 as? String }.filter { $0.hasSuffix(".swift") } ?? []
        return try names.map { try text("Tests/\($0)") }.joined(separator: "\n")
    }

    @Test func `names for every promise a test, a suite or a command that exists`() throws {
        let rows = try text("README.md").split(separator: "\n")
            .drop { !$0.hasPrefix("| Promise") }.dropFirst(2).prefix { $0.hasPrefix("|") }
        #expect(rows.count > 8)
        let tests = try testSources()
        let demo = try text("Sources/Mayfly/Demo/DemoJobs.swift")
        for row in rows {
            let cells = row.split(separator: "|")
            let holders = try #require(cells.last, "\(row)")
            let names = holders.split(separator: "`", omittingEmptySubsequences: false)
                .enumerated().filter { $0.offset % 2 == 1 }.map { String($0.element) }
            #expect(!names.isEmpty, "\(row)")
            for name in names {
                let exists =
                    tests.contains("func `\(name)`") || tests.contains("@Suite(\"\(name)\"")
                    || demo.contains("\"\(name)\"") || name.hasPrefix("mayfly ")
                    || FileManager.default.fileExists(
                        atPath: Self.root.appendingPathComponent(name).path)
                #expect(exists, "README names `\(name)`, which is nowhere")
            }
        }
    }
}
