// The images on this host: where they stand, which generation is current, which keys are trusted.
//
//   <state>/images/<name>/<generation>/   manifest.json manifest.sig memory state initramfs
//   <state>/images/<name>/current.<hypervisor>   → <generation>
//   <state>/bases/<id>-<content>/         root.ext4 kernel modules packages (shared, never changed)
//   <state>/bases/<id>.newest             → <id>-<content>, the newest of a definition
//   <state>/keys/signing.key  keys/trusted/<key id>.pub
//   <state>/floors/<name>.<hypervisor>    the lowest epoch that is still restored

import Foundation
import Glibc

/// One generation as `mayfly image list` shows it.
package struct ImageSummary: Sendable, Codable {
    package var name: String
    package var generation: String
    package var isCurrent: Bool
    package var createdAt: String
    package var hypervisor: HypervisorName?
    package var hypervisorVersion: String
    package var accelerator: Accelerator?
    package var transport: Transport?
    /// What it occupies on disk, without the base it shares.
    package var byteCount: Int
    /// Why it cannot be restored here, or `nil`; digests are checked by `verify` only.
    package var problem: String?
}

/// The images under one state directory.
package struct ImageStore: Sendable {
    package let stateDirectory: String
    private let keys: ImageKeys

    package init(stateDirectory: String, keys: ImageKeys = ImageKeys()) {
        self.stateDirectory = stateDirectory
        self.keys = keys
    }

    var imagesDirectory: String { "\(stateDirectory)/images" }
    var basesDirectory: String { "\(stateDirectory)/bases" }
    var keysDirectory: String { "\(stateDirectory)/keys" }

    /// A snapshot is one hypervisor's, so each has a current generation of its own.
    func currentLink(of name: String, for hypervisor: HypervisorName) -> String {
        "\(imagesDirectory)/\(name)/\(Self.currentPrefix)\(hypervisor)"
    }
    static let currentPrefix = "current."

    /// The directory of an image's current generation, or of the one named.
    func directory(
        of name: String, for hypervisor: HypervisorName, generation: String? = nil
    ) throws(MachineError) -> String {
        guard let target = generation ?? link(of: currentLink(of: name, for: hypervisor)) else {
            throw MachineError(
                .imageMissing,
                "no image \"\(name)\" for \(hypervisor) under \(imagesDirectory); "
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

    /// The names of an image's generations.
    func generations(of name: String) -> [String] {
        children(of: "\(imagesDirectory)/\(name)")
            .filter { !$0.hasPrefix("current") && !$0.hasPrefix(".") }
    }

    /// Every generation on this host, by name and age.
    package func list(on host: HostProfile) throws(MachineError) -> [ImageSummary] {
        let trust = try trustedKeys()
        var found: [ImageSummary] = []
        for name in children(of: imagesDirectory) {
            let current = HypervisorName.allCases.compactMap {
                link(of: currentLink(of: name, for: $0))
            }
            for generation in generations(of: name) {
                let directory = "\(imagesDirectory)/\(name)/\(generation)"
                var summary = ImageSummary(
                    name: name, generation: generation, isCurrent: current.contains(generation),
                    createdAt: "", hypervisor: nil, hypervisorVersion: "", accelerator: nil,
                    transport: nil,
                    byteCount: occupied(directory), problem: nil)
                do {
                    let manifest = try GoldenImage.readManifest(in: directory, trust: trust)
                    summary.createdAt = manifest.createdAt
                    summary.hypervisor = manifest.hypervisor
                    summary.hypervisorVersion = manifest.hypervisorVersion
                    summary.accelerator = manifest.hardware.accelerator
                    summary.transport = manifest.hardware.transport
                    try host.check(manifest, directory: directory)
                    try floors.check(manifest)
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
        let directory = try directory(of: name, for: host.hypervisor, generation: generation)
        try GoldenImage.verify(directory: directory, trust: try trustedKeys(), host: host)
        try floors.check(
            try GoldenImage.readManifest(in: directory, trust: try trustedKeys()))
    }

    // MARK: Keys

    func trustedKeys() throws(MachineError) -> TrustedKeys {
        let named = try keys.read()
        guard !keys.replacesOwn else {
            return TrustedKeys(publicKeys: named, words: "a key that machine.image.keys names")
        }
        let directory = "\(keysDirectory)/trusted"
        let own = children(of: directory).filter { $0.hasSuffix(".pub") }.compactMap {
            FileManager.default.contents(atPath: "\(directory)/\($0)")
                .flatMap { bytes(ofHex: String(decoding: $0, as: UTF8.self).trimmed) }
        }
        return TrustedKeys(publicKeys: own.filter { $0.count == 32 } + named)
    }
    /// The signing key of this host, made at the first build.
    func signingKey() throws(MachineError) -> SigningKey {
        let path = "\(keysDirectory)/signing.key"
        try makeDirectory("\(keysDirectory)/trusted", mode: 0o755)
        if let data = FileManager.default.contents(atPath: path) {
            let text = String(decoding: data, as: UTF8.self).trimmed
            guard let secret = bytes(ofHex: text), secret.count == 32 else {
                throw MachineError(
                    .hostUnfit,
                    "\(path) is damaged (\(data.count) bytes, not 64 hexadecimal digits); "
                        + "restore it, or move it away and build every image anew")
            }
            let key = try SigningKey(privateKey: secret)
            try trust(key)
            return key
        }
        let secret = randomBytes(32)
        let key = try SigningKey(privateKey: secret)
        // Trusted first: a key that signs and is not trusted would make images that nobody takes.
        try trust(key)
        try writeFile(path, Array((hexText(secret) + "\n").utf8), mode: 0o600)
        return key
    }
    private func trust(_ key: borrowing SigningKey) throws(MachineError) {
        let publicKey = hexText(key.publicKey)
        let path = "\(keysDirectory)/trusted/\(publicKey.prefix(16)).pub"
        let contents = Array((publicKey + "\n").utf8)
        guard FileManager.default.contents(atPath: path).map(Array.init) != contents else { return }
        try writeFile(path, contents, mode: 0o644)
    }
}
