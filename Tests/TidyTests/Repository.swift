// The repository as the tests of this target see it: its files, its manifest, its pages. Reads only.

import Foundation

/// One text file.
struct File: Sendable {
    /// From the repository's root.
    let path: String
    let lines: [String]
    var text: String { lines.joined(separator: "\n") }
    /// The target it belongs to, for files under Sources and Tests.
    var module: String { String(path.split(separator: "/")[1]) }
    var directory: String { (path as NSString).deletingLastPathComponent }
}

enum Repository {
    static let root = URL(fileURLWithPath: #filePath).resolvingSymlinksInPath()
        .deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()

    static func exists(_ path: String) -> Bool {
        FileManager.default.fileExists(atPath: root.appendingPathComponent(path).path)
    }
    static func file(_ path: String) throws -> File {
        let text = try String(contentsOf: root.appendingPathComponent(path), encoding: .utf8)
        return File(path: path, lines: text.components(separatedBy: "\n"))
    }
    /// The files below a directory that end so, in order.
    static func files(in directory: String, ending: String) -> [File] {
        let base = root.appendingPathComponent(directory)
        let found = FileManager.default.enumerator(atPath: base.path)?.compactMap { $0 as? String }
        return (found ?? []).filter { $0.hasSuffix(ending) }.sorted()
            .compactMap { try? file("\(directory)/\($0)") }
    }

    static let sources = files(in: "Sources", ending: ".swift")
    static let tests = files(in: "Tests", ending: ".swift")

    /// Every page that people read.
    static let pages: [File] = {
        let top = (try? FileManager.default.contentsOfDirectory(atPath: root.path)) ?? []
        return top.filter { $0.hasSuffix(".md") }.sorted().compactMap { try? file($0) }
            + files(in: "docs", ending: ".md") + files(in: "examples", ending: ".md")
            + files(in: "Sources", ending: ".md") + files(in: "models", ending: ".md")
    }()

    /// The code of a line: without its comment and without the inside of texts.
    static func code(_ line: String) -> String {
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
    /// What the tests of a file are called: their display names, or else their functions.
    static func testNames(in file: File) -> [String] {
        file.text.components(separatedBy: "@Test").dropFirst().compactMap { rest in
            if let shown = rest.prefixMatch(of: /\(\s*"([^"]+)"/) { return String(shown.1) }
            guard let start = rest.range(of: "func ")?.upperBound else { return nil }
            let name = rest[start...]
            return name.hasPrefix("`")
                ? name.dropFirst().prefix { $0 != "`" }.description
                : name.prefix { $0 != "(" }.description
        }
    }
    /// The module that a line imports.
    static func imported(_ line: String) -> String? {
        let words = code(line).split(separator: " ")
        guard let place = words.firstIndex(of: "import"), place + 1 < words.count,
            words[..<place].allSatisfy({ $0.hasPrefix("@") || $0 == "package" || $0 == "internal" })
        else { return nil }
        return String(words[place + 1])
    }
}

/// The targets of Package.swift and what each declares that it uses, of ours.
struct Manifest {
    struct Target {
        let name: String
        let isTest: Bool
        let dependencies: Set<String>
    }
    let targets: [Target]
    var names: Set<String> { Set(targets.map(\.name)) }

    init() throws {
        let text = try Repository.file("Package.swift").lines
            .filter { !$0.drop { $0 == " " }.hasPrefix("//") }.joined(separator: " ")
        var targets: [Target] = []
        let declaration = /\.(systemLibrary|target|executableTarget|testTarget)\(\s*name: "(\w+)"/
        let starts = text.matches(of: declaration)
        for (index, start) in starts.enumerated() {
            let end =
                index + 1 < starts.count ? starts[index + 1].range.lowerBound : text.endIndex
            let body = text[start.range.upperBound..<end]
                .replacing(/\.product\([^)]*\)/, with: "")
            let list = body.firstMatch(of: /dependencies: \[([^\]]*)\]/)?.1 ?? ""
            targets.append(
                Target(
                    name: String(start.2), isTest: start.1 == "testTarget",
                    dependencies: Set(list.matches(of: /"(\w+)"/).map { String($0.1) })))
        }
        self.targets = targets
    }
}
