// The few small files that commands read whole: a source, a payload. What is large, or written, is
// in FileStreams.swift.

import Glibc
import Machines

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
}
