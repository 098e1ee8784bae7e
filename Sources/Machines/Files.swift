// Files and directories: whole files written so that they are on disk, directories made and listed.

import Foundation
import Glibc
import Processes

func children(of directory: String) -> [String] {
    ((try? FileManager.default.contentsOfDirectory(atPath: directory)) ?? []).sorted()
}
func makeDirectory(_ path: String, mode: Int = 0o755) throws(MachineError) {
    do {
        try FileManager.default.createDirectory(
            atPath: path, withIntermediateDirectories: true,
            attributes: [.posixPermissions: mode])
    } catch {
        throw MachineError(
            .hostUnfit,
            "cannot make the directory \(path): \(error.localizedDescription); "
                + "run as root or set state.directory / runtime.directory to a place you own")
    }
}
/// A file of /proc, to its end; `nil` when there is none.
///
/// The kernel hands these out a few lines at a time, and Foundation takes that for the end.
func kernelText(_ path: String) -> String? {
    guard let file = try? Descriptor.open(path, O_RDONLY) else { return nil }
    var (bytes, chunk) = ([UInt8](), [UInt8](repeating: 0, count: 8 << 10))
    while true {
        let count = unsafe read(file.number, &chunk, chunk.count)
        if count < 0, errno == EINTR { continue }
        guard count >= 0 else { return nil }
        guard count > 0 else { return String(decoding: bytes, as: UTF8.self) }
        bytes += chunk[..<count]
    }
}
/// Writes a whole file, or leaves what was there: a disk that fills up spoils nothing.
func writeFile(_ path: String, _ contents: [UInt8], mode: mode_t) throws(MachineError) {
    let draft = "\(path).\(hexText(randomBytes(6)))"
    do throws(MachineError) {
        try writeDurably(draft, contents, mode: mode)
        guard unsafe rename(draft, path) == 0 else {
            throw MachineError(SystemError("rename to", path))
        }
    } catch {
        _ = unsafe unlink(draft)
        throw error
    }
}
/// All of it, to a file of that name.
func write(
    _ contents: [UInt8], to file: borrowing Descriptor, _ path: String
) throws(MachineError) {
    var written = 0
    while written < contents.count {
        let count = unsafe contents[written...].withUnsafeBytes {
            unsafe write(file.number, $0.baseAddress, $0.count)
        }
        guard count > 0 else { throw MachineError(SystemError("write", path)) }
        written += count
    }
}
private func writeDurably(
    _ path: String, _ contents: [UInt8], mode: mode_t
) throws(MachineError) {
    let file = try attempting(Descriptor.open(path, O_WRONLY | O_CREAT | O_EXCL, mode: mode))
    try write(contents, to: file, path)
    guard fchmod(file.number, mode) == 0, fsync(file.number) == 0 else {
        throw MachineError(SystemError("finish", path))
    }
}
/// Points a symbolic link elsewhere, in one step.
func replaceLink(_ path: String, with target: String) throws(MachineError) {
    let url = URL(fileURLWithPath: path)
    let draft =
        url.deletingLastPathComponent().path
        + "/.\(url.lastPathComponent).\(hexText(randomBytes(6)))"
    var status: CInt = -1
    for _ in 0..<100 where status != 0 {
        guard unsafe symlink(target, draft) == 0 else { break }
        status = unsafe rename(draft, path)
        // Somebody who removes what dead builds left may have removed the draft.
        if status != 0, errno != ENOENT { break }
    }
    guard status == 0 else {
        let error = MachineError(SystemError("point the link", path))
        _ = unsafe unlink(draft)
        throw error
    }
}
/// Blocks really occupied, in bytes.
func occupied(_ directory: String) -> Int {
    children(of: directory).reduce(0) { sum, name in
        var status = stat()
        guard unsafe lstat("\(directory)/\(name)", &status) == 0 else { return sum }
        return sum + Int(status.st_blocks) * 512
    }
}
func age(_ path: String) -> Int {
    var status = stat()
    return unsafe lstat("\(path)/manifest.json", &status) == 0 ? status.st_mtim.tv_sec : 0
}
