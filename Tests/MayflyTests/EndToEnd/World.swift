// What the end-to-end tests stand on: the built program, a migrated database on the throw-away server
// of this process, the golden image that scripts/test built, and directories of their own.

import Dispatch
import Foundation
import Jobs
import Postgres
import StrictJSON
import Synchronization
import TestSupport
import Testing

@testable import Machines
@testable import Mayfly

/// Where the golden image stands, and why there may be none.
enum TestState {
    static let directory =
        ProcessInfo.processInfo.environment["MAYFLY_TEST_STATE"]
        ?? ProcessInfo.processInfo.environment["MAYFLY_STATE_DIRECTORY"]
        ?? (geteuid() == 0 ? "/var/lib/mayfly" : NSHomeDirectory() + "/.local/state/mayfly")
    /// Whose machines workers make.
    static let hypervisor =
        ProcessInfo.processInfo.environment["MAYFLY_TEST_HYPERVISOR"] ?? "qemu"
    static func has(_ image: String) -> Bool {
        FileManager.default.fileExists(
            atPath: "\(directory)/images/\(image)/current.\(hypervisor)/manifest.json")
    }
    static let hasImage = has("code")
    static let hasBrowser = has("browse")
    static let noBrowser: Comment = "no image of browsers here"
    static let reason: Comment = "no golden image here; scripts/test builds it"

    /// The built `mayfly`: named by scripts/test, or beside the tests.
    static let program =
        ProcessInfo.processInfo.environment["MAYFLY_TEST_PROGRAM"]
        ?? URL(fileURLWithPath: "/proc/self/exe").resolvingSymlinksInPath()
        .deletingLastPathComponent().appendingPathComponent("mayfly").path
}

/// How a child ended and what it said.
struct Ended: Sendable {
    var status: Int32
    var output: String
    var errors: String
}

/// One test's surroundings.
final class World: Sendable {
    let settings: ConnectionSettings
    let url: String
    /// Everything that the test writes.
    let directory: String
    var runtime: String { "\(directory)/run" }
    private let workers = Mutex<[Worker]>([])
    private static let count = Atomic<Int>(0)

    /// Runs `body` in a world of its own; workers that it left are killed.
    static func with<Value>(
        _ body: (World) async throws -> Value
    ) async throws -> Value {
        let world = try await World()
        do {
            let value = try await body(world)
            await world.end()
            return value
        } catch {
            await world.end()
            throw error
        }
    }

    private init() async throws {
        let number = Self.count.add(1, ordering: .relaxed).newValue
        let cluster = try Cluster.shared.get()
        let made = try Program.run(
            [
                "psql", "-X", "-q", "-d", cluster.info(), "-c",
                "create database program_\(number)",
            ])
        try #require(made.status == 0, "\(made.output)")
        url = cluster.info(database: "program_\(number)")
        settings = ConnectionSettings(url)
        directory = NSTemporaryDirectory() + "mayfly-world-\(getpid())-\(number)"
        try FileManager.default.createDirectory(
            atPath: directory, withIntermediateDirectories: true)
        let migrated = try await mayfly(["migrate"])
        try #require(migrated.status == 0, "\(migrated.errors)")
        // The server has just started, and for a while after a start nobody is declared dead.
        try sql("update mayfly.setting set restart_grace = '0 s'")
    }

    private func end() async {
        for worker in workers.withLock({ $0 }) { await worker.kill() }
        // With the directory goes what says where the control groups of those who were killed are.
        _ = sweepDeadHosts(runtimeDirectory: runtime)
        try? FileManager.default.removeItem(atPath: directory)
    }

    // MARK: The program

    private func request(_ arguments: [String]) -> Program.Request {
        var request = Program.Request([TestState.program] + arguments)
        request.environment = [
            "MAYFLY_STATE_DIRECTORY": TestState.directory, "MAYFLY_RUNTIME_DIRECTORY": runtime,
            "MAYFLY_MACHINE_HYPERVISOR": TestState.hypervisor,
            "DATABASE_URL": url,
        ]
        return request
    }

    /// Runs `mayfly` to its end.
    func mayfly(
        _ arguments: [String], environment: [String: String] = [:], input: String = ""
    ) async throws -> Ended {
        var request = request(arguments)
        request.environment.merge(environment) { $1 }
        return try await Self.run(request, input)
    }

    static func run(_ request: Program.Request, _ input: String) async throws -> Ended {
        let final = request
        return try await onThread {
            let fed = try TemporaryFile()
            let output = try TemporaryFile()
            let errors = try TemporaryFile()
            Console.write(input, to: fed.descriptor)
            lseek(fed.descriptor, 0, SEEK_SET)
            var request = final
            request.input = fed.descriptor
            request.output = output.descriptor
            request.errors = errors.descriptor
            let status = try Program.start(request).wait()
            return Ended(
                status: status, output: output.text(atMost: .mebibytes(64)),
                errors: errors.text(atMost: .mebibytes(64)))
        }
    }

    /// A worker of the built program; ready to claim when this returns.
    ///
    /// - Parameters:
    ///   - prefix: a program that becomes it.
    ///   - environment: beside what all have here.
    func worker(
        _ flags: [String] = [], prefix: [String] = [], environment: [String: String] = [:]
    ) async throws -> Worker {
        let arguments =
            ["worker", "--set", "machine.standby=1", "--set", "worker.lease=5s"] + flags
        let before = try number("select count(*) from mayfly.worker")
        let log = "\(directory)/worker-\(before).log"
        let descriptor = unsafe open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0o600)
        defer { close(descriptor) }
        var request = request(arguments)
        request.arguments = prefix + request.arguments
        request.environment.merge(environment) { $1 }
        request.output = descriptor
        request.errors = descriptor
        let worker = Worker(program: try Program.start(request), log: log)
        workers.withLock { $0.append(worker) }
        // Verifying the image under emulation, on busy processors, takes its time: in the lab minutes.
        let deadline = ContinuousClock.now + .seconds(600)
        while try number("select count(*) from mayfly.worker") == before {
            try #require(worker.program.poll() == nil, "the worker ended: \(worker.words)")
            try #require(.now < deadline, "the worker did not register: \(worker.words)")
            try await Task.sleep(for: .milliseconds(20))
        }
        return worker
    }

    // MARK: The database

    /// What psql prints for a statement: rows of `|`-separated fields.
    @discardableResult
    func sql(_ text: String) throws -> String {
        let (status, output) = try Program.run(
            ["psql", "-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-d", url],
            input: text + ";\n")
        try #require(status == 0, "\(output)")
        return output.trimmingCharacters(in: .whitespacesAndNewlines)
    }
    func number(_ text: String) throws -> Int64 {
        let answer = try sql(text)
        return try #require(Int64(answer), "\(text) answered \(answer)")
    }

    /// Puts in a `code` job as a backend does; `more` are further arguments of mayfly.enqueue.
    func enqueue(_ payload: JSON, _ more: String = "") throws -> Int64 {
        try number("select mayfly.enqueue('code', $payload$\(payload.text)$payload$\(more))")
    }
    func enqueue(_ language: String, _ source: String, _ more: String = "") throws -> Int64 {
        try enqueue(
            .object(["language": .string(language), "source": .string(source)]), more)
    }

    /// The job when it has ended.
    func ended(_ id: Int64, within limit: Duration = .seconds(120)) async throws -> JobRow {
        try await until(id, within: limit) { $0.hasEnded }
    }
    func until(
        _ id: Int64, within limit: Duration = .seconds(120), _ fits: @Sendable (JobRow) -> Bool
    ) async throws -> JobRow {
        let deadline = ContinuousClock.now + limit
        let settings = settings
        return try await QueueClient.open(settings) { client throws(JobsError) in
            while true {
                let job = try await client.show(id)
                if let job, fits(job) || .now > deadline { return job }
                try? await Task.sleep(for: .milliseconds(20))
            }
        }
    }
    func attempts(_ id: Int64) async throws -> [AttemptRow] {
        try await QueueClient.open(settings) { client throws(JobsError) in
            try await client.attempts(id)
        }
    }
}

/// A worker process.
final class Worker: Sendable {
    let program: Program
    let log: String
    private let status = Mutex<Int32?>(nil)

    init(program: Program, log: String) {
        self.program = program
        self.log = log
    }
    var words: String { (try? String(contentsOfFile: log, encoding: .utf8)) ?? "" }

    /// Waits for its end and answers how it ended.
    func ended() async throws -> Int32 {
        if let status = status.withLock({ $0 }) { return status }
        let ended = try await onThread { [program] in program.wait() }
        status.withLock { $0 = ended }
        return ended
    }
    /// As the kernel would, without a word.
    func kill() async {
        guard status.withLock({ $0 }) == nil else { return }
        program.signal(SIGKILL)
        _ = try? await ended()
    }

    /// Processes that carry its mark: its hypervisors.
    var machines: [Int32] { marked(by: "MAYFLY_HOST=\(program.pid)-") }

    /// The most memory it ever held, in bytes.
    var peakMemory: Int {
        let status = (try? String(contentsOfFile: "/proc/\(program.pid)/status", encoding: .utf8))
        let line = status?.split(separator: "\n").first { $0.hasPrefix("VmHWM:") }
        return (line.flatMap { Int($0.filter(\.isNumber)) } ?? 0) * 1024
    }
}

/// Live processes whose environment holds a variable that begins so.
func marked(by beginning: String) -> [Int32] {
    let mark = Array(beginning.utf8)
    let entries = (try? FileManager.default.contentsOfDirectory(atPath: "/proc")) ?? []
    return entries.compactMap(Int32.init).filter { pid in
        let environment = FileManager.default.contents(atPath: "/proc/\(pid)/environ") ?? Data()
        return environment.split(separator: 0).contains { $0.starts(with: mark) }
    }
}

/// Runs blocking work beside Swift's own threads.
func onThread<Value: Sendable>(
    _ body: @escaping @Sendable () throws -> Value
) async throws -> Value {
    try await withCheckedThrowingContinuation { done in
        DispatchQueue.global().async { done.resume(with: Result { try body() }) }
    }
}

extension JobRow {
    var resultJSON: JSON { JSON.stored(result) }
    var stdout: String? { resultJSON["stdout"]?.string }
}
