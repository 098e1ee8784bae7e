// A line between the chunks of an HTTP/1.1 body. Requests and responses are read by the same rule,
// for what two readers see differently is how one message becomes two.

/// A line that comes in pieces; empty again when it was taken.
struct ChunkLine {
    /// Without its CRLF, once it is whole.
    private(set) var bytes: [UInt8] = []

    var isEmpty: Bool { bytes.isEmpty }

    /// Completes the line from `place` on; `false` when more must come.
    ///
    /// - Parameter limit: of its bytes before the last one.
    /// - Throws: `malformed` when it is longer, or ends without CR.
    mutating func take(
        _ more: [UInt8], _ place: inout Int, atMost limit: Int, malformed: EgressRefusal
    ) throws(EgressRefusal) -> Bool {
        while place < more.count {
            bytes.append(more[place])
            place += 1
            if bytes.last == 0x0A {
                guard bytes.count >= 2, bytes[bytes.count - 2] == 0x0D else { throw malformed }
                bytes.removeLast(2)
                return true
            }
            guard bytes.count <= limit else { throw malformed }
        }
        return false
    }
    mutating func clear() { bytes = [] }

    /// Of the chunk that follows, from hexadecimal digits and nothing else; `nil`: it is no size.
    ///
    /// What an extension means, two servers may see differently.
    var size: UInt64? {
        let isHexadecimal = bytes.allSatisfy {
            $0 < 0x80 && Character(Unicode.Scalar($0)).isHexDigit
        }
        guard (1...12).contains(bytes.count), isHexadecimal else { return nil }
        return UInt64(String(decoding: bytes, as: UTF8.self), radix: 16)
    }
}
