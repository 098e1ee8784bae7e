// The images on this host: where they stand, which generation is current, which keys are trusted.
//
//   <state>/images/<name>/<generation>/   manifest.json manifest.sig memory state initramfs
//   <state>/images/<name>/current         → <generation>
//   <state>/bases/<id>/                   root.ext4 kernel modules packages (shared)
//   <state>/keys/signing.key  keys/trusted/<key id>.pub

import Foundation
import Glibc

/// One generation as `mayfly image list` shows it.
package struct ImageSummary: Sendable, Codable {
    package var name: String
    package var generation: String
    package var isCurrent: Bool
    package var createdAt: String
    package var qemuVersion: String
    package var accelerator: String
    package var transport: String
    /// What it occupies on disk, without the base it shares.
    package var byteCount: Int
    /// Why it cannot be restored here, or `nil`; digests are checked by `verify` only.
    package var problem: String?
}

/// The images under one state directory.
package struct ImageStore: Sendable {
    package let stateDirectory: String

    package init(stateDirectory: String) { self.stateDirectory = stateDirectory }

    var imagesDirectory: String { "\(stateDirectory)/images" }
    var basesDirectory: String { "\(stateDirectory)/bases" }
    var keysDirectory: String { "\(stateDirectory)/keys" }

    /// The directory of an image's current generation, or of the one named.
    func directory(
        of name: String, generation: String? = nil
    ) throws(MachineError) -> String {
        let current = "\(imagesDirectory)/\(name)/\(generation ?? "current")"
        guard
            let target = generation
                ?? (try? FileManager.default.destinationOfSymbolicLink(atPath: current))
        else {
            throw MachineError(
                .imageMissing,
                "no image \"\(name)\" under \(imagesDirectory); "
                    + "build it with `mayfly image build \(name)`")
        }
        let directory = "\(imagesDirectory)/\(name)/\(target)"
        guard FileManager.default.fileExists(atPath: "\(directory)/manifest.json") else {
            throw MachineError(
                .imageMissing,
                "no generation \(target) of image \"\(name)\"; `mayfly image list` shows what "
                    + "there is")
        }
        return directory
    }

    /// Every generation on this host, by name and age.
    package func list(on host: HostProfile) throws(MachineError) -> [ImageSummary] {
        let trust = try trustedKeys()
        var found: [ImageSummary] = []
        for name in children(of: imagesDirectory) {
            let current = try? FileManager.default.destinationOfSymbolicLink(
                atPath: "\(imagesDirectory)/\(name)/current")
            for generation in children(of: "\(imagesDirectory)/\(name)")
            where generation != "current" && !generation.hasPrefix(".") {
                let directory = "\(imagesDirectory)/\(name)/\(generation)"
                var summary = ImageSummary(
                    name: name, generation: generation, isCurrent: generation == current,
                    createdAt: "", qemuVersion: "", accelerator: "", transport: "",
                    byteCount: occupied(directory), problem: nil)
                do {
                    let manifest = try GoldenImage.readManifest(in: directory, trust: trust)
                    summary.createdAt = manifest.createdAt
                    summary.qemuVersion = manifest.qemuVersion
                    summary.accelerator = manifest.hardware.accelerator
                    summary.transport = manifest.hardware.transport
                    try host.check(manifest, directory: directory)
                } catch { summary.problem = "\(error)" }
                found.append(summary)
            }
        }
        return found.sorted { ($0.name, $0.createdAt) < ($1.name, $1.createdAt) }
    }

    /// Checks the signature and every digest of the current (or the named) generation.
    package func verify(
        _ name: String, generation: String? = nil, on host: HostProfile
    ) throws(MachineError) {
        let directory = try directory(of: name, generation: generation)
        try GoldenImage.verify(directory: directory, trust: try trustedKeys(), host: host)
    }

    /// Removes generations beyond the newest `keep` of each image, never the current one.
    ///
    /// Bases that no generation uses any more go too. Returns what was removed.
    package func prune(keeping keep: Int, dryRun: Bool) throws(MachineError) -> [String] {
        var removed: [String] = []
        var usedBases: Set<String> = []
        for name in children(of: imagesDirectory) {
            let current = try? FileManager.default.destinationOfSymbolicLink(
                atPath: "\(imagesDirectory)/\(name)/current")
            let generations = children(of: "\(imagesDirectory)/\(name)")
                .filter { $0 != "current" }
                .sorted {
                    age("\(imagesDirectory)/\(name)/\($0)")
                        < age("\(imagesDirectory)/\(name)/\($1)")
                }
            var kept = 0
            for generation in generations.reversed() {
                let directory = "\(imagesDirectory)/\(name)/\(generation)"
                if generation == current || (!generation.hasPrefix(".") && kept < keep) {
                    kept += 1
                    if let base = try? FileManager.default.destinationOfSymbolicLink(
                        atPath: "\(directory)/base")
                    {
                        usedBases.insert((base as NSString).lastPathComponent)
                    }
                } else {
                    removed.append(directory)
                }
            }
        }
        for base in children(of: basesDirectory) where !usedBases.contains(base) {
            removed.append("\(basesDirectory)/\(base)")
        }
        if dryRun { return removed }
        for path in removed {
            do { try FileManager.default.removeItem(atPath: path) } catch {
                throw MachineError(.hostUnfit, "cannot remove \(path): \(error)")
            }
        }
        return removed
    }

    // MARK: Keys

    func trustedKeys() throws(MachineError) -> TrustedKeys {
        let directory = "\(keysDirectory)/trusted"
        let keys = children(of: directory).filter { $0.hasSuffix(".pub") }.compactMap {
            FileManager.default.contents(atPath: "\(directory)/\($0)")
                .flatMap { bytes(ofHex: String(decoding: $0, as: UTF8.self).trimmed) }
        }
        return TrustedKeys(publicKeys: keys.filter { $0.count == 32 })
    }
    /// The signing key of this host, made at the first build.
    func signingKey() throws(MachineError) -> SigningKey {
        let path = "\(keysDirectory)/signing.key"
        try makeDirectory("\(keysDirectory)/trusted", mode: 0o755)
        if let data = FileManager.default.contents(atPath: path) {
            let text = String(decoding: data, as: UTF8.self).trimmed
            return try SigningKey(privateKey: bytes(ofHex: text) ?? [])
        }
        let secret = randomBytes(32)
        let key = try SigningKey(privateKey: secret)
        try writeFile(path, Array((hexText(secret) + "\n").utf8), mode: 0o600)
        let publicKey = hexText(key.publicKey)
        try writeFile(
            "\(keysDirectory)/trusted/\(publicKey.prefix(16)).pub",
            Array((publicKey + "\n").utf8), mode: 0o644)
        return key
    }
}
