// Whose signatures this host believes: its own key's, made at the first build, and those that an
// operator names. A key that signs images for other hosts stays where they are built.

import CCrypto
import Foundation
import Glibc
import Processes

/// What worker.conf says about keys.
package struct ImageKeys: Sendable {
    /// Files with a public key each.
    package var paths: [String] = []
    /// Nothing but the keys named is believed, if any is.
    package var isExclusive = false

    package init() {}
    package init(paths: [String], isExclusive: Bool) {
        self.paths = paths
        self.isExclusive = isExclusive
    }

    var replacesOwn: Bool { isExclusive && !paths.isEmpty }

    func read() throws(MachineError) -> [[UInt8]] {
        var keys: [[UInt8]] = []
        for path in paths { keys.append(try Self.publicKey(path)) }
        return keys
    }
    private static func publicKey(_ path: String) throws(MachineError) -> [UInt8] {
        guard let text = FileManager.default.contents(atPath: path) else {
            throw MachineError(
                .hostUnfit, "machine.image.keys: cannot read \(path): \(errnoText(errno))")
        }
        guard let key = bytes(ofHex: String(decoding: text.prefix(4096), as: UTF8.self).trimmed),
            key.count == 32
        else {
            throw MachineError(
                .hostUnfit,
                "machine.image.keys: \(path) is no public key of `mayfly image keygen`")
        }
        return key
    }
}

/// The files of a key that signs images.
package struct ImageKeyFiles: Sendable {
    package let privateKey: String
    package let publicKey: String

    /// Makes a key; never over another one.
    package static func make(_ path: String) throws(MachineError) -> ImageKeyFiles {
        let files = ImageKeyFiles(privateKey: "\(path).key", publicKey: "\(path).pub")
        let secret = randomBytes(32)
        let key = try SigningKey(privateKey: secret)
        try create(files.privateKey, hexText(secret), mode: 0o600)
        do throws(MachineError) {
            try create(files.publicKey, hexText(key.publicKey), mode: 0o644)
        } catch {
            _ = unsafe unlink(files.privateKey)
            throw error
        }
        return files
    }
    private static func create(
        _ path: String, _ text: String, mode: mode_t
    ) throws(MachineError) {
        let file = try attempting(
            Descriptor.open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, mode: mode))
        let bytes = Array("\(text)\n".utf8)
        let count = unsafe write(file.number, bytes, bytes.count)
        guard count == bytes.count, fchmod(file.number, mode) == 0, fsync(file.number) == 0 else {
            let error = MachineError(SystemError("write", path))
            _ = unsafe unlink(path)
            throw error
        }
    }
}

extension SigningKey {
    /// - Throws: `hostUnfit` when it is no private key, or not its owner's alone.
    init(file path: String) throws(MachineError) {
        let file = try attempting(Descriptor.open(path, O_RDONLY | O_NOFOLLOW))
        var facts = stat()
        guard unsafe fstat(file.number, &facts) == 0, facts.st_mode & S_IFMT == S_IFREG,
            facts.st_mode & 0o077 == 0, facts.st_uid == geteuid() || facts.st_uid == 0
        else {
            throw MachineError(
                .hostUnfit, "\(path) can be read by others; chmod 600 \(path), or make a new key")
        }
        var text = [UInt8](repeating: 0, count: 256)
        let count = unsafe read(file.number, &text, text.count)
        let digits = String(decoding: text.prefix(max(0, count)), as: UTF8.self).trimmed
        guard let secret = bytes(ofHex: digits), secret.count == 32 else {
            throw MachineError(
                .hostUnfit, "\(path) is no private key of `mayfly image keygen`")
        }
        try self.init(privateKey: secret)
    }
}
