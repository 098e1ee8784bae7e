// `mayfly jobs` and `show`: what is in the queue and what became of it.

import ArgumentParser
import Glibc
import Jobs
import Postgres
import StrictJSON

/// Which jobs, for the commands that take more than one.
struct FilterOptions: ParsableArguments {
    @Option(help: "queued, running, succeeded, failed or cancelled.") var state: String?
    @Option(help: "Only this kind.") var kind: String?
    @Option(help: "Only this queue.") var queue: String?
    @Option(help: "Only this tenant.") var tenant: String?
    @Option(help: "Only jobs enqueued since then, e.g. 1h or 7d.") var since: String?
    @Option(help: "At most this many, newest first; 100 unless given.") var limit: Int?
    private static let standardLimit = 100

    func validate() throws {
        let states = ["queued", "running", "succeeded", "failed", "cancelled"]
        if let state, !states.contains(state) {
            throw ValidationError("--state is one of \(states.joined(separator: ", "))")
        }
        if let since, Duration(setting: since) == nil {
            throw ValidationError("--since \(since): write 30min, 1h or 7d")
        }
        guard (1...100_000).contains(limit ?? 1) else {
            throw ValidationError("--limit may be 1 to 100000")
        }
    }
    var filter: Filter {
        var filter = Filter()
        filter.state = state
        filter.kind = kind
        filter.queue = queue
        filter.tenant = tenant
        filter.since = since.flatMap { Duration(setting: $0) }
        filter.limit = limit ?? Self.standardLimit
        return filter
    }
    /// Whoever did not choose the limit is told that it was reached.
    func sayWhetherCut(_ count: Int) {
        guard limit == nil, count >= Self.standardLimit else { return }
        Console.say("these are the newest \(count); --limit takes more")
    }
    var isEmpty: Bool {
        state == nil && kind == nil && queue == nil && tenant == nil && since == nil
    }
}

struct JobsCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "jobs",
        abstract: "Lists jobs, newest first.",
        discussion: """
            Examples:
              mayfly jobs
              mayfly jobs --state failed --kind code --since 1h
              mayfly jobs --json | jq '.[] | select(.attempt > 1) | .id'
            """)

    @OptionGroup var which: FilterOptions
    @OptionGroup var options: ConfigurationOptions
    @OptionGroup var database: DatabaseOptions
    @OptionGroup var output: OutputOptions

    func run() async throws {
        let configuration = try options.load([database.assignment])
        let jobs = try await Database(configuration).with { client throws(JobsError) in
            try await client.list(which.filter)
        }
        which.sayWhetherCut(jobs.count)
        if output.isJSON { return Console.data(JSON.array(jobs.map(\.json)).text) }
        var table = Table("ID", "KIND", "STATE", "ATTEMPT", "QUEUE", "CREATED", "FINISHED", "ERROR")
        for job in jobs {
            let error = job.errorReason.map { "\($0): \(job.errorMessage ?? "")" }
            table.add(
                .number(Int(job.id)), .string(job.kind), .string(job.state),
                .number(job.attempt), .string(job.queue), .string(job.createdAt),
                .optional(job.finishedAt), .optional(error))
        }
        table.print(asJSON: false, empty: "no such jobs")
    }
}

struct ShowCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "show",
        abstract: "Shows one job: state, output, files, timings, attempts.",
        discussion: """
            Examples:
              mayfly show 64466213
              mayfly show 64466213 --json | jq .result.timings
              mayfly show 64466213 --out results    (writes its output files there)
            """)

    @Argument(help: "The job's id.") var id: Int64
    @Option(help: "Writes the output files into this directory.") var out: String?
    @Flag(help: "Lets output files overwrite existing files.") var force = false
    @OptionGroup var options: ConfigurationOptions
    @OptionGroup var database: DatabaseOptions
    @OptionGroup var output: OutputOptions

    func run() async throws {
        let configuration = try options.load([database.assignment])
        let base = Database(configuration)
        let (job, attempts, transfer) = try await base.with { client throws(JobsError) in
            let job = try await client.found(id)
            let transfer = job.state == "running" ? try await client.transfer(id) : nil
            return (job, try await client.attempts(id), transfer)
        }
        if output.isJSON {
            guard case .object(var members) = job.json else { return }
            members.append(.init(name: "attempts", value: .array(attempts.map(\.json))))
            if let transfer { members.append(.init(name: "transfer", value: transfer.json)) }
            Console.data(JSON.object(members).text)
        } else {
            JobText.show(job, attempts: attempts, transfer: transfer)
        }
        if let out {
            try await Self.writeFiles(of: job, to: out, from: base, overwriting: force)
        }
    }

    static func writeFiles(
        of job: JobRow, to out: String, from base: Database, overwriting: Bool = false
    ) async throws {
        try Files.makeDirectory(out)
        for file in JSON.stored(job.result)["files"]?.elements ?? [] {
            guard let name = file["name"]?.string, let digest = file["sha256"]?.string else {
                continue
            }
            let shown = "\(out)/\(Console.harmless(name))"
            let size = try await Files.writing(
                name, below: out, sha256: digest, overwriting: overwriting
            ) { descriptor in
                try await BlobTransfer(base: base).get(digest, to: descriptor, named: shown)
            }
            guard let size else {
                throw FileError("the blob \(digest) of \(name) no longer exists")
            }
            Console.say("\(shown): \(size) bytes")
        }
    }
}

extension QueueClient {
    /// The job, or a sentence that says that there is none.
    func found(_ id: Int64) async throws(JobsError) -> JobRow {
        guard let job = try await show(id) else {
            throw .refused(
                PostgresError(
                    sqlstate: "MF004", message: "there is no job \(id)",
                    hint: "Look for it with: mayfly jobs"))
        }
        return job
    }
}
