// The built program as an operator meets it: exit codes, one clear line, data on stdout.

import Foundation
import StrictJSON
import Testing

@testable import Mayfly

@Suite("The program")
struct ProgramTests {
    private func mayfly(
        _ arguments: [String], environment: [String: String] = [:]
    ) async throws -> Ended {
        var request = Program.Request([TestState.program] + arguments)
        request.environment = environment
        return try await World.run(request, "")
    }

    @Test func `says one clear line and ends with 1 when the database is away`() async throws {
        for command in [
            ["jobs"], ["migrate"], ["show", "1"],
            ["enqueue", "--language", "bash", "--source", "x"],
        ] {
            let ended = try await mayfly(
                command + ["--database", "host=/nowhere dbname=x connect_timeout=2"])
            #expect(ended.status == 1)
            #expect(ended.output == "")
            #expect(ended.errors.split(separator: "\n").count == 1, "\(ended.errors)")
            #expect(
                ended.errors.hasPrefix("mayfly: the database does not answer"), "\(ended.errors)")
        }
    }

    @Test func `says one clear line and ends with 2 for a bad configuration`() async throws {
        let path = NSTemporaryDirectory() + "mayfly-bad-\(getpid()).conf"
        try "worker.slots = 4\nworker.slot = 5\n".write(
            toFile: path, atomically: true, encoding: .utf8)
        defer { try? FileManager.default.removeItem(atPath: path) }
        for command in ["worker", "config", "doctor", "jobs"] {
            let ended = try await mayfly([command, "--config", path])
            #expect(ended.status == 2)
            #expect(ended.output == "")
            #expect(
                ended.errors.hasPrefix("mayfly: \(path):2:1: unknown key worker.slot"),
                "\(ended.errors)")
            #expect(ended.errors.split(separator: "\n").count == 1)
        }
        let missing = try await mayfly(["config", "--config", "/nowhere/worker.conf"])
        #expect(missing.status == 2)
        let wrong = try await mayfly(["config"], environment: ["MAYFLY_WORKER_SLOTS": "few"])
        #expect(wrong.status == 2)
        #expect(wrong.errors.hasPrefix("mayfly: MAYFLY_WORKER_SLOTS: worker.slots expects"))
    }

    @Test func `refuses more slots than the limit on open files allows, and says which`()
        async throws
    {
        let ended = try await World.run(
            Program.Request([
                "sh", "-c",
                "ulimit -Sn 100 && ulimit -Hn 100 && exec \(TestState.program) worker --slots 64",
            ]), "")
        #expect(ended.status == 2)
        #expect(
            ended.errors.hasPrefix(
                "mayfly: worker.slots is 64: with its standbys, warm machines and connections that "
                    + "takes 7212 open files, and this process may have 100;"), "\(ended.errors)")
    }

    @Test func `prints data on stdout and help with exit code 0, usage errors with 2`() async throws
    {
        let config = try await mayfly(["config", "--json"])
        #expect(config.status == 0 && config.errors == "")
        #expect(try JSON(parsing: config.output).elements.count == Setting.all.count)
        let help = try await mayfly(["image", "build", "--help"])
        #expect(help.status == 0 && help.errors == "" && help.output.contains("Examples:"))
        let usage = try await mayfly(["jobs", "--state", "lost"])
        #expect(usage.status == 2 && usage.output == "")
        let version = try await mayfly(["--version"])
        #expect(version.status == 0 && version.output == "\(Mayfly.version)\n")
    }

    @Test func `refuses a payload before it looks for a machine`() async throws {
        let ended = try await mayfly(["run", "--language", "ruby", "--source", "1"])
        #expect(ended.status == 2)
        #expect(ended.errors.contains("invalid_payload: $.language: \"ruby\""))
    }
}

extension EndToEndTests {
    @Suite("mayfly run", .serialized)
    struct RunTests {
        @Test func `passes output and exit code through, and writes files where it was told`()
            async throws
        {
            try await World.with { world in
                let out = world.directory + "/out"
                let source = "mkdir d; echo data > d/f.txt; echo out; echo err >&2; exit 7"
                let ended = try await world.mayfly([
                    "run", "--language", "bash", "--source", source, "--output", "d/*",
                    "--out", out,
                ])
                #expect(ended.status == 7)
                #expect(ended.output == "out\n")
                #expect(ended.errors.hasPrefix("err\n"))
                #expect(try String(contentsOfFile: "\(out)/d/f.txt", encoding: .utf8) == "data\n")
                let late = try await world.mayfly([
                    "run", "--language", "bash", "--source", "sleep 60", "--timeout", "1s",
                ])
                #expect(late.status == 124)
                let json = try await world.mayfly(
                    ["run", "python", "-", "--json"], input: "print(6*7)")
                #expect(try JSON(parsing: json.output)["result"]?["stdout"] == .string("42\n"))
                #expect(marked(by: "MAYFLY_RUNTIME_DIRECTORY=\(world.runtime)") == [])
            }
        }
    }
}
