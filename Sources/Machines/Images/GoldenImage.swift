// A verified generation, ready to be cloned: its memory and device state in sealed memory files,
// its root disk open. What was hashed is what is mapped; nobody can change a byte of it any more.

import CLinux
import Events
import Foundation
import Glibc
import Processes
import Synchronization

/// One generation, loaded and verified; shared by every machine restored from it.
final class GoldenImage: Sendable {
    let manifest: Manifest
    let directory: String
    let memory: Descriptor
    let state: Descriptor
    let rootDisk: Descriptor
    /// What each machine's own disk begins with.
    let scratch: ScratchDisk?
    /// Told apart from a generation of the same name that was built again.
    let identity: GenerationIdentity
    private let rootDiskIdentity: Mutex<FileIdentity>
    private let locks: [ImageLock]
    private let facts: FileFacts?

    private init(
        manifest: Manifest, directory: String, locks: [ImageLock], memory: consuming Descriptor,
        state: consuming Descriptor, rootDisk: consuming Descriptor, scratch: ScratchDisk?,
        facts: FileFacts?
    ) throws(MachineError) {
        self.manifest = manifest
        self.directory = directory
        self.locks = locks
        self.facts = facts
        self.identity = try GenerationIdentity(of: directory)
        self.rootDiskIdentity = Mutex(
            try Self.verified(manifest.rootDisk, rootDisk.number, in: directory, facts))
        self.memory = memory
        self.state = state
        self.rootDisk = rootDisk
        self.scratch = scratch
    }

    /// Reads and verifies everything; blocking, so call it through `offload`.
    ///
    /// - Parameter facts: digests that need not be computed again while their files stay as they
    ///   are; the signature is checked all the same.
    /// - Throws: `imageRefused` naming the file and the remedy when anything differs.
    static func load(
        directory: String, trust: TrustedKeys, host: HostProfile, facts: FileFacts? = nil
    ) throws(MachineError) -> GoldenImage {
        // Nobody prunes what is loaded here: neither the generation nor its base.
        let lock = try ImageLock(directory)
        let manifest = try readManifest(in: directory, trust: trust)
        let disk = "\(directory)/\(manifest.rootDisk.path)" as NSString
        let locks = [lock, try ImageLock(disk.deletingLastPathComponent)]
        try host.check(manifest, directory: directory)
        let memory = try sealedCopy(of: manifest.memory, in: directory, "mayfly-memory", facts)
        let state = try sealedCopy(of: manifest.state, in: directory, "mayfly-state", facts)
        let rootDisk = try openImageFile("\(directory)/\(manifest.rootDisk.path)")
        return try GoldenImage(
            manifest: manifest, directory: directory, locks: locks, memory: memory, state: state,
            rootDisk: rootDisk, scratch: try ScratchDisk(of: manifest, in: directory),
            facts: facts)
    }

    /// Verifies without keeping anything: every file's digest, the kernel and initramfs included.
    static func verify(
        directory: String, trust: TrustedKeys, host: HostProfile
    ) throws(MachineError) {
        let manifest = try readManifest(in: directory, trust: trust)
        try host.check(manifest, directory: directory)
        for file in manifest.files {
            let found = try? SHA256.hex(ofFile: "\(directory)/\(file.path)")
            guard found == file.sha256 else { throw refusal(file, in: directory) }
        }
    }

    /// The manifest, when a trusted key signed exactly these bytes.
    static func readManifest(
        in directory: String, trust: TrustedKeys
    ) throws(MachineError) -> Manifest {
        let path = "\(directory)/manifest.json"
        guard let data = FileManager.default.contents(atPath: path) else {
            throw MachineError(
                .imageMissing, "no manifest at \(path); build the image with `mayfly image build`")
        }
        let signaturePath = "\(directory)/manifest.sig"
        let signature = FileManager.default.contents(atPath: signaturePath)
            .flatMap { bytes(ofHex: String(decoding: $0, as: UTF8.self).trimmed) }
        guard let signature, trust.accept([UInt8](data), signature) else {
            throw MachineError(
                .imageRefused,
                "\(path) does not carry the signature of \(trust.words): it was changed, or built "
                    + "elsewhere; rebuild it with `mayfly image build --force`")
        }
        do {
            let manifest = try JSONDecoder().decode(Manifest.self, from: data)
            guard manifest.format == Manifest.currentFormat else {
                throw MachineError(
                    .imageRefused,
                    "\(path) has format \(manifest.format), this program reads "
                        + "\(Manifest.currentFormat); rebuild it with `mayfly image build`")
            }
            return manifest
        } catch let error as MachineError {
            throw error
        } catch {
            throw MachineError(.imageRefused, "\(path) cannot be read: \(error)")
        }
    }

    /// Whether the root disk is still the file that was hashed; checked at each restore.
    ///
    /// Its times also change when a name of it goes away; then its bytes are hashed again, once.
    func checkRootDisk() async throws(MachineError) {
        let found = try FileIdentity(of: rootDisk.number)
        if rootDiskIdentity.withLock({ $0 == found }) { return }
        do throws(MachineError) {
            let identity = try await offload { [self] () throws(MachineError) in
                try Self.verified(manifest.rootDisk, rootDisk.number, in: directory, facts)
            }
            rootDiskIdentity.withLock { $0 = identity }
        } catch {
            guard error.reason == .imageRefused else { throw error }
            throw MachineError(
                .imageRefused,
                "\(directory)/\(manifest.rootDisk.path) changed after it was verified; "
                    + "rebuild it with `mayfly image build --refresh`")
        }
    }

    /// Hashes an open file, unless it is known to have that digest.
    ///
    /// - Returns: which file, in which state, has the digest of the manifest.
    private static func verified(
        _ file: ImageFile, _ descriptor: CInt, in directory: String, _ facts: FileFacts?
    ) throws(MachineError) -> FileIdentity {
        // Again when its times changed meanwhile: a name of it may have come or gone, as when a
        // backup makes links.
        for _ in 0..<10 {
            let reading = try FileReading(of: descriptor, as: file, facts)
            if reading.isKnown { return reading.identity }
            guard try SHA256.hex(ofDescriptor: descriptor) == file.sha256 else {
                throw refusal(file, in: directory)
            }
            if try reading.isUnchanged(descriptor) {
                reading.remember()
                return reading.identity
            }
        }
        throw MachineError(
            .imageRefused,
            "\(directory)/\(file.path) was changed each of 10 times while it was read; "
                + "end what changes it, or links to it, and try again")
    }

    static func refusal(_ file: ImageFile, in directory: String) -> MachineError {
        MachineError(
            .imageRefused,
            "\(directory)/\(file.path) does not match the digest in its manifest; "
                + "rebuild it with `mayfly image build --force`")
    }

    /// Copies a file into a memory file, seals it, and hashes what is now unchangeable, unless the
    /// file was known to have that digest before it was copied and is the same afterwards.
    private static func sealedCopy(
        of file: ImageFile, in directory: String, _ name: String, _ facts: FileFacts?
    ) throws(MachineError) -> Descriptor {
        let path = "\(directory)/\(file.path)"
        let source = try openImageFile(path)
        let copy = try attempting(Descriptor.memory(name))
        guard ftruncate(copy.number, off_t(file.byteCount)) == 0 else {
            throw MachineError(.hostUnfit, "no memory for \(path): \(errnoText(errno))")
        }
        let reading = try FileReading(of: source.number, as: file, facts)
        // The copy has the full length before a byte is read: missing zeros would not show in it.
        guard reading.isWhole else { throw refusal(file, in: directory) }
        try copyData(of: path, source.number, to: copy.number, byteCount: file.byteCount)
        guard mayfly_seal(copy.number) == 0, mayfly_is_sealed(copy.number) == 1 else {
            throw MachineError(.hostUnfit, "this kernel cannot seal memory files")
        }
        let isUnchanged = try reading.isUnchanged(source.number)
        if reading.isKnown, isUnchanged { return copy }
        guard try SHA256.hex(ofDescriptor: copy.number) == file.sha256 else {
            throw refusal(file, in: directory)
        }
        if isUnchanged { reading.remember() }
        return copy
    }
    /// Holes of the sparse file stay holes: a guest's unused memory costs nothing.
    private static func copyData(
        of path: String, _ source: CInt, to copy: CInt, byteCount: Int
    ) throws(MachineError) {
        var buffer = [UInt8](repeating: 0, count: 1 << 20)
        var offset = 0
        while offset < byteCount {
            let data = lseek(source, off_t(offset), seekData)
            if data < 0, errno == ENXIO { return }  // nothing but a hole from here on
            // Whatever is not read must be an error: the copy may not be hashed.
            guard data >= 0 else { throw MachineError(SystemError("read", path)) }
            let count = unsafe pread(source, &buffer, buffer.count, data)
            guard count >= 0 else { throw MachineError(SystemError("read", path)) }
            if count == 0 { return }  // it became shorter, which its identity shows
            guard unsafe pwrite(copy, buffer, count, data) == count else {
                throw MachineError(.hostUnfit, "no memory for \(path): \(errnoText(errno))")
            }
            offset = Int(data) + count
        }
    }
}

/// A file of an image that is about to be read, and whether its digest is known without that.
private struct FileReading {
    let identity: FileIdentity
    let isWhole: Bool
    let isKnown: Bool
    private let isRememberable: Bool
    private let file: ImageFile
    private let facts: FileFacts?

    init(of descriptor: CInt, as file: ImageFile, _ facts: FileFacts?) throws(MachineError) {
        identity = try FileIdentity(of: descriptor)
        isWhole = identity.byteCount == file.byteCount
        isRememberable = isWhole && facts?.mayRemember(identity) == true
        isKnown = isWhole && facts?.recall(.sha256, of: identity) == file.sha256
        self.file = file
        self.facts = facts
    }
    func isUnchanged(_ descriptor: CInt) throws(MachineError) -> Bool {
        try FileIdentity(of: descriptor) == identity
    }
    /// What was read has the digest, and the file has not changed while it was read.
    func remember() {
        if isRememberable { facts?.remember(file.sha256, as: .sha256, of: identity) }
    }
}

/// SEEK_DATA of lseek(2), which the Glibc module does not show.
private let seekData: CInt = 3

extension Manifest {
    var files: [ImageFile] {
        [memory, state, rootDisk, kernel, initramfs] + (scratch.map { [$0] } ?? [])
    }
}

extension ScratchDisk {
    /// That of a generation, verified; `nil` when its machines have none.
    init?(of manifest: Manifest, in directory: String) throws(MachineError) {
        guard let file = manifest.scratch, let size = manifest.hardware.scratch else { return nil }
        let path = "\(directory)/\(file.path)"
        guard file.byteCount <= Self.templateByteCountMax,
            let data = FileManager.default.contents(atPath: path),
            SHA256.hex(of: [UInt8](data)) == file.sha256
        else { throw GoldenImage.refusal(file, in: directory) }
        try self.init(template: [UInt8](data), size: size)
    }
}

/// Which generation a path names at this moment.
struct GenerationIdentity: Hashable, Sendable {
    private let numbers: [UInt]
    init(of path: String) throws(MachineError) {
        var (directory, manifest) = (stat(), stat())
        guard unsafe stat(path, &directory) == 0,
            unsafe stat("\(path)/manifest.json", &manifest) == 0
        else { throw MachineError(SystemError("look at", path)) }
        // The kernel gives the number of a directory that is gone to the next one: hence the time.
        numbers = [
            UInt(directory.st_dev), UInt(directory.st_ino),
            UInt(bitPattern: manifest.st_mtim.tv_sec), UInt(bitPattern: manifest.st_mtim.tv_nsec),
        ]
    }
}

/// The public keys whose manifests this host restores.
struct TrustedKeys: Sendable {
    var publicKeys: [[UInt8]]
    /// Which ones, for an operator.
    var words = "a trusted key"

    func accept(_ message: [UInt8], _ signature: [UInt8]) -> Bool {
        publicKeys.contains { isSigned(message, signature, by: $0) }
    }
}
