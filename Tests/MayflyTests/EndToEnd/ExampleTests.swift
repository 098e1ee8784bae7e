// The examples, run as their readers would run them: against a real worker with real machines, as a
// role that is a producer and nothing else. What an example needs and this host lacks is named.

import Foundation
import Jobs
import StrictJSON
import TestSupport
import Testing

@testable import Mayfly

/// What the examples need beside Mayfly.
enum ExampleRuntime {
    static let directory = repository.appendingPathComponent("examples").path
    /// Where Debian puts modules, and where scripts/prepare-examples.sh does.
    static let nodePath =
        "/usr/share/nodejs:\(directory)/../.build/node-pg/usr/share/nodejs"
        + (ProcessInfo.processInfo.environment["NODE_PATH"].map { ":\($0)" } ?? "")

    /// Debian's has Debian's psycopg, and need not be the first that PATH has.
    static let python = ["python3", "/usr/bin/python3"].first {
        answers([$0, "-c", "import psycopg"])
    }
    static let hasPsycopg = python != nil
    static let noPsycopg: Comment = "python3-psycopg is not installed; scripts/test installs it"
    static let hasNodePG = answers(
        ["env", "NODE_PATH=\(nodePath)", "node", "-e", "require('pg')"])
    static let noNodePG: Comment = "node or node-pg is not installed; scripts/test installs them"
    static let hasSystemd = answers(["systemd-analyze", "--version"])
    static let noSystemd: Comment = "systemd-analyze is not installed here"

    private static func answers(_ arguments: [String]) -> Bool {
        (try? Program.run(["env"] + arguments))?.status == 0
    }
}

/// An example in one of the languages.
enum ExampleProducer: String, CaseIterable, Sendable {
    case python, node

    func command(payload: String?, limit: Int) -> [String] {
        let payload = payload.map { [$0] } ?? []
        switch self {
        case .python:
            return [
                ExampleRuntime.python ?? "python3",
                "\(ExampleRuntime.directory)/python/producer.py",
            ] + payload
                + ["--limit", "\(limit)"]
        case .node:
            return ["node", "\(ExampleRuntime.directory)/node/producer.js"]
                + (payload.isEmpty ? [] : payload + ["\(limit)"])
        }
    }
    var isRunnable: Bool {
        switch self {
        case .python: ExampleRuntime.hasPsycopg
        case .node: ExampleRuntime.hasNodePG
        }
    }
}

extension World {
    /// A role that may do what producers may, and nothing else.
    fileprivate func makeProducer() throws {
        try sql(
            """
            do $$ begin
                create role example_backend login;
            exception when duplicate_object then null; end $$;
            grant mayfly_producer to example_backend;
            select mayfly.grant_tenant('example_backend', '')
            """)
    }
    /// Runs an example in this world's directory, connected as that role.
    fileprivate func run(_ command: [String]) async throws -> Ended {
        let cluster = try Cluster.shared.get()
        var request = Program.Request(["env", "-C", directory] + command)
        request.environment = [
            "PGHOST": cluster.directory, "PGDATABASE": try sql("select current_database()"),
            "PGUSER": "example_backend", "NODE_PATH": ExampleRuntime.nodePath,
            "PYTHONDONTWRITEBYTECODE": "1",
        ]
        return try await Self.run(request, "")
    }
    /// A payload in a file.
    fileprivate func payload(sleeping seconds: Int) throws -> String {
        let path = "\(directory)/job.json"
        let payload = #"{"language":"bash","source":"sleep \#(seconds); echo slept"}"#
        try payload.write(toFile: path, atomically: true, encoding: .utf8)
        return path
    }
}

extension EndToEndTests {
    @Suite("An example", .serialized)
    struct ExampleTests {
        @Test(arguments: ExampleProducer.allCases.filter(\.isRunnable))
        func `runs a job, prints its result and brings its file back`(
            producer: ExampleProducer
        ) async throws {
            try await World.with { world in
                try world.makeProducer()
                _ = try await world.worker(["--slots", "1"])
                let ended = try await world.run(producer.command(payload: nil, limit: 120))
                #expect(ended.status == 0, "\(ended.errors)")
                let job = try JSON(parsing: ended.output)
                #expect(job["state"] == .string("succeeded"))
                #expect(job["result"]?["stdout"] == .string("42\n"))
                let file = try String(
                    contentsOfFile: "\(world.directory)/results/0.bin", encoding: .utf8)
                #expect(file == "hello from a microVM")
            }
        }

        @Test(arguments: ExampleProducer.allCases.filter(\.isRunnable))
        func `gets the one result although its connection is ended while it waits`(
            producer: ExampleProducer
        ) async throws {
            try await World.with { world in
                try world.makeProducer()
                _ = try await world.worker(["--slots", "1"])
                let command = producer.command(
                    payload: try world.payload(sleeping: 3), limit: 120)
                async let running = world.run(command)
                while try world.number("select count(*) from mayfly.running") == 0 {
                    try await Task.sleep(for: .milliseconds(20))
                }
                let killed = try world.number(
                    """
                    select count(pg_terminate_backend(pid)) from pg_stat_activity
                    where usename = 'example_backend' and datname = current_database()
                    """)
                #expect(killed == 1)
                let ended = try await running
                #expect(ended.status == 0, "\(ended.errors)")
                let job = try JSON(parsing: ended.output)
                #expect(job["result"]?["stdout"] == .string("slept\n"))
                #expect(try world.number("select count(*) from mayfly.job") == 1)
            }
        }

        @Test(arguments: ExampleProducer.allCases.filter(\.isRunnable))
        func `gives up at its limit and leaves no job running`(
            producer: ExampleProducer
        ) async throws {
            try await World.with { world in
                try world.makeProducer()
                _ = try await world.worker(["--slots", "1"])
                let command = producer.command(
                    payload: try world.payload(sleeping: 600), limit: 2)
                let ended = try await world.run(command)
                #expect(ended.status == 3, "\(ended.output) \(ended.errors)")
                let id = try world.number("select id from mayfly.job")
                #expect(try await world.ended(id).state == "cancelled")
            }
        }

        @Test func `the SQL in the README prints what the README shows`() async throws {
            try await World.with { world in
                try world.makeProducer()
                _ = try await world.worker(["--slots", "1"])
                let page = try String(
                    contentsOf: repository.appendingPathComponent("README.md"), encoding: .utf8)
                let block = try #require(
                    page.firstMatch(of: /```sql\n(.*?)```\s*```\n(.*?)```/.dotMatchesNewlines()))
                let statements = block.1.split(separator: "\n\n", maxSplits: 1)
                #expect(statements.count == 2)
                func psql(_ flags: [String], _ text: Substring) async throws -> String {
                    let path = "\(world.directory)/readme.sql"
                    try text.write(toFile: path, atomically: true, encoding: .utf8)
                    let ended = try await world.run(
                        ["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1"] + flags + ["-f", path])
                    #expect(ended.status == 0, "\(ended.errors)")
                    return ended.output
                }
                let answer = try await psql(["-A", "-t"], statements[0] + "\n\\echo :id\n")
                let id = try #require(
                    Int64(answer.trimmingCharacters(in: .whitespacesAndNewlines)))
                _ = try await world.ended(id)
                let shown = try await psql(["-P", "footer=off", "-v", "id=\(id)"], statements[1])
                func words(_ text: some StringProtocol) -> [String] {
                    text.split(separator: "\n").map { line in
                        String(line.reversed().drop { $0 == " " }.reversed())
                    }.filter { !$0.isEmpty }
                }
                #expect(words(shown) == words(block.2))
            }
        }

        @Test func `the example in plain SQL prints the result and the file's text`() async throws {
            try await World.with { world in
                try world.makeProducer()
                _ = try await world.worker(["--slots", "1"])
                let ended = try await world.run(
                    [
                        "psql", "-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-f",
                        "\(ExampleRuntime.directory)/sql/producer.sql",
                    ])
                #expect(ended.status == 0, "\(ended.errors)")
                #expect(ended.output.contains("succeeded|42"), "\(ended.output)")
                #expect(ended.output.contains("greeting.txt|hello from a microVM"))
            }
        }
    }
}

/// What the examples' tests leave out says so in the output.
@Suite("The examples' runtimes")
struct ExampleRuntimeTests {
    @Test(.enabled(if: ExampleRuntime.hasPsycopg, ExampleRuntime.noPsycopg))
    func `Python has psycopg, so the Python example was run`() {}
    @Test(.enabled(if: ExampleRuntime.hasNodePG, ExampleRuntime.noNodePG))
    func `Node has pg, so the Node example was run`() {}
}
