// A verified generation, ready to be cloned: its memory and device state in sealed memory files,
// its root disk open. What was hashed is what is mapped; nobody can change a byte of it any more.

import CLinux
import Foundation
import Glibc
import Processes

/// One generation, loaded and verified; shared by every machine restored from it.
final class GoldenImage: Sendable {
    let manifest: Manifest
    let directory: String
    let memory: Descriptor
    let state: Descriptor
    let rootDisk: Descriptor
    private let rootDiskIdentity: FileIdentity

    private init(
        manifest: Manifest, directory: String, memory: consuming Descriptor,
        state: consuming Descriptor, rootDisk: consuming Descriptor
    ) throws(MachineError) {
        self.manifest = manifest
        self.directory = directory
        self.rootDiskIdentity = try FileIdentity(of: rootDisk.number)
        self.memory = memory
        self.state = state
        self.rootDisk = rootDisk
    }

    /// Reads and verifies everything; blocking, so call it through `offload`.
    ///
    /// - Throws: `imageRefused` naming the file and the remedy when anything differs.
    static func load(
        directory: String, trust: TrustedKeys, host: HostProfile
    ) throws(MachineError) -> GoldenImage {
        let manifest = try readManifest(in: directory, trust: trust)
        try host.check(manifest, directory: directory)
        let memory = try sealedCopy(of: manifest.memory, in: directory, name: "mayfly-memory")
        let state = try sealedCopy(of: manifest.state, in: directory, name: "mayfly-state")
        let rootDisk = try openImageFile("\(directory)/\(manifest.rootDisk.path)")
        let found = try SHA256.hex(ofDescriptor: rootDisk.number)
        guard found == manifest.rootDisk.sha256 else {
            throw refusal(manifest.rootDisk, in: directory)
        }
        return try GoldenImage(
            manifest: manifest, directory: directory, memory: memory, state: state,
            rootDisk: rootDisk)
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
                "\(path) does not carry a trusted signature: it was changed, or built elsewhere; "
                    + "rebuild it with `mayfly image build --force`")
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
    func checkRootDisk() throws(MachineError) {
        guard try FileIdentity(of: rootDisk.number) == rootDiskIdentity else {
            throw MachineError(
                .imageRefused,
                "\(directory)/\(manifest.rootDisk.path) changed after it was verified; "
                    + "rebuild it with `mayfly image build --force` and restart the worker")
        }
    }

    private static func refusal(_ file: ImageFile, in directory: String) -> MachineError {
        MachineError(
            .imageRefused,
            "\(directory)/\(file.path) does not match the digest in its manifest; "
                + "rebuild it with `mayfly image build --force`")
    }

    /// Copies a file into a memory file, seals it, and hashes what is now unchangeable.
    private static func sealedCopy(
        of file: ImageFile, in directory: String, name: String
    ) throws(MachineError) -> Descriptor {
        let path = "\(directory)/\(file.path)"
        let source = try openImageFile(path)
        let copy = try attempting(Descriptor.memory(name))
        guard ftruncate(copy.number, off_t(file.byteCount)) == 0 else {
            throw MachineError(.hostUnfit, "no memory for \(path): \(errnoText(errno))")
        }
        var buffer = [UInt8](repeating: 0, count: 1 << 20)
        var offset = 0
        while offset < file.byteCount {
            // Holes of the sparse file stay holes: a guest's unused memory costs nothing.
            let data = lseek(source.number, off_t(offset), seekData)
            if data < 0 { break }
            offset = Int(data)
            let count = unsafe pread(source.number, &buffer, buffer.count, data)
            guard count > 0 else { break }
            guard unsafe pwrite(copy.number, buffer, count, data) == count else {
                throw MachineError(.hostUnfit, "no memory for \(path): \(errnoText(errno))")
            }
            offset += count
        }
        guard mayfly_seal(copy.number) == 0, mayfly_is_sealed(copy.number) == 1 else {
            throw MachineError(.hostUnfit, "this kernel cannot seal memory files")
        }
        guard try SHA256.hex(ofDescriptor: copy.number) == file.sha256 else {
            throw refusal(file, in: directory)
        }
        return copy
    }
}

/// SEEK_DATA of lseek(2), which the Glibc module does not show.
private let seekData: CInt = 3

extension Manifest {
    var files: [ImageFile] { [memory, state, rootDisk, kernel, initramfs] }
}

/// What identifies a file that must not change under us.
private struct FileIdentity: Equatable, Sendable {
    var numbers: [Int]
    init(of descriptor: CInt) throws(MachineError) {
        var status = stat()
        guard unsafe fstat(descriptor, &status) == 0 else {
            throw MachineError(.hostUnfit, "cannot inspect an image file: \(errnoText(errno))")
        }
        numbers = [
            Int(status.st_dev), Int(status.st_ino), Int(status.st_size),
            status.st_mtim.tv_sec, status.st_mtim.tv_nsec, status.st_ctim.tv_sec,
            status.st_ctim.tv_nsec,
        ]
    }
}

/// The public keys whose manifests this host restores.
struct TrustedKeys: Sendable {
    var publicKeys: [[UInt8]]

    func accept(_ message: [UInt8], _ signature: [UInt8]) -> Bool {
        publicKeys.contains { isSigned(message, signature, by: $0) }
    }
}
