// Blobs between open files and the database, a MiB at a time, with progress for long ones. Used by
// `mayfly blob` and `mayfly show --out`.

import Glibc
import Jobs
import Machines

struct BlobTransfer {
    /// What one statement carries.
    private static let partByteCount = 1 << 20

    let base: Database

    /// Stores everything that can be read from a descriptor.
    ///
    /// - Parameter name: what errors call it.
    /// - Returns: its SHA-256 as hexadecimal digits, and its size.
    func put(
        _ file: CInt, named name: String, tenant: String
    ) async throws -> (sha256: String, byteCount: Int) {
        var part = try Files.readPart(file, named: name, atMost: Self.partByteCount)
        let first = part
        return try await base.using { client in
            // What one statement carries needs no upload.
            guard first.count == Self.partByteCount else {
                return (try await client.putBlob(first, tenant: tenant), first.count)
            }
            var progress = Progress("stored", of: Files.byteCount(file))
            let digest = RunningDigest()
            let upload = try await client.beginBlob(tenant: tenant)
            var sent = 0
            while !part.isEmpty {
                digest.update(part)
                try await client.appendBlob(part, to: upload, at: sent)
                sent += part.count
                progress.report(sent)
                part = try Files.readPart(file, named: name, atMost: Self.partByteCount)
            }
            progress.end()
            let sha256 = digest.finish()
            try await client.finishBlob(upload, sha256: sha256)
            return (sha256, sent)
        }
    }

    /// Writes a blob to a descriptor.
    ///
    /// - Returns: its size; `nil` when there is no such blob for this role.
    /// - Throws: when it was removed meanwhile, or its bytes are not those of its address: what has
    ///   been written is of no use then.
    func get(_ sha256: String, to file: CInt, named name: String) async throws -> Int? {
        try await base.using { client in
            let size: Int
            do throws(JobsError) { size = try await client.blobByteCount(sha256) } catch {
                if error.sqlstate == "MF007" { return nil }
                throw error
            }
            var progress = Progress("read", of: size)
            let digest = RunningDigest()
            var received = 0
            while received < size {
                let part = try await client.blobPart(
                    sha256, at: received, count: Self.partByteCount)
                guard !part.isEmpty else { break }
                digest.update(part)
                try Files.write(part, to: file, named: name)
                received += part.count
                progress.report(received)
            }
            progress.end()
            guard received == size, digest.finish() == sha256 else {
                throw FileError(
                    "the bytes stored as \(sha256) are others; put the right ones again")
            }
            return size
        }
    }
}

/// A line on standard error for what takes longer than a few seconds.
private struct Progress {
    private let verb: String
    private let total: Int?
    private let isTerminal = isatty(STDERR_FILENO) == 1
    private var next: ContinuousClock.Instant
    private var hasReported = false

    init(_ verb: String, of total: Int?) {
        self.verb = verb
        self.total = total
        next = .now + .seconds(1)
    }

    mutating func report(_ count: Int) {
        guard .now >= next else { return }
        next = .now + (isTerminal ? .milliseconds(500) : .seconds(5))
        hasReported = true
        let amount = total.map { " of \(Format.bytes($0))" } ?? ""
        let line = "\(verb) \(Format.bytes(count))\(amount)"
        if isTerminal {
            Console.write("\r\u{1B}[K\(line)", to: STDERR_FILENO)
        } else {
            Console.say(line)
        }
    }
    func end() { if hasReported, isTerminal { Console.write("\r\u{1B}[K", to: STDERR_FILENO) } }
}
