// Reads worker.conf: one `dotted.key = value` a line, `#` comments, nothing else. Called by
// Configuration; it knows the form of a line, never which keys exist or what they mean.

/// A configuration that cannot be used: where, what, and what to write instead.
///
/// Exit code 2.
struct ConfigurationError: Error, CustomStringConvertible {
    let description: String
    init(_ description: String) { self.description = Self.line(description) }

    /// Everything that is wrong, a line each; so many that nobody reads them all are cut.
    init(_ problems: [String]) {
        let more = problems.count - Self.problemsMax
        description =
            problems.prefix(Self.problemsMax).map(Self.line).joined(separator: "\n")
            + (more > 0 ? "\n… and \(more) more" : "")
    }
    private static let problemsMax = 50
    /// A sentence quotes what somebody wrote; it stays one line, and harmless to a terminal.
    private static func line(_ sentence: String) -> String {
        Console.harmless(sentence).split { $0.isNewline || $0 == "\t" }.joined(separator: " ")
    }
}

/// A file's settings in order, each with its place.
struct ConfFile: Sendable {
    /// A value as written; its meaning depends on the key.
    enum Raw: Sendable, Equatable {
        /// Between double quotes, escapes resolved.
        case quoted(String)
        /// A number, word, duration or size.
        case bare(String)
    }
    /// One line that sets something.
    struct Entry: Sendable {
        var line: Int
        var key: String
        var value: Raw
        /// `file:line:column` of the key and of the value, from 1.
        var keyPlace: String
        var valuePlace: String
    }

    var entries: [Entry] = []
    /// The lines that are none, as sentences with `file:line:column`.
    var problems: [(line: Int, sentence: String)] = []

    static let byteCountMax = 1 << 20  // a manual with every key is 10 KiB; more is another file

    /// Reads every line; what is wrong with one does not hide what is wrong with the next.
    ///
    /// - Throws: ``ConfigurationError`` for a file that is too large to be a worker.conf.
    init(_ text: String, name: String) throws(ConfigurationError) {
        guard text.utf8.count <= Self.byteCountMax else {
            throw ConfigurationError("\(name): larger than 1 MiB; this is not a worker.conf")
        }
        let lines = text.split(omittingEmptySubsequences: false) { $0 == "\n" || $0 == "\r\n" }
        var places: [String: Int] = [:]
        for (index, line) in lines.enumerated() {
            do throws(ConfigurationError) {
                var reader = LineReader(line: line, number: index + 1, file: name)
                guard let entry = try reader.entry() else { continue }
                if let earlier = places[entry.key] {
                    throw ConfigurationError(
                        "\(entry.keyPlace): \(entry.key) is set a second time (first in line "
                            + "\(earlier)); keep one of them")
                }
                places[entry.key] = entry.line
                entries.append(entry)
            } catch { problems.append((index + 1, error.description)) }
        }
    }
}

/// Walks through one line; columns count characters from 1.
private struct LineReader {
    private let characters: [Character]
    private let number: Int
    private let file: String
    private var index = 0

    init(line: Substring, number: Int, file: String) {
        characters = Array(line)
        self.number = number
        self.file = file
    }

    private var next: Character? { index < characters.count ? characters[index] : nil }
    private func at(_ index: Int) -> String { "\(file):\(number):\(index + 1)" }

    mutating func entry() throws(ConfigurationError) -> ConfFile.Entry? {
        skipBlanks()
        guard let first = next, first != "#" else { return nil }
        let keyStart = index
        while let character = next, isKeyCharacter(character) { index += 1 }
        let key = String(characters[keyStart..<index])
        skipBlanks()
        guard !key.isEmpty, next == "=" else {
            throw ConfigurationError(
                "\(at(index)): expected `key = value`, found \(shown(next)); "
                    + "a comment starts with #")
        }
        index += 1
        skipBlanks()
        let valueStart = index
        let value = try value(of: key)
        skipBlanks()
        if let rest = next, rest != "#" {
            throw ConfigurationError(
                "\(at(index)): \(shown(rest)) after the value of \(key); "
                    + "one setting a line, texts in double quotes")
        }
        return ConfFile.Entry(
            line: number, key: key, value: value, keyPlace: at(keyStart), valuePlace: at(valueStart)
        )
    }

    private mutating func value(of key: String) throws(ConfigurationError) -> ConfFile.Raw {
        if next == "\"" { return .quoted(try quoted(key)) }
        let start = index
        while let character = next, character != "#", character != "\"", !isBlank(character) {
            index += 1
        }
        guard index > start else {
            throw ConfigurationError(
                "\(at(start)): \(key) has no value; put # before the line to keep the default")
        }
        return .bare(String(characters[start..<index]))
    }

    private mutating func quoted(_ key: String) throws(ConfigurationError) -> String {
        let start = index
        index += 1
        var text = ""
        while let character = next {
            index += 1
            switch character {
            case "\"": return text
            case "\\":
                guard let escaped = next, escaped == "\"" || escaped == "\\" else {
                    throw ConfigurationError(
                        "\(at(index - 1)): only \\\" and \\\\ are escapes in the text of \(key)")
                }
                text.append(escaped)
                index += 1
            default: text.append(character)
            }
        }
        throw ConfigurationError("\(at(start)): the text of \(key) has no closing quote")
    }

    private mutating func skipBlanks() {
        while let character = next, isBlank(character) { index += 1 }
    }
    private func isBlank(_ character: Character) -> Bool { character == " " || character == "\t" }
    private func isKeyCharacter(_ character: Character) -> Bool {
        character.isASCII && (character.isLetter || character.isNumber || "._-".contains(character))
    }
    private func shown(_ character: Character?) -> String {
        guard let character else { return "the end of the line" }
        let scalar = character.unicodeScalars.first?.value ?? 0
        return scalar < 0x20 || scalar == 0x7F ? "a control character" : "`\(character)`"
    }
}
