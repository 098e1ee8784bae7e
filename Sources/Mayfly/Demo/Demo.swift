// The demo: a private PostgreSQL, one worker, real jobs put in through psql, results as they come,
// and nothing left running. Called by `mayfly demo`; it says every SQL statement that it sends.

import Glibc
import Jobs
import Machines
import Postgres
import Processes
import StrictJSON

/// One run of the demo.
struct Demo: Sendable {
    let configuration: Configuration
    let stateDirectory: String
    private let begin = ContinuousClock.now

    init(_ configuration: Configuration) {
        self.configuration = configuration
        stateDirectory = configuration.text(.stateDirectory)
    }

    /// - Throws: when a job ended otherwise than it must, or something is left running.
    func run() async throws {
        say("images: building them, unless they are there")
        try await buildImage()
        say("PostgreSQL: a private one, by Unix socket only")
        let postgres = try await PrivatePostgres.start(
            stateDirectory: stateDirectory,
            runtimeDirectory: configuration.text(.runtimeDirectory))
        var worker: Child?
        var failure: (any Error)?
        do {
            let settings = ConnectionSettings(postgres.url)
            let applied = try await Migrations.apply(settings)
            say("schema: \(applied.count) migrations applied")
            worker = try await startWorker(postgres)
            try await runJobs(postgres, Database(settings))
        } catch { failure = error }
        // Whatever happened above, nothing stays behind.
        let remains = await stopAll(worker, postgres)
        if let failure { throw failure }
        guard remains.isEmpty else { throw FileError("left running: \(remains)") }
        say("done; the worker, its machines and PostgreSQL have ended")
    }

    private func say(_ text: String) {
        Console.say("[\(Format.duration(.now - begin))] \(text)")
    }

    private func buildImage() async throws {
        for name in Kinds(configuration).images {
            let builder = ImageBuilder(
                settings: configuration.host, definition: try configuration.image(named: name),
                tools: configuration.tools(for: name)
            ) { Console.say("  \(name): \($0)") }
            for image in try await builder.build(force: false, refresh: false) {
                let age = image.isNew ? "" : ", built before"
                Console.say(
                    "  \(name): generation \(image.generation) for \(image.hypervisor)\(age)")
            }
        }
    }

    // MARK: The worker

    /// Ends with this process, whatever happens to it.
    private func startWorker(_ postgres: PrivatePostgres) async throws -> Child {
        let path = "\(stateDirectory)/demo-worker.log"
        let flags = O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW
        let log = try Descriptor.open(path, flags, mode: 0o644)
        var request = SpawnRequest(arguments: [
            "/proc/self/exe", "worker", "--set", "worker.slots=2", "--database", postgres.url,
        ])
        request.environment = inheritedEnvironment([
            Setting.stateDirectory.environmentName: stateDirectory,
            Setting.runtimeDirectory.environmentName: configuration.text(.runtimeDirectory),
        ])
        request.standardOutput = log.number
        request.standardError = log.number
        request.fileLimit = .max
        let worker = try await Child.spawn(request)
        say("worker: process \(worker.pid), two slots, log in \(path)")
        return worker
    }

    /// Answers what could not be stopped.
    private func stopAll(_ worker: consuming Child?, _ postgres: PrivatePostgres) async -> String {
        var remains: [String] = []
        if let worker = worker.take() {
            say("stopping the worker, then PostgreSQL")
            worker.signal(SIGTERM)
            if !(await worker.hasEnded(within: .seconds(5))) {
                worker.signal(SIGTERM)  // after an error jobs may still run
                if !(await worker.hasEnded(within: .seconds(15))) {
                    remains.append("the worker had to be killed")
                }
            }
            let pid = worker.pid
            _ = await worker.end()
            remains += Self.machines(ofWorker: pid)
        }
        do throws(FileError) { try await postgres.stop() } catch { remains.append("\(error)") }
        return remains.joined(separator: "; ")
    }

    /// Hypervisors that a worker started carry its process id in their environment.
    private static func machines(ofWorker pid: pid_t) -> [String] {
        let mark = Array("MAYFLY_HOST=\(pid)-".utf8)
        guard let directory = unsafe opendir("/proc") else { return [] }
        defer { unsafe closedir(directory) }
        var found: [String] = []
        while let entry = unsafe readdir(directory) {
            let name = unsafe withUnsafeBytes(of: &entry.pointee.d_name) {
                unsafe String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self)
            }
            guard let number = Int32(name), number != getpid(),
                let bytes = try? Files.read("/proc/\(name)/environ", atMost: .mebibytes(4))
            else { continue }
            if bytes.split(separator: 0).contains(where: { $0.starts(with: mark) }) {
                found.append("process \(number)")
            }
        }
        return found
    }
}

// MARK: Jobs

extension Demo {
    private func runJobs(_ postgres: PrivatePostgres, _ base: Database) async throws {
        var wrong: [String] = []
        // All at once, as backends do; the worker takes two at a time.
        var waiting: [(DemoJob, Int64)] = []
        for job in DemoJob.all { waiting.append((job, try await enqueue(job, postgres))) }
        for (job, id) in waiting { wrong += try await finish(job, id, base) }

        let early = DemoJob.early
        let id = try await enqueue(early, postgres)
        wrong += try await finish(early, id, base)
        print(DemoJob.repair)
        _ = try await psql(DemoJob.repair, postgres)
        let replay = DemoJob.replay(of: id)
        wrong += try await finish(replay, await enqueue(replay, postgres), base)

        let documents = try await runInOrder(DemoJob.documents, [:], postgres, base)
        let server = try await DemoServer()
        await server.start()
        say("a web server for the pages: \(server.authority)")
        let ceiling = DemoJob.ceiling.replacing(":server", with: server.authority)
        print(ceiling)
        _ = try await psql(ceiling, postgres)
        let pages = try await runInOrder(
            DemoJob.pages, ["server": server.authority], postgres, base)
        await server.end()
        wrong += documents + pages

        Console.data("\n== mayfly jobs")
        let count = DemoJob.all.count + 2 + DemoJob.documents.count + DemoJob.pages.count
        let jobs = try await base.with { ledger throws(JobsError) in
            var filter = Filter()
            filter.limit = count
            return try await ledger.list(filter)
        }
        var table = Table("ID", "STATE", "ATTEMPT", "REPLAY OF", "ERROR")
        for job in jobs.reversed() {
            table.add(
                .number(Int(job.id)), .string(job.state), .number(job.attempt),
                job.replayOf.map { .number(Int($0)) } ?? .null, .optional(job.errorReason))
        }
        Console.data(table.text)
        guard wrong.isEmpty else { throw FileError(wrong.joined(separator: "; ")) }
    }

    /// Each after the one before it, whose id stands for `:name` in its SQL; answers what is wrong.
    private func runInOrder(
        _ jobs: [DemoJob], _ known: [String: String], _ postgres: PrivatePostgres,
        _ base: Database
    ) async throws -> [String] {
        var (words, wrong): ([String: String], [String]) = (known, [])
        for var job in jobs {
            for (name, word) in words { job.sql = job.sql.replacing(":\(name)", with: word) }
            let id = try await enqueue(job, postgres)
            words[job.name] = "\(id)"
            wrong += try await finish(job, id, base)
        }
        return wrong
    }

    private func print(_ sql: String) {
        Console.data("")
        for line in sql.split(separator: "\n", omittingEmptySubsequences: false) {
            Console.data("  sql> \(line)")
        }
    }

    private func psql(_ sql: String, _ postgres: PrivatePostgres) async throws -> String {
        var request = ProgramRequest(
            ["psql", "-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-d", postgres.url])
        request.input = Array((sql + ";\n").utf8)
        let result = try await runProgram(request)
        guard result.status == 0 else { throw FileError("psql: \(result.output)") }
        return String(result.output.split(separator: "\n").first ?? "")
    }

    private func enqueue(_ job: DemoJob, _ postgres: PrivatePostgres) async throws -> Int64 {
        Console.data("\n== \(job.title)")
        print(job.sql)
        let answer = try await psql(job.sql, postgres)
        guard let id = Int64(answer) else { throw FileError("psql answered \(answer)") }
        Console.data("  → job \(id)")
        return id
    }

    /// Waits for one job, shows it, and answers what is wrong with it.
    private func finish(_ job: DemoJob, _ id: Int64, _ base: Database) async throws -> [String] {
        Console.data("\n== \(id): \(job.title)")
        let row = try await base.with { ledger throws(JobsError) in
            try await ledger.wait(id) { say("job \(id) \($0.state)") }
        }
        JobText.show(row)
        var wrong: [String] = []
        func expect(_ what: String, _ found: String?, _ wanted: String?) {
            guard let wanted, found != wanted else { return }
            wrong.append("\(job.title): \(what) is \(found ?? "missing"), not \(wanted)")
        }
        let result = JSON.stored(row.result)
        expect("the state", row.state, job.state)
        expect("the reason", row.errorReason, job.reason)
        expect("stdout", result["stdout"]?.string, job.stdout)
        let value = result["value"]?.text ?? ""
        for text in job.text where !value.contains(text) {
            wrong.append("\(job.title): \"\(text)\" is not in its value")
        }
        if let name = job.file { wrong += try await fetch(name, of: row, base) }
        return wrong
    }

    /// Writes the job's files below the state directory and says what the picture is.
    private func fetch(_ name: String, of row: JobRow, _ base: Database) async throws -> [String] {
        let out = "\(stateDirectory)/demo-results"
        try await ShowCommand.writeFiles(
            of: row, to: out, from: base, overwriting: true)
        guard let bytes = try? Files.read("\(out)/\(name)", atMost: .mebibytes(64)) else {
            return ["\(name) did not come back"]
        }
        guard name.hasSuffix(".png") else {
            Console.data("blob        \(out)/\(name): \(bytes.count) bytes")
            return []
        }
        guard let size = Self.pngSize(bytes) else { return ["\(name) is no PNG picture"] }
        Console.data("blob        \(out)/\(name): \(size.width) × \(size.height) pixels")
        return []
    }

    /// Width and height from a PNG's first chunk.
    static func pngSize(_ bytes: [UInt8]) -> (width: Int, height: Int)? {
        let signature: [UInt8] = [0x89, 0x50, 0x4E, 0x47, 0x0D, 0x0A, 0x1A, 0x0A]
        guard bytes.count >= 24, bytes.starts(with: signature) else { return nil }
        func number(at place: Int) -> Int {
            bytes[place..<place + 4].reduce(0) { $0 << 8 | Int($1) }
        }
        return (number(at: 16), number(at: 20))
    }
}
