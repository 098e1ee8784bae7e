// Files that a distribution has packed: the kernel inside a bzImage, the modules of newer kernels.

import Events
import Foundation
import Processes

/// What a file begins with says which program unpacks it.
enum PackedFile {
    /// `nil` when it is not packed, or by nothing that is known.
    static func unpacker(of bytes: some Sequence<UInt8>) -> String? {
        let programs: [(magic: [UInt8], name: String)] = [
            ([0xFD, 0x37, 0x7A, 0x58, 0x5A], "xz"), ([0x1F, 0x8B], "gzip"),
            ([0x28, 0xB5, 0x2F, 0xFD], "zstd"), ([0x42, 0x5A, 0x68], "bzip2"),
            ([0x02, 0x21, 0x4C, 0x18], "lz4"),
        ]
        return programs.first { bytes.starts(with: $0.magic) }?.name
    }

    /// Unpacks `bytes` into the file `target`, which must then be an ELF file.
    ///
    /// - Throws: `buildFailed` with the program that is missing or has failed.
    @LoopActor
    static func unpack(
        _ bytes: some Collection<UInt8>, by unpacker: String, to target: String
    ) async throws(MachineError) {
        let packed = "\(target).packed"
        try writeFile(packed, Array(bytes), mode: 0o600)
        defer { try? FileManager.default.removeItem(atPath: packed) }
        let script = "exec \"$0\" -dc < \"$1\" > \"$2\""
        let result = try await runTool(["sh", "-c", script, unpacker, packed, target])
        let head = try? Data(contentsOf: URL(fileURLWithPath: target), options: .mappedIfSafe)
            .prefix(4)
        guard result.status == 0, head.map(Array.init) == [0x7F, 0x45, 0x4C, 0x46] else {
            throw MachineError(
                .buildFailed,
                "\(unpacker) cannot unpack \(target): \(result.output.trimmed); "
                    + "install \(unpacker)")
        }
        unsafe chmod(target, 0o444)
    }
}
