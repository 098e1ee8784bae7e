// The style guide where a machine can check it: every file under Sources, Tests and sql is read,
// and each rule names the file and line that breaks it.

import Foundation
import Testing

@Suite("The code is tidy")
struct TidyTests {
    struct File: Sendable {
        let path: String
        let lines: [String]
        var module: String { String(path.split(separator: "/")[1]) }
        var isTest: Bool { path.hasPrefix("Tests/") }
    }

    private static let root = URL(fileURLWithPath: #filePath).resolvingSymlinksInPath()
        .deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()

    private static func files(in directory: String, ending: String) -> [File] {
        let base = root.appendingPathComponent(directory)
        let found = FileManager.default.enumerator(atPath: base.path)?.compactMap { $0 as? String }
        return (found ?? []).filter { $0.hasSuffix(ending) }.sorted().compactMap { name in
            guard
                let text = try? String(
                    contentsOf: base.appendingPathComponent(name), encoding: .utf8)
            else { return nil }
            return File(path: "\(directory)/\(name)", lines: text.components(separatedBy: "\n"))
        }
    }
    private static let sources = files(in: "Sources", ending: ".swift")
    private static let tests = files(in: "Tests", ending: ".swift")
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
    /// The code of a line: without its comment and without the inside of texts.
    private static func code(_ line: String) -> String {
        var result = ""
        var isText = false
        var previous: Character = " "
        for character in line {
            if character == "\"" && previous != "\\" {
                isText.toggle()
                result.append(character)
            } else if !isText {
                if character == "/" && previous == "/" { return String(result.dropLast()) }
                result.append(character)
            }
            previous = character
        }
        return result
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
        for file in Self.sources {
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
            let code = Self.code(line)
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

    /// What each target may import of ours, as Package.swift declares it.
    private static let arrows: [String: Set<String>] = {
        let manifest = URL(fileURLWithPath: root.path).appendingPathComponent("Package.swift")
        let text = (try? String(contentsOf: manifest, encoding: .utf8)) ?? ""
        let target = /\.(?:target|executableTarget|testTarget|systemLibrary)\(\s*name: "(\w+)"/
        let starts = text.matches(of: target)
        var arrows: [String: Set<String>] = [:]
        for (place, start) in starts.enumerated() {
            let end = place + 1 < starts.count ? starts[place + 1].range.lowerBound : text.endIndex
            let body = text[start.range.upperBound..<end]
            let list = body.firstMatch(of: /dependencies: \[([^\]]*)\]/)?.1 ?? ""
            arrows[String(start.1)] = Set(list.matches(of: /"(\w+)"/).map { String($0.1) })
        }
        return arrows
    }()

    @Test func `every import of another target is declared in Package.swift`() {
        #expect(Self.arrows.count > 10, "Package.swift could not be read: \(Self.arrows)")
        let wrong = places(in: Self.all) { line, file in
            guard let name = Self.imported(line), Self.arrows[name] != nil else { return false }
            return Self.arrows[file.module]?.contains(name) != true
        }
        #expect(wrong == [])
    }
    @Test func `no folder of a target has more than a dozen Swift files`() {
        let folders = Dictionary(grouping: Self.sources) { file in
            file.path.split(separator: "/").dropLast().joined(separator: "/")
        }
        #expect(folders.filter { $0.value.count > 14 }.map(\.key).sorted() == [])
    }
    @Test func `what runs in the guest, and what reads its bytes, needs no Foundation`() {
        let wrong = places(in: Self.sources) { line, file in
            ["Wire", "GuestAgent", "Events"].contains(file.module)
                && Self.imported(line).map { $0.hasPrefix("Foundation") } == true
        }
        #expect(wrong == [])
    }
    private static func imported(_ line: String) -> String? {
        let words = code(line).split(separator: " ")
        guard let place = words.firstIndex(of: "import"), place + 1 < words.count,
            words[..<place].allSatisfy({ $0.hasPrefix("@") || $0 == "package" || $0 == "internal" })
        else { return nil }
        return String(words[place + 1])
    }

    @Test func `unsafe code stays in the modules that own descriptors and C libraries`() {
        // Jobs writes SQL and settles outcomes: it has no business with pointers.
        let wrong = places(in: Self.sources) { line, file in
            let isFree = [
                "Postgres", "Events", "Processes", "Wire", "Machines", "GuestAgent", "Mayfly",
            ]
            .contains(file.module)
            guard !isFree else { return false }
            let words = Self.code(line).split { !$0.isLetter }.map(String.init)
            guard words.contains("unsafe") else { return false }
            return !line.contains("asUnownedSerialExecutor")  // how an actor names its executor
        }
        #expect(wrong == [])
    }

    @Test func `no structured work escapes its scope`() {
        let wrong = places(in: Self.sources) { line, _ in Self.code(line).contains("Task.detached")
        }
        #expect(wrong == [])
    }
}

extension Array {
    fileprivate subscript(safe index: Int) -> Element? {
        indices.contains(index) ? self[index] : nil
    }
}
