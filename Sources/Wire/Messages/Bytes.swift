// Reading and writing the bodies of control messages. The reader checks every bound and never
// allocates what a length only claims; the writer is a few appends. Data payloads do not pass here.

/// A cursor over one received body.
struct ByteReader {
    private let bytes: [UInt8]
    private var offset = 0

    init(_ bytes: [UInt8]) { self.bytes = bytes }

    private mutating func advance(_ count: Int) throws(WireError) -> Int {
        let start = offset
        guard count <= bytes.count - start else { throw .truncated }
        offset = start + count
        return start
    }
    mutating func u8() throws(WireError) -> UInt8 { bytes[try advance(1)] }
    mutating func u16() throws(WireError) -> UInt16 {
        let start = try advance(2)
        return UInt16(bytes[start]) << 8 | UInt16(bytes[start + 1])
    }
    mutating func u32() throws(WireError) -> UInt32 {
        let start = try advance(4)
        var value: UInt32 = 0
        for index in start..<start + 4 { value = value << 8 | UInt32(bytes[index]) }
        return value
    }
    mutating func u64() throws(WireError) -> UInt64 {
        let high = try u32()
        let low = try u32()
        return UInt64(high) << 32 | UInt64(low)
    }
    mutating func i32() throws(WireError) -> Int32 { Int32(bitPattern: try u32()) }
    mutating func i64() throws(WireError) -> Int64 { Int64(bitPattern: try u64()) }

    /// Nanoseconds since 1970; no machine's clock stands before that.
    mutating func clock() throws(WireError) -> Int64 {
        let value = try i64()
        guard value >= 0 else { throw .invalidValue("clock") }
        return value
    }
    /// A byte that is 0 or 1 and nothing else.
    mutating func flag(_ field: String) throws(WireError) -> Bool {
        switch try u8() {
        case 0: return false
        case 1: return true
        default: throw .invalidValue(field)
        }
    }
    /// Exactly `count` bytes.
    mutating func fixed(_ count: Int) throws(WireError) -> [UInt8] {
        let start = try advance(count)
        return [UInt8](bytes[start..<start + count])
    }
    mutating func zeros(_ count: Int) throws(WireError) {
        let start = try advance(count)
        for index in start..<start + count where bytes[index] != 0 { throw .reservedNotZero }
    }
    /// A u16 length and that much strict UTF-8, without zero bytes: it may become a C string.
    mutating func text(
        _ field: String, atMost limit: Int = Limits.payloadByteCount
    ) throws(WireError) -> String {
        let count = Int(try u16())
        guard count <= limit else { throw .tooMany("bytes in '\(field)'") }
        let start = try advance(count)
        let span = bytes.span.extracting(start..<start + count)
        for index in span.indices where span[index] == 0 { throw .invalidText }
        guard let utf8 = try? UTF8Span(validating: span) else { throw .invalidText }
        return String(copying: utf8)
    }
    /// A u16 count, refused before anything is read or reserved for it.
    mutating func count(_ things: String, atMost limit: Int) throws(WireError) -> Int {
        let count = Int(try u16())
        guard count <= limit else { throw .tooMany(things) }
        return count
    }
    func end() throws(WireError) {
        guard offset == bytes.count else { throw .trailingBytes }
    }
}

extension [UInt8] {
    mutating func append(u16 value: UInt16) {
        append(UInt8(truncatingIfNeeded: value >> 8))
        append(UInt8(truncatingIfNeeded: value))
    }
    mutating func append(u32 value: UInt32) {
        append(u16: UInt16(truncatingIfNeeded: value >> 16))
        append(u16: UInt16(truncatingIfNeeded: value))
    }
    mutating func append(u64 value: UInt64) {
        append(u32: UInt32(truncatingIfNeeded: value >> 32))
        append(u32: UInt32(truncatingIfNeeded: value))
    }
    mutating func append(i32 value: Int32) { append(u32: UInt32(bitPattern: value)) }
    mutating func append(i64 value: Int64) { append(u64: UInt64(bitPattern: value)) }
    mutating func append(flag value: Bool) { append(value ? 1 : 0) }

    /// Exactly `count` bytes, or the message cannot be sent.
    mutating func append(
        fixed bytes: [UInt8], _ count: Int, _ field: String
    ) throws(WireError) {
        guard bytes.count == count else { throw .invalidValue(field) }
        append(contentsOf: bytes)
    }
    mutating func append(
        text: String, _ field: String, atMost limit: Int = Limits.payloadByteCount
    ) throws(WireError) {
        let utf8 = text.utf8
        guard utf8.count <= limit, let count = UInt16(exactly: utf8.count) else {
            throw .tooMany("bytes in '\(field)'")
        }
        append(u16: count)
        for byte in utf8 {
            guard byte != 0 else { throw .invalidText }
            append(byte)
        }
    }
    mutating func append(count: Int, _ things: String, atMost limit: Int) throws(WireError) {
        guard count <= limit, let short = UInt16(exactly: count) else { throw .tooMany(things) }
        append(u16: short)
    }
}
