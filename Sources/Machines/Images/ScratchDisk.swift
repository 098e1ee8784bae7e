// The scratch disk: a sparse file of each machine's own with an empty file system, without a name
// since it was made, gone with the machine. What makes it a file system, some hundred KiB, is part
// of the image: no machine waits for mke2fs, and none sees a byte of another's.

import CLinux
import Events
import Foundation
import Glibc
import Processes

/// The blocks of an empty file system that are not zero.
struct ScratchDisk: Sendable {
    /// Of one machine's disk.
    let byteCount: Int
    private let extents: [(offset: Int, bytes: [UInt8])]

    private static let blockByteCount = 4096
    /// Of all extents; an empty file system of 1 TiB has less.
    static let templateByteCountMax = 64 << 20

    // MARK: The template

    /// Makes the file system that every machine begins with, and writes what it consists of.
    ///
    /// - Parameter path: of the template; a file of the disk's size stands beside it meanwhile.
    @LoopActor
    static func makeTemplate(_ path: String, size: ByteCount) async throws(MachineError) {
        let disk = "\(path).disk"
        defer { unsafe unlink(disk) }
        let file = try attempting(Descriptor.open(disk, O_RDWR | O_CREAT | O_EXCL))
        guard ftruncate(file.number, off_t(size.bytes)) == 0 else {
            throw MachineError(SystemError("make", disk))
        }
        // No journal: after a crash there is nobody who would want its files. Everything that is
        // written at once stands together, and as little of it as can be.
        let made = try await runTool([
            "mke2fs", "-q", "-t", "ext4", "-m", "0", "-i", "65536", "-F",
            "-O", "^has_journal,^metadata_csum,^resize_inode,uninit_bg", "-E",
            "lazy_itable_init=1,packed_meta_blocks=1,root_owner=1000:1000", disk,
        ])
        guard made.status == 0 else {
            throw MachineError(.buildFailed, "mke2fs failed: \(made.output.trimmed)")
        }
        try writeFile(path, try template(of: file.number, size.bytes), mode: 0o444)
    }

    /// Offset and length of each extent, 8 bytes each and little-endian, then its bytes.
    private static func template(
        of disk: CInt, _ byteCount: Int
    ) throws(MachineError) -> [UInt8] {
        var template: [UInt8] = []
        var (offset, block) = (0, [UInt8](repeating: 0, count: blockByteCount))
        let zeros = block
        while offset < byteCount {
            let data = Int(lseek(disk, off_t(offset), seekData))
            guard data >= 0 else { break }  // nothing but a hole from here on
            offset = data / blockByteCount * blockByteCount
            let count = unsafe pread(disk, &block, block.count, off_t(offset))
            guard count == block.count else {
                throw MachineError(SystemError("read", "a scratch disk"))
            }
            if block != zeros {
                for number in [UInt64(offset), UInt64(count)] {
                    unsafe withUnsafeBytes(of: number.littleEndian) {
                        unsafe template.append(contentsOf: $0)
                    }
                }
                template += block
            }
            offset += count
        }
        return template
    }

    /// - Throws: `imageRefused` when the bytes are no template of a disk of that size.
    init(template: [UInt8], size: ByteCount) throws(MachineError) {
        var (extents, offset) = ([(offset: Int, bytes: [UInt8])](), 0)
        func number() throws(MachineError) -> Int {
            guard offset + 8 <= template.count else { throw Self.refusal }
            defer { offset += 8 }
            let value = template[offset..<(offset + 8)].reversed().reduce(UInt64(0)) {
                $0 << 8 | UInt64($1)
            }
            return Int(clamping: value)
        }
        while offset < template.count {
            let (place, count) = (try number(), try number())
            guard count <= template.count - offset, place <= size.bytes - count else {
                throw Self.refusal
            }
            extents.append((place, Array(template[offset..<(offset + count)])))
            offset += count
        }
        byteCount = size.bytes
        self.extents = extents
    }
    private static let refusal = MachineError(
        .imageRefused, "the scratch disk's template is damaged; build the image with --force")

    // MARK: A machine's disk

    /// A new disk, in a file without a name: it goes with the last descriptor.
    ///
    /// - Parameter owner: who may open it again by its descriptor.
    func make(in directory: String, owner: Credentials?) throws(MachineError) -> File {
        try makeDirectory(directory, mode: 0o700)
        let file = try attempting(Descriptor.open(directory, O_RDWR | nameless))
        if let owner, fchown(file.number, owner.user, owner.group) != 0 {
            throw MachineError(SystemError("hand over", "a scratch disk"))
        }
        guard ftruncate(file.number, off_t(byteCount)) == 0 else {
            throw MachineError(SystemError("make a scratch disk in", directory))
        }
        for extent in extents {
            let count = unsafe pwrite(
                file.number, extent.bytes, extent.bytes.count, off_t(extent.offset))
            guard count == extent.bytes.count else {
                throw MachineError(SystemError("write a scratch disk in", directory))
            }
        }
        return File(file)
    }

    /// One machine's disk, for as long as it lives.
    final class File: Sendable {
        private let file: Descriptor
        var number: CInt { file.number }
        init(_ file: consuming Descriptor) { self.file = file }
    }
}

/// O_TMPFILE of open(2) and SEEK_DATA of lseek(2), which the Glibc module does not show.
private let nameless: CInt = 0o20_200_000
private let seekData: CInt = 3
