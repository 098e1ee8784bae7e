// The head of an HTTP/1 message, read strictly: what two servers could read differently is refused
// here (RFC 9112, request smuggling).

/// A start line and its fields.
struct HTTPHead: Equatable {
    struct Field: Equatable {
        /// In lower case.
        let name: String
        /// Without white space around it; passed on byte by byte, in whatever encoding.
        let bytes: [UInt8]
        var value: String { String(decoding: bytes, as: UTF8.self) }

        init(name: String, value: some Sequence<UInt8>) {
            self.name = name
            bytes = Array(value)
        }
        init(name: String, value: String) { self.init(name: name, value: value.utf8) }
    }
    /// Text before the first CRLF.
    let startLine: String
    var fields: [Field]
    /// How long the head was, its empty line included.
    let byteCount: Int

    fileprivate static let fieldCount = 1024
    /// Each name in it is looked for among the fields.
    private static let connectionByteCount = 1024
    /// The field by which this proxy says why it refused.
    ///
    /// What it reads of others does not get by with it; within TLS that is not ended here a server
    /// can say it, of itself.
    static let reasonName = "x-mayfly-reason"

    /// Reads a head from the beginning of `bytes`; `nil` while it is incomplete.
    ///
    /// - Parameter lines: what was found in the pieces of it that came before.
    /// - Throws: ``EgressRefusal`` with `reason` as soon as no more bytes could make it right.
    init?(
        _ bytes: [UInt8], _ lines: inout HTTPHeadLines, limit: Int, reason: EgressReason
    ) throws(EgressRefusal) {
        guard try lines.find(in: bytes, limit: limit, reason) else { return nil }
        guard let first = lines.ranges.first else {
            throw EgressRefusal(reason, "the HTTP head has no start line")
        }
        guard bytes[first].allSatisfy({ $0 < 0x7F && $0 >= 0x20 }) else {
            throw EgressRefusal(reason, "the HTTP start line is not printable ASCII")
        }
        startLine = String(decoding: bytes[first], as: UTF8.self)
        byteCount = lines.byteCount
        fields = []
        for line in lines.ranges.dropFirst() {
            fields.append(try Self.field(bytes[line], reason))
        }
    }
    private static func field(
        _ line: ArraySlice<UInt8>, _ reason: EgressReason
    ) throws(EgressRefusal) -> Field {
        guard line.first != 0x20, line.first != 0x09 else {
            throw EgressRefusal(reason, "an HTTP field goes on in a second line (obs-fold)")
        }
        guard let colon = line.firstIndex(of: 0x3A), line[..<colon].allSatisfy(isTokenByte),
            colon > line.startIndex
        else { throw EgressRefusal(reason, "an HTTP field has no proper name before its colon") }
        var value = line[(colon + 1)...]
        while let byte = value.first, byte == 0x20 || byte == 0x09 { value.removeFirst() }
        while let byte = value.last, byte == 0x20 || byte == 0x09 { value.removeLast() }
        return Field(
            name: String(decoding: line[..<colon], as: UTF8.self).lowercased(), value: value)
    }
    static func isTokenByte(_ byte: UInt8) -> Bool {
        switch byte {
        case 0x30...0x39, 0x41...0x5A, 0x61...0x7A: true
        case 0x21, 0x23, 0x24, 0x25, 0x26, 0x27, 0x2A, 0x2B, 0x2D, 0x2E, 0x5E, 0x5F, 0x60, 0x7C,
            0x7E:
            true
        default: false
        }
    }
    func values(_ name: String) -> [String] { fields.filter { $0.name == name }.map(\.value) }

    /// Takes out what is meant for this hop only (RFC 9110, 7.6.1).
    ///
    /// - Throws: when `Connection` names a field that decides where the message ends or goes.
    mutating func removeHopByHop(reason: EgressReason) throws(EgressRefusal) {
        let named = values("connection")
        guard named.reduce(0, { $0 + $1.utf8.count }) <= Self.connectionByteCount else {
            throw EgressRefusal(
                reason, "the field Connection is longer than \(Self.connectionByteCount) bytes")
        }
        var hop: Set = ["connection", "keep-alive", "te", "trailer", "upgrade", "http2-settings"]
        for name in named.flatMap({ $0.split(separator: ",") }) {
            let name = name.lowercased().filter { $0 != " " && $0 != "\t" }
            guard !["host", "content-length", "transfer-encoding", "authorization"].contains(name)
            else { throw EgressRefusal(reason, "the field Connection names \(shownText(name))") }
            hop.insert(name)
        }
        fields.removeAll {
            hop.contains($0.name) || $0.name.hasPrefix("proxy-") || $0.name == Self.reasonName
        }
    }
    /// The message's own bytes again, with this start line.
    func bytes(startLine: String) -> [UInt8] { Self.bytes(startLine, fields) }

    static func bytes(_ startLine: String, _ fields: [Field]) -> [UInt8] {
        var bytes = Array("\(startLine)\r\n".utf8)
        for field in fields { bytes += Array("\(field.name): ".utf8) + field.bytes + [0x0D, 0x0A] }
        return bytes + [0x0D, 0x0A]
    }
}

/// Where a head's lines are, found as its bytes come: none of them is looked at twice.
///
/// Who sends a head byte by byte costs no more than who sends it at once.
struct HTTPHeadLines {
    /// Without their CRLF.
    private(set) var ranges: [Range<Int>] = []
    /// How much was looked at; when the head is complete, its length with the empty line.
    private(set) var byteCount = 0
    private var start = 0

    /// Goes on where it ended before, in bytes that begin with the same.
    ///
    /// - Returns: whether the head is complete.
    mutating func find(
        in bytes: [UInt8], limit: Int, _ reason: EgressReason
    ) throws(EgressRefusal) -> Bool {
        let end = min(bytes.count, limit + 1)
        while byteCount < end {
            let byte = bytes[byteCount]
            guard byte != 0x0A else {
                throw EgressRefusal(reason, "a line of the HTTP head ends without CR")
            }
            if byte == 0x0D {
                guard byteCount + 1 < end else { break }
                guard bytes[byteCount + 1] == 0x0A else {
                    throw EgressRefusal(reason, "the HTTP head has a CR without LF")
                }
                let line = start..<byteCount
                byteCount += 2
                start = byteCount
                if line.isEmpty { return true }
                guard ranges.count <= HTTPHead.fieldCount else {
                    throw EgressRefusal(
                        reason, "the HTTP head has more than \(HTTPHead.fieldCount) fields")
                }
                ranges.append(line)
                continue
            }
            guard byte == 0x09 || byte >= 0x20, byte != 0x7F else {
                throw EgressRefusal(reason, "the HTTP head has a control character")
            }
            byteCount += 1
        }
        guard end <= limit else {
            throw EgressRefusal(reason, "the HTTP head is longer than \(limit) bytes")
        }
        return false
    }
}
