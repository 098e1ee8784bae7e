// Texts as PostgreSQL can store them. Used for whatever a program printed.

/// PostgreSQL's text and jsonb cannot hold the character zero, which programs do print.
enum Storable {
    static func text(_ text: String) -> String {
        guard text.utf8.contains(0) else { return text }
        return String(text.unicodeScalars.map { $0 == "\0" ? "\u{FFFD}" : Character($0) })
    }

    /// JSON text in which `\u0000`, and lone halves of surrogate pairs, have become U+FFFD.
    static func json(_ json: String) -> String {
        guard json.utf8.contains(UInt8(ascii: "\\")) else { return text(json) }
        var bytes = Array(text(json).utf8)
        var index = 0
        while index < bytes.count {
            guard bytes[index] == UInt8(ascii: "\\") else {
                index += 1
                continue
            }
            guard let unit = escapedUnit(bytes, at: index) else {
                index += 2  // \n, \\, \" and the like
                continue
            }
            let next = escapedUnit(bytes, at: index + 6)
            switch unit {
            case 0xD800...0xDBFF where next.map { (0xDC00...0xDFFF).contains($0) } ?? false:
                index += 12
            case 0, 0xD800...0xDFFF:
                bytes.replaceSubrange(index..<index + 6, with: Array("\\ufffd".utf8))
                index += 6
            default: index += 6
            }
        }
        return String(decoding: bytes, as: UTF8.self)
    }

    /// The number of the escape \uXXXX that begins at `index`.
    private static func escapedUnit(_ bytes: [UInt8], at index: Int) -> UInt16? {
        guard index + 6 <= bytes.count, bytes[index] == UInt8(ascii: "\\"),
            bytes[index + 1] == UInt8(ascii: "u")
        else { return nil }
        return UInt16(String(decoding: bytes[index + 2..<index + 6], as: UTF8.self), radix: 16)
    }
}
