// Where the bytes of a job's files come from and go to when they are too many to hold: part by
// part, by whoever stores them. FileTransfers moves them; nothing here knows a database.

/// Why a part of a file could not be read or stored.
package enum TransferError: Error, Sendable {
    /// The bytes are not there any more, or not what they should be; as a sentence.
    case gone(String)
    /// Whoever stores them did not do so: not the job's fault; as a sentence.
    case failed(String)
}

/// An input file that is read while it is sent.
package struct ByteSource: Sendable {
    package var byteCount: Int
    /// SHA-256 as hexadecimal digits; what has come is held against it before the program starts.
    package var sha256: String
    /// The bytes from `offset` on: as many as the source likes, at least one before the end.
    package var part: @Sendable (_ offset: Int) async throws(TransferError) -> [UInt8]

    package init(
        byteCount: Int, sha256: String,
        part: @escaping @Sendable (_ offset: Int) async throws(TransferError) -> [UInt8]
    ) {
        self.byteCount = byteCount
        self.sha256 = sha256
        self.part = part
    }

    /// As `part`, for whoever reads ahead.
    func result(at offset: Int) async -> Result<[UInt8], TransferError> {
        guard offset < byteCount else { return .success([]) }
        do throws(TransferError) { return .success(try await part(offset)) } catch {
            return .failure(error)
        }
    }
}

/// Where output files go while they come out of a machine.
package struct ByteSink: Sendable {
    /// Bytes of every part but a file's last.
    package static let partByteCount = 256 << 10
    /// What small files of one job may hold in memory together, until they are stored with its
    /// result.
    ///
    /// The others are stored like large ones.
    static let heldByteCount = 4 << 20

    package typealias Append =
        @Sendable (
            _ part: [UInt8], _ offset: Int, _ byteCount: Int, _ number: Int64?
        ) async throws(TransferError) -> Int64

    /// Stores the part of a file that begins at `offset`, after all before it.
    ///
    /// `byteCount` is what the file is said to have; `number` what the call before answered, `nil`
    /// for a file's first.
    package var append: Append

    package init(append: @escaping Append) { self.append = append }
}

/// A file put into the job's directory before the program starts.
package struct GuestFile: Sendable {
    package enum Content: Sendable {
        case bytes([UInt8])
        case stream(ByteSource)
    }
    /// Relative; must have passed `GuestPath.validate`.
    package var name: String
    package var content: Content

    package init(name: String, bytes: [UInt8]) {
        self.name = name
        content = .bytes(bytes)
    }
    package init(name: String, source: ByteSource) {
        self.name = name
        content = .stream(source)
    }

    /// What is held in memory; `nil` of what is read while it is sent.
    package var bytes: [UInt8]? {
        if case .bytes(let bytes) = content { bytes } else { nil }
    }
    package var byteCount: Int {
        switch content {
        case .bytes(let bytes): bytes.count
        case .stream(let source): source.byteCount
        }
    }
}

/// A file that the job left; `sha256` was computed by the host over what it received.
package struct OutputFile: Sendable {
    package enum Content: Sendable {
        case bytes([UInt8])
        /// The number that the job's `ByteSink` gave it.
        case stored(Int64)
    }
    package enum Status: String, Sendable, CaseIterable {
        case new, changed
        /// One of the job's own files, asked for by its name: changed or not.
        case given
    }
    package var name: String
    package var byteCount: Int
    package var sha256: String
    package var content: Content
    package var status = Status.new

    /// What is held in memory: all of it where the job had no sink.
    package var bytes: [UInt8]? {
        if case .bytes(let bytes) = content { bytes } else { nil }
    }

    package init(name: String, byteCount: Int, sha256: String, content: Content) {
        self.name = name
        self.byteCount = byteCount
        self.sha256 = sha256
        self.content = content
    }
    package init(name: String, bytes: [UInt8], sha256: String) {
        self.init(name: name, byteCount: bytes.count, sha256: sha256, content: .bytes(bytes))
    }
}
