// Secrets the whole way: sealed by a command, stored, opened by a worker that has the key, given to a
// program, and nowhere in the database in the clear. Parts of the end-to-end suite.

import Foundation
import Jobs
import Secrets
import StrictJSON
import Testing

@testable import Mayfly

extension EndToEndTests {
    @Suite("A job's secret", .serialized)
    struct SecretJobTests {
        private static let clear = "correct-horse-battery-staple"

        /// Every row of every table of the schema, as text.
        private func everything(in world: World) throws -> String {
            let tables = try world.sql(
                """
                select format('%I.%I', n.nspname, c.relname) from pg_class c
                    join pg_namespace n on n.oid = c.relnamespace
                where n.nspname = 'mayfly' and c.relkind = 'r' order by 1
                """
            ).split(separator: "\n")
            #expect(tables.count > 15)
            return try tables.map { try world.sql("select t::text from \($0) t") }.joined()
        }

        private func keys(_ world: World) -> [String] {
            ["--set", "secrets.keys=\(world.directory)/keys"]
        }

        @Test func `reaches its program and no table, whatever the program prints`() async throws {
            try await World.with { world in
                let made = try await world.mayfly(["secret", "keygen"] + keys(world))
                try #require(made.status == 0, "\(made.errors)")
                let kid = made.output.trimmingCharacters(in: .whitespacesAndNewlines)
                let worker = try await world.worker(
                    ["--slots", "1", "--set", "log.level=debug"] + keys(world))
                let file = "\(world.directory)/token"
                try Data("\(Self.clear)\n".utf8).write(to: URL(fileURLWithPath: file))
                let source = """
                    import os, sys
                    key = os.environ["API_KEY"]
                    print("is", len(key), key[::-1] == "\(String(Self.clear.reversed()))", key)
                    print("err", key, file=sys.stderr)
                    open("report.txt", "w").write(key[::-1])
                    {"key": key}
                    """
                let ended = try await world.mayfly(
                    [
                        "enqueue", "--language", "python", "--source", source, "--wait",
                        "--secret", "API_KEY=@\(file)", "--json",
                    ])
                #expect(ended.status == 0, "\(ended.errors)")
                let job = try JSON(parsing: ended.output)
                #expect(job["payload"]?["secrets"] == ["API_KEY": .string(Secret.dots)])
                let stars = String(repeating: "*", count: Self.clear.count)
                #expect(
                    job["result"]?["stdout"]?.string == "is \(Self.clear.count) True \(stars)\n")
                #expect(job["result"]?["stderr"]?.string == "err \(stars)\n")
                #expect(job["result"]?["value"]?["json"] == ["key": .string(stars)])
                let id = Int64(job["id"]?.int ?? 0)
                let shown = try await world.mayfly(["show", "\(id)"])
                #expect(
                    shown.output.contains("secret      API_KEY \(Secret.dots)"), "\(shown.output)")

                // A failure quotes its last line; a replay opens the same payload again.
                let failing = try await world.mayfly(
                    [
                        "enqueue", "--language", "python", "--wait", "--secret", "API_KEY",
                        "--source", "import os; raise ValueError(os.environ['API_KEY'])",
                    ], environment: ["API_KEY": Self.clear])
                #expect(failing.status == 1)
                #expect(failing.output.contains("ValueError: \(stars)"), "\(failing.output)")
                let again = try world.number("select mayfly.replay(\(id))")
                #expect(try await world.ended(again).state == "succeeded")

                let rows = try everything(in: world)
                #expect(rows.contains(kid))
                #expect(!rows.contains(Self.clear))
                #expect(!rows.contains(Base64.encode(Array(Self.clear.utf8))))
                #expect(!worker.words.contains(Self.clear))
            }
        }

        @Test
        func `is covered while its program is followed, and what was shown is what is stored`()
            async throws
        {
            try await World.with { world in
                let made = try await world.mayfly(["secret", "keygen"] + keys(world))
                try #require(made.status == 0, "\(made.errors)")
                _ = try await world.worker(["--slots", "1"] + keys(world))
                // Written byte by byte: looks end in the middle of it.
                let source = """
                    import os, sys, time
                    for n in range(6):
                        for byte in "is " + os.environ["API_KEY"] + "\\n":
                            print(byte, end="", flush=True); time.sleep(0.02)
                    """
                try world.sql(
                    """
                    create table mayfly.shown (text text);
                    create function public.note() returns trigger language plpgsql as $$
                    begin insert into mayfly.shown values (new.text); return new; end $$;
                    create trigger note before insert on mayfly.live_output
                        for each row execute function public.note()
                    """)
                let put = try await world.mayfly(
                    [
                        "enqueue", "--language", "python", "--source", source,
                        "--secret", "API_KEY",
                    ], environment: ["API_KEY": Self.clear])
                let id = put.output.trimmingCharacters(in: .whitespacesAndNewlines)
                let logs = try await world.mayfly(["logs", "-f", id])
                let stars = String(repeating: "*", count: Self.clear.count)
                #expect(logs.output == String(repeating: "is \(stars)\n", count: 6))
                let stored = try await world.mayfly(["logs", id])
                #expect(stored.output == logs.output)
                #expect(try world.number("select count(*) from mayfly.shown") > 1)
                #expect(try !everything(in: world).contains(Self.clear))
            }
        }

        @Test func `waits for a host that has its key, and costs the job nothing`() async throws {
            try await World.with { world in
                try world.sql("update mayfly.setting set backoff_first = '200 ms'")
                let made = try await world.mayfly(["secret", "keygen"] + keys(world))
                try #require(made.status == 0, "\(made.errors)")
                let kid = made.output.trimmingCharacters(in: .whitespacesAndNewlines)
                let elsewhere = "\(world.directory)/elsewhere"
                try FileManager.default.createDirectory(
                    atPath: elsewhere, withIntermediateDirectories: true)
                _ = try await world.worker(
                    ["--slots", "1", "--set", "secrets.keys=\(elsewhere)"])
                let put = try await world.mayfly(
                    [
                        "enqueue", "--language", "bash", "--source", "echo ${#API_KEY}",
                        "--secret", "API_KEY",
                    ], environment: ["API_KEY": Self.clear])
                let id = try #require(
                    Int64(put.output.trimmingCharacters(in: .whitespacesAndNewlines)),
                    "\(put.errors)")
                _ = try await world.until(id) { $0.attempt >= 1 && $0.state == "queued" }
                let lost = try #require(try await world.attempts(id).first)
                #expect(lost.reason == "secret_key_missing")
                #expect(lost.message?.contains(kid) == true)
                #expect(lost.machine == nil)
                // The same worker, given the key, needs no restart.
                try FileManager.default.copyItem(
                    atPath: "\(world.directory)/keys/\(kid).jwk",
                    toPath: "\(elsewhere)/\(kid).jwk")
                let job = try await world.ended(id)
                #expect(job.state == "succeeded", "\(job.error ?? "")")
                #expect(job.stdout == "\(Self.clear.count)\n")
            }
        }

        @Test func `of another tenant, or changed, fails the job that brings it`() async throws {
            try await World.with { world in
                let made = try await world.mayfly(["secret", "keygen"] + keys(world))
                try #require(made.status == 0, "\(made.errors)")
                _ = try await world.worker(["--slots", "1"] + keys(world))
                let sealed = try await world.mayfly(
                    ["secret", "seal", "--tenant", "acme"], input: Self.clear)
                let text = sealed.output.trimmingCharacters(in: .whitespacesAndNewlines)
                #expect(!sealed.output.contains(Self.clear))
                let payload: JSON = [
                    "language": "bash", "source": "echo ${#K}", "secrets": ["K": .string(text)],
                ]
                let own = try world.enqueue(payload, ", tenant => 'acme'")
                #expect(try await world.ended(own).stdout == "\(Self.clear.count)\n")
                // A producer of another tenant copied it from a backup.
                let stolen = try await world.ended(try world.enqueue(payload))
                #expect(stolen.state == "failed")
                #expect(stolen.errorReason == "secret_unreadable")
                #expect(JSON.stored(stolen.error)["retryable"] == false)
                // Retired, it is sealed with no more, and opened as before.
                let kid = made.output.trimmingCharacters(in: .whitespacesAndNewlines)
                let retired = try await world.mayfly(["secret", "retire", kid])
                #expect(retired.status == 0, "\(retired.errors)")
                let refused = try await world.mayfly(["secret", "seal"], input: Self.clear)
                #expect(refused.status == 1)
                #expect(refused.errors.contains("mayfly secret keygen"), "\(refused.errors)")
                let late = try world.enqueue(payload, ", tenant => 'acme'")
                #expect(try await world.ended(late).state == "succeeded")
                let list = try await world.mayfly(["secret", "list"] + keys(world))
                #expect(list.output.contains("retired"), "\(list.output)")
                let doctor = try await world.mayfly(["doctor"] + keys(world))
                let line = doctor.output.split(separator: "\n").first { $0.hasPrefix("secrets ") }
                #expect(line?.contains("none is published") == true, "\(doctor.output)")
            }
        }

        @Test func `is taken by mayfly run without a database`() async throws {
            try await World.with { world in
                let ended = try await world.mayfly(
                    [
                        "run", "python", "--source", "import os; print(os.environ['K'])",
                        "--secret", "K", "--json",
                    ], environment: ["K": Self.clear])
                #expect(ended.status == 0, "\(ended.errors)")
                let result = try JSON(parsing: ended.output)["result"]
                let stars = String(repeating: "*", count: Self.clear.count)
                #expect(result?["stdout"]?.string == "\(stars)\n")
            }
        }
    }
}
