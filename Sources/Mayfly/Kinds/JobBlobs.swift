// How the queue's blobs become the files of a machine and back: the one place where the parts of
// Jobs meet the streams of Machines. Used by kinds for inputs, by Attempt for outputs.

import Jobs
import Machines

/// Where content-addressed files come from.
protocol BlobSource: Sendable {
    /// The part that begins at `offset`, a multiple of `JobFiles.partByteCount`, with the size of
    /// the whole; `nil` when there is no such blob.
    func part(of digest: String, at offset: Int) async throws -> BlobPart?
}

extension JobFiles: BlobSource {}

/// How large the input files of one job may be.
struct InputLimits: Sendable {
    var file: ByteCount
    var total: ByteCount
    private let fileKey, totalKey: String

    init(_ configuration: Configuration, file: Setting, total: Setting) {
        self.file = configuration.size(file)
        self.total = configuration.size(total)
        (fileKey, totalKey) = (file.key, total.key)
    }

    fileprivate func check(
        _ count: Int, sum: Int, at path: String
    ) throws(AttemptError) {
        if count > file.bytes {
            throw .invalidPayload(
                InvalidPayload(
                    path: path,
                    sentence: "is \(count) bytes long; at most \(file) are allowed "
                        + "(\(fileKey) of the worker)"))
        }
        if sum > total.bytes {
            throw .invalidPayload(
                InvalidPayload(
                    path: path,
                    sentence: "with this file the job has more than \(total) of input "
                        + "(\(totalKey) of the worker)"))
        }
    }
}

/// The input files of one job as they are gathered from its payload.
///
/// Of a blob only its size is found out here, and the bytes of a few small ones; the rest is read
/// while it is sent.
struct InputFiles {
    /// How many bytes of small blobs are held; the others are read like large ones.
    private static let heldByteCount = 4 << 20

    private let limits: InputLimits
    private let blobs: any BlobSource
    private var total: Int
    private var held = 0
    private var known: [String: ByteSource] = [:]
    private(set) var files: [GuestFile] = []

    /// `beside`: the bytes that the job has in no file.
    init(_ limits: InputLimits, from blobs: any BlobSource, beside total: Int = 0) {
        self.limits = limits
        self.blobs = blobs
        self.total = total
    }

    /// - Parameters:
    ///   - name: in the job's directory.
    ///   - path: where it stands in the payload.
    mutating func add(
        _ content: CodePayload.File.Content, as name: String, at path: String
    ) async throws(AttemptError) {
        let file: GuestFile
        switch content {
        case .bytes(let bytes): file = GuestFile(name: name, bytes: bytes)
        case .blob(let digest):
            let source: ByteSource
            if let found = known[digest] {
                source = found
            } else {
                source = try await find(digest, at: path)
                known[digest] = source
            }
            file = GuestFile(name: name, source: source)
        }
        total += file.byteCount
        try limits.check(file.byteCount, sum: total, at: path)
        files.append(file)
    }

    private mutating func find(
        _ digest: String, at path: String
    ) async throws(AttemptError) -> ByteSource {
        let found: BlobPart?
        do { found = try await blobs.part(of: digest, at: 0) } catch {
            throw .blobUnavailable("the blob \(digest) could not be read: \(error)")
        }
        guard let found else {
            throw .invalidPayload(
                InvalidPayload(
                    path: "\(path).blob",
                    sentence: "there is no blob \(digest); store it with mayfly.put_blob first",
                    reason: .blobMissing))
        }
        let isHeld =
            found.bytes.count == found.byteCount && held + found.byteCount <= Self.heldByteCount
        if isHeld { held += found.byteCount }
        return ByteSource(digest, found.byteCount, isHeld ? found.bytes : nil, from: blobs)
    }
}

extension ByteSource {
    /// A blob of which `first` is the first part, if it is held.
    init(_ digest: String, _ byteCount: Int, _ first: [UInt8]?, from blobs: any BlobSource) {
        self.init(byteCount: byteCount, sha256: digest) { offset throws(TransferError) in
            if offset == 0, let first { return first }
            let found: BlobPart?
            do { found = try await blobs.part(of: digest, at: offset) } catch {
                throw .failed("the blob \(digest) could not be read: \(error)")
            }
            guard let found, found.byteCount == byteCount else {
                throw .gone("the blob \(digest) was removed while it was read; put it again")
            }
            return found.bytes
        }
    }
}

extension ByteSink {
    /// The uploads of an attempt.
    init(_ files: JobFiles) {
        self.init { part, offset, byteCount, upload throws(TransferError) in
            do throws(JobsError) {
                return try await files.append(part, at: offset, of: byteCount, to: upload)
            } catch { throw .failed("it could not be stored: \(error)") }
        }
    }
}

extension Blob {
    /// An output file, wherever its bytes are.
    init(_ file: OutputFile) {
        switch file.content {
        case .bytes(let bytes): self.init(sha256: file.sha256, bytes: bytes)
        case .stored(let number):
            self.init(sha256: file.sha256, upload: number, byteCount: file.byteCount)
        }
    }
}
