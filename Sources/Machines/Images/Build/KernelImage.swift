// The kernel inside a bzImage, as an ELF file: Firecracker starts nothing else. Linux packs it with
// one of several programs and says where it stands.

import Events
import Foundation

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

    /// Unpacks it to `target`.
    ///
    /// - Throws: `buildFailed` with the program that is missing.
    @LoopActor
    func extract(to target: String) async throws(MachineError) {
        guard let data = FileManager.default.contents(atPath: path) else {
            throw MachineError(.buildFailed, "cannot read the kernel \(path)")
        }
        let image = [UInt8](data)
        guard let range = Self.payload(of: image),
            let unpacker = PackedFile.unpacker(of: image[range])
        else {
            throw MachineError(
                .buildFailed, "\(path) is not a packed kernel that this version can unpack")
        }
        try await PackedFile.unpack(image[range], by: unpacker, to: target)
    }
}
