// A secret as it stands in a payload: a JWE in compact serialization (RFC 7516) of one form only,
//
//     header . (empty) . nonce . ciphertext . tag                each in base64url
//     header: {"alg": "ECDH-ES", "enc": "A256GCM", "kid": "…", "epk": {…}}, perhaps "tenant"
//
// ECDH-ES on P-256 with A256GCM (RFC 7518): the one agreement that JOSE libraries of all languages
// have. Read strictly: a stranger wrote it. Called by the kinds and by `mayfly secret`.

import CCrypto
import StrictJSON

/// A sealed secret, its form checked; what is in it, only its key tells.
package struct SealedSecret: Sendable {
    /// As long as it may be, as text.
    package static let byteCountMax = 16 << 10
    private static let headerByteCountMax = 2 << 10
    private static let members = ["alg", "enc", "kid", "epk", "apu", "apv", "tenant"]

    /// The key that opens it.
    package let keyID: String
    /// Whose jobs may use it; `nil`: everybody's who has it.
    package let tenant: String?
    /// How long the secret is, known without opening it.
    package var byteCount: Int { ciphertext.count }

    /// What the tag covers beside the ciphertext: the header as it was written.
    private let header: [UInt8]
    private let ephemeral: PublicKey
    private let agreement: KeyAgreement
    private let nonce, ciphertext, tag: [UInt8]

    package init(_ text: String) throws(SecretError) {
        guard text.utf8.count <= Self.byteCountMax else {
            throw .malformed(
                "is \(text.utf8.count) bytes long; at most \(Self.byteCountMax) are allowed")
        }
        let parts = text.split(separator: ".", omittingEmptySubsequences: false)
        guard parts.count == 5 else { throw Self.formless }
        var decoded: [[UInt8]] = []
        for part in parts {
            guard let bytes = Base64URL.decode(part) else { throw Self.formless }
            decoded.append(bytes)
        }
        guard decoded[1].isEmpty, decoded[2].count == 12, decoded[4].count == 16 else {
            throw Self.formless
        }
        header = Array(parts[0].utf8)
        (nonce, ciphertext, tag) = (decoded[2], decoded[3], decoded[4])
        guard decoded[0].count <= Self.headerByteCountMax,
            let fields = try? JSON(parsing: decoded[0]), case .object(let members) = fields
        else { throw .malformed("has a header that is no JSON object of at most 2 KiB") }
        if let other = members.first(where: { !Self.members.contains($0.name) }) {
            throw .malformed(
                "has \"\(JSON.shortened(other.name))\" in its header, which is refused")
        }
        guard fields["alg"] == "ECDH-ES", fields["enc"] == "A256GCM" else {
            throw .malformed("is not sealed with ECDH-ES and A256GCM")
        }
        guard let keyID = fields["kid"]?.string, PublicKey.isID(keyID) else {
            throw .malformed("has no kid of a key that Mayfly made; use mayfly.secret_key()")
        }
        guard let epk = fields["epk"] else { throw .malformed("has no epk in its header") }
        self.keyID = keyID
        ephemeral = try PublicKey(epk, isEphemeral: true)
        tenant = try Self.text(fields, "tenant")
        agreement = KeyAgreement(
            producer: try Self.party(fields, "apu"), consumer: try Self.party(fields, "apv"))
    }

    private static let formless = SecretError.malformed(
        "is not sealed: it must be a JWE of five parts; `mayfly secret seal` makes one")

    private static func text(
        _ fields: JSON, _ name: String
    ) throws(SecretError) -> String? {
        guard let value = fields[name] else { return nil }
        guard let text = value.string else {
            throw .malformed("has a \"\(name)\" in its header that is no string")
        }
        return text
    }
    private static func party(_ fields: JSON, _ name: String) throws(SecretError) -> [UInt8] {
        guard let text = try text(fields, name) else { return [] }
        guard let bytes = Base64URL.decode(text) else {
            throw .malformed("has a \"\(name)\" in its header that is not base64url")
        }
        return bytes
    }

    /// The secret, if it was sealed for this key and nobody changed a bit of it.
    ///
    /// - Parameter tenant: whose job it is for; `nil`: whoever holds the key may look.
    package func open(with key: PrivateKey, tenant: String?) throws(SecretError) -> Secret {
        if let own = self.tenant, let tenant, !own.utf8.elementsEqual(tenant.utf8) {
            throw .unreadable("was sealed for another tenant")
        }
        guard var contentKey = agreement.contentKey(key, ephemeral) else {
            throw .unreadable("cannot be opened: its epk is no point of P-256")
        }
        defer { wipe(&contentKey) }
        guard
            var clear = Cipher.open(ciphertext, tag, key: contentKey, nonce: nonce, extra: header)
        else {
            throw .unreadable(
                "cannot be opened: it was changed, cut, or sealed for another key; seal it again")
        }
        defer { wipe(&clear) }
        return Secret(clear)
    }

    /// Seals a secret for the holders of a private key.
    ///
    /// - Parameter tenant: whose jobs alone may use it; `nil`: everybody's who has the text.
    package static func seal(
        _ secret: Secret, for key: PublicKey, tenant: String?
    ) throws(SecretError) -> String {
        let ephemeral = PrivateKey.generate()
        var members: [JSON.Member] = [
            .init(name: "alg", value: "ECDH-ES"), .init(name: "enc", value: "A256GCM"),
            .init(name: "kid", value: .string(key.id)),
            .init(name: "epk", value: .object(ephemeral.publicKey.coordinates)),
        ]
        if let tenant { members.append(.init(name: "tenant", value: .string(tenant))) }
        let header = Base64URL.encode(Array(JSON.object(members).text.utf8))
        guard var contentKey = KeyAgreement().contentKey(ephemeral, key) else {
            throw .malformed("the public key is no point of P-256")
        }
        defer { wipe(&contentKey) }
        var clear = secret.bytes
        defer { wipe(&clear) }
        let nonce = randomBytes(12)
        let (ciphertext, tag) = Cipher.seal(
            clear, key: contentKey, nonce: nonce, extra: Array(header.utf8))
        let parts = [nonce, ciphertext, tag].map(Base64URL.encode).joined(separator: ".")
        let text = "\(header)..\(parts)"
        guard text.utf8.count <= byteCountMax else {
            throw .malformed(
                "the secret has \(secret.byteCount) bytes; sealed it is longer than 16 KiB")
        }
        return text
    }
}

/// ECDH-ES in its direct form (RFC 7518, section 4.6): two keys agree on one for A256GCM.
package struct KeyAgreement: Sendable {
    /// What JOSE calls `apu` and `apv`.
    var producer: [UInt8] = []
    var consumer: [UInt8] = []

    /// `nil` when a point is not on the curve.
    func contentKey(_ own: PrivateKey, _ peer: PublicKey) -> [UInt8]? {
        guard var shared = own.agree(with: peer) else { return nil }
        defer { wipe(&shared) }
        return Self.derive(
            shared, algorithm: "A256GCM", bitCount: 256, producer: producer, consumer: consumer)
    }

    /// The Concat KDF of one round, with SHA-256: keys of up to 256 bits.
    package static func derive(
        _ shared: [UInt8], algorithm: String, bitCount: UInt32, producer: [UInt8],
        consumer: [UInt8]
    ) -> [UInt8] {
        func word(_ value: UInt32) -> [UInt8] {
            [24, 16, 8, 0].map { UInt8(truncatingIfNeeded: value >> $0) }
        }
        func sized(_ bytes: [UInt8]) -> [UInt8] { word(UInt32(bytes.count)) + bytes }
        var input = word(1) + shared + sized(Array(algorithm.utf8)) + sized(producer)
        input += sized(consumer) + word(bitCount)
        defer { wipe(&input) }
        return Array(sha256(input).prefix(Int(bitCount / 8)))
    }
}

/// AES-256-GCM.
enum Cipher {
    /// `nil` when the tag does not fit.
    static func open(
        _ ciphertext: [UInt8], _ tag: [UInt8], key: [UInt8], nonce: [UInt8], extra: [UInt8]
    ) -> [UInt8]? {
        precondition(key.count == 32 && nonce.count == 12 && tag.count == 16, "sizes of GCM")
        var clear = [UInt8](repeating: 0, count: ciphertext.count)
        var tag = tag
        // SAFETY: the sizes are those that the function names; it keeps nothing.
        let status = unsafe mayfly_gcm(
            0, key, nonce, extra, CInt(extra.count), ciphertext, CInt(ciphertext.count), &clear,
            &tag)
        return status == 1 ? clear : nil
    }
    static func seal(
        _ clear: [UInt8], key: [UInt8], nonce: [UInt8], extra: [UInt8]
    ) -> (ciphertext: [UInt8], tag: [UInt8]) {
        precondition(key.count == 32 && nonce.count == 12, "sizes of GCM")
        var ciphertext = [UInt8](repeating: 0, count: clear.count)
        var tag = [UInt8](repeating: 0, count: 16)
        // SAFETY: as above.
        let status = unsafe mayfly_gcm(
            1, key, nonce, extra, CInt(extra.count), clear, CInt(clear.count), &ciphertext, &tag)
        precondition(status == 1, "libcrypto has no AES-256-GCM")
        return (ciphertext, tag)
    }
}

func sha256(_ bytes: [UInt8]) -> [UInt8] {
    var digest = [UInt8](repeating: 0, count: 32)
    // SAFETY: SHA-256 writes 32 bytes.
    let status = unsafe EVP_Digest(bytes, bytes.count, &digest, nil, EVP_sha256(), nil)
    precondition(status == 1, "libcrypto has no SHA-256")
    return digest
}

func randomBytes(_ count: Int) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: count)
    // SAFETY: it writes as many bytes as there are.
    let status = unsafe RAND_bytes(&bytes, CInt(count))
    precondition(status == 1, "libcrypto has no random bytes")
    return bytes
}

/// Overwrites what was secret; the compiler does not leave it out.
func wipe(_ bytes: inout [UInt8]) {
    let count = bytes.count
    // SAFETY: it writes as many bytes as there are.
    unsafe OPENSSL_cleanse(&bytes, count)
}
