// The private keys of a host: one file each in a directory, KID.jwk, for its owner alone. Nothing
// is held: a key that is copied here opens the next job's secrets, one that is removed opens none.

import Glibc
import Processes
import StrictJSON

/// Where private keys are looked for.
package struct SecretKeys: Sendable {
    package let directory: String
    /// Keys that are in no file: those of a command that seals and opens by itself.
    package var held: [PrivateKey] = []
    private static let fileByteCountMax = 4096

    package init(directory: String) { self.directory = directory }

    private func path(_ id: String) -> String { "\(directory)/\(id).jwk" }

    /// The key of that id.
    ///
    /// - Throws: ``SecretError/keyMissing(_:)`` when there is none, or none that may be used.
    package func key(_ id: String) throws(SecretError) -> PrivateKey {
        if let own = held.first(where: { $0.publicKey.id == id }) { return own }
        // The id comes from a stranger, and becomes a path.
        guard PublicKey.isID(id) else { throw .malformed("the id of a key is 16 hex digits") }
        let path = path(id)
        var bytes: [UInt8]
        do throws(SystemError) { bytes = try Self.read(path) } catch {
            guard error.code == ENOENT else {
                let remedy = "; it and its directory belong to the worker's user"
                throw .keyMissing("\(error)\(error.code == EACCES ? remedy : "")")
            }
            throw .keyMissing(
                "this host has not the key \(id) for secrets; copy \(id).jwk from a host that has "
                    + "it into \(directory)")
        }
        defer { wipe(&bytes) }
        do {
            let key = try PrivateKey(try JSON(parsing: bytes))
            if key.publicKey.id == id { return key }
        } catch {}
        throw .keyMissing("\(path) is damaged: it is not the key \(id); copy it again")
    }

    private static func read(_ path: String) throws(SystemError) -> [UInt8] {
        let file = try Descriptor.open(path, O_RDONLY | O_NONBLOCK)
        var facts = stat()
        guard unsafe fstat(file.number, &facts) == 0 else { throw SystemError("look at", path) }
        guard facts.st_mode & S_IFMT == S_IFREG, facts.st_mode & 0o077 == 0 else {
            throw SystemError("use (others may read it: chmod 600)", path, EACCES)
        }
        var bytes = [UInt8](repeating: 0, count: fileByteCountMax)
        let count = unsafe Glibc.read(file.number, &bytes, bytes.count)
        guard count >= 0 else { throw SystemError("read", path) }
        return Array(bytes.prefix(count))
    }

    /// The ids of the keys in the directory, each with why it cannot be used, if so.
    package func list() -> [(id: String, problem: String?)] {
        var ids: [String] = []
        guard let entries = unsafe opendir(directory) else { return [] }
        defer { unsafe closedir(entries) }
        while let entry = unsafe readdir(entries) {
            let name = unsafe withUnsafePointer(to: &entry.pointee.d_name) {
                unsafe $0.withMemoryRebound(to: CChar.self, capacity: 256) {
                    unsafe String(cString: $0)
                }
            }
            if name.hasSuffix(".jwk"), PublicKey.isID(String(name.dropLast(4))) {
                ids.append(String(name.dropLast(4)))
            }
        }
        return ids.sorted().map { id in
            do throws(SecretError) {
                _ = try key(id)
                return (id, nil)
            } catch { return (id, error.description) }
        }
    }

    /// Makes a key pair and its file, on disk when this returns.
    package func make() throws(SystemError) -> PrivateKey {
        let key = PrivateKey.generate()
        let path = path(key.publicKey.id)
        var built = directory.hasPrefix("/") ? "" : "."
        let parts = directory.split(separator: "/")
        for (place, part) in parts.enumerated() {
            built += "/" + part
            // Images stand beside keys, and workers of other users read those.
            let mode: mode_t = place == parts.count - 1 ? 0o700 : 0o755
            guard unsafe mkdir(built, mode) == 0 || errno == EEXIST else {
                throw SystemError("make the directory", built)
            }
        }
        let file = try Descriptor.open(path, O_WRONLY | O_CREAT | O_EXCL, mode: 0o600)
        var bytes = key.file.bytes
        defer { wipe(&bytes) }
        let count = unsafe write(file.number, bytes, bytes.count)
        guard count == bytes.count, fsync(file.number) == 0 else {
            throw SystemError("write", path)
        }
        let folder = try Descriptor.open(directory, O_RDONLY | O_DIRECTORY)
        guard fsync(folder.number) == 0 else { throw SystemError("finish", directory) }
        return key
    }
}
