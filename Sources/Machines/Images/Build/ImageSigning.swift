// With which key, and as how new, an image is signed.

import Foundation
import Glibc
import Processes

/// What a build is told about its signature.
package struct ImageSigning: Sendable {
    /// A file of `mayfly image keygen`; `nil`: this host's own key.
    package var keyFile: String?
    /// `nil`: the time of the build.
    package var epoch: Int?

    package init(keyFile: String? = nil, epoch: Int? = nil) {
        self.keyFile = keyFile
        self.epoch = epoch
    }

    func key(_ store: ImageStore) throws(MachineError) -> SigningKey {
        guard let keyFile else { return try store.signingKey() }
        return try SigningKey(file: keyFile)
    }
    func publicKey(_ store: ImageStore) throws(MachineError) -> [UInt8] {
        let key = try key(store)
        return key.publicKey
    }
}

extension TrustedKeys {
    /// With one more: whoever signs an image may prove it.
    func and(_ publicKey: [UInt8]) -> TrustedKeys {
        TrustedKeys(publicKeys: publicKeys + [publicKey], words: words)
    }
}

extension ImageBuilder {
    func workDirectory(of directory: String) -> String {
        let path = directory as NSString
        return path.deletingLastPathComponent + "/.\(path.lastPathComponent)-\(getpid())"
    }

    /// Signs what was built before with the key and the epoch of this build, where they are
    /// others, and puts it in its place like a new one: no byte of it is made again.
    func renew(_ directory: String, _ profile: HostProfile) throws(MachineError) {
        let own = TrustedKeys(publicKeys: [try signing.publicKey(store)])
        let floor = try store.floor(of: definition.name, for: profile.hypervisor).epoch
        let isOurs = (try? GoldenImage.readManifest(in: directory, trust: own)) != nil
        let all = try store.trustedKeys().and(try signing.publicKey(store))
        var manifest = try GoldenImage.readManifest(in: directory, trust: all)
        guard !isOurs || manifest.age < floor || (signing.epoch ?? manifest.age) != manifest.age
        else { return }
        let work = workDirectory(of: directory)
        let lock = try ImageLock.making(work)
        defer {
            withExtendedLifetime(lock) {}
            try? FileManager.default.removeItem(atPath: work)
        }
        for name in children(of: directory) where !name.hasPrefix("manifest.") {
            let (old, new) = ("\(directory)/\(name)", "\(work)/\(name)")
            var facts = stat()
            guard unsafe lstat(old, &facts) == 0 else { continue }
            if facts.st_mode & S_IFMT == S_IFLNK, let target = store.link(of: old) {
                try replaceLink(new, with: target)
            } else if facts.st_mode & S_IFMT == S_IFREG {
                guard unsafe Glibc.link(old, new) == 0 else {
                    throw MachineError(SystemError("link", new))
                }
            }
        }
        manifest.epoch = try epoch(above: floor)
        try sign(manifest, in: work)
        try publish(work, as: directory)
        progress("signed again, with the epoch \(manifest.age)")
    }

    /// Of a build now: the seconds since 1970, unless it was given.
    func epoch(above floor: Int) throws(MachineError) -> Int {
        let epoch = signing.epoch ?? max(Int(Date().timeIntervalSince1970), floor + 1)
        guard epoch >= floor else {
            throw MachineError(
                .buildFailed,
                "the epoch \(epoch) is below this host's floor of \(floor) for \(definition.name)")
        }
        return epoch
    }

    func sign(_ manifest: Manifest, in work: String) throws(MachineError) {
        let key = try signing.key(store)
        let bytes = try manifest.encoded()
        try writeFile("\(work)/manifest.json", bytes, mode: 0o444)
        try writeFile(
            "\(work)/manifest.sig", Array((hexText(key.sign(bytes)) + "\n").utf8), mode: 0o444)
    }
}
