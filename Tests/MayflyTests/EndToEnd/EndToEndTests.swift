// The whole way: SQL in, a real worker, a real machine, the result in the table. One after the other,
// because some of them measure time and count processes.

import Foundation
import Jobs
import StrictJSON
import Testing

@testable import Mayfly

/// Everything that needs the golden image and the built program.
@Suite("End to end", .enabled(if: TestState.hasImage, TestState.reason), .serialized)
struct EndToEndTests {}

extension EndToEndTests {
    @Suite("A job", .serialized)
    struct OneJobTests {
        @Test func `a job put in by a plain INSERT is soon done on an idle worker`()
            async throws
        {
            try await World.with { world in
                _ = try await world.worker(["--slots", "1"])
                var best = Duration.seconds(3600)
                // The best of some: other work on the same processors is not what is measured.
                for _ in 0..<5 {
                    let begin = ContinuousClock.now
                    let id = try world.number(
                        """
                        insert into mayfly.job (kind, payload)
                        values ('code', '{"language":"python","source":"print(6*7)"}')
                        returning id
                        """)
                    let job = try await world.ended(id)
                    best = min(best, .now - begin)
                    #expect(job.state == "succeeded")
                    #expect(job.stdout == "42\n")
                    #expect(job.resultJSON["timings"]?["interpreter"] == .string("warm"))
                }
                #expect(best < .seconds(60), "the best of five took \(best)")
            }
        }

        @Test func `finds a machine that waits for it on an idle worker`() async throws {
            try await World.with { world in
                _ = try await world.worker(["--slots", "1"])
                let deadline = ContinuousClock.now + .seconds(120)
                var ways: [JSON] = []
                while !ways.contains(.string("warm")), .now < deadline {
                    let job = try await world.ended(try world.enqueue("bash", "echo 42"))
                    #expect(job.stdout == "42\n")
                    if let way = job.resultJSON["timings"]?["started_from"] { ways.append(way) }
                }
                #expect(ways.last == .string("warm"), "\(ways)")
            }
        }

        @Test func `gets its arguments, input, variables and files, and leaves files as blobs`()
            async throws
        {
            try await World.with { world in
                _ = try await world.worker()
                let blob = try world.sql("select mayfly.put_blob('from a blob')")
                let files: JSON = .array([
                    .object(["name": .string("d/t.txt"), "text": .string("text é")]),
                    .object(["name": .string("b.bin"), "base64": .string("AAH/")]),
                    .object(["name": .string("c.txt"), "blob": .string(blob)]),
                ])
                let sources = [
                    "python": """
                    import os, sys
                    print(sys.argv[1:], sys.stdin.read(), os.environ["GREETING"])
                    print(open("d/t.txt").read(), list(open("b.bin", "rb").read()), open("c.txt").read())
                    os.mkdir("out"); open("out/a.txt", "w").write("left"); open("no.dat", "w").write("x")
                    print("to stderr", file=sys.stderr)
                    """,
                    "node": """
                    const fs = require("fs");
                    console.log(process.argv.slice(2), fs.readFileSync(0, "utf8"), process.env.GREETING);
                    console.log(fs.readFileSync("d/t.txt", "utf8"), [...fs.readFileSync("b.bin")], fs.readFileSync("c.txt", "utf8"));
                    fs.mkdirSync("out"); fs.writeFileSync("out/a.txt", "left"); fs.writeFileSync("no.dat", "x");
                    console.error("to stderr");
                    """,
                    "bash": """
                    echo "$1 $2" "$(cat)" "$GREETING"
                    cat d/t.txt; od -An -tu1 b.bin; cat c.txt
                    mkdir out; printf left > out/a.txt; printf x > no.dat
                    echo "to stderr" >&2
                    """,
                ]
                for (language, source) in sources {
                    let id = try world.enqueue(
                        .object([
                            "language": .string(language), "source": .string(source),
                            "args": .array([.string("one"), .string("two words")]),
                            "stdin": .string("typed"), "files": files,
                            "env": .object(["GREETING": .string("hello")]),
                            "outputs": .array([.string("out/*.txt")]),
                        ]))
                    let job = try await world.ended(id)
                    #expect(job.state == "succeeded", "\(language): \(job.error ?? "")")
                    let printed = job.stdout ?? ""
                    for part in [
                        "one", "two words", "typed", "hello", "text é", "255", "from a blob",
                    ] {
                        #expect(printed.contains(part), "\(language) lacks \(part): \(printed)")
                    }
                    #expect(job.resultJSON["stderr"] == .string("to stderr\n"))
                    let left = job.resultJSON["files"]?.elements ?? []
                    #expect(left.compactMap { $0["name"]?.string } == ["out/a.txt"])
                    let digest = left.first?["sha256"]?.string ?? ""
                    let bytes = try world.sql(
                        "select convert_from(mayfly.get_blob('\(digest)'), 'UTF8')")
                    #expect(bytes == "left")
                }
            }
        }

        @Test func `a job with a bad payload is refused with its place, and no machine is used`()
            async throws
        {
            try await World.with { world in
                _ = try await world.worker()
                let bad: [(String, String)] = [
                    (#"{"language":"ruby","source":""}"#, "$.language"),
                    (#"{"language":"python","source":"","x":1}"#, "$"),
                    (#"{"language":"python","source":7}"#, "$.source"),
                    (
                        #"{"language":"bash","source":"","files":[{"name":"../x","text":""}]}"#,
                        "$.files[0].name"
                    ),
                    (
                        #"{"language":"bash","source":"","files":[{"name":"x","base64":"?"}]}"#,
                        "$.files[0].base64"
                    ),
                ]
                var ids: [(Int64, String)] = []
                for (payload, path) in bad {
                    ids.append(
                        (try world.number("select mayfly.enqueue('code', $$\(payload)$$)"), path))
                }
                for (id, path) in ids {
                    let job = try await world.ended(id)
                    #expect(job.state == "failed")
                    #expect(job.errorReason == "invalid_payload")
                    #expect(job.errorMessage?.hasPrefix("\(path): ") == true, "\(job.error ?? "")")
                    #expect(JSON.stored(job.error)["retryable"] == .bool(false))
                    let attempts = try await world.attempts(id)
                    #expect(attempts.count == 1)
                    #expect(attempts.first?.machine == nil)
                }
                // 300 MB: PostgreSQL's jsonb takes no such text, and the program refuses it by itself.
                let path = world.directory + "/large.py"
                try Data().write(to: URL(fileURLWithPath: path))
                #expect(unsafe truncate(path, 300_000_000) == 0)
                let ended = try await world.mayfly(["run", "python", path])
                #expect(ended.status == 2)
                #expect(ended.errors.contains("invalid_payload: $"), "\(ended.errors)")
            }
        }

        @Test func `is replayed as a new job; pinned, chance falls the same way`() async throws {
            try await World.with { world in
                _ = try await world.worker()
                let source = "import random, os; print(random.random(), os.urandom(4).hex())"
                let first = try await world.ended(try world.enqueue("python", source))
                #expect(first.state == "succeeded")
                let again = try await world.mayfly(["replay", "\(first.id)", "--json"])
                #expect(again.status == 0, "\(again.errors)")
                let id = try #require(
                    try JSON(parsing: again.output).elements.first?["id"]?.int.map(Int64.init))
                let second = try await world.ended(id)
                #expect(second.id != first.id && second.replayOf == first.id)
                #expect(second.state == "succeeded" && second.stdout != first.stdout)

                let pinned = try await world.mayfly(["replay", "\(first.id)", "--pinned", "--json"])
                let third = try await world.ended(
                    try #require(
                        try JSON(parsing: pinned.output).elements.first?["id"]?.int.map(Int64.init))
                )
                #expect(third.state == "succeeded", "\(third.error ?? "")")
                let random = first.stdout?.split(separator: " ").first
                #expect(third.stdout?.split(separator: " ").first == random)
                let seeds = try world.sql(
                    "select count(distinct seed) from mayfly.attempt where id in (\(first.id), \(third.id))"
                )
                #expect(seeds == "1")
            }
        }

        @Test func `is cancelled while it runs, and its machine goes at once`() async throws {
            try await World.with { world in
                let worker = try await world.worker([
                    "--slots", "1", "--set", "machine.standby=0", "--set", "machine.warm.memory=0B",
                ])
                let id = try world.enqueue(
                    "bash", "echo started; sleep 300", ", timeout => '5 min'")
                _ = try await world.until(id) { $0.state == "running" }
                let deadline = ContinuousClock.now + .seconds(60)
                while worker.machines.isEmpty && .now < deadline {
                    try await Task.sleep(for: .milliseconds(10))
                }
                let cancelled = try await world.mayfly(["cancel", "\(id)"])
                let begin = ContinuousClock.now
                #expect(cancelled.status == 0, "\(cancelled.errors)")
                let job = try await world.ended(id)
                #expect(job.state == "cancelled")
                #expect(job.errorReason == "cancelled")
                #expect(.now - begin < .seconds(3))
                #expect(worker.machines.isEmpty)
            }
        }
    }
}
