// The few files that commands read and write: a source, a payload, output files into a directory
// that the caller chose. A name that came from a guest never leaves that directory.

import Glibc
import Machines
import Wire

/// A file that could not be read or written, as a sentence.
struct FileError: Error, CustomStringConvertible {
    let description: String
    /// The file was longer than the reader may hold.
    private(set) var isTooLarge = false

    init(_ description: String) { self.description = description }
    static func tooLarge(_ path: String, _ limit: ByteCount) -> FileError {
        var error = FileError("\(path) is larger than \(limit)")
        error.isTooLarge = true
        return error
    }
    init(_ what: String, _ path: String) {
        let reason = unsafe String(cString: strerror(errno))
        description = "cannot \(what) \(path): \(reason)"
    }
}

enum Files {
    /// The whole of a file, or of standard input for `-`.
    static func read(_ path: String, atMost limit: ByteCount) throws(FileError) -> [UInt8] {
        let isInput = path == "-"
        let file = isInput ? STDIN_FILENO : unsafe open(path, O_RDONLY | O_CLOEXEC)
        guard file >= 0 else { throw FileError("read", path) }
        defer { if !isInput { close(file) } }
        var bytes: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 1 << 16)
        while true {
            let count = unsafe Glibc.read(file, &buffer, buffer.count)
            if count < 0 && errno == EINTR { continue }
            guard count >= 0 else { throw FileError("read", path) }
            if count == 0 { return bytes }
            bytes += buffer[..<count]
            guard bytes.count <= limit.bytes else {
                throw .tooLarge(path, limit)
            }
        }
    }

    static func text(_ path: String, atMost limit: ByteCount) throws(FileError) -> String {
        guard let text = String(validating: try read(path, atMost: limit), as: UTF8.self) else {
            throw FileError("\(path) is not UTF-8 text")
        }
        return text
    }

    /// Makes a directory and those above it.
    static func makeDirectory(_ path: String, mode: mode_t = 0o755) throws(FileError) {
        var built = path.hasPrefix("/") ? "" : "."
        for part in path.split(separator: "/") {
            built += "/" + part
            if unsafe mkdir(built, mode) != 0, errno != EEXIST { throw FileError("make", built) }
        }
    }

    /// Writes an output file below `directory`.
    ///
    /// Every step is opened relative to the one before and without following links, so that
    /// neither the name nor what stands there can lead elsewhere.
    static func write(
        _ bytes: [UInt8], name: String, below directory: String
    ) throws(FileError) {
        guard GuestPath.isValid(name) else {
            throw FileError(
                "an output file has a name that leaves its directory; it was not written")
        }
        var parts = name.split(separator: "/").map(String.init)
        let last = parts.removeLast()
        var place = unsafe open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard place >= 0 else { throw FileError("open", directory) }
        defer { close(place) }
        for part in parts {
            if unsafe mkdirat(place, part, 0o755) != 0, errno != EEXIST {
                throw FileError("make \(part) in", directory)
            }
            let next = unsafe openat(place, part, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)
            guard next >= 0 else { throw FileError("open \(part) in", directory) }
            close(place)
            place = next
        }
        let flags = O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC
        let file = unsafe openat(place, last, flags, 0o644)
        guard file >= 0 else { throw FileError("write \(name) in", directory) }
        defer { close(file) }
        Console.bytes(bytes, to: file)
        var status = stat()
        guard unsafe fstat(file, &status) == 0, Int(status.st_size) == bytes.count else {
            throw FileError("finish \(name) in", directory)
        }
    }
}
