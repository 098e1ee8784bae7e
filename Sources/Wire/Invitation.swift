// How a host that comes over AF_VSOCK shows that it is the machine's own worker. AF_VSOCK knows no
// permissions: anybody on the host can connect to any machine. What only the worker has is the
// virtio-serial port; over it the agent learns where the worker will come, and what it will show.

/// The worker's word over the port: 48 bytes, in the place of a preamble.
package struct Invitation: Equatable, Sendable {
    package static let magic: [UInt8] = Array("MAYFLYI\n".utf8)
    /// The AF_VSOCK port to listen on; drawn for each machine, so that nobody has a place to knock.
    package var port: UInt32
    /// What the preamble of a connection there must carry: 32 random bytes.
    package var token: [UInt8]

    package init(port: UInt32, token: [UInt8]) {
        self.port = port
        self.token = token
    }
    package init(decoding bytes: [UInt8]) throws(WireError) {
        guard bytes.count == Limits.invitationByteCount else { throw .truncated }
        var reader = ByteReader(bytes)
        guard try reader.fixed(8) == Self.magic else { throw .badMagic }
        port = try reader.u32()
        token = try reader.fixed(Limits.tokenByteCount)
        guard try reader.u32() == crc32(bytes.span.extracting(0..<44)) else { throw .badChecksum }
        guard Self.ports.contains(port) else { throw .invalidValue("port") }
    }
    package func encode() throws(WireError) -> [UInt8] {
        guard Self.ports.contains(port) else { throw .invalidValue("port") }
        var bytes = Self.magic
        bytes.append(u32: port)
        try bytes.append(fixed: token, Limits.tokenByteCount, "token")
        bytes.append(u32: crc32(bytes.span))
        return bytes
    }
    /// Those that need no privilege and mean nothing else.
    package static let ports: ClosedRange<UInt32> = 1024...0x7FFF_FFFF
}

/// Which of the connections to the agent's AF_VSOCK port is the worker's.
///
/// Knows no descriptors. A connection is nothing before its whole preamble has come and carries the
/// token; until then it can neither displace a session nor be heard by anybody.
package struct HostAdmission: Sendable {
    package enum Verdict: Equatable, Sendable {
        case undecided
        /// Close it, and say nothing.
        case refused
        /// The worker, and its preamble.
        case admitted([UInt8])
    }
    private struct Candidate: Sendable {
        let number: Int32
        var bytes: [UInt8] = []
    }
    /// More strangers than this push each other out.
    private static let candidates = 8

    private let token: [UInt8]?
    private var waiting: [Candidate] = []

    /// - Parameter token: what the invitation named; `nil` where nobody but the worker can come.
    package init(token: [UInt8]?) { self.token = token }

    /// The connections that are undecided.
    package var undecided: [Int32] { waiting.map(\.number) }

    /// A new connection; answers the one to close for it.
    package mutating func open(_ number: Int32) -> Int32? {
        waiting.append(Candidate(number: number))
        return waiting.count > Self.candidates ? waiting.removeFirst().number : nil
    }
    /// How many bytes of its preamble are missing: no more may be read, for what follows is for
    /// the session.
    package func missing(_ number: Int32) -> Int {
        guard let candidate = waiting.first(where: { $0.number == number }) else { return 0 }
        return Limits.hostPreambleByteCount - candidate.bytes.count
    }
    /// Bytes of a connection; none means that it has ended.
    package mutating func receive(_ bytes: [UInt8], from number: Int32) -> Verdict {
        guard let index = waiting.firstIndex(where: { $0.number == number }) else {
            return .refused
        }
        guard !bytes.isEmpty, bytes.count <= missing(number) else {
            waiting.remove(at: index)
            return .refused
        }
        waiting[index].bytes += bytes
        guard missing(number) == 0 else { return .undecided }
        let preamble = waiting.remove(at: index).bytes
        guard let decoded = try? HostPreamble(decoding: preamble),
            token.map(decoded.shows) ?? true
        else { return .refused }
        return .admitted(preamble)
    }
}
