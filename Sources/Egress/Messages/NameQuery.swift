// DNS messages of a guest (RFC 1035, 4): one question in, one answer out. Nothing of what came is
// passed on; an answer is made of the question as it was read.

/// A question for a name.
struct NameQuery: Equatable {
    enum Reading: Equatable {
        case query(NameQuery)
        /// Not to be asked further: the answer is this code.
        case answer([UInt8])
        /// Not even answerable.
        case nothing
    }
    enum Code: UInt8 {
        case found = 0
        case malformed = 1
        case failed = 2
        case noSuchName = 3
        case notImplemented = 4
        case refused = 5
    }
    private let id: [UInt8]
    private let isRecursionDesired: Bool
    /// As it came: clients compare letters' cases (0x20).
    private let question: [UInt8]
    /// In lower case, without its last dot; what is no host's name is still a text.
    let name: String
    /// 1 for A, 28 for AAAA.
    let type: UInt16

    private static let timeToLive: UInt8 = 5
    private static let answerCount = 16

    static func read(_ message: [UInt8]) -> Reading {
        guard message.count >= 12, message[2] & 0x80 == 0 else { return .nothing }
        func error(_ code: Code) -> Reading {
            .answer([
                message[0], message[1], 0x80 | message[2] & 0x79, 0x80 | code.rawValue, 0, 0, 0, 0,
                0, 0, 0, 0,
            ])
        }
        guard message[2] & 0x78 == 0 else { return error(.notImplemented) }
        var reader = Reader(message[4...])
        // One question, no answers, no authorities; what is additional (EDNS) is not looked at.
        guard reader.number(2) == 1, reader.number(2) == 0, reader.number(2) == 0,
            let additional = reader.number(2), additional <= 2
        else { return error(.malformed) }
        var labels: [String] = []
        var length = 1
        while true {
            guard let count = reader.number(1), count <= 63 else { return error(.malformed) }
            if count == 0 { break }
            length += count + 1
            guard let label = reader.take(count), length <= 255 else { return error(.malformed) }
            // Bytes that no host's name has make it a name that is not allowed.
            labels.append(shownLabel(label))
        }
        let end = 12 + length + 4
        guard let type = reader.number(2), let kind = reader.number(2),
            reader.isAtEnd == (additional == 0), end <= message.count
        else { return error(.malformed) }
        guard kind == 1 else { return error(.refused) }
        return .query(
            NameQuery(
                id: Array(message[0..<2]), isRecursionDesired: message[2] & 1 == 1,
                question: Array(message[12..<end]),
                name: labels.joined(separator: "."), type: UInt16(type)))
    }
    private static func shownLabel(_ label: ArraySlice<UInt8>) -> String {
        let bytes = label.map { byte in
            let lower = (0x41...0x5A).contains(byte) ? byte | 0x20 : byte
            let isPlain =
                (0x61...0x7A).contains(lower) || (0x30...0x39).contains(lower) || lower == 0x2D
                || lower == 0x5F
            return isPlain ? lower : 0x3F
        }
        return String(decoding: bytes, as: UTF8.self)
    }

    /// The answer, with those of `addresses` that are of the asked type.
    func answer(_ code: Code, addresses: [IPAddress] = []) -> [UInt8] {
        let size = type == 1 ? 4 : type == 28 ? 16 : 0
        let fitting = addresses.filter { $0.bytes.count == size }.prefix(Self.answerCount)
        var message = id
        message += [0x80 | (isRecursionDesired ? 1 : 0), 0x80 | code.rawValue]
        message += [0, 1, 0, UInt8(fitting.count), 0, 0, 0, 0]
        message += question
        for address in fitting {
            // The name is that of the question, at byte 12.
            message += [0xC0, 12, 0, UInt8(truncatingIfNeeded: type), 0, 1]
            message += [0, 0, 0, Self.timeToLive, 0, UInt8(address.bytes.count)]
            message += address.bytes
        }
        return message
    }
}
