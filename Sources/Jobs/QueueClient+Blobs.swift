// Blobs as producers and operators see them: put and read in parts, listed. Part of QueueClient.

import Postgres

/// One row of `mayfly.list_blobs`.
package struct BlobRow: Sendable, Equatable {
    package let sha256, tenant: String
    package let byteCount: Int
    /// ISO 8601.
    package let putAt: String
    /// How many jobs name it.
    package let jobCount: Int
}

extension QueueClient {
    /// - Returns: the SHA-256 under which the bytes are stored; for a few MiB at most.
    package func putBlob(
        _ bytes: [UInt8], tenant: String = ""
    ) async throws(JobsError) -> String {
        try await run("select mayfly.put_blob(\(bytes), \(tenant)) as sha256").string(0, "sha256")
    }
    /// The whole of a small blob.
    package func blob(_ sha256: String) async throws(JobsError) -> [UInt8] {
        let statement: Statement = "select mayfly.get_blob(\(sha256)) as bytes"
        return try await run(statement.binary).bytes(0, "bytes") ?? []
    }

    /// - Returns: the number of a new upload.
    package func beginBlob(tenant: String) async throws(JobsError) -> Int64 {
        try await run("select mayfly.begin_blob(\(tenant)) as upload").integer(0, "upload") ?? 0
    }
    /// Adds bytes: all but the last time a multiple of 256 KiB, at most 16 MiB.
    package func appendBlob(
        _ bytes: [UInt8], to upload: Int64, at offset: Int
    ) async throws(JobsError) {
        _ = try await run("select mayfly.append_blob(\(upload), \(bytes), \(offset))")
    }
    package func finishBlob(_ upload: Int64, sha256: String) async throws(JobsError) {
        _ = try await run("select mayfly.finish_blob(\(upload), \(sha256))")
    }

    package func blobByteCount(_ sha256: String) async throws(JobsError) -> Int {
        Int(try await run("select mayfly.blob_size(\(sha256)) as size").integer(0, "size") ?? 0)
    }
    /// Up to `count` bytes (16 MiB at most) from `offset` on; empty: that was all.
    package func blobPart(
        _ sha256: String, at offset: Int, count: Int
    ) async throws(JobsError) -> [UInt8] {
        let statement: Statement =
            "select mayfly.get_blob_part(\(sha256), \(offset), \(count)) as bytes"
        return try await run(statement.binary).bytes(0, "bytes") ?? []
    }

    /// The newest first: those of a job, or of a tenant; nil fits all that the caller may see.
    package func blobs(
        job: Int64?, tenant: String?, limit: Int
    ) async throws(JobsError) -> [BlobRow] {
        let rows = try await run(
            """
            select sha256, tenant, size, mayfly.iso(put_at) as put_at, jobs
            from mayfly.list_blobs(\(job), \(tenant), \(limit))
            """)
        return (0..<rows.count).map { row in
            BlobRow(
                sha256: rows.string(row, "sha256"), tenant: rows.string(row, "tenant"),
                byteCount: Int(rows.integer(row, "size") ?? 0), putAt: rows.string(row, "put_at"),
                jobCount: Int(rows.integer(row, "jobs") ?? 0))
        }
    }
}
