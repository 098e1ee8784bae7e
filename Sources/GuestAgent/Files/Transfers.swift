// Files on their way: PUT writes what arrives, GET sends what credit allows. Each keeps its stream
// until its last word; failures are told to the host, never fatal.

import Glibc
import Wire

/// What tells whether a file is still as it was.
///
/// Nobody writes to it, or replaces it, and leaves all of these alone.
struct FileState: Equatable {
    private let device: dev_t
    private let inode: ino_t
    private let size: off_t
    private let modified: Int64
    private let changed: Int64

    init(_ status: stat) {
        (device, inode, size) = (status.st_dev, status.st_ino, status.st_size)
        modified = Self.nanoseconds(status.st_mtim)
        changed = Self.nanoseconds(status.st_ctim)
    }
    /// `nil` when the kernel does not say.
    init?(file: CInt) {
        var status = stat()
        guard unsafe fstat(file, &status) == 0 else { return nil }
        self.init(status)
    }
    private static func nanoseconds(_ time: timespec) -> Int64 {
        Int64(time.tv_sec) &* 1_000_000_000 &+ Int64(time.tv_nsec)
    }
}

/// All open PUT and GET streams; few at a time.
struct Transfers: ~Copyable {
    private struct Upload {
        let stream: UInt32
        let name: String
        var file: CInt
        var remaining: UInt64
        let isExecutable: Bool
        var failure: (status: AckStatus, message: String)?
    }
    private struct Download {
        let stream: UInt32
        let file: CInt
        var remaining: UInt64
    }
    private var uploads: [Upload] = []
    private var downloads: [Download] = []
    private var buffer = [UInt8](repeating: 0, count: Limits.payloadByteCount)
    /// What PUT has left, by name as Linux compares it.
    private(set) var given: [[UInt8]: FileState] = [:]

    mutating func removeAll() {
        for upload in uploads where upload.file >= 0 { close(upload.file) }
        for download in downloads { close(download.file) }
        uploads = []
        downloads = []
        given = [:]
    }

    // MARK: PUT

    mutating func put(_ request: PutRequest, _ stream: UInt32) {
        var upload = Upload(
            stream: stream, name: request.name, file: -1, remaining: request.byteCount,
            isExecutable: request.isExecutable)
        do throws(SystemError) {
            try JobDirectory.makeParents(of: request.name)
            upload.file = try JobDirectory.open(request.name, O_WRONLY | O_CREAT | O_TRUNC)
            var status = stat()
            try checkErrno("stat", unsafe fstat(upload.file, &status))
            if status.st_mode & S_IFMT != S_IFREG {
                upload.failure = (.notRegular, "\(request.name) is no regular file")
            }
        } catch { upload.failure = (Self.status(error.code), error.description) }
        uploads.append(upload)
    }

    mutating func write(
        _ bytes: [UInt8], isFinal: Bool, _ stream: UInt32, _ connection: inout GuestConnection
    ) throws(WireError) {
        guard let index = uploads.firstIndex(where: { $0.stream == stream }) else { return }
        if uploads[index].failure == nil { store(bytes, index) }
        try connection.release(bytes.count, of: stream)
        guard isFinal else { return }
        let upload = uploads.remove(at: index)
        var (status, message) = upload.failure ?? (.ok, "")
        if status == .ok, upload.remaining > 0 {
            (status, message) = (.invalid, "the file ended \(upload.remaining) bytes early")
        }
        if upload.file >= 0 {
            fchown(upload.file, Account.user, Account.group)
            fchmod(upload.file, upload.isExecutable ? 0o755 : 0o644)
            given[Array(upload.name.utf8)] = FileState(file: upload.file)
            close(upload.file)
        }
        try connection.send(.ack(status, message: message), on: stream)
    }
    private mutating func store(_ bytes: [UInt8], _ index: Int) {
        guard UInt64(bytes.count) <= uploads[index].remaining else {
            uploads[index].failure = (.invalid, "the file is longer than was said")
            return
        }
        var start = 0
        while start < bytes.count {
            let count = unsafe bytes.withUnsafeBytes {
                unsafe Glibc.write(
                    uploads[index].file, $0.baseAddress?.advanced(by: start), $0.count - start)
            }
            guard count > 0 else {
                if count < 0, errno == EINTR { continue }
                let error = SystemError(what: "write", code: count < 0 ? errno : EIO)
                uploads[index].failure = (Self.status(error.code), error.description)
                return
            }
            start += count
        }
        uploads[index].remaining -= UInt64(bytes.count)
    }

    // MARK: GET

    mutating func get(
        _ request: GetRequest, _ stream: UInt32, _ connection: inout GuestConnection
    ) throws(WireError) {
        var file: CInt = -1
        var refusal: (status: AckStatus, message: String)?
        var status = stat()
        do throws(SystemError) {
            file = try JobDirectory.open(request.name, O_RDONLY)
            try checkErrno("stat", unsafe fstat(file, &status))
            if status.st_mode & S_IFMT != S_IFREG {
                refusal = (.notRegular, "it is no regular file")
            } else if UInt64(clamping: status.st_size) > request.maximumByteCount {
                refusal = (.tooLarge, "it has \(status.st_size) bytes")
            }
        } catch { refusal = (Self.status(error.code), error.description) }
        if let refusal {
            if file >= 0 { close(file) }
            return try connection.send(
                .ack(refusal.status, message: refusal.message), on: stream)
        }
        downloads.append(
            Download(stream: stream, file: file, remaining: UInt64(clamping: status.st_size)))
    }

    func canSend(_ connection: borrowing GuestConnection) -> Bool {
        for download in downloads where connection.sendCapacity(of: download.stream) > 0 {
            return true
        }
        return false
    }

    /// One frame of each file: what the host says is read between them.
    mutating func send(_ connection: inout GuestConnection) throws(WireError) {
        var index = 0
        while index < downloads.count {
            let download = downloads[index]
            let capacity = connection.sendCapacity(of: download.stream)
            guard capacity > 0 else {
                index += 1
                continue
            }
            let wanted = Int(min(UInt64(capacity), download.remaining))
            let count = unsafe read(download.file, &buffer, wanted)
            if count < 0 {
                let error = SystemError(what: "read", code: errno)
                close(download.file)
                downloads.remove(at: index)
                try connection.send(
                    .ack(.failed, message: error.description), on: download.stream)
                continue
            }
            // No more than the size it had, even if it grows; less when it shrinks.
            downloads[index].remaining -= UInt64(count)
            let isFinal = count == 0 || downloads[index].remaining == 0
            try connection.sendData(
                .file, buffer.span.extracting(0..<count), on: download.stream, isFinal: isFinal)
            if isFinal {
                close(download.file)
                downloads.remove(at: index)
            } else {
                index += 1
            }
        }
    }

    private static func status(_ code: CInt) -> AckStatus {
        switch code {
        case ENOENT, ENOTDIR: .notFound
        // A link, or something outside, was in the way.
        case ELOOP, EXDEV, ENXIO, EISDIR: .notRegular
        case ENOSPC, EDQUOT: .noSpace
        case EFBIG: .tooLarge
        case EINVAL, ENAMETOOLONG: .invalid
        default: .failed
        }
    }
}
