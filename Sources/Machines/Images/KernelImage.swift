// The kernel inside a bzImage, as an ELF file: Firecracker starts nothing else. Linux packs it with
// one of several programs and says where it stands.

import Events
import Foundation
import Processes

/// A compressed kernel as distributions install it.
struct KernelImage: Sendable {
    let path: String

    /// Where in the file the packed kernel is, by the setup header.
    ///
    /// Source: linux/Documentation/arch/x86/boot.rst (setup_sects, payload_offset, payload_length).
    static func payload(of image: [UInt8]) -> Range<Int>? {
        func number(at place: Int) -> Int {
            (0..<4).reduce(0) { $0 | Int(image[place + $1]) << (8 * $1) }
        }
        guard image.count > 0x250, image[0x202..<0x206].elementsEqual("HdrS".utf8) else {
            return nil
        }
        let sectors = image[0x1F1] == 0 ? 4 : Int(image[0x1F1])
        let start = (sectors + 1) * 512 + number(at: 0x248)
        // Its last four bytes are the unpacked size, for unpackers that do not know it.
        let end = start + number(at: 0x24C) - 4
        return start < end && end <= image.count ? start..<end : nil
    }
    /// Which program unpacks what begins so.
    static func unpacker(of payload: ArraySlice<UInt8>) -> String? {
        let programs: [(magic: [UInt8], name: String)] = [
            ([0xFD, 0x37, 0x7A, 0x58, 0x5A], "xz"), ([0x1F, 0x8B], "gzip"),
            ([0x28, 0xB5, 0x2F, 0xFD], "zstd"), ([0x42, 0x5A, 0x68], "bzip2"),
            ([0x02, 0x21, 0x4C, 0x18], "lz4"),
        ]
        return programs.first { payload.starts(with: $0.magic) }?.name
    }

    /// Unpacks it to `target`.
    ///
    /// - Throws: `buildFailed` with the program that is missing.
    @LoopActor
    func extract(to target: String) async throws(MachineError) {
        guard let data = FileManager.default.contents(atPath: path) else {
            throw MachineError(.buildFailed, "cannot read the kernel \(path)")
        }
        let image = [UInt8](data)
        guard let range = Self.payload(of: image), let unpacker = Self.unpacker(of: image[range])
        else {
            throw MachineError(
                .buildFailed, "\(path) is not a packed kernel that this version can unpack")
        }
        let packed = "\(target).packed"
        try writeFile(packed, Array(image[range]), mode: 0o600)
        defer { try? FileManager.default.removeItem(atPath: packed) }
        let script = "exec \"$0\" -dc < \"$1\" > \"$2\""
        let result = try await runTool(["sh", "-c", script, unpacker, packed, target])
        let head = try? Data(contentsOf: URL(fileURLWithPath: target), options: .mappedIfSafe)
            .prefix(4)
        guard result.status == 0, head.map(Array.init) == [0x7F, 0x45, 0x4C, 0x46] else {
            throw MachineError(
                .buildFailed,
                "\(unpacker) cannot unpack the kernel of \(path): \(result.output.trimmed); "
                    + "install \(unpacker), or set machine.hypervisor = qemu")
        }
        unsafe chmod(target, 0o444)
    }
}
