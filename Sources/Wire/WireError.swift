// How a peer can break the protocol. Thrown by every decoder and by both connections; whoever
// catches one ends the connection (host: ends the machine). Never carries the peer's bytes.

/// One violation, as a sentence for an operator.
package enum WireError: Error, Equatable, Sendable, CustomStringConvertible {
    /// A body ended inside a field.
    case truncated
    /// A body went on after its last field.
    case trailingBytes
    case badMagic
    case badChecksum
    case wrongNonce
    /// Not the machine's own worker.
    case wrongToken
    case reservedNotZero
    case unsupportedVersion(UInt16)
    case payloadTooLong(Int)
    /// A data frame without data that does not end anything.
    case emptyData
    case unknownType(UInt8)
    case unknownFlags(UInt8)
    /// A field holds a value outside its range; the text names the field.
    case invalidValue(String)
    /// Not strict UTF-8, or with a zero byte in it.
    case invalidText
    /// A name that `GuestPath` refuses; the text says why.
    case invalidName(String)
    /// A pattern that `GuestGlob` refuses; the text says why.
    case invalidPattern(String)
    /// More of something than `Limits` allows; the text names it.
    case tooMany(String)
    /// A stream number that cannot be opened or used now.
    case badStream(UInt32)
    /// A message that is not possible in this state; the text names it.
    case unexpected(String)
    /// Data beyond the credit that was granted.
    case creditExceeded(stream: UInt32)
    /// Credit for less than a quarter of the window, or for more than was sent.
    case badCredit(stream: UInt32)

    package var description: String {
        switch self {
        case .truncated: "a message ended in the middle of a field"
        case .trailingBytes: "a message continued after its last field"
        case .badMagic: "the preamble is not Mayfly's"
        case .badChecksum: "the preamble's checksum does not match"
        case .wrongNonce: "the preamble answers another session's nonce"
        case .wrongToken: "the preamble does not carry this machine's token"
        case .reservedNotZero: "reserved bytes are not zero"
        case .unsupportedVersion(let version): "protocol version \(version) is not supported"
        case .payloadTooLong(let count):
            "a payload of \(count) bytes is over the limit of \(Limits.payloadByteCount)"
        case .emptyData: "a data frame is empty and does not end its stream"
        case .unknownType(let type): "frame type \(type) does not exist in this direction"
        case .unknownFlags(let flags): "frame flags \(flags) are not allowed here"
        case .invalidValue(let field): "the field '\(field)' holds a value that it cannot have"
        case .invalidText: "a string is not valid UTF-8, or has a zero byte"
        case .invalidName(let reason): "a file name is refused: \(reason)"
        case .invalidPattern(let reason): "a pattern is refused: \(reason)"
        case .tooMany(let things): "more \(things) than the protocol allows"
        case .badStream(let stream): "stream \(stream) cannot be used this way"
        case .unexpected(let message): "\(message) is not possible in this state"
        case .creditExceeded(let stream): "stream \(stream) sent more than its credit"
        case .badCredit(let stream):
            "credit for stream \(stream) is too little, or more than was sent"
        }
    }
}
