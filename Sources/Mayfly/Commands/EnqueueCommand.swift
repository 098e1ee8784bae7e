// `mayfly enqueue`: puts one job into the queue, as a backend would, and waits for it if told to.

import ArgumentParser
import Jobs
import Machines
import Secrets
import StrictJSON

struct EnqueueCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "enqueue",
        abstract: "Puts a job into the queue; with --wait, waits for its end and shows it.",
        discussion: """
            Prints the job's id. With --wait the exit code is 0 for a job that succeeded
            and 1 for any other end. Secrets are sealed here, for the job's tenant; the
            program finds each in the environment variable of its name.

            Examples:
              mayfly enqueue --language python --source 'print(6*7)' --wait
              mayfly enqueue --payload job.json --timeout 30s --max-attempts 3
              mayfly enqueue --payload - --unique-key report-2025-01 < job.json
              mayfly enqueue --payload job.json --secret API_KEY=@token.txt
              mayfly enqueue --payload job.json --allow example.com:443 --wait
            """)

    @Option(help: "The kind of job.") var kind = "code"
    @Option(help: ArgumentHelp("The payload as JSON; - reads standard input.", valueName: "file"))
    var payload: String?
    @Option(help: "python, node, typescript or bash.") var language: String?
    @Option(help: "The program's source; - reads standard input.") var source: String?
    @Option(help: "The queue. (default: default)") var queue: String?
    @Option(help: "The tenant.") var tenant: String?
    @Option(help: "Higher runs first, -1000 to 1000.") var priority: Int?
    @Option(help: "Not before; a timestamp as PostgreSQL reads it, e.g. 'tomorrow'.")
    var runAt: String?
    @Option(help: "Wall clock of one attempt, e.g. 30s.") var timeout: String?
    @Option(help: "How often the job's own failure is tried.") var maxAttempts: Int?
    @Option(help: "While a job with this key is alive, no second one is created.") var uniqueKey:
        String?
    @Flag(help: "Waits for the job's end and shows it.") var wait = false
    @OptionGroup var network: AllowOptions
    @OptionGroup var secrets: SecretOptions
    @OptionGroup var options: ConfigurationOptions
    @OptionGroup var database: DatabaseOptions
    @OptionGroup var output: OutputOptions

    func validate() throws {
        if (payload != nil) == (language != nil) {
            throw ValidationError("give --payload FILE, or --language and --source")
        }
        if language != nil && source == nil { throw ValidationError("--source is missing") }
    }

    func run() async throws {
        let configuration = try options.load([database.assignment])
        let job = try await request(Database(configuration))
        let shows = output.isJSON
        let ended = try await Database(configuration).with { ledger throws(JobsError) -> JobRow? in
            let id = try await ledger.enqueue(job)
            guard wait else {
                Console.data(shows ? JSON.object(["id": .number(Int(id))]).text : "\(id)")
                return nil
            }
            Console.say("job \(id)")
            return try await ledger.wait(id) { Console.say("  \($0.state)") }
        }
        guard let ended else { return }
        if shows { Console.data(ended.json.text) } else { JobText.show(ended) }
        if ended.state != "succeeded" { throw ExitCode(1) }
    }

    private func request(_ base: Database) async throws -> NewJob {
        var job = NewJob(kind: kind, payload: try payloadText())
        job.payload = try network.added(to: job.payload, of: kind)
        if !secrets.secrets.isEmpty {
            let key = try PublicKey(sealing: try await base.secretKey())
            job.payload = try secrets.sealed(
                into: job.payload, of: kind, for: key, tenant: tenant ?? "")
        }
        do throws(InvalidPayload) { try Kinds.check(job.payload, of: kind) } catch {
            throw ConfigurationError("\(error.reason.rawValue): \(Console.harmless("\(error)"))")
        }
        job.queue = queue
        job.tenant = tenant
        job.priority = priority
        job.runAt = runAt
        job.maxAttempts = maxAttempts
        job.uniqueKey = uniqueKey
        if let timeout {
            guard let duration = Duration(setting: timeout) else {
                throw ConfigurationError("--timeout \(timeout): write 500ms, 30s, 5min or 2h")
            }
            job.timeout = duration
        }
        return job
    }

    private func payloadText() throws -> String {
        if let payload { return try Files.text(payload, atMost: .mebibytes(128)) }
        let text = source == "-" ? try Files.text("-", atMost: .mebibytes(128)) : source ?? ""
        return JSON.object([
            "language": .string(language ?? ""), "source": .string(text),
        ]).text
    }
}
