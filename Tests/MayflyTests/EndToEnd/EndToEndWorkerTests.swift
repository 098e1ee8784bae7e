// Workers as processes: many jobs, kill -9, signals, and programs that misbehave.

import Foundation
import Jobs
import StrictJSON
import Testing

@testable import Mayfly

extension EndToEndTests {
    @Suite("Workers", .serialized)
    struct WorkerTests {
        @Test func `two hundred jobs on two workers, one killed on the way: each stored once`()
            async throws
        {
            try await World.with { world in
                let first = try await world.worker(["--slots", "4"])
                let second = try await world.worker(["--slots", "4"])
                try world.sql(
                    """
                    select mayfly.enqueue_many(jsonb_agg(jsonb_build_object('kind', 'code', 'payload',
                        jsonb_build_object('language', 'bash', 'source', 'echo ' || n))))
                    from generate_series(1, 200) n
                    """)
                let deadline = ContinuousClock.now + .seconds(600)
                let ended = "select count(*) from mayfly.outcome"
                while try world.number(ended) < 40 && .now < deadline {
                    try await Task.sleep(for: .milliseconds(50))
                }
                // It must be working when it dies, or the test proves nothing.
                let held = """
                    select count(*) from mayfly.running r join mayfly.worker w using (worker)
                    where w.name like '%-\(first.program.pid)'
                    """
                while try world.number(held) == 0 && .now < deadline {
                    try await Task.sleep(for: .milliseconds(5))
                }
                await first.kill()
                while try world.number(ended) < 200 && .now < deadline {
                    try await Task.sleep(for: .milliseconds(100))
                }
                // Each its own number, stored once, and every one of them there.
                let sums = try world.sql(
                    """
                    select count(*), count(distinct id), count(*) filter (where state = 'succeeded'),
                        count(distinct result ->> 'stdout'),
                        sum((result ->> 'stdout')::int)
                    from mayfly.job
                    """)
                #expect(sums == "200|200|200|200|20100")
                #expect(try world.number("select count(*) from mayfly.running") == 0)
                #expect(
                    try world.number(
                        "select count(*) from mayfly.attempt where outcome = 'succeeded'") == 200)
                // The dead worker's attempts were ended for it, as ours to blame, not the jobs'.
                #expect(
                    try world.number(
                        "select count(*) from mayfly.attempt where reason = 'lease_lost'") > 0)

                // A sweep finds what the dead worker left: the survivor's, or the next start's.
                let swept = try await world.mayfly(["restore", "code"])
                #expect(swept.status == 0, "\(swept.errors)")
                #expect(first.machines == [])
                second.program.signal(SIGTERM)
                #expect(try await second.ended() == 0)
                #expect(second.machines == [])
                let left = try FileManager.default.contentsOfDirectory(
                    atPath: world.runtime + "/hosts")
                #expect(left == [])
            }
        }

        @Test func `the first signal lets running jobs finish and takes no new ones`()
            async throws
        {
            try await World.with { world in
                let worker = try await world.worker(["--slots", "1"])
                let running = try world.enqueue("bash", "sleep 3; echo finished")
                _ = try await world.until(running) { $0.state == "running" }
                let waiting = try world.enqueue("bash", "echo next")
                worker.program.signal(SIGTERM)
                #expect(try await worker.ended() == 0)
                let job = try await world.ended(running, within: .seconds(5))
                #expect(job.state == "succeeded" && job.stdout == "finished\n")
                #expect(
                    try await world.until(waiting, within: .zero) { _ in true }.state == "queued")
                #expect(worker.machines == [])
                #expect(worker.words.contains("draining"))
            }
        }

        @Test func `the second signal gives running jobs back, which costs them nothing`()
            async throws
        {
            try await World.with { world in
                let worker = try await world.worker(["--slots", "1"])
                let id = try world.enqueue(
                    "bash", "sleep 8; echo done", ", timeout => '5 min'")
                _ = try await world.until(id) { $0.state == "running" }
                worker.program.signal(SIGINT)
                let deadline = ContinuousClock.now + .seconds(60)
                while !worker.words.contains("draining"), .now < deadline {
                    try await Task.sleep(for: .milliseconds(10))
                }
                let begin = ContinuousClock.now
                worker.program.signal(SIGINT)
                #expect(try await worker.ended() == 0)
                #expect(.now - begin < .seconds(5))
                #expect(worker.machines == [])
                let job = try await world.until(id, within: .zero) { _ in true }
                #expect(job.state == "queued")
                let attempts = try await world.attempts(id)
                #expect(attempts.map(\.outcome) == ["interrupted"])
                #expect(
                    try world.sql(
                        "select (tries).failures, (tries).losses from mayfly.ready where id = \(id)"
                    ) == "0|0")
                _ = try await world.worker(["--slots", "1"])
                let ended = try await world.ended(id)
                #expect(ended.state == "succeeded" && ended.stdout == "done\n")
            }
        }

        @Test func `the drain timeout does what the second signal does`() async throws {
            try await World.with { world in
                let worker = try await world.worker([
                    "--slots", "1", "--set", "worker.drain.timeout=1s",
                ])
                let id = try world.enqueue("bash", "sleep 60", ", timeout => '5 min'")
                _ = try await world.until(id) { $0.state == "running" }
                worker.program.signal(SIGTERM)
                #expect(try await worker.ended() == 0)
                #expect(try await world.attempts(id).map(\.outcome) == ["interrupted"])
            }
        }
    }

    @Suite("A program that misbehaves", .serialized)
    struct HostileTests {
        struct Case: Sendable {
            var name: String
            var language = "bash"
            var source: String
            var timeout = 10
            var outputs: [String] = []
            /// What `error.reason` may be; `nil`: it succeeds.
            var reasons: [String?]
        }
        private static let cases: [Case] = [
            Case(name: "prints without end", source: "yes", timeout: 60, reasons: ["output_limit"]),
            Case(
                name: "forks without end", source: ":(){ :|:& };:; wait; sleep 60",
                reasons: ["timeout", "exit_nonzero", "out_of_memory"]),
            Case(
                name: "eats memory", language: "python",
                source: "x = []\nwhile True: x.append(' '*10**7)", timeout: 60,
                reasons: ["out_of_memory"]),
            Case(
                name: "fills the disk", source: "dd if=/dev/zero of=big bs=1M || exit 1",
                timeout: 60,
                reasons: ["exit_nonzero", "out_of_memory", "disk_full"]),
            Case(
                name: "leaves a child that holds stdout", source: "(setsid sleep 300 &); echo done",
                reasons: [nil]),
            Case(
                name: "kills everything it can reach", source: "kill -9 -1; exit 3",
                reasons: ["exit_nonzero", "signalled"]),
            Case(
                name: "asks for a file of a gigabyte", source: "truncate -s 1G big.bin",
                timeout: 30,
                outputs: ["*.bin"], reasons: ["output_limit"]),
            Case(
                name: "never ends and ignores SIGTERM", source: "trap '' TERM; while :; do :; done",
                timeout: 3, reasons: ["timeout"]),
        ]

        @Test func `ends with the right reason in time; the next job and the worker are unharmed`()
            async throws
        {
            try await World.with { world in
                let worker = try await world.worker(["--slots", "1"])
                for item in Self.cases {
                    let payload: JSON = .object([
                        "language": .string(item.language), "source": .string(item.source),
                        "outputs": .array(item.outputs.map { .string($0) }),
                    ])
                    let id = try world.enqueue(payload, ", timeout => '\(item.timeout) s'")
                    let next = try world.enqueue("bash", "echo 42")
                    let job = try await world.ended(id)
                    #expect(
                        item.reasons.contains(job.errorReason),
                        "\(item.name): \(job.error ?? "succeeded")")
                    let wall = job.resultJSON["usage"]?["wall_ms"].flatMap { Double($0.text) }
                    let limit = Double(item.timeout + 2) * 1000
                    #expect((wall ?? limit) < limit, "\(item.name) took \(wall ?? -1) ms")
                    let after = try await world.ended(next)
                    #expect(after.stdout == "42\n", "after \(item.name): \(after.error ?? "")")
                    #expect(try await world.attempts(id).count == 1, "\(item.name)")
                }
                #expect(worker.peakMemory < 400 << 20, "\(worker.peakMemory) bytes")
                worker.program.signal(SIGTERM)
                #expect(try await worker.ended() == 0)
                #expect(worker.machines == [])
            }
        }
    }
}
