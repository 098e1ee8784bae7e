// Frames: the 12-byte header and the incremental decoder that both connections feed. Payload bytes
// are moved in bulk; nothing here looks at them.

/// What a frame is.
///
/// The number is the wire's; 0x01… come from the host, 0x41… from the guest.
package enum FrameType: UInt8, Sendable, CaseIterable {
    case prepare = 0x01, put, exec, stdin, signal, kill, list, get, ping, warm, park, shutdown
    case rehearse
    case credit = 0x20, file, data, close
    case ready = 0x41, started, stdout, stderr, exit, listed, ack, pong, parked, error, events
    case open

    /// Carries raw bytes, consumes credit and may carry FIN.
    package var isData: Bool {
        switch self {
        case .stdin, .stdout, .stderr, .events, .file, .data: true
        default: false
        }
    }
    package var isFromHost: Bool { rawValue < 0x40 }
    package var isFromGuest: Bool { rawValue >= 0x20 }
}

/// Who sends.
package enum Side: Sendable { case host, guest }

/// The 12 bytes before each payload.
package struct FrameHeader: Equatable, Sendable {
    package var length: Int
    package var stream: UInt32
    package var type: FrameType
    package var isFinal: Bool

    package init(length: Int, stream: UInt32, type: FrameType, isFinal: Bool = false) {
        self.length = length
        self.stream = stream
        self.type = type
        self.isFinal = isFinal
    }

    /// Reads the header at `start`; the caller has checked that 12 bytes are there.
    package init(
        _ bytes: Span<UInt8>, at start: Int, from side: Side
    ) throws(WireError) {
        func u32(_ index: Int) -> UInt32 {
            UInt32(bytes[index]) << 24 | UInt32(bytes[index + 1]) << 16
                | UInt32(bytes[index + 2]) << 8 | UInt32(bytes[index + 3])
        }
        let length = Int(u32(start))
        guard length <= Limits.payloadByteCount else { throw .payloadTooLong(length) }
        let number = bytes[start + 8]
        guard let type = FrameType(rawValue: number),
            side == .host ? type.isFromHost : type.isFromGuest
        else { throw .unknownType(number) }
        let flags = bytes[start + 9]
        guard flags == 0 || flags == 1 && type.isData else { throw .unknownFlags(flags) }
        guard bytes[start + 10] == 0, bytes[start + 11] == 0 else { throw .reservedNotZero }
        // Costs no credit, so there could be any number of them.
        guard length > 0 || flags == 1 || !type.isData else { throw .emptyData }
        self.init(length: length, stream: u32(start + 4), type: type, isFinal: flags == 1)
    }

    package func encode(into output: inout [UInt8]) {
        output.append(u32: UInt32(truncatingIfNeeded: length))
        output.append(u32: stream)
        output.append(type.rawValue)
        output.append(isFinal ? 1 : 0)
        output.append(u16: 0)
    }
}

/// One whole frame.
package struct Frame: Equatable, Sendable {
    package var stream: UInt32
    package var type: FrameType
    package var isFinal: Bool
    package var payload: [UInt8]

    package init(stream: UInt32, type: FrameType, isFinal: Bool = false, payload: [UInt8]) {
        self.stream = stream
        self.type = type
        self.isFinal = isFinal
        self.payload = payload
    }
    package func encode(into output: inout [UInt8]) throws(WireError) {
        guard payload.count <= Limits.payloadByteCount else {
            throw .payloadTooLong(payload.count)
        }
        FrameHeader(length: payload.count, stream: stream, type: type, isFinal: isFinal)
            .encode(into: &output)
        output.append(contentsOf: payload)
    }
}

/// Bytes in, frames out, in any chunks.
///
/// Holds what was fed and not yet taken: the caller bounds that by reading no more than a few
/// frames at a time.
package struct FrameDecoder: Sendable {
    private let side: Side
    private var buffer: [UInt8] = []
    private var start = 0
    /// Parsed once, when its payload is still on the way.
    private var header: FrameHeader?

    /// A decoder of what `side` sends.
    package init(from side: Side) { self.side = side }

    /// How many bytes wait in here.
    package var bufferedByteCount: Int { buffer.count - start }

    package mutating func feed(_ bytes: Span<UInt8>) {
        if start == buffer.count {
            buffer.removeAll(keepingCapacity: true)
            start = 0
        } else if start >= Limits.payloadByteCount {
            buffer.removeSubrange(..<start)
            start = 0
        }
        // SAFETY: the pointer lives for this call only; Array has no append of a span yet.
        unsafe bytes.withUnsafeBufferPointer { unsafe buffer.append(contentsOf: $0) }
    }
    package mutating func feed(_ bytes: [UInt8]) { feed(bytes.span) }

    /// Exactly `count` bytes in front of the first frame: the preamble.
    mutating func take(_ count: Int) -> [UInt8]? {
        guard bufferedByteCount >= count else { return nil }
        let bytes = [UInt8](buffer[start..<start + count])
        start += count
        return bytes
    }

    /// Whether what comes next, where a frame should begin, is `bytes`.
    func isNext(_ bytes: [UInt8]) -> Bool {
        header == nil && bufferedByteCount >= bytes.count
            && buffer[start..<start + bytes.count].elementsEqual(bytes)
    }

    /// The next whole frame, or `nil` until more bytes are fed.
    ///
    /// After a throw it is of no use.
    package mutating func next() throws(WireError) -> Frame? {
        let current: FrameHeader
        if let header {
            current = header
        } else {
            guard bufferedByteCount >= Limits.headerByteCount else { return nil }
            current = try FrameHeader(buffer.span, at: start, from: side)
            start += Limits.headerByteCount
            header = current
        }
        guard let payload = take(current.length) else { return nil }
        header = nil
        return Frame(
            stream: current.stream, type: current.type, isFinal: current.isFinal, payload: payload)
    }
}
