// Blobs in parts, as producers and attempts move them: the same bytes both ways, fenced, each
// tenant's own, and gone when nobody can have them any more.

import Postgres
import TestSupport
import Testing

@testable import Jobs

@Suite("A blob in parts")
struct BlobTests {
    private static let part = JobFiles.partByteCount

    /// Bytes that look random and are cheap to make.
    static func bytes(_ count: Int, seed: UInt64 = 1) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: count)
        var state = seed &* 0x9E37_79B9_7F4A_7C15 | 1
        for index in bytes.indices {
            state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            bytes[index] = UInt8(truncatingIfNeeded: state >> 56)
        }
        return bytes
    }
    private func digest(of bytes: [UInt8], _ connection: Connection) async throws -> String {
        try await connection.run("select encode(sha256(\(bytes)::bytea), 'hex') as hex")
            .string(0, "hex")
    }
    private func leftovers(_ connection: Connection) async throws -> Int64 {
        try await connection.count(
            """
            select (select count(*) from mayfly.blob where sha256 is null)
                + (select count(*) from mayfly.blob_chunk c where not exists (
                    select from mayfly.blob b where b.blob = c.blob)) as count
            """)
    }

    @Test(arguments: [0, 1, part - 1, part, part + 1, 3 * part, 5 << 20 | 7])
    func `comes back as it was put, and is stored once`(count: Int) async throws {
        let database = try await Database.make()
        let bytes = Self.bytes(count)
        let address = try await database.withConnection { try await digest(of: bytes, $0) }
        try await QueueClient.open(database.settings()) { client throws(JobsError) in
            for _ in 0..<2 {
                let upload = try await client.beginBlob(tenant: "")
                for start in stride(from: 0, to: count, by: 4 * Self.part) {
                    let chunk = Array(bytes[start..<min(count, start + 4 * Self.part)])
                    try await client.appendBlob(chunk, to: upload, at: start)
                    try await client.appendBlob(chunk, to: upload, at: start)  // an answer was lost
                }
                try await client.finishBlob(upload, sha256: address)
            }
            #expect(try await client.putBlob(bytes) == address)
            #expect(try await client.blobByteCount(address) == count)
            var received: [UInt8] = []
            while true {
                let chunk = try await client.blobPart(address, at: received.count, count: 700_001)
                if chunk.isEmpty { break }
                received += chunk
            }
            #expect(received == bytes)
            #expect(try await client.blob(address) == bytes)
            let rows = try await client.blobs(job: nil, tenant: "", limit: 9)
            #expect(rows.map(\.sha256) == [address])
            #expect(rows.map(\.byteCount) == [count])
        }
        try await database.withConnection { connection in
            #expect(try await connection.count("select count(*) from mayfly.blob") == 2)
            try await connection.run("select mayfly.drop_uploads()")
            #expect(try await leftovers(connection) == 0)
            #expect(try await connection.count("select count(*) from mayfly.blob") == 1)
        }
    }

    @Test func `is refused when parts are missing, overlap, differ or are too much`() async throws {
        try await Database.make().withConnection { connection in
            let unit = Self.bytes(Self.part)
            let upload = try await connection.run("select mayfly.begin_blob() as upload")
                .integer(0, "upload")
            func append(_ bytes: [UInt8], _ at: Int?) async -> String? {
                await sqlstate {
                    try await connection.run(
                        "select mayfly.append_blob(\(upload), \(bytes), \(at))")
                }
            }
            #expect(await append(unit, Self.part) == "MF001")  // a gap
            #expect(await append([], 0) == "MF001")
            #expect(await append(unit, nil) == nil)
            #expect(await append(unit, 1) == "MF001")
            #expect(await append(unit, -Self.part) == "MF001")
            #expect(await append(unit, 0) == nil)  // the same again
            #expect(await append(Self.bytes(Self.part, seed: 2), 0) == "MF001")
            #expect(await append([1, 2], nil) == nil)
            #expect(await append([1, 2], nil) == "MF001")  // after a last part
            try await connection.run("update mayfly.setting set blob_bytes_max = 300000")
            #expect(await append(unit, Self.part) == "MF007")
            let lie: Statement = "select mayfly.finish_blob(\(upload), repeat('a', 64))"
            #expect(await sqlstate { try await connection.run(lie) } == "MF007")
            let address = try await digest(of: unit + [1, 2], connection)
            let finished = try await connection.run(
                "select mayfly.finish_blob(\(upload)) as sha256")
            #expect(finished.string(0, "sha256") == address)
            #expect(await append([1, 2], nil) == "MF007")  // it is no upload any more
        }
    }

    @Test func `bytes are only dropped in favour of the very same, whatever their address says`()
        async throws
    {
        try await Database.make().withConnection { connection in
            // Above this the database takes the writer's word.
            try await connection.run("update mayfly.setting set blob_call_max = 1000")
            let (wrong, right) = (Self.bytes(2000, seed: 1), Self.bytes(2000, seed: 2))
            let address = try await digest(of: right, connection)
            for bytes in [wrong, right, right] {
                let upload = try await connection.run("select mayfly.begin_blob() as upload")
                    .integer(0, "upload")
                try await connection.run("select mayfly.append_blob(\(upload), \(bytes))")
                #expect(
                    await sqlstate {
                        try await connection.run("select mayfly.finish_blob(\(upload))")
                    } == "MF001")
                try await connection.run("select mayfly.finish_blob(\(upload), \(address))")
            }
            let stored = try await connection.run(
                "select mayfly.get_blob_part(\(address), 0) = \(right) as is_right")
            #expect(stored.bool(0, "is_right"))
            #expect(
                try await connection.count(
                    "select count(*) from mayfly.blob where sha256 is not null") == 2)
        }
    }

    @Test func `upkeep removes uploads that came to nothing, piece by piece, and no others`()
        async throws
    {
        try await Database.make().withConnection { connection in
            let bytes = Self.bytes(10 * Self.part)
            var uploads: [Int64] = []
            for _ in 0..<2 {
                let upload = try await connection.run("select mayfly.begin_blob() as upload")
                    .integer(0, "upload")
                uploads.append(try #require(upload))
                try await connection.run("select mayfly.append_blob(\(upload), \(bytes))")
            }
            try await connection.run(
                """
                update mayfly.blob set put_at = now() - interval '25 hours'
                where blob = \(uploads[0])
                """)
            let late: Statement = "select mayfly.append_blob(\(uploads[0]), 'x')"
            #expect(await sqlstate { try await connection.run(late) } == "MF007")
            var pieces = 0
            while try await connection.count("select mayfly.drop_uploads(4) as count") > 0 {
                pieces += 1
            }
            #expect(pieces >= 3)
            #expect(try await connection.count("select count(*) from mayfly.blob_chunk") == 10)
            try await connection.run("select mayfly.finish_blob(\(uploads[1]))")
            // A blob that nobody names goes the same way when its time has come.
            try await connection.run("update mayfly.blob set put_at = now() - interval '40 days'")
            while try await connection.run("select did from mayfly.maintain() did").count > 0 {}
            #expect(try await connection.count("select count(*) from mayfly.blob_chunk") == 0)
            #expect(try await connection.count("select count(*) from mayfly.blob") == 0)
        }
    }

    // MARK: Attempts

    @Test(arguments: [part + 1, 3 * part, 9 << 20])
    func `of an attempt goes in and out, part by part, and is the job's when it is settled`(
        count: Int
    ) async throws {
        let database = try await Database.make()
        let bytes = Self.bytes(count)
        try await database.withConnection { connection in
            let address = try await digest(of: bytes, connection)
            try await connection.run("select mayfly.put_blob(\(bytes))")
            let id = try await connection.enqueue(#"{"files": [{"blob": "\#(address)"}]}"#)
            let result = bytes.reversed() as [UInt8]
            let resultAddress = try await digest(of: result, connection)
            let settled = try await withQueue(database.queueSettings(), logger: quiet) { queue in
                guard let claim = await queue.next() else { return "no claim" }
                let files = claim.files
                do {
                    var received: [UInt8] = []
                    while received.count < count {
                        let part = try await files.part(of: address, at: received.count)
                        #expect(part?.byteCount == count)
                        received += part?.bytes ?? []
                    }
                    #expect(received == bytes)
                    #expect(try await files.part(of: resultAddress, at: 0) == nil)
                    var upload: Int64?
                    for start in stride(from: 0, to: count, by: Self.part) {
                        let part = Array(result[start..<min(count, start + Self.part)])
                        upload = try await files.append(part, at: start, of: count, to: upload)
                    }
                    let blob = Blob(sha256: resultAddress, upload: upload ?? 0, byteCount: count)
                    let report = Report(result: "{}", blobs: [blob])
                    return "\(try await claim.settle(.succeeded(report)))"
                } catch { return "\(error)" }
            }
            #expect(settled == #"stored(state: "succeeded")"#)
            let rows = try await connection.run(
                """
                select sha256, size from mayfly.list_blobs(\(id)) order by sha256 = \(address) desc
                """)
            #expect((0..<rows.count).map { rows.string($0, "sha256") } == [address, resultAddress])
            let read = try await connection.run(
                "select mayfly.get_blob(\(resultAddress)) = \(result) as is_right")
            #expect(read.bool(0, "is_right"))
            try await connection.run("select mayfly.drop_uploads()")
            #expect(try await leftovers(connection) == 0)
        }
    }

    @Test func `of an attempt that lost its lease is fenced, and nothing of it is left`()
        async throws
    {
        try await Database.make().withConnection { connection in
            _ = try await connection.enqueue()
            let me = try await connection.register()
            let held = try #require(try await connection.claim(me).first)
            let part = Self.bytes(Self.part)
            func append(_ upload: Int64?, _ offset: Int) async throws -> Int64? {
                try await connection.run(
                    """
                    select mayfly.append_upload(\(me.number), \(me.secret), \(held.token), \(upload),
                        \(offset), \(part), 1000000) as upload
                    """
                ).integer(0, "upload")
            }
            let upload = try await append(nil, 0)
            _ = try await append(upload, Self.part)
            // While the attempt lives its upload does, too.
            #expect(try await connection.count("select mayfly.drop_uploads() as count") == 0)
            try await connection.lapse(me)
            #expect(try await connection.count("select mayfly.reap() as count") == 1)
            #expect(await sqlstate { _ = try await append(upload, 2 * Self.part) } == "MF005")
            let settle = await sqlstate {
                try await connection.run([
                    """
                    select mayfly.seal_upload(\(me.number), \(me.secret), \(held.token), \(upload),
                        repeat('a', 64), \(2 * Self.part))
                    """,
                    """
                    select mayfly.settle(\(me.number), \(me.secret), \(held.id), \(held.token),
                        'succeeded', result => '{}')
                    """,
                ])
            }
            #expect(settle == "MF005")
            #expect(try await connection.count("select mayfly.drop_uploads() as count") == 3)
            #expect(try await leftovers(connection) == 0)
            #expect(try await connection.count("select count(*) from mayfly.blob_use") == 0)
        }
    }

    @Test func `shows how far it is, and what moves is not past its deadline`() async throws {
        try await Database.make().withConnection { connection in
            let id = try await connection.enqueue()
            let me = try await connection.register()
            let held = try #require(try await connection.claim(me).first)
            let before = try await connection.run(
                "select way from mayfly.get_transfer(\(id))")
            #expect(before.text(0, "way") == nil)
            try await connection.run(
                """
                update mayfly.running set deadline_at = now() - interval '1 s',
                    started_at = now() - interval '1 min'
                """)
            let part = Self.bytes(4 << 20)
            var upload: Int64?
            for offset in [0, 4 << 20] {
                upload = try await connection.run(
                    """
                    select mayfly.append_upload(\(me.number), \(me.secret), \(held.token), \(upload),
                        \(offset), \(part), \(8 << 20)) as upload
                    """
                ).integer(0, "upload")
            }
            let rows = try await connection.run(
                "select way, bytes, size from mayfly.get_transfer(\(id))")
            #expect(rows.string(0, "way") == "out")
            #expect(rows.integer(0, "bytes") == 4 << 20)
            #expect(rows.integer(0, "size") == 8 << 20)
            #expect(try await connection.count("select mayfly.reap() as count") == 0)
        }
    }

    @Test func `delays nobody's claim, settlement or upkeep while it is on its way`() async throws {
        let database = try await Database.make()
        try await database.withConnection { other in
            _ = try await other.enqueue()
            let me = try await other.register()
            let uploading = try #require(try await other.claim(me).first)
            try await other.run(
                "update mayfly.running set started_at = now() - interval '1 min'")
            // A statement of an upload that does not end: its rows are written, its attempt is noted.
            let stuck = try await Connection(database.settings())
            let part = Self.bytes(4 << 20)
            try await stuck.run(Script(name: "begin", bytes: Array("begin".utf8)))
            let upload = try await stuck.run(
                """
                select mayfly.append_upload(\(me.number), \(me.secret), \(uploading.token), null, 0,
                    \(part), \(8 << 20)) as upload
                """
            ).integer(0, "upload")
            try await stuck.run(
                """
                select mayfly.append_upload(\(me.number), \(me.secret), \(uploading.token),
                    \(upload), \(4 << 20), \(part), \(8 << 20))
                """)
            try await other.run("set lock_timeout = '1ms'")
            let id = try await other.enqueue()
            let held = try #require(try await other.claim(me).first)
            #expect(held.id == id)
            try await other.run("select mayfly.reap()")
            try await other.run("select mayfly.drop_uploads()")
            while try await other.run("select did from mayfly.maintain() did").count > 0 {}
            #expect(try await other.heartbeat(me, [uploading.token, held.token]).isEmpty)
            #expect(try await other.settle(me, held, "succeeded") == "succeeded")
            await stuck.close()
        }
    }
}
