// Large files the whole way: a file of the host, the database, a machine, the database, a file. And
// what happens when a part of that way is lost in the middle.

import Foundation
import Jobs
import Machines
import StrictJSON
import Testing

@testable import Mayfly

extension EndToEndTests {
    @Suite("A large file", .serialized)
    struct BlobJobTests {
        private static let part = JobFiles.partByteCount
        private static let flags = [
            "--slots", "2", "--set", "code.input.file=1GiB", "--set", "code.input.total=4GiB",
            "--set", "code.output.file=1GiB", "--set", "code.output.total=4GiB",
        ]

        /// A file that looks random; its digest.
        private func make(_ name: String, _ count: Int, in world: World) throws -> String {
            let path = "\(world.directory)/\(name)"
            _ = FileManager.default.createFile(atPath: path, contents: nil)
            let file = try #require(FileHandle(forWritingAtPath: path))
            let digest = RunningDigest()
            var block = [UInt8](repeating: 0, count: min(count, 1 << 20))
            var state = UInt64(count) | 1
            for index in block.indices {
                state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
                block[index] = UInt8(truncatingIfNeeded: state >> 56)
            }
            for start in stride(from: 0, to: count, by: 1 << 20) {
                // No two parts are the same.
                for byte in 0..<min(8, block.count) {
                    block[byte] = UInt8(truncatingIfNeeded: start >> (8 * byte))
                }
                let bytes = Array(block.prefix(count - start))
                digest.update(bytes)
                try file.write(contentsOf: bytes)
            }
            try file.close()
            return digest.finish()
        }
        private func digest(_ name: String, in world: World) throws -> String {
            try Program.run(["sha256sum", "\(world.directory)/\(name)"]).output
                .prefix(64).description
        }
        private func put(_ name: String, in world: World) async throws -> String {
            let put = try await world.mayfly(["blob", "put", "\(world.directory)/\(name)"])
            try #require(put.status == 0, "\(put.errors)")
            return put.output.trimmingCharacters(in: .whitespacesAndNewlines)
        }
        private func get(_ sha256: String, to name: String, in world: World) async throws {
            let out = "\(world.directory)/\(name)"
            let got = try await world.mayfly(["blob", "get", sha256, "-o", out])
            #expect(got.status == 0, "\(got.errors)")
        }
        private func enqueue(
            _ source: String, files: [(name: String, sha256: String)] = [], in world: World
        ) throws -> Int64 {
            let files = files.map { file in
                JSON.object(["name": .string(file.name), "blob": .string(file.sha256)])
            }
            return try world.enqueue(
                .object([
                    "language": .string("bash"), "source": .string(source),
                    "files": .array(files), "outputs": .array([.string("out/*")]),
                ]), ", timeout => '10 min'")
        }
        private func leftovers(_ world: World) throws -> String {
            while try world.number("select mayfly.drop_uploads()") > 0 {}
            return try world.sql(
                """
                select (select count(*) from mayfly.blob where sha256 is null),
                    (select count(*) from mayfly.blob_chunk c where not exists (
                        select from mayfly.blob b where b.blob = c.blob))
                """)
        }

        @Test func `is the same in the machine and back, whatever its size`() async throws {
            try await World.with { world in
                _ = try await world.worker(Self.flags)
                let counts = [0, 1, Self.part - 1, Self.part, Self.part + 1, 100_000_000]
                var files: [(name: String, sha256: String)] = []
                for count in counts {
                    let digest = try make("f\(count)", count, in: world)
                    #expect(try await put("f\(count)", in: world) == digest)
                    files.append(("f\(count)", digest))
                }
                // Another byte at the end: other blobs, which have to be stored.
                let id = try enqueue(
                    "sha256sum f*; mkdir out; mv f* out; for f in out/*; do echo >> $f; done",
                    files: files, in: world)
                let job = try await world.ended(id, within: .seconds(300))
                #expect(job.state == "succeeded", "\(job.error ?? "")")
                for file in files {
                    #expect(job.stdout?.contains("\(file.sha256)  \(file.name)\n") == true)
                    let path = "\(world.directory)/\(file.name)"
                    let handle = try #require(FileHandle(forWritingAtPath: path))
                    try handle.seekToEnd()
                    try handle.write(contentsOf: [0x0A] as [UInt8])
                    try handle.close()
                }
                let shown = try await world.mayfly([
                    "show", "\(id)", "--out", "\(world.directory)/results",
                ])
                #expect(shown.status == 0, "\(shown.errors)")
                for file in files {
                    let result = "results/out/\(file.name)"
                    #expect(try digest(file.name, in: world) == digest(result, in: world))
                }
                let listed = try await world.mayfly(["blob", "ls", "--job", "\(id)", "--json"])
                #expect(try JSON(parsing: listed.output).elements.count == 2 * counts.count)
                #expect(try leftovers(world) == "0|0")
            }
        }

        @Test func `that is removed while it is read, or is wrong, ends the job before it starts`()
            async throws
        {
            try await World.with { world in
                _ = try await world.worker(Self.flags)
                let digest = try make("f", 40_000_000, in: world)
                _ = try await put("f", in: world)
                // As the upkeep would, as soon as its attempt, which looks old, is noted to read it.
                try world.sql(
                    """
                    create function public.remove() returns trigger language plpgsql as $$
                    begin
                        if tg_op = 'INSERT' then
                            new.started_at := new.started_at - interval '1 hour';
                        else
                            update mayfly.blob set sha256 = null, parts = null, token = 0;
                        end if;
                        return new;
                    end $$;
                    create trigger remove before insert or update on mayfly.running
                        for each row execute function public.remove()
                    """)
                let source = "echo begun"
                let removed = try await world.ended(
                    try enqueue(source, files: [("f", digest)], in: world))
                #expect(removed.errorReason == "blob_unavailable")
                #expect(removed.errorMessage?.contains("removed while it was read") == true)
                #expect(removed.result == nil)
                try world.sql("drop trigger remove on mayfly.running")
                let missing = try await world.ended(
                    try enqueue(source, files: [("f", digest)], in: world))
                #expect(missing.errorReason == "blob_missing")

                _ = try await put("f", in: world)
                try world.sql(
                    """
                    update mayfly.blob_chunk set bytes = set_byte(bytes, 5, 255 - get_byte(bytes, 5))
                        where ordinal = 100;
                    update mayfly.blob b set parts = m.parts from mayfly.blob x
                        cross join lateral mayfly.measure_upload(x.blob) m where x.blob = b.blob
                            and x.sha256 is not null
                    """)
                let wrong = try await world.ended(
                    try enqueue(source, files: [("f", digest)], in: world))
                #expect(wrong.errorReason == "blob_unavailable")
                #expect(wrong.errorMessage?.contains("are not \(digest)") == true)
                #expect(wrong.result == nil)
                let got = try await world.mayfly([
                    "blob", "get", digest, "-o", "\(world.runtime)-f",
                ])
                #expect(got.status == 1)
                #expect(!FileManager.default.fileExists(atPath: "\(world.runtime)-f"))
                // Putting the right bytes heals it.
                _ = try await put("f", in: world)
                let right = try await world.ended(
                    try enqueue(source, files: [("f", digest)], in: world))
                #expect(right.state == "succeeded", "\(right.error ?? "")")
            }
        }

        // MARK: Lost in the middle

        enum Loss: CaseIterable, Sendable { case workerKilled, leaseLost }

        /// Stops the upload of a first attempt at its fortieth part, until the test has done its
        /// harm.
        @Test(arguments: Loss.allCases)
        func `that is lost half way is fenced, leaves nothing, and comes whole with the next try`(
            loss: Loss
        ) async throws {
            try await World.with { world in
                let first = try await world.worker(Self.flags)
                try world.sql(
                    """
                    create function public.stop() returns trigger language plpgsql as $$
                    begin
                        if new.ordinal = 40 then perform pg_sleep(3600); end if;
                        return new;
                    end $$;
                    create trigger stop before insert on mayfly.blob_chunk
                        for each row execute function public.stop()
                    """)
                let id = try enqueue(
                    """
                    mkdir out; head -c 30000000 /dev/zero | tr '\\0' x > out/large; sha256sum out/large
                    """, in: world)
                let stuck = "select count(*) from pg_stat_activity where wait_event = 'PgSleep'"
                let deadline = ContinuousClock.now + .seconds(120)
                while try world.number(stuck) == 0 {
                    try #require(.now < deadline, "no upload began: \(first.words)")
                    try await Task.sleep(for: .milliseconds(50))
                }
                #expect(
                    try world.number("select count(*) from mayfly.blob where token is not null")
                        == 1)
                switch loss {
                case .workerKilled: await first.kill()
                case .leaseLost: try declareDead(in: world)
                }
                try world.sql(
                    """
                    select pg_terminate_backend(pid) from pg_stat_activity
                        where wait_event = 'PgSleep';
                    drop trigger stop on mayfly.blob_chunk
                    """)
                if loss == .workerKilled { _ = try await world.worker(Self.flags) }
                let job = try await world.ended(id, within: .seconds(300))
                #expect(job.state == "succeeded", "\(job.error ?? "")")
                let attempts = try await world.attempts(id)
                #expect(attempts.map(\.outcome) == ["lost", "succeeded"])
                #expect(attempts.first?.reason == "lease_lost")
                let address = job.stdout?.prefix(64).description ?? ""
                try await get(address, to: "large", in: world)
                #expect(try digest("large", in: world) == address)
                #expect(try leftovers(world) == "0|0")
                #expect(try world.number("select count(*) from mayfly.blob") == 1)
            }
        }

        /// As another worker would, had this one been silent for too long.
        ///
        /// The upload's own transaction holds the attempt while it lasts, and the worker may try
        /// again at once.
        private func declareDead(in world: World) throws {
            let tokens = try world.sql("select string_agg(token::text, ',') from mayfly.running")
            try world.sql("update mayfly.worker set dead = true")
            let held = "select count(*) from mayfly.running where token in (\(tokens))"
            while try world.number(held) > 0 {
                try world.sql(
                    """
                    select pg_terminate_backend(pid) from pg_stat_activity
                        where wait_event = 'PgSleep';
                    select mayfly.reap()
                    """)
            }
        }

        // MARK: Memory

        private static let gibibyte =
            ProcessInfo.processInfo.environment["MAYFLY_TEST_GIBIBYTE"] != nil
        private static let shorter: Comment =
            "takes minutes and an image with image.code.memory=3GiB: set MAYFLY_TEST_GIBIBYTE=1"

        @Test(.enabled(if: gibibyte, shorter))
        func `of 1 GiB, in and out, two at once: the worker stays below 80 MB`() async throws {
            try await expectBounded(1 << 30)
        }
        @Test func `of 64 MiB, in and out, two at once: the worker stays below 80 MB`()
            async throws
        {
            try await expectBounded(64 << 20)
        }

        private func expectBounded(_ count: Int) async throws {
            try await World.with { world in
                let worker = try await world.worker(Self.flags)
                var jobs: [(id: Int64, input: String)] = []
                for number in 0..<2 {
                    let digest = try make("f\(number)", count - number, in: world)
                    #expect(try await put("f\(number)", in: world) == digest)
                    let id = try enqueue(
                        """
                        sha256sum f; mkdir out; mv f out; printf \(number) | dd of=out/f bs=1 \
                        seek=9 conv=notrunc status=none; sha256sum out/f
                        """, files: [("f", digest)], in: world)
                    jobs.append((id, digest))
                }
                for (id, input) in jobs {
                    let job = try await world.ended(id, within: .seconds(1800))
                    #expect(job.state == "succeeded", "\(job.error ?? "")")
                    let lines = (job.stdout ?? "").split(separator: "\n").map { String($0) }
                    try #require(lines.count == 2)
                    #expect(lines[0].hasPrefix(input))
                    let output = String(lines[1].prefix(64))
                    try await get(output, to: "back", in: world)
                    #expect(try digest("back", in: world) == output)
                    print("timings of \(count) bytes: \(job.resultJSON["timings"]?.text ?? "")")
                }
                print("peak of the worker: \(worker.peakMemory) bytes")
                #expect(worker.peakMemory < 80_000_000)
            }
        }
    }
}
