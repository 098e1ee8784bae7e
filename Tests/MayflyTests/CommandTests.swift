// The command line: every command explains itself with examples that parse, and refuses the rest
// with exit code 2; tables and files keep a guest's bytes harmless.

import ArgumentParser
import Foundation
import Machines
import StrictJSON
import Testing

@testable import Mayfly

@Suite("The command line")
struct CommandTests {
    /// Every command with its words: `image build`.
    private static let commands: [(words: [String], type: any ParsableCommand.Type)] = {
        func below(_ type: any ParsableCommand.Type, _ words: [String])
            -> [(words: [String], type: any ParsableCommand.Type)]
        {
            [(words, type)]
                + type.configuration.subcommands.flatMap { below($0, words + [name(of: $0)]) }
        }
        return below(Mayfly.self, [])
    }()
    private static func name(of type: any ParsableCommand.Type) -> String {
        type.configuration.commandName ?? "\(type)".lowercased()
    }

    @Test func `has every command of the design`() {
        let names = Set(Self.commands.map { $0.words.joined(separator: " ") })
        let wanted = [
            "demo", "worker", "migrate", "image build", "image list", "image show", "image verify",
            "image prune", "secret keygen", "secret publish", "secret list", "secret retire",
            "secret seal",
            "enqueue", "jobs", "show", "logs", "cancel", "replay", "run", "doctor",
            "bench queue", "bench restore", "bench jobs",
            "bench documents", "bench egress", "prune", "config", "restore",
        ]
        for name in wanted { #expect(names.contains(name), "\(name) is missing") }
    }

    @Test func `every command explains itself, with examples, in 80 columns`() {
        for (words, type) in Self.commands {
            let configuration = type.configuration
            #expect(!configuration.abstract.isEmpty, "\(words)")
            #expect(configuration.abstract.count <= 100, "\(words)")
            #expect(configuration.discussion.contains("Examples:"), "\(words) has no examples")
            for line in configuration.discussion.split(separator: "\n") {
                #expect(line.count <= 80, "\(words): \(line)")
            }
        }
    }

    @Test func `every example parses as what it shows`() throws {
        var count = 0
        for (_, type) in Self.commands {
            for line in type.configuration.discussion.split(separator: "\n") {
                for example in Self.examples(in: String(line)) {
                    let parsed = try Mayfly.parseAsRoot(example)
                    count += 1
                    #expect(!(parsed is Mayfly), "\(example) runs nothing")
                }
            }
        }
        #expect(count > 40)
    }

    /// The words after `mayfly` in a line of shell, without quotes, redirections and comments.
    private static func examples(in line: String) -> [[String]] {
        line.split(separator: "|").compactMap { part in
            let trimmed = part.trimmingCharacters(in: .whitespaces)
            guard let range = trimmed.range(of: "mayfly ") else { return nil }
            let before = trimmed[..<range.lowerBound]
            guard line.hasPrefix("  "), before.isEmpty || before.hasSuffix(" "),
                !before.contains("xargs")  // which brings the rest of the words
            else { return nil }
            var words: [String] = []
            var word = ""
            var quote: Character?
            var isWord = false
            // Two blanks begin a remark.
            let command = trimmed[range.upperBound...].components(separatedBy: "   ")[0]
            for character in command {
                if let open = quote {
                    if character == open { quote = nil } else { word.append(character) }
                } else if character == "'" || character == "\"" {
                    quote = character
                    isWord = true
                } else if character == " " {
                    if isWord { words.append(word) }
                    (word, isWord) = ("", false)
                } else if "<>(#".contains(character) {
                    if word == "2" { isWord = false }
                    break
                } else {
                    word.append(character)
                    isWord = true
                }
            }
            if isWord { words.append(word) }
            return words
        }
    }

    @Test(
        "refuses wrong usage",
        arguments: [
            ["bogus"], ["jobs", "--state", "lost"], ["jobs", "--since", "yesterday"], ["show"],
            ["show", "abc"], ["replay"], ["replay", "1", "--state", "failed"], ["enqueue"],
            ["enqueue", "--language", "python"], ["run", "--payload", "a", "python", "b"],
            ["image", "prune", "--keep", "0"], ["bench", "queue", "--seconds", "0"],
            ["worker", "extra"],
        ])
    func usage(_ arguments: [String]) {
        do {
            _ = try Mayfly.parseAsRoot(arguments)
            Issue.record("accepted: \(arguments)")
        } catch { #expect(Mayfly.exitCode(for: error) == .validationFailure) }
    }

    @Test func `a table is aligned, cut and harmless; its JSON is whole`() {
        var table = Table("ID", "NAME", "LAST ERROR")
        table.add(.number(7), .string("a\u{1B}[31mb\nc"), .null)
        table.add(.number(1234), .string(String(repeating: "x", count: 100)), .bool(true))
        let lines = table.text.split(separator: "\n")
        #expect(lines.count == 3)
        #expect(lines[0].hasPrefix("ID    NAME"))
        #expect(lines[1].hasPrefix("   7  a\u{FFFD}[31mb\\nc"))
        #expect(lines[2].contains("x…  yes"))
        #expect(table.json.text.contains(#""last_error":true"#))
        #expect(table.json.text.contains(String(repeating: "x", count: 100)))
    }

    @Test func `the log keeps a guest's words on their line`() {
        #expect(LineLog.timestamp().count == 24)
        #expect(Console.harmless("a\u{1B}]0;x\u{7}b\u{202E}") == "a\u{FFFD}]0;x\u{FFFD}b\u{FFFD}")
    }
}

@Suite("An output file")
struct OutputFileTests {
    private func withDirectory(_ body: (String) async throws -> Void) async throws {
        let path = NSTemporaryDirectory() + "mayfly-files-\(UUID().uuidString)"
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(atPath: path) }
        try await body(path)
    }
    private func write(
        _ bytes: [UInt8], name: String, below directory: String, overwriting: Bool = false
    ) async throws {
        let digest = RunningDigest()
        digest.update(bytes)
        let size = try await Files.writing(
            name, below: directory, sha256: digest.finish(), overwriting: overwriting
        ) { file in
            try Files.write(bytes, to: file, named: name)
            return bytes.count
        }
        #expect(size == bytes.count)
    }

    @Test func `is written below its directory`() async throws {
        try await withDirectory { path in
            try await write([1, 2, 3], name: "a/b/c.bin", below: path)
            #expect(try Files.read("\(path)/a/b/c.bin", atMost: .kibibytes(1)) == [1, 2, 3])
        }
    }

    @Test("never leaves it", arguments: ["../x", "/x", "a/../../x", "", ".", "a//b", "a\0b"])
    func leaving(_ name: String) async throws {
        try await withDirectory { path in
            await #expect(throws: FileError.self) { try await write([1], name: name, below: path) }
        }
    }

    /// `out` may be a directory full of the caller's own work, and names are the guest's choice.
    @Test func `overwrites nothing that it finds, unless it is told to`() async throws {
        try await withDirectory { path in
            try await write([1, 2], name: "a/Makefile", below: path)
            try await write([1, 2], name: "a/Makefile", below: path)
            for bytes: [UInt8] in [[], [1], [1, 3], [1, 2, 3]] {
                await #expect(throws: FileError.self) {
                    try await write(bytes, name: "a/Makefile", below: path)
                }
            }
            #expect(try Files.read("\(path)/a/Makefile", atMost: .kibibytes(1)) == [1, 2])
            try await write([7], name: "a/Makefile", below: path, overwriting: true)
            #expect(try Files.read("\(path)/a/Makefile", atMost: .kibibytes(1)) == [7])
        }
    }

    /// To Swift a slash and an accent behind it are one character; to Linux they are a slash.
    @Test func `splits a name as Linux does`() async throws {
        try await withDirectory { path in
            let files = FileManager.default
            try files.createDirectory(atPath: "\(path)/out", withIntermediateDirectories: true)
            try files.createSymbolicLink(atPath: "\(path)/out/link", withDestinationPath: path)
            await #expect(throws: FileError.self) {
                try await write([1], name: "link/\u{301}x", below: "\(path)/out")
            }
            #expect(!files.fileExists(atPath: "\(path)/\u{301}x"))
            try await write([1], name: "new/\u{301}x", below: "\(path)/out")
            #expect(files.fileExists(atPath: "\(path)/out/new/\u{301}x"))
        }
    }

    @Test func `follows no link that stands in its way`() async throws {
        try await withDirectory { path in
            let files = FileManager.default
            try files.createDirectory(atPath: "\(path)/out", withIntermediateDirectories: true)
            try files.createSymbolicLink(atPath: "\(path)/out/link", withDestinationPath: path)
            try files.createSymbolicLink(
                atPath: "\(path)/out/file", withDestinationPath: "\(path)/target")
            await #expect(throws: FileError.self) {
                try await write([1], name: "link/x", below: "\(path)/out")
            }
            await #expect(throws: FileError.self) {
                try await write([1], name: "file", below: "\(path)/out")
            }
            #expect(!files.fileExists(atPath: "\(path)/x"))
            #expect(!files.fileExists(atPath: "\(path)/target"))
        }
    }
}
