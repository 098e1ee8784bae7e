// JSON as strangers bring it: strict, bounded, never trapping. Called by the kinds, which turn a
// payload into a recipe, and by whoever talks to a hypervisor. Numbers stay text, so that nothing
// is rounded.

/// A JSON value; members keep their order, and no two have one name.
package indirect enum JSON: Sendable, Equatable {
    package struct Member: Sendable, Equatable {
        package var name: String
        package var value: JSON
        package init(name: String, value: JSON) {
            self.name = name
            self.value = value
        }
    }
    case null
    case bool(Bool)
    case number(String)
    case string(String)
    case array([JSON])
    case object([Member])

    /// The word for an error message.
    package var kind: String {
        switch self {
        case .null: "null"
        case .bool: "a boolean"
        case .number: "a number"
        case .string: "a string"
        case .array: "an array"
        case .object: "an object"
        }
    }
}

/// Why a text is no JSON, and where.
package struct JSONError: Error, CustomStringConvertible {
    package var sentence: String
    package var offset: Int
    package var description: String { "\(sentence) at byte \(offset + 1)" }
}

extension JSON {
    /// Bounds on what a stranger may make the worker hold.
    package enum Limits {
        /// 64 MiB of input in base64, and room for the source.
        package static let byteCount = 128 << 20
        /// A payload needs 4; recursion must stay far from the stack's end.
        package static let depth = 64
        /// 64 bytes each at most: 13 MB.
        package static let valueCount = 200_000
    }

    package init(parsing text: String) throws(JSONError) {
        try self.init(parsing: Array(text.utf8))
    }

    package init(parsing bytes: [UInt8]) throws(JSONError) {
        guard bytes.count <= Limits.byteCount else {
            throw JSONError(sentence: "longer than 128 MiB", offset: Limits.byteCount)
        }
        var parser = JSONParser(bytes: bytes)
        self = try parser.document()
    }
}

private struct JSONParser {
    let bytes: [UInt8]
    var index = 0
    var valueCount = 0

    init(bytes: [UInt8]) { self.bytes = bytes }

    private var next: UInt8? { index < bytes.count ? bytes[index] : nil }
    private func error(_ sentence: String) -> JSONError {
        JSONError(sentence: sentence, offset: index)
    }

    mutating func document() throws(JSONError) -> JSON {
        let value = try value(depth: 0)
        skipBlanks()
        guard next == nil else { throw error("something follows the value") }
        return value
    }

    private mutating func skipBlanks() {
        while let byte = next, byte == 0x20 || byte == 0x0A || byte == 0x0D || byte == 0x09 {
            index += 1
        }
    }

    private mutating func value(depth: Int) throws(JSONError) -> JSON {
        guard depth < JSON.Limits.depth else {
            throw error("nested deeper than \(JSON.Limits.depth) levels")
        }
        valueCount += 1
        guard valueCount <= JSON.Limits.valueCount else {
            throw error("more than \(JSON.Limits.valueCount) values")
        }
        skipBlanks()
        switch next {
        case UInt8(ascii: "{"): return try object(depth: depth)
        case UInt8(ascii: "["): return try array(depth: depth)
        case UInt8(ascii: "\""): return .string(try string())
        case UInt8(ascii: "t"): return try word("true", .bool(true))
        case UInt8(ascii: "f"): return try word("false", .bool(false))
        case UInt8(ascii: "n"): return try word("null", .null)
        case nil: throw error("the text ends where a value should be")
        case let byte? where byte == UInt8(ascii: "-") || (48...57).contains(byte):
            return try number()
        default: throw error("no JSON value starts like this")
        }
    }

    private mutating func word(_ word: String, _ value: JSON) throws(JSONError) -> JSON {
        for byte in word.utf8 {
            guard next == byte else { throw error("expected \(word)") }
            index += 1
        }
        return value
    }

    private mutating func object(depth: Int) throws(JSONError) -> JSON {
        index += 1
        var members: [JSON.Member] = []
        var names: Set<[UInt8]> = []
        skipBlanks()
        if next == UInt8(ascii: "}") {
            index += 1
            return .object([])
        }
        while true {
            skipBlanks()
            guard next == UInt8(ascii: "\"") else { throw error("expected a member's name") }
            let name = try string()
            // As bytes: two names that differ in Unicode form only are two names.
            guard names.insert(Array(name.utf8)).inserted else {
                throw error("the name \"\(JSON.shortened(name))\" stands twice in one object")
            }
            skipBlanks()
            guard next == UInt8(ascii: ":") else { throw error("expected `:`") }
            index += 1
            members.append(JSON.Member(name: name, value: try value(depth: depth + 1)))
            skipBlanks()
            switch next {
            case UInt8(ascii: ","): index += 1
            case UInt8(ascii: "}"):
                index += 1
                return .object(members)
            default: throw error("expected `,` or `}`")
            }
        }
    }

    private mutating func array(depth: Int) throws(JSONError) -> JSON {
        index += 1
        var values: [JSON] = []
        skipBlanks()
        if next == UInt8(ascii: "]") {
            index += 1
            return .array([])
        }
        while true {
            values.append(try value(depth: depth + 1))
            skipBlanks()
            switch next {
            case UInt8(ascii: ","): index += 1
            case UInt8(ascii: "]"):
                index += 1
                return .array(values)
            default: throw error("expected `,` or `]`")
            }
        }
    }

    private mutating func number() throws(JSONError) -> JSON {
        let start = index
        if next == UInt8(ascii: "-") { index += 1 }
        if next == UInt8(ascii: "0") { index += 1 } else { try digits() }
        if next == UInt8(ascii: ".") {
            index += 1
            try digits()
        }
        if next == UInt8(ascii: "e") || next == UInt8(ascii: "E") {
            index += 1
            if next == UInt8(ascii: "+") || next == UInt8(ascii: "-") { index += 1 }
            try digits()
        }
        guard index - start <= 1024 else { throw error("a number of more than 1024 digits") }
        return .number(String(decoding: bytes[start..<index], as: UTF8.self))
    }

    private mutating func digits() throws(JSONError) {
        guard let first = next, (48...57).contains(first) else { throw error("expected a digit") }
        while let byte = next, (48...57).contains(byte) { index += 1 }
    }

    // MARK: Strings

    private mutating func string() throws(JSONError) -> String {
        index += 1
        let start = index
        while let byte = next, byte != UInt8(ascii: "\""), byte != UInt8(ascii: "\\"), byte >= 0x20
        {
            index += 1
        }
        if next == UInt8(ascii: "\"") {  // no escape: one copy
            let text = try checked(bytes[start..<index])
            index += 1
            return text
        }
        var collected = Array(bytes[start..<index])
        while let byte = next {
            switch byte {
            case UInt8(ascii: "\""):
                let text = try checked(collected[...])
                index += 1
                return text
            case UInt8(ascii: "\\"):
                index += 1
                try escape(into: &collected)
            case 0..<0x20: throw error("a control character inside a text; write it as \\u00XX")
            default:
                collected.append(byte)
                index += 1
            }
        }
        throw error("a text without its closing quote")
    }

    private func checked(_ slice: ArraySlice<UInt8>) throws(JSONError) -> String {
        guard let text = String(validating: slice, as: UTF8.self) else {
            throw error("a text that is not UTF-8")
        }
        return text
    }

    private mutating func escape(into collected: inout [UInt8]) throws(JSONError) {
        guard let byte = next else { throw error("a text without its closing quote") }
        index += 1
        switch byte {
        case UInt8(ascii: "\""), UInt8(ascii: "\\"), UInt8(ascii: "/"): collected.append(byte)
        case UInt8(ascii: "b"): collected.append(0x08)
        case UInt8(ascii: "f"): collected.append(0x0C)
        case UInt8(ascii: "n"): collected.append(0x0A)
        case UInt8(ascii: "r"): collected.append(0x0D)
        case UInt8(ascii: "t"): collected.append(0x09)
        case UInt8(ascii: "u"):
            var value = try fourDigits()
            if (0xD800...0xDBFF).contains(value) {
                guard next == UInt8(ascii: "\\") else { throw error("half of a surrogate pair") }
                index += 1
                guard next == UInt8(ascii: "u") else { throw error("half of a surrogate pair") }
                index += 1
                let low = try fourDigits()
                guard (0xDC00...0xDFFF).contains(low) else {
                    throw error("half of a surrogate pair")
                }
                value = 0x10000 + (value - 0xD800) << 10 + (low - 0xDC00)
            }
            guard let scalar = Unicode.Scalar(value) else {
                throw error("half of a surrogate pair")
            }
            collected.append(contentsOf: Array(Character(scalar).utf8))
        default: throw error("an unknown escape")
        }
    }

    private mutating func fourDigits() throws(JSONError) -> UInt32 {
        var value: UInt32 = 0
        for _ in 0..<4 {
            guard let byte = next else { throw error("an unfinished \\u escape") }
            switch byte {
            case 48...57: value = value << 4 | UInt32(byte - 48)
            case 65...70: value = value << 4 | UInt32(byte - 55)
            case 97...102: value = value << 4 | UInt32(byte - 87)
            default: throw error("an unfinished \\u escape")
            }
            index += 1
        }
        return value
    }
}

// MARK: Writing

extension JSON {
    package static func number(_ value: Int) -> JSON { .number("\(value)") }
    /// Finite numbers only; anything else is null.
    package static func number(_ value: Double) -> JSON {
        value.isFinite ? .number("\(value)") : .null
    }
    package static func optional(_ text: String?) -> JSON { text.map { .string($0) } ?? .null }
    package static func object(_ members: KeyValuePairs<String, JSON>) -> JSON {
        .object(members.map { Member(name: $0.key, value: $0.value) })
    }

    /// Compact JSON text.
    package var text: String {
        var bytes: [UInt8] = []
        write(into: &bytes)
        return String(decoding: bytes, as: UTF8.self)
    }

    private func write(into bytes: inout [UInt8]) {
        switch self {
        case .null: bytes += "null".utf8
        case .bool(let value): bytes += (value ? "true" : "false").utf8
        case .number(let text): bytes += text.utf8
        case .string(let text): Self.write(text, into: &bytes)
        case .array(let values):
            bytes.append(UInt8(ascii: "["))
            for (index, value) in values.enumerated() {
                if index > 0 { bytes.append(UInt8(ascii: ",")) }
                value.write(into: &bytes)
            }
            bytes.append(UInt8(ascii: "]"))
        case .object(let members):
            bytes.append(UInt8(ascii: "{"))
            for (index, member) in members.enumerated() {
                if index > 0 { bytes.append(UInt8(ascii: ",")) }
                Self.write(member.name, into: &bytes)
                bytes.append(UInt8(ascii: ":"))
                member.value.write(into: &bytes)
            }
            bytes.append(UInt8(ascii: "}"))
        }
    }

    private static func write(_ text: String, into bytes: inout [UInt8]) {
        let digits = Array("0123456789abcdef".utf8)
        bytes.append(UInt8(ascii: "\""))
        for byte in text.utf8 {
            switch byte {
            case UInt8(ascii: "\""): bytes += #"\""#.utf8
            case UInt8(ascii: "\\"): bytes += #"\\"#.utf8
            case 0x0A: bytes += #"\n"#.utf8
            case 0x0D: bytes += #"\r"#.utf8
            case 0x09: bytes += #"\t"#.utf8
            case 0..<0x20:
                bytes += #"\u00"#.utf8
                bytes.append(digits[Int(byte >> 4)])
                bytes.append(digits[Int(byte & 15)])
            default: bytes.append(byte)
            }
        }
        bytes.append(UInt8(ascii: "\""))
    }

    /// For messages: at most 60 characters, control characters made visible.
    package static func shortened(_ text: String) -> String {
        var result = ""
        for scalar in text.unicodeScalars.prefix(60) {
            let isControl = scalar.value < 0x20 || (0x7F...0x9F).contains(scalar.value)
            result.unicodeScalars.append(isControl ? "\u{FFFD}" : scalar)
        }
        return text.unicodeScalars.count > 60 ? result + "…" : result
    }
}

extension JSON {
    /// The member of that name; `nil` for anything that is no object.
    package subscript(name: String) -> JSON? {
        guard case .object(let members) = self else { return nil }
        return members.first { $0.name == name }?.value
    }
    package var string: String? { if case .string(let text) = self { text } else { nil } }
    package var int: Int? { if case .number(let text) = self { Int(text) } else { nil } }
}

// MARK: As literals of a program; names that appear twice are its mistake.

extension JSON: ExpressibleByStringLiteral, ExpressibleByBooleanLiteral,
    ExpressibleByIntegerLiteral, ExpressibleByArrayLiteral, ExpressibleByDictionaryLiteral
{
    package init(stringLiteral text: String) { self = .string(text) }
    package init(booleanLiteral value: Bool) { self = .bool(value) }
    package init(integerLiteral value: Int) { self = .number(value) }
    package init(arrayLiteral values: JSON...) { self = .array(values) }
    package init(dictionaryLiteral members: (String, JSON)...) {
        self = .object(members.map { Member(name: $0.0, value: $0.1) })
    }
}
