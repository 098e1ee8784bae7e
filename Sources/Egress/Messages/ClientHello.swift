// The first message of a TLS client (RFC 8446, 4.1.2; RFC 6066, 3), as far as it says whom the
// client means to speak to. Reads what comes in any pieces and records, up to its limit.

/// Server name and ECH of a ClientHello.
struct ClientHello: Equatable {
    /// In lower case; `nil` when there is none.
    let serverName: String?
    /// There is an extension encrypted_client_hello, real or GREASE: by design they look alike.
    let hasEncryptedHello: Bool
    /// TLS records that it came in, up to the end of the last one's.
    let byteCount: Int

    /// Reads from the beginning of `bytes`, where a record starts; `nil` while it is incomplete.
    ///
    /// - Throws: ``EgressRefusal`` with ``EgressReason/notTLS``.
    init?(_ bytes: [UInt8], limit: Int) throws(EgressRefusal) {
        var message: [UInt8] = []
        var place = 0
        while true {
            guard place + 5 <= bytes.count else {
                if let first = bytes[safe: place], first != 22 { throw Self.notTLS }
                if let major = bytes[safe: place + 1], major != 3 { throw Self.notTLS }
                guard bytes.count <= limit else { throw Self.tooLong(limit) }
                return nil
            }
            let length = Int(bytes[place + 3]) << 8 | Int(bytes[place + 4])
            guard bytes[place] == 22, bytes[place + 1] == 3, (1...16384).contains(length) else {
                throw Self.notTLS
            }
            let available = bytes[(place + 5)...].prefix(length)
            message += available
            if let kind = message.first, kind != 1 { throw Self.notTLS }
            if message.count >= 4 {
                let end =
                    4 + (Int(message[1]) << 16 | Int(message[2]) << 8 | Int(message[3]))
                guard end <= limit else { throw Self.tooLong(limit) }
                if message.count >= end {
                    // A second message in the same record would be one that nobody has read.
                    guard message.count == end, available.count == length else { throw Self.notTLS }
                    byteCount = place + 5 + length
                    break
                }
            }
            guard bytes.count <= limit else { throw Self.tooLong(limit) }
            guard available.count == length else { return nil }
            place += 5 + length
        }
        var body = Reader(message[4...])
        guard body.take(2) != nil, body.take(32) != nil,  // version, random
            body.vector(lengthBytes: 1) != nil,  // session
            body.vector(lengthBytes: 2) != nil,  // cipher suites
            body.vector(lengthBytes: 1) != nil  // compression
        else { throw Self.notTLS }
        (serverName, hasEncryptedHello) = try Self.extensions(&body)
    }
    private static func extensions(
        _ body: inout Reader
    ) throws(EgressRefusal) -> (String?, Bool) {
        if body.isAtEnd { return (nil, false) }
        guard var list = body.vector(lengthBytes: 2).map(Reader.init), body.isAtEnd else {
            throw notTLS
        }
        var seen: Set<UInt16> = []
        var name: String?
        while !list.isAtEnd {
            guard let type = list.number(2), let content = list.vector(lengthBytes: 2),
                seen.insert(UInt16(type)).inserted
            else { throw notTLS }
            if type == 0 { name = try serverName(content) }
        }
        return (name, seen.contains(0xFE0D))
    }
    /// Exactly one name, of the kind host_name: which of two a server would take is not known.
    private static func serverName(_ content: ArraySlice<UInt8>) throws(EgressRefusal) -> String {
        var outer = Reader(content)
        guard var list = outer.vector(lengthBytes: 2).map(Reader.init), outer.isAtEnd,
            list.number(1) == 0, let name = list.vector(lengthBytes: 2), list.isAtEnd,
            !name.isEmpty, name.allSatisfy({ $0 > 0x20 && $0 < 0x7F })
        else { throw notTLS }
        return String(decoding: name, as: UTF8.self).lowercased()
    }
    private static let notTLS = EgressRefusal(
        .notTLS, "what came is no proper TLS ClientHello, which is needed here")
    private static func tooLong(_ limit: Int) -> EgressRefusal {
        EgressRefusal(.notTLS, "the TLS ClientHello is longer than \(limit) bytes")
    }

    /// - Throws: ``EgressRefusal`` unless the hello means `host`.
    func check(host: EgressHost, policy: EgressPolicy) throws(EgressRefusal) {
        if hasEncryptedHello, policy.encryptedHello == .refused {
            throw EgressRefusal(
                .encryptedHello, "the TLS handshake with \(host) hides its server name (ECH)")
        }
        switch (host, serverName) {
        case (.address, nil): return
        case (.name(let wanted), let given?) where given == wanted: return
        case (_, nil):
            throw EgressRefusal(
                .sniMissing, "the TLS handshake with \(host) has no server name (SNI)")
        case (_, let given?):
            throw EgressRefusal(
                .sniMismatch,
                "the TLS handshake is with \(shownText(given)), but the connection with \(host)")
        }
    }
}

/// Reads bytes forward, and says `nil` where there are too few.
struct Reader {
    private var rest: ArraySlice<UInt8>
    init(_ bytes: ArraySlice<UInt8>) { rest = bytes }
    var isAtEnd: Bool { rest.isEmpty }

    mutating func take(_ count: Int) -> ArraySlice<UInt8>? {
        guard rest.count >= count else { return nil }
        defer { rest = rest.dropFirst(count) }
        return rest.prefix(count)
    }
    /// A number of 1 to 3 bytes in network order.
    mutating func number(_ count: Int) -> Int? {
        take(count).map { $0.reduce(0) { $0 << 8 | Int($1) } }
    }
    mutating func vector(lengthBytes: Int) -> ArraySlice<UInt8>? {
        number(lengthBytes).flatMap { take($0) }
    }
}

extension Array where Element == UInt8 {
    fileprivate subscript(safe index: Int) -> UInt8? {
        index < count ? self[index] : nil
    }
}
