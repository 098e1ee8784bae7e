// Files that are read and written part by part, whatever their size, and the place where an output
// file may be written: neither its name nor what stands there leads elsewhere.

import Glibc
import Machines
import Wire

extension Files {
    /// Runs `body` with a file that is open for reading; `-` is standard input.
    static func reading<Value>(
        _ path: String, _ body: (CInt) async throws -> Value
    ) async throws -> Value {
        if path == "-" { return try await body(STDIN_FILENO) }
        let file = unsafe open(path, O_RDONLY | O_CLOEXEC)
        guard file >= 0 else { throw FileError("read", path) }
        defer { close(file) }
        return try await body(file)
    }

    /// The next bytes of a file: fewer than `count` only at its end.
    static func readPart(
        _ file: CInt, named name: String, atMost count: Int
    ) throws(FileError) -> [UInt8] {
        var part = [UInt8](repeating: 0, count: count)
        var filled = 0
        while filled < count {
            let got = unsafe part.withUnsafeMutableBytes {
                unsafe Glibc.read(file, $0.baseAddress?.advanced(by: filled), count - filled)
            }
            if got < 0 && errno == EINTR { continue }
            guard got >= 0 else { throw FileError("read", name) }
            if got == 0 { break }
            filled += got
        }
        part.removeLast(count - filled)
        return part
    }

    /// The size of a regular file; `nil` of anything else.
    static func byteCount(_ file: CInt) -> Int? {
        var status = stat()
        guard unsafe fstat(file, &status) == 0, status.st_mode & S_IFMT == S_IFREG else {
            return nil
        }
        return Int(status.st_size)
    }

    /// All of the bytes, or an error: a full disk must not look like an end.
    static func write(_ bytes: [UInt8], to file: CInt, named name: String) throws(FileError) {
        var done = 0
        while done < bytes.count {
            let count = unsafe bytes.withUnsafeBytes {
                unsafe Glibc.write(file, $0.baseAddress?.advanced(by: done), $0.count - done)
            }
            if count < 0 && errno == EINTR { continue }
            guard count > 0 else { throw FileError("write", name) }
            done += count
        }
    }

    /// Runs `body` with a new file beside `path`, which takes its place when all went well and
    /// `body` answers something; where a device stands, with that.
    static func replacing<Value>(
        _ path: String, _ body: (CInt) async throws -> Value?
    ) async throws -> Value? {
        var status = stat()
        if unsafe stat(path, &status) == 0, status.st_mode & S_IFMT != S_IFREG {
            let file = unsafe open(path, O_WRONLY | O_CLOEXEC)
            guard file >= 0 else { throw FileError("write", path) }
            defer { close(file) }
            return try await body(file)
        }
        let temporary = "\(path).\(getpid()).part"
        let file = unsafe open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o644)
        guard file >= 0 else { throw FileError("write", temporary) }
        defer { close(file) }
        do {
            guard let value = try await body(file) else {
                unsafe unlink(temporary)
                return nil
            }
            guard unsafe rename(temporary, path) == 0 else { throw FileError("write", path) }
            return value
        } catch {
            unsafe unlink(temporary)
            throw error
        }
    }

    /// Runs `body` with an output file below `directory`, open for writing.
    ///
    /// A file with the bytes of that SHA-256 that is there already stays, and its size is the
    /// answer; one with others stays, too, and is an error, unless `overwriting`.
    ///
    /// Nothing is left of a file when `body` throws or answers nothing.
    static func writing(
        _ name: String, below directory: String, sha256: String, overwriting: Bool,
        _ body: (CInt) async throws -> Int?
    ) async throws -> Int? {
        let place = try OutputPlace(name, below: directory)
        guard let file = try place.open(sha256: sha256, overwriting: overwriting) else {
            return place.byteCount
        }
        defer { close(file) }
        do {
            let size = try await body(file)
            if size == nil { place.remove() }
            return size
        } catch {
            place.remove()
            throw error
        }
    }
}

/// Where an output file is to stand below a directory that the caller chose.
///
/// Every step is opened relative to the one before and without following links, so that neither
/// the name nor what stands there can lead elsewhere.
struct OutputPlace: ~Copyable {
    /// For people.
    let shown: String
    private let directory: CInt
    private let last: String

    /// Makes the directories of the name.
    init(_ name: String, below directory: String) throws(FileError) {
        guard GuestPath.isValid(name) else {
            throw FileError(
                "an output file has a name that leaves its directory; it was not written")
        }
        var parts = GuestPath.segments(of: name)
        let last = parts.removeLast()
        let place = try Self.enter(parts, below: directory)
        self.last = last
        shown = "\(directory)/\(name)"
        self.directory = place
    }
    private static func enter(
        _ parts: [String], below directory: String
    ) throws(FileError) -> CInt {
        var place = unsafe Glibc.open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard place >= 0 else { throw FileError("open", directory) }
        for part in parts {
            let above = place
            defer { close(above) }
            if unsafe mkdirat(above, part, 0o755) != 0, errno != EEXIST {
                throw FileError("make \(part) in", directory)
            }
            place = unsafe openat(above, part, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)
            guard place >= 0 else { throw FileError("open \(part) in", directory) }
        }
        return place
    }
    deinit { close(directory) }

    /// A new file, open for writing; `nil` when one with the bytes of this digest is there.
    borrowing func open(sha256: String, overwriting: Bool) throws(FileError) -> CInt? {
        let flags = O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK
        let file = unsafe openat(
            directory, last, flags | (overwriting ? O_TRUNC : O_EXCL), 0o644)
        if file < 0, errno == EEXIST, !overwriting {
            if digest == sha256 { return nil }
            throw FileError(
                "\(shown) exists already and was left as it is; --force overwrites it")
        }
        guard file >= 0 else { throw FileError("write", shown) }
        guard Files.byteCount(file) != nil else {
            close(file)
            throw FileError("\(shown) is no regular file; it was not written")
        }
        return file
    }
    borrowing func remove() { unsafe unlinkat(directory, last, 0) }

    /// The size of the file that is there.
    var byteCount: Int? { reading { Files.byteCount($0) } }

    /// The SHA-256 of the regular file that is there.
    private var digest: String? {
        reading { file in
            guard Files.byteCount(file) != nil else { return nil }
            let digest = RunningDigest()
            do throws(FileError) {
                while true {
                    let part = try Files.readPart(file, named: shown, atMost: 1 << 20)
                    digest.update(part)
                    if part.count < 1 << 20 { return digest.finish() }
                }
            } catch { return nil }
        }
    }
    private borrowing func reading<Value>(_ body: (CInt) -> Value?) -> Value? {
        let file = unsafe openat(directory, last, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK)
        guard file >= 0 else { return nil }
        defer { close(file) }
        return body(file)
    }
}
