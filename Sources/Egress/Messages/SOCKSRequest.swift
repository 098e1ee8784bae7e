// SOCKS version 5 (RFC 1928): no authentication, CONNECT only.

/// What a SOCKS client has said so far.
enum SOCKSRequest: Equatable {
    /// Offers of authentication; `byteCount` bytes, to be answered by version and method 0.
    struct Greeting: Equatable {
        let byteCount: Int

        /// Reads from the beginning of `bytes`; `nil` while incomplete.
        init?(_ bytes: [UInt8]) throws(EgressRefusal) {
            guard bytes.count >= 2 else { return nil }
            let end = 2 + Int(bytes[1])
            guard bytes.count >= end else { return nil }
            guard bytes[2..<end].contains(0) else {
                throw EgressRefusal(.badRequest, "this SOCKS proxy asks for no password")
            }
            byteCount = end
        }
    }
    struct Connect: Equatable {
        let destination: EgressDestination
        let byteCount: Int

        /// Reads from the beginning of `bytes`; `nil` while incomplete.
        init?(_ bytes: [UInt8]) throws(EgressRefusal) {
            guard bytes.count >= 5 else { return nil }
            guard bytes[0] == 5, bytes[2] == 0 else {
                throw EgressRefusal(.badRequest, "that is no SOCKS5 request")
            }
            guard bytes[1] == 1 else {
                throw EgressRefusal(.badRequest, "the only SOCKS command here is CONNECT")
            }
            let (start, length) =
                switch bytes[3] {
                case 1: (4, 4)
                case 3: (5, Int(bytes[4]))
                case 4: (4, 16)
                default: throw EgressRefusal(.badRequest, "SOCKS knows no such kind of address")
                }
            let end = start + length
            guard bytes.count >= end + 2 else { return nil }
            byteCount = end + 2
            let port = UInt16(bytes[end]) << 8 | UInt16(bytes[end + 1])
            guard port > 0 else { throw EgressRefusal(.badRequest, "there is no port 0") }
            destination = EgressDestination(
                host: try Self.host(bytes[start..<end], isName: bytes[3] == 3), port: port)
        }
        private static func host(
            _ bytes: ArraySlice<UInt8>, isName: Bool
        ) throws(EgressRefusal) -> EgressHost {
            if !isName, let address = IPAddress(bytes: bytes) { return .address(address) }
            // Bytes that are no UTF-8 become something that is no name.
            let text = String(decoding: bytes, as: UTF8.self)
            do throws(EgressRuleError) { return try EgressHost(text) } catch {
                throw EgressRefusal(.badHost, error.description, asked: shownText(text))
            }
        }
    }
    /// The reply code for a refusal.
    static func code(of reason: EgressReason) -> UInt8 {
        switch reason {
        case .badRequest: 7
        case .badHost: 8
        case .nameNotFound, .nameFailed: 4
        case .connectFailed, .connectionLost: 5
        case .timeLimit, .idleLimit: 6
        default: 2
        }
    }
    /// A reply without an address: no client needs ours.
    static func reply(_ code: UInt8) -> [UInt8] { [5, code, 0, 1, 0, 0, 0, 0, 0, 0] }
}
