// `mayfly logs -f` beside a worker: what a job prints is there before the job has ended, once, and in
// the end all of it.

import Foundation
import Jobs
import StrictJSON
import Testing

@testable import Mayfly

extension EndToEndTests {
    @Suite("A job that is followed", .serialized)
    struct FollowJobTests {
        /// What `mayfly.follow` has shown of a stream, until `fits` or the job's end.
        private func follow(
            _ id: Int64, in world: World, until fits: (String) -> Bool
        ) async throws -> String {
            var (seen, place) = ("", Int64(0))
            let deadline = ContinuousClock.now + .seconds(120)
            while !fits(seen), .now < deadline {
                let rows = try await QueueClient.open(world.settings) { client throws(JobsError) in
                    try await client.follow(id, after: place)
                }
                for row in rows where row.stream == "stdout" { seen += row.text }
                place = rows.last?.place ?? place
                let job = try await world.until(id) { _ in true }
                if job.hasEnded { break }
                try await Task.sleep(for: .milliseconds(100))
            }
            return seen
        }

        @Test func `shows by SQL what it prints while it still runs`() async throws {
            try await World.with { world in
                _ = try await world.worker()
                // It would print for an hour: whatever is seen was seen while it ran.
                let id = try world.enqueue(
                    "bash", "echo ä; echo one; sleep 1; while :; do echo two; sleep 0.2; done",
                    ", timeout => '1 h'")
                let seen = try await follow(id, in: world) { $0.contains("two") }
                #expect(seen.hasPrefix("ä\none\ntwo\n"))
                #expect(try await world.until(id) { _ in true }.state == "running")
                try world.sql("select mayfly.cancel(\(id))")
                #expect(try await world.ended(id).state == "cancelled")
            }
        }

        @Test func `is printed whole by logs -f, whenever that began and however much it prints`()
            async throws
        {
            try await World.with { world in
                let small = try world.enqueue(
                    "python",
                    """
                    import sys, time
                    for n in range(6):
                        print(n, flush=True); print('e', n, file=sys.stderr, flush=True)
                        time.sleep(0.4)
                    sys.stdout.buffer.write(b'\\xff\\x00end')
                    """)
                // Queued as yet: it waits with the job.
                async let early = world.mayfly(["logs", "-f", "\(small)"])
                try await Task.sleep(for: .milliseconds(500))
                _ = try await world.worker()
                let lines = (0..<6).map { "\($0)\n" }.joined()
                let logs = try await early
                #expect(logs.status == 0)
                #expect(logs.output.hasPrefix(lines + "\u{FFFD}"))
                #expect(logs.output.hasSuffix("end"))
                #expect(logs.errors == (0..<6).map { "e \($0)\n" }.joined())

                let steps = try world.enqueue(
                    .object([
                        "steps": .array(
                            (1...3).map { step in
                                .object([
                                    "language": "bash",
                                    "source": .string("echo step \(step); sleep 1; echo end"),
                                ])
                            })
                    ]))
                let all = (1...3).map { "step \($0)\nend\n" }.joined()
                #expect(try await world.mayfly(["logs", "-f", "\(steps)"]).output == all)
                // When it has ended, with -f or without.
                #expect(try await world.mayfly(["logs", "-f", "\(steps)"]).output == all)
                #expect(try await world.mayfly(["logs", "\(steps)"]).output == all)

                let large = try world.enqueue("bash", "seq 1 100000; sleep 1; seq 100001 400000")
                let output = try await world.mayfly(["logs", "-f", "\(large)"]).output
                // Each byte of the 2.7 MB once, or counted among those that are left out.
                let whole = (1...400_000).map { "\($0)\n" }.joined()
                let parts = output.split(
                    separator: "\n[… ", omittingEmptySubsequences: false)
                var (place, leftOut) = (whole.startIndex, 0)
                for (index, part) in parts.enumerated() {
                    var part = part
                    if index > 0 {
                        let count = try #require(Int(part.prefix { $0.isNumber }))
                        part = part.dropFirst("\(count) bytes left out …]\n".count)
                        place = whole.utf8.index(place, offsetBy: count)
                        leftOut += count
                    }
                    #expect(whole[place...].hasPrefix(part))
                    place = whole.utf8.index(place, offsetBy: part.utf8.count)
                }
                #expect(place == whole.endIndex)
                #expect(leftOut > 0)
                #expect(
                    try world.number("select count(*) from mayfly.job where state <> 'succeeded'")
                        == 0)
            }
        }

        @Test func `costs the database nothing when nobody follows`() async throws {
            try await World.with { world in
                try world.sql(
                    """
                    create table public.written (what text);
                    create function public.note() returns trigger language plpgsql as $$
                    begin insert into public.written values (tg_table_name); return null; end $$;
                    create trigger note after insert on mayfly.live_output
                        for each statement execute function public.note();
                    create trigger note after update on mayfly.running
                        for each statement execute function public.note()
                    """)
                _ = try await world.worker()
                let id = try world.enqueue(
                    "bash", "for n in 1 2 3 4 5; do echo $n; sleep 0.5; done")
                let job = try await world.ended(id)
                #expect(job.state == "succeeded")
                #expect(try world.number("select count(*) from public.written") == 0)
                let waits = try world.enqueue("bash", "sleep 60")
                _ = try await world.until(waits) { $0.state == "running" }
                let logs = try await world.mayfly(["logs", "\(waits)"])
                #expect(logs.status == 1)
                #expect(logs.errors.contains("follow it with: mayfly logs -f \(waits)"))
            }
        }
    }
}
