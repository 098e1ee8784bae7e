// SHA-256 and Ed25519 by libcrypto: digests of image files, signatures of manifests.

import CCrypto
import Glibc
import Processes

/// A running SHA-256.
@safe struct SHA256: ~Copyable {
    private let context: OpaquePointer

    init() {
        guard let context = unsafe EVP_MD_CTX_new() else { preconditionFailure("out of memory") }
        unsafe self.context = context
        let status = unsafe EVP_DigestInit_ex(context, EVP_sha256(), nil)
        precondition(status == 1, "libcrypto has no SHA-256")
    }
    deinit { unsafe EVP_MD_CTX_free(context) }

    borrowing func update(_ bytes: UnsafeRawBufferPointer) {
        _ = unsafe EVP_DigestUpdate(context, bytes.baseAddress, bytes.count)
    }
    borrowing func update(_ bytes: [UInt8]) {
        unsafe bytes.withUnsafeBytes { unsafe update($0) }
    }
    borrowing func update(_ text: String) { update(Array(text.utf8)) }
    consuming func finish() -> [UInt8] {
        var digest = [UInt8](repeating: 0, count: 32)
        _ = unsafe EVP_DigestFinal_ex(context, &digest, nil)
        return digest
    }

    static func hex(of bytes: [UInt8]) -> String {
        let hash = SHA256()
        hash.update(bytes)
        return hexText(hash.finish())
    }
    /// The digest of everything in a file, read by position; the descriptor's offset stays.
    static func hex(ofDescriptor descriptor: CInt) throws(MachineError) -> String {
        let hash = SHA256()
        var buffer = [UInt8](repeating: 0, count: 1 << 20)
        var offset = 0
        while true {
            let count = unsafe pread(descriptor, &buffer, buffer.count, off_t(offset))
            if count < 0 {
                throw MachineError(.hostUnfit, "cannot read a file: \(errnoText(errno))")
            }
            if count == 0 { return hexText(hash.finish()) }
            unsafe buffer.withUnsafeBytes {
                unsafe hash.update(UnsafeRawBufferPointer(rebasing: $0[..<count]))
            }
            offset += count
        }
    }
    static func hex(ofFile path: String) throws(MachineError) -> String {
        let file = try openImageFile(path)
        return try hex(ofDescriptor: file.number)
    }
}

/// A SHA-256 over what comes by and by, for whoever moves bytes.
package final class RunningDigest {
    private var hash: SHA256? = SHA256()
    package init() {}
    package func update(_ bytes: [UInt8]) { hash?.update(bytes) }
    /// As hexadecimal digits; once.
    package func finish() -> String {
        guard let hash = hash.take() else { preconditionFailure("this digest is finished") }
        return hexText(hash.finish())
    }
}

func hexText(_ bytes: some Sequence<UInt8>) -> String {
    let digits = Array("0123456789abcdef".utf8)
    var text: [UInt8] = []
    for byte in bytes {
        text.append(digits[Int(byte >> 4)])
        text.append(digits[Int(byte & 15)])
    }
    return String(decoding: text, as: UTF8.self)
}

/// Bytes of even-length hexadecimal text; `nil` for anything else.
func bytes(ofHex text: String) -> [UInt8]? {
    let digits = Array(text.utf8)
    guard digits.count % 2 == 0 else { return nil }
    func value(_ digit: UInt8) -> UInt8? {
        switch digit {
        case 0x30...0x39: digit - 0x30
        case 0x61...0x66: digit - 0x61 + 10
        default: nil
        }
    }
    var bytes: [UInt8] = []
    for index in stride(from: 0, to: digits.count, by: 2) {
        guard let high = value(digits[index]), let low = value(digits[index + 1]) else {
            return nil
        }
        bytes.append(high << 4 | low)
    }
    return bytes
}

/// Bytes from the kernel's generator.
func randomBytes(_ count: Int) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: count)
    let status = getentropyInPieces(&bytes)
    precondition(status, "the kernel returned no random bytes")
    return bytes
}

private func getentropyInPieces(_ bytes: inout [UInt8]) -> Bool {
    unsafe bytes.withUnsafeMutableBytes { buffer in
        for start in stride(from: 0, to: buffer.count, by: 256) {
            let count = min(256, buffer.count - start)
            guard let place = unsafe buffer.baseAddress?.advanced(by: start),
                unsafe getentropy(place, count) == 0
            else { return false }
        }
        return true
    }
}

/// An Ed25519 key pair that signs manifests; its file holds the 32 bytes of the private key.
@safe struct SigningKey: ~Copyable {
    private let key: OpaquePointer

    init(privateKey: [UInt8]) throws(MachineError) {
        guard privateKey.count == 32,
            let key = unsafe EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, nil, privateKey, 32)
        else { throw MachineError(.imageRefused, "the signing key is not 32 bytes long") }
        unsafe self.key = key
    }
    deinit { unsafe EVP_PKEY_free(key) }

    var publicKey: [UInt8] {
        var bytes = [UInt8](repeating: 0, count: 32)
        var length = 32
        _ = unsafe EVP_PKEY_get_raw_public_key(key, &bytes, &length)
        return bytes
    }
    borrowing func sign(_ message: [UInt8]) -> [UInt8] {
        var signature = [UInt8](repeating: 0, count: 64)
        var length = 64
        let context = unsafe EVP_MD_CTX_new()
        defer { unsafe EVP_MD_CTX_free(context) }
        let ready = unsafe EVP_DigestSignInit(context, nil, nil, nil, key)
        precondition(ready == 1, "libcrypto has no Ed25519")
        let done = unsafe EVP_DigestSign(context, &signature, &length, message, message.count)
        precondition(done == 1, "libcrypto cannot sign")
        return signature
    }
}

/// Whether `signature` over `message` is by the owner of `publicKey`.
func isSigned(_ message: [UInt8], _ signature: [UInt8], by publicKey: [UInt8]) -> Bool {
    guard signature.count == 64, publicKey.count == 32,
        let key = unsafe EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, nil, publicKey, 32)
    else { return false }
    defer { unsafe EVP_PKEY_free(key) }
    let context = unsafe EVP_MD_CTX_new()
    defer { unsafe EVP_MD_CTX_free(context) }
    guard unsafe EVP_DigestVerifyInit(context, nil, nil, nil, key) == 1 else { return false }
    return unsafe EVP_DigestVerify(context, signature, 64, message, message.count) == 1
}
