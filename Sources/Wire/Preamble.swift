// The two fixed blocks that open a connection: who speaks which versions, and a nonce that ties the
// answer to this session. The host speaks first.

/// The host's first 96 bytes.
package struct HostPreamble: Equatable, Sendable {
    package static let magic: [UInt8] = Array("MAYFLY1\n".utf8)
    package var minimumVersion = Limits.version
    package var maximumVersion = Limits.version
    package var nonce: [UInt8]
    /// What the machine's invitation named.
    package var token: [UInt8]

    /// `nonce`: 32 bytes that no other session has; `token`: 32 that no other machine has.
    package init(nonce: [UInt8], token: [UInt8]) {
        self.nonce = nonce
        self.token = token
    }

    package init(decoding bytes: [UInt8]) throws(WireError) {
        guard bytes.count == Limits.hostPreambleByteCount else { throw .truncated }
        var reader = ByteReader(bytes)
        guard try reader.fixed(8) == Self.magic else { throw .badMagic }
        guard crc32(bytes.span.extracting(0..<92)) == Self.checksum(in: bytes) else {
            throw .badChecksum
        }
        minimumVersion = try reader.u16()
        maximumVersion = try reader.u16()
        guard minimumVersion <= maximumVersion else { throw .invalidValue("versions") }
        try reader.zeros(4)
        nonce = try reader.fixed(Limits.nonceByteCount)
        token = try reader.fixed(Limits.tokenByteCount)
        try reader.zeros(12)
    }
    private static func checksum(in bytes: [UInt8]) -> UInt32 {
        bytes[92...].reduce(0) { $0 << 8 | UInt32($1) }
    }

    package func encode() throws(WireError) -> [UInt8] {
        var bytes = Self.magic
        bytes.append(u16: minimumVersion)
        bytes.append(u16: maximumVersion)
        bytes.append(u32: 0)
        try bytes.append(fixed: nonce, Limits.nonceByteCount, "nonce")
        try bytes.append(fixed: token, Limits.tokenByteCount, "token")
        for _ in 0..<12 { bytes.append(0) }
        bytes.append(u32: crc32(bytes.span))
        return bytes
    }

    /// Whether it carries this token; takes as long for every wrong one.
    func shows(_ expected: [UInt8]) -> Bool {
        guard expected.count == token.count else { return false }
        var difference: UInt8 = 0
        for index in expected.indices { difference |= expected[index] ^ token[index] }
        return difference == 0
    }
}

/// The guest's first 80 bytes.
package struct GuestPreamble: Equatable, Sendable {
    package static let magic: [UInt8] = Array("mayfly1\n".utf8)
    package var version = Limits.version
    package var nonce: [UInt8]
    /// Which build of the agent answers; zeros when the image did not say.
    package var agent: [UInt8]

    package init(nonce: [UInt8], agent: [UInt8]) {
        self.nonce = nonce
        self.agent = agent
    }
    package init(decoding bytes: [UInt8]) throws(WireError) {
        guard bytes.count == Limits.guestPreambleByteCount else { throw .truncated }
        var reader = ByteReader(bytes)
        guard try reader.fixed(8) == Self.magic else { throw .badMagic }
        version = try reader.u16()
        try reader.zeros(6)
        nonce = try reader.fixed(Limits.nonceByteCount)
        agent = try reader.fixed(Limits.digestByteCount)
    }
    package func encode() throws(WireError) -> [UInt8] {
        var bytes = Self.magic
        bytes.append(u16: version)
        for _ in 0..<6 { bytes.append(0) }
        try bytes.append(fixed: nonce, Limits.nonceByteCount, "nonce")
        try bytes.append(fixed: agent, Limits.digestByteCount, "agent")
        return bytes
    }
}

/// CRC-32 as in Ethernet and zip, bit by bit: it runs over 92 bytes once per connection, and a
/// table would cost more to build.
func crc32(_ bytes: Span<UInt8>) -> UInt32 {
    var crc: UInt32 = .max
    for index in bytes.indices {
        crc ^= UInt32(bytes[index])
        for _ in 0..<8 { crc = crc >> 1 ^ (crc & 1 == 1 ? 0xEDB8_8320 : 0) }
    }
    return ~crc
}
