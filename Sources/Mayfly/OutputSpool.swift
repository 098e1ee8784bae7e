// Where `mayfly run`, which has no database, keeps large output files until they are written out:
// one temporary file without a name, gone with the process.

import Glibc
import Machines
import Synchronization

/// Output files one after the other; a file's number is the place where it begins.
final class OutputSpool: Sendable {
    private let file: CInt
    private let end = Mutex<Int64>(0)

    init() throws(FileError) {
        let directory = unsafe getenv("TMPDIR").map { unsafe String(cString: $0) } ?? "/tmp"
        var path = Array("\(directory)/mayfly-run-XXXXXX".utf8CString)
        file = unsafe mkstemp(&path)
        guard file >= 0 else { throw FileError("make a temporary file in", directory) }
        _ = fcntl(file, F_SETFD, FD_CLOEXEC)
        unsafe unlink(path)
    }
    deinit { close(file) }

    var sink: ByteSink {
        ByteSink { part, offset, _, number throws(TransferError) in
            let begin = number ?? self.end.withLock { $0 }
            try self.write(part, at: begin + Int64(offset))
            self.end.withLock { $0 = begin + Int64(offset + part.count) }
            return begin
        }
    }

    private func write(_ bytes: [UInt8], at place: Int64) throws(TransferError) {
        var done = 0
        while done < bytes.count {
            let count = unsafe bytes.withUnsafeBytes {
                unsafe pwrite(
                    file, $0.baseAddress?.advanced(by: done), $0.count - done,
                    off_t(place) + off_t(done))
            }
            if count < 0 && errno == EINTR { continue }
            guard count > 0 else {
                let error = FileError("write", "a temporary file")
                throw .failed(error.description)
            }
            done += count
        }
    }

    /// Writes what was stored under a number to a descriptor.
    func copy(_ number: Int64, byteCount: Int, to target: CInt, named name: String)
        throws(FileError)
    {
        var done = 0
        var buffer = [UInt8](repeating: 0, count: min(byteCount, 1 << 20))
        while done < byteCount {
            let wanted = min(buffer.count, byteCount - done)
            let count = unsafe pread(file, &buffer, wanted, off_t(number) + off_t(done))
            if count < 0 && errno == EINTR { continue }
            guard count > 0 else { throw FileError("read", "a temporary file") }
            try Files.write(Array(buffer[..<count]), to: target, named: name)
            done += count
        }
    }
}
