// The style guide where a machine can check it: every file under Sources, Tests and sql is read,
// and each rule names the file and line that breaks it.

import Foundation
import Testing

@Suite("The code is tidy")
struct TidyTests {
    private static let sources = Repository.sources
    private static let tests = Repository.tests
    private static let all = sources + tests

    /// The places where `isWrong` holds; at most a few are shown.
    private func places(
        in files: [File], _ isWrong: (String, File) -> Bool
    ) -> [String] {
        files.flatMap { file in
            file.lines.enumerated().filter { isWrong($1, file) }
                .map { "\(file.path):\($0.offset + 1)" }
        }
    }
    @Test func `there is something to check`() {
        #expect(Self.sources.count > 40)
        #expect(Self.tests.count > 10)
    }

    @Test func `no line is longer than 100 columns`() {
        // Tables of texts in tests may run on: wrapping them would hide what they say.
        let long = places(in: Self.sources) { line, _ in line.count > 100 }
        #expect(long == [])
    }

    @Test func `no file is longer than 500 lines`() {
        #expect(Self.all.filter { $0.lines.count > 501 }.map(\.path) == [])
    }

    @Test func `no function is longer than 70 lines`() {
        var long: [String] = []
        for file in Self.all {
            var start: (line: Int, indent: String, name: String)?
            for (index, line) in file.lines.enumerated() {
                let indent = String(line.prefix { $0 == " " })
                let trimmed = line.dropFirst(indent.count)
                if let open = start {
                    guard line.hasPrefix(open.indent + "}") else { continue }
                    if index - open.line + 1 > 70 {
                        long.append("\(file.path):\(open.line + 1) \(open.name)")
                    }
                    start = nil
                }
                let words = trimmed.split(separator: "(", maxSplits: 1)[safe: 0] ?? ""
                let isFunction =
                    words.hasPrefix("func ") || words.contains(" func ")
                    || words.hasPrefix("init") || words.contains(" init")
                if isFunction, !trimmed.hasSuffix("}"), !trimmed.hasPrefix("//") {
                    start = (index, indent, String(words))
                }
            }
        }
        #expect(long == [])
    }

    @Test func `every file opens with a comment that says what it is`() {
        let silent = Self.all.filter { file in
            !(file.lines.first?.hasPrefix("// ") ?? false)
        }
        #expect(silent.map(\.path) == [])
    }

    @Test func `nothing is forced, stubbed or left for later outside the tests`() {
        let forced = places(in: Self.sources) { line, _ in
            let code = Repository.code(line)
            if code.contains("try!") || code.contains("as!") || code.contains("fatalError") {
                return true
            }
            // A `!` right behind a name, bracket or parenthesis unwraps by force.
            let characters = Array(code)
            return characters.indices.dropFirst().contains { index in
                guard characters[index] == "!" else { return false }
                let before = characters[index - 1]
                let after = index + 1 < characters.count ? characters[index + 1] : " "
                return after != "="
                    && (before.isLetter || before.isNumber || ")]_".contains(before))
            }
        }
        #expect(forced == [])
        let words = ["TO" + "DO", "FIX" + "ME", "X" + "XX"]
        let later = places(in: Self.all) { line, _ in
            words.contains { word in
                line.split { !$0.isLetter }.contains { $0 == word }
            }
        }
        #expect(later == [])
    }

    @Test func `unsafe code stays in the modules that own descriptors and C libraries`() {
        // Jobs writes SQL and settles outcomes: it has no business with pointers.
        let wrong = places(in: Self.sources) { line, file in
            let isFree = [
                "Postgres", "Events", "Processes", "Wire", "Secrets", "Machines", "GuestAgent",
                "Mayfly", "Egress", "Jail", "Launcher",
            ]
            .contains(file.module)
            guard !isFree else { return false }
            let words = Repository.code(line).split { !$0.isLetter }.map(String.init)
            guard words.contains("unsafe") else { return false }
            return !line.contains("asUnownedSerialExecutor")  // how an actor names its executor
        }
        #expect(wrong == [])
    }

    @Test func `what a comment quotes as code exists in the code`() {
        let files =
            Self.sources + Repository.files(in: "sql", ending: ".sql")
            + Repository.files(in: "Sources", ending: ".c")
        func words(_ text: some StringProtocol) -> [String] {
            String(text).split(whereSeparator: { !($0.isLetter || $0.isNumber || $0 == "_") })
                .map(String.init)
        }
        var known: Set<String> = ["u0000", "dotted"]  // an escape, and the form of a key
        var quoted: [(place: String, words: [String])] = []
        for file in files {
            for (index, line) in file.lines.enumerated() {
                let text = line.drop { $0 == " " }
                guard text.hasPrefix("//") || text.hasPrefix("--") || text.hasPrefix("*") else {
                    known.formUnion(words(line))
                    continue
                }
                let parts = text.split(separator: "`", omittingEmptySubsequences: false)
                for (place, part) in parts.enumerated() where place % 2 == 1 {
                    quoted.append(("\(file.path):\(index + 1) `\(part)`", words(part)))
                }
            }
        }
        #expect(quoted.count > 200)
        #expect(quoted.filter { !known.isSuperset(of: $0.words) }.map(\.place) == [])
    }

    @Test func `suites have names of their own, and tests are named in words`() {
        var suites: [String: Int] = [:]
        var poor: [String] = []
        for file in Self.tests {
            for match in file.text.matches(of: /@Suite\(\s*"([^"]+)"/) {
                suites[String(match.1), default: 0] += 1
                // Suites are things, written large; some are named as what they test is spelt.
                let isNamed =
                    match.1.first?.isUppercase == true || match.1.hasPrefix("mayfly ")
                    || ["worker.conf", "base64"].contains(match.1)
                if !isNamed { poor.append("\(file.path): \(match.1)") }
            }
            for name in Repository.testNames(in: file) {
                let isSentence =
                    name.split(separator: " ").count >= 3 && name.last?.isPunctuation == false
                if !isSentence { poor.append("\(file.path): \(name)") }
            }
        }
        #expect(suites.filter { $0.value > 1 }.keys.sorted() == [])
        #expect(poor == [])
    }

    @Test func `no structured work escapes its scope`() {
        let wrong = places(in: Self.sources) { line, _ in
            Repository.code(line).contains("Task.detached")
        }
        #expect(wrong == [])
    }
}

extension Array {
    fileprivate subscript(safe index: Int) -> Element? {
        indices.contains(index) ? self[index] : nil
    }
}
