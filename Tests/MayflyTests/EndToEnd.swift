// What the end-to-end tests stand on: a database of their own, worker processes of their own, and a
// runtime directory of their own, in which nothing may remain.

import Foundation
import Glibc
import TestSupport

@testable import Mayfly

/// A fresh database and runtime directory; workers that are still alive end with it.
final class EndToEnd {
    static let jobCount =
        ProcessInfo.processInfo.environment["MAYFLY_TEST_JOBS"].flatMap { Int($0) } ?? 200

    /// The built program; tests run it as users do.
    private static let program =
        ProcessInfo.processInfo.environment["MAYFLY_TEST_PROGRAM"]
        ?? URL(fileURLWithPath: #filePath).resolvingSymlinksInPath()
        .deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()
        .appendingPathComponent(".build/release/mayfly").path
    private static let stateDirectory =
        ProcessInfo.processInfo.environment["MAYFLY_STATE_DIRECTORY"]
        ?? (geteuid() == 0 ? "/var/lib/mayfly" : NSHomeDirectory() + "/.local/state/mayfly")

    static let isPossible =
        FileManager.default.isExecutableFile(atPath: program)
        && FileManager.default.fileExists(
            atPath: "\(stateDirectory)/images/code/current/manifest.json")

    private let cluster: Cluster
    private let database: String
    private let directory: String
    private var workers: [WorkerProcess] = []

    init() throws {
        cluster = try Cluster.shared.get()
        database = "end_" + UUID().uuidString.lowercased().prefix(8)
        directory = NSTemporaryDirectory() + "mayfly-end-" + UUID().uuidString
        try FileManager.default.createDirectory(
            atPath: directory, withIntermediateDirectories: true)
        _ = try psql("create database \(database)", in: "postgres")
        let migrated = try mayfly(["migrate"])
        guard migrated.status == 0 else { throw Trouble(migrated.output) }
        _ = try sql("update mayfly.setting set restart_grace = '0 s'")
    }
    deinit {
        for worker in workers { worker.kill() }
        try? FileManager.default.removeItem(atPath: directory)
    }

    struct Trouble: Error, CustomStringConvertible {
        let description: String
        init(_ description: String) { self.description = description }
    }

    // MARK: SQL

    /// One statement by psql; fields apart by `|`, rows by newlines.
    @discardableResult
    func sql(_ text: String) throws -> String { try psql(text, in: database) }

    func trySQL(_ text: String) throws -> (status: Int32, output: String) {
        try Program.run(arguments(for: database), input: text)
    }
    private func psql(_ text: String, in database: String) throws -> String {
        let result = try Program.run(arguments(for: database), input: text)
        guard result.status == 0 else { throw Trouble(result.output) }
        return result.output.hasSuffix("\n") ? String(result.output.dropLast()) : result.output
    }
    private func arguments(for database: String) -> [String] {
        ["psql", "-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", cluster.info(database: database)]
    }

    @discardableResult
    func enqueue(_ payload: String, timeout: Int = 60) throws -> String {
        try sql(
            "select mayfly.enqueue('code', $payload$\(payload)$payload$, timeout => '\(timeout) s')"
        )
    }

    // MARK: Programs

    func mayfly(_ arguments: [String]) throws -> (status: Int32, output: String) {
        try Program.run([Self.program] + arguments, environment: environment)
    }
    private var environment: [String: String] {
        [
            "DATABASE_URL": cluster.info(database: database),
            "MAYFLY_STATE_DIRECTORY": Self.stateDirectory,
            "MAYFLY_RUNTIME_DIRECTORY": "\(directory)/run",
            "SWIFT_BACKTRACE": "enable=no",
        ]
    }
    func startWorker(slots: Int) throws -> WorkerProcess {
        let path = "\(directory)/worker.log"
        let log = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0o600)
        defer { close(log) }
        var request = Program.Request([
            Self.program, "worker", "--set", "worker.slots=\(slots)", "--set", "worker.lease=5s",
            "--set", "machine.shells=1",
        ])
        request.environment = environment
        request.output = log
        request.errors = log
        let worker = WorkerProcess(try Program.start(request))
        workers.append(worker)
        return worker
    }
    func log() -> String {
        (try? String(contentsOfFile: "\(directory)/worker.log", encoding: .utf8)) ?? ""
    }

    // MARK: Waiting

    func waitForAll() async throws {
        try await wait {
            try sql(
                "select count(*) from mayfly.job where state in ('queued', 'running')") == "0"
        }
    }
    func waitUntilRunning() async throws {
        try await wait { try sql("select count(*) from mayfly.running") == "1" }
    }
    /// Looks again and again until it is so; gives up after five minutes with the worker's log.
    func wait(until isSo: () throws -> Bool) async throws {
        let limit = ContinuousClock.now + .seconds(300)
        while try !isSo() {
            guard .now < limit else { throw Trouble("it never came to that; the log:\n\(log())") }
            try await Task.sleep(for: .milliseconds(100))
        }
    }

    /// What the workers left: directories of hosts, and processes that carry their mark.
    func remains() throws -> [String] {
        let hosts = "\(directory)/run/hosts"
        let directories = (try? FileManager.default.contentsOfDirectory(atPath: hosts)) ?? []
        // A machine's environment is its host's mark alone, which begins with the worker's pid.
        let marks = workers.map { "MAYFLY_HOST=\($0.pid)-" }
        let processes = try FileManager.default.contentsOfDirectory(atPath: "/proc").filter {
            entry in
            guard Int32(entry) != nil else { return false }
            let environment =
                FileManager.default.contents(atPath: "/proc/\(entry)/environ") ?? Data()
            let text = String(decoding: environment, as: UTF8.self)
            return marks.contains { text.hasPrefix($0) }
        }
        return directories + processes
    }
}

/// One worker that a test started; only its own pid is ever signalled.
final class WorkerProcess {
    private let program: Program
    private var status: Int32?
    init(_ program: Program) { self.program = program }
    var pid: Int32 { program.pid }

    func signal(_ number: Int32) { if status == nil { program.signal(number) } }
    func kill() {
        signal(SIGKILL)
        _ = end()
    }
    /// SIGTERM, and its exit code.
    func stop() -> Int32 {
        signal(SIGTERM)
        return end()
    }
    func end() -> Int32 {
        let code = status ?? program.wait()
        status = code
        return code
    }
}
