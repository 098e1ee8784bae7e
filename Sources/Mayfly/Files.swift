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
    /// neither the name nor what stands there can lead elsewhere. A file with other content that
    /// is there already stays as it is, unless `overwriting`: the name is a guest's choice.
    static func write(
        _ bytes: [UInt8], name: String, below directory: String, overwriting: Bool = false
    ) throws(FileError) {
        guard GuestPath.isValid(name) else {
            throw FileError(
                "an output file has a name that leaves its directory; it was not written")
        }
        var parts = GuestPath.segments(of: name)
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
        let flags = O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK
        let file = unsafe openat(place, last, flags | (overwriting ? O_TRUNC : O_EXCL), 0o644)
        if file < 0, errno == EEXIST, !overwriting {
            if holds(place, last, bytes) { return }
            throw FileError(
                "\(directory)/\(name) exists already and was left as it is; --force overwrites it"
            )
        }
        guard file >= 0 else { throw FileError("write \(name) in", directory) }
        defer { close(file) }
        Console.bytes(bytes, to: file)
        var status = stat()
        guard unsafe fstat(file, &status) == 0, status.st_mode & S_IFMT == S_IFREG,
            Int(status.st_size) == bytes.count
        else { throw FileError("finish \(name) in", directory) }
    }

    /// Whether a regular file of exactly these bytes stands there.
    private static func holds(_ place: CInt, _ name: String, _ bytes: [UInt8]) -> Bool {
        let flags = O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK
        let file = unsafe openat(place, name, flags)
        guard file >= 0 else { return false }
        defer { close(file) }
        var status = stat()
        guard unsafe fstat(file, &status) == 0, status.st_mode & S_IFMT == S_IFREG,
            Int(status.st_size) == bytes.count
        else { return false }
        var found = [UInt8](repeating: 0, count: bytes.count + 1)
        var filled = 0
        while filled < found.count {
            let count = unsafe found.withUnsafeMutableBytes {
                unsafe Glibc.read(file, $0.baseAddress?.advanced(by: filled), $0.count - filled)
            }
            guard count > 0 else { break }
            filled += count
        }
        return filled == bytes.count && found.prefix(filled).elementsEqual(bytes)
    }
}
