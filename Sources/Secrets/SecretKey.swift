// The key pair that secrets are sealed for: P-256, as JSON Web Keys (RFC 7517). Its id is the
// beginning of its thumbprint (RFC 7638), so it says which key it is and fits a file name.

import CCrypto
import StrictJSON

/// What producers seal with.
package struct PublicKey: Sendable, Equatable {
    /// 16 hexadecimal digits.
    package let id: String
    /// 0x04, x and y: 65 bytes.
    let point: [UInt8]

    init(point: [UInt8]) {
        precondition(point.count == 65 && point[0] == 4, "no uncompressed point of P-256")
        self.point = point
        let digits = sha256(Array(JSON.object(Self.sorted(point)).text.utf8)).prefix(8).map {
            String($0 >> 4, radix: 16) + String($0 & 15, radix: 16)
        }
        id = digits.joined()
    }

    /// From a JWK of `{"kty", "crv", "x", "y"}`; its `kid`, if it has one, must be right.
    ///
    /// - Throws: ``SecretError/malformed(_:)``. Whether the point is on the curve shows later.
    package init(_ jwk: JSON, isEphemeral: Bool = false) throws(SecretError) {
        let known = ["kty", "crv", "x", "y"] + (isEphemeral ? [] : ["kid", "use", "alg"])
        guard case .object(let members) = jwk,
            members.allSatisfy({ known.contains($0.name) }), jwk["kty"] == "EC",
            jwk["crv"] == "P-256", let x = Self.coordinate(jwk["x"]),
            let y = Self.coordinate(jwk["y"])
        else { throw .malformed("has a key that is no public JWK of the curve P-256") }
        self.init(point: [4] + x + y)
        if let other = jwk["kid"], other.string != id {
            throw .malformed("has a key whose kid is not \(id), its thumbprint's beginning")
        }
    }
    private static func coordinate(_ value: JSON?) -> [UInt8]? {
        guard let text = value?.string, let bytes = Base64URL.decode(text), bytes.count == 32
        else { return nil }
        return bytes
    }

    package static func isID(_ text: String) -> Bool {
        text.utf8.count == 16
            && text.utf8.allSatisfy { (48...57).contains($0) || (97...102).contains($0) }
    }

    var coordinates: [JSON.Member] {
        [
            .init(name: "kty", value: "EC"), .init(name: "crv", value: "P-256"),
            .init(name: "x", value: .string(Base64URL.encode(Array(point[1..<33])))),
            .init(name: "y", value: .string(Base64URL.encode(Array(point[33...])))),
        ]
    }
    /// As the thumbprint wants it: these members, in this order.
    private static func sorted(_ point: [UInt8]) -> [JSON.Member] {
        [
            .init(name: "crv", value: "P-256"), .init(name: "kty", value: "EC"),
            .init(name: "x", value: .string(Base64URL.encode(Array(point[1..<33])))),
            .init(name: "y", value: .string(Base64URL.encode(Array(point[33...])))),
        ]
    }
    /// For `mayfly.secret_key` and for libraries: what the key is for stands in it.
    package var jwk: JSON {
        .object(
            coordinates + [
                .init(name: "kid", value: .string(id)), .init(name: "use", value: "enc"),
                .init(name: "alg", value: "ECDH-ES"),
            ])
    }
}

/// What workers open with.
package struct PrivateKey: Sendable {
    package let publicKey: PublicKey
    private let scalar: Secret

    package static func generate() -> PrivateKey {
        var point = [UInt8](repeating: 0, count: 65)
        var scalar = [UInt8](repeating: 0, count: 32)
        defer { wipe(&scalar) }
        // SAFETY: it writes 65 and 32 bytes.
        let status = unsafe mayfly_p256_generate(&point, &scalar)
        precondition(status == 1, "libcrypto has no P-256")
        return PrivateKey(publicKey: PublicKey(point: point), scalar: Secret(scalar))
    }

    private init(publicKey: PublicKey, scalar: Secret) {
        self.publicKey = publicKey
        self.scalar = scalar
    }

    /// From a private JWK, as ``file`` writes it.
    package init(_ jwk: JSON) throws(SecretError) {
        guard case .object(let members) = jwk, let text = jwk["d"]?.string,
            var scalar = Base64URL.decode(text), scalar.count == 32
        else { throw .malformed("is no private JWK of the curve P-256") }
        defer { wipe(&scalar) }
        publicKey = try PublicKey(.object(members.filter { $0.name != "d" }))
        self.scalar = Secret(scalar)
        // SAFETY: the sizes are 65 and 32; what comes back is freed here.
        let key = unsafe mayfly_p256_key(publicKey.point, scalar)
        defer { unsafe EVP_PKEY_free(key) }
        guard unsafe key != nil else {
            throw .malformed("is no key pair: its parts do not belong together")
        }
    }

    /// The private JWK, for a file that its owner alone can read.
    package var file: Secret {
        guard case .object(let members) = publicKey.jwk else { return Secret("") }
        let scalar = JSON.Member(name: "d", value: .string(Base64URL.encode(scalar.bytes)))
        return Secret(JSON.object(members + [scalar]).text + "\n")
    }

    /// `nil` when the other's point is not on the curve.
    func agree(with peer: PublicKey) -> [UInt8]? {
        var own = scalar.bytes
        defer { wipe(&own) }
        // SAFETY: the sizes are those that the functions name; the keys are freed here, once.
        let (key, other) = unsafe (
            mayfly_p256_key(publicKey.point, own), mayfly_p256_key(peer.point, nil)
        )
        defer {
            unsafe EVP_PKEY_free(key)
            unsafe EVP_PKEY_free(other)
        }
        guard let key = unsafe key, let other = unsafe other else { return nil }
        var shared = [UInt8](repeating: 0, count: 32)
        return unsafe mayfly_p256_agree(key, other, &shared) == 1 ? shared : nil
    }
}

extension PrivateKey: CustomStringConvertible, CustomReflectable {
    package var description: String { "the private key \(publicKey.id)" }
    package var customMirror: Mirror { Mirror(self, children: []) }
}
