// The pages where a machine can check them: links lead somewhere, promises name a test that exists,
// and what is listed for producers and operators is what the code has.

import Foundation
import Testing

@Suite("The pages")
struct PageTests {
    /// A page without its blocks of code, in which nothing is a link or a heading.
    private static func prose(_ page: File) -> [String] {
        var isCode = false
        return page.lines.map { line in
            if line.hasPrefix("```") { isCode.toggle() }
            return isCode ? "" : line
        }
    }
    /// The anchors of a page, as GitHub makes them from headings.
    private static func anchors(_ page: File) -> Set<String> {
        Set(
            prose(page).filter { $0.hasPrefix("#") }.map { heading in
                heading.drop { $0 == "#" || $0 == " " }.lowercased()
                    .filter { $0.isLetter || $0.isNumber || $0 == " " || $0 == "-" || $0 == "_" }
                    .replacingOccurrences(of: " ", with: "-")
            })
    }

    @Test func `every link leads to a file and a heading that exist`() throws {
        #expect(Repository.pages.count > 10)
        var broken: [String] = []
        for page in Repository.pages {
            let text = Self.prose(page).joined(separator: "\n")
            for match in text.matches(of: /\]\(([^)\s]+)\)/) {
                let link = String(match.1)
                guard !link.contains("://"), !link.hasPrefix("mailto:") else { continue }
                let parts = link.split(
                    separator: "#", maxSplits: 1, omittingEmptySubsequences: false)
                let path =
                    parts[0].isEmpty
                    ? page.path
                    : ("/" + page.directory + "/" + parts[0] as NSString).standardizingPath
                        .trimmingCharacters(in: ["/"])
                guard Repository.exists(path) else {
                    broken.append("\(page.path): \(link)")
                    continue
                }
                guard parts.count == 2, path.hasSuffix(".md") else { continue }
                if !Self.anchors(try Repository.file(path)).contains(String(parts[1])) {
                    broken.append("\(page.path): \(link)")
                }
            }
        }
        #expect(broken == [])
    }

    @Test func `every page can be reached from the README`() throws {
        var reached: Set<String> = []
        var next = ["README.md"]
        while let path = next.popLast() {
            guard reached.insert(path).inserted else { continue }
            let page = try Repository.file(path)
            for match in page.text.matches(of: /\]\(([^)#\s]+\.md)(?:#[^)]*)?\)/)
            where !match.1.contains("://") {
                next.append(
                    ("/" + page.directory + "/" + match.1 as NSString).standardizingPath
                        .trimmingCharacters(in: ["/"]))
            }
        }
        #expect(Repository.pages.map(\.path).filter { !reached.contains($0) } == [])
    }

    @Test func `the README stays short`() throws {
        let page = try Repository.file("README.md")
        let words = Self.prose(page).joined(separator: " ").split { $0.isWhitespace }.count
        #expect(words <= 600)
    }

    @Test func `every promise names a test, a suite or a command that exists`() throws {
        let tests = Repository.tests.map(\.text).joined(separator: "\n")
        let names = Set(Repository.tests.flatMap(Repository.testNames))
        let rows = try Repository.file("docs/SPECIFICATION.md").lines
            .prefix { $0 != "## Numbers" }
            .filter { $0.hasPrefix("| ") && !$0.hasPrefix("| Promise") && !$0.hasPrefix("| -") }
        #expect(rows.count > 30)
        var unheld: [String] = []
        for row in rows {
            let cells = row.split(separator: "|")
            let holders = cells.last?.matches(of: /`([^`]+)`/).map { String($0.1) } ?? []
            if holders.isEmpty { unheld.append(row) }
            for name in holders
            where !names.contains(name) && !tests.contains("@Suite(\"\(name)\"")
                && !name.hasPrefix("mayfly bench ") && !Repository.exists(name)
            {
                unheld.append("`\(name)` is nowhere: \(row)")
            }
        }
        #expect(unheld == [])
    }

    @Test func `the promises of security are numbered, once each, and docs name none but those`()
        throws
    {
        let page = try Repository.file("docs/SPECIFICATION.md")
        let numbers = page.lines.compactMap { line in
            line.firstMatch(of: /^\| \*\*P(\d+)\*\*\s/).flatMap { Int($0.1) }
        }
        #expect(numbers.count > 30)
        #expect(numbers == Array(Set(numbers)).sorted())
        let security = try Repository.file("docs/security.md").text
        let named = security.matches(of: /\bP(\d+)\b/).compactMap { Int($0.1) }
        #expect(named.count >= 10)
        #expect(named.filter { !numbers.contains($0) } == [])
    }

    @Test func `the reasons in docs are those of SQL, with their meaning`() throws {
        let sql = Repository.files(in: "sql", ending: ".sql").map(\.text).joined()
        let list = try #require(
            sql.firstMatch(of: /insert into mayfly\.reason(.*?)\);\n/.dotMatchesNewlines()))
        let rows = "\(list.1))".matches(
            of: /\('(\w+)',\s*'(job|ours|decision)',\s*(true|false),\s*'((?:[^']|'')*)'\)/)
        #expect(rows.count > 15)
        let page = try Repository.file("docs/payloads.md").text
        var missing: [String] = []
        for row in rows {
            let again = row.3 == "true" ? "yes" : "no"
            let meaning = row.4.replacing("''", with: "'")
            let line = "| `\(row.1)` | \(row.2) | \(again) | \(meaning) |"
            if !page.contains(line) { missing.append(line) }
        }
        #expect(missing == [])
        let listed = page.matches(of: /(?m)^\| `(\w+)` \| (job|ours|decision) \|/).count
        #expect(listed == rows.count)
    }

    @Test func `the SQLSTATEs in docs are those of SQL`() throws {
        let sql = Repository.files(in: "sql", ending: ".sql").map(\.text).joined()
        let codes = Set(sql.matches(of: /MF0\d\d/).map { String($0.0) })
        let page = try Repository.file("docs/payloads.md").text
        #expect(codes.filter { !page.contains("| `\($0)` |") }.sorted() == [])
    }

    @Test func `every setting that docs name is in worker.conf`() throws {
        let settings = try Repository.file("worker.conf").text
        let keys = Set(settings.matches(of: /(?m)^#([a-z.]+)\s=/).map { String($0.1) })
        #expect(keys.count > 20)
        let prefixes = Set(keys.compactMap { $0.split(separator: ".").first.map(String.init) })
        var unknown: [String] = []
        for page in Repository.pages where page.path.hasPrefix("docs/") {
            for match in page.text.matches(of: /`([a-z]+(?:\.[a-z]+)+)`/) {
                let name = String(match.1)
                let first = name.split(separator: ".").first.map(String.init) ?? ""
                if prefixes.contains(first), !keys.contains(name), name != "machine.id",
                    !name.hasSuffix(".conf"),
                    !name.hasSuffix(".service"), !name.hasSuffix(".env")
                {
                    unknown.append("\(page.path): \(name)")
                }
            }
        }
        #expect(unknown == [])
    }
}
