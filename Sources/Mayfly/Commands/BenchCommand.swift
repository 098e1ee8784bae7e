// `mayfly bench …`: what this host does, measured by the product's own code.

import ArgumentParser
import Jobs
import Logging
import Machines

struct BenchCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "bench",
        abstract: "Measures restores, the queue alone, or whole jobs.",
        discussion: """
            Examples:
              mayfly bench restore --rounds 30
              mayfly bench queue --seconds 5
              mayfly bench jobs --jobs 100
            """,
        subcommands: [Restore.self, QueueBench.self, JobsBench.self])

    struct Restore: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "restore",
            abstract: "Cold boot, restore, first byte, resume, destroy, and memory of each clone.",
            discussion: """
                All in one run on one host, so that the numbers compare.

                Examples:
                  mayfly bench restore
                  mayfly bench restore --rounds 50 --boots 5 --json
                """)
        @Option(help: "Restores of each sort.") var rounds = 20
        @Option(help: "Cold boots; seconds each without KVM.") var boots = 3
        @OptionGroup var options: ConfigurationOptions
        @OptionGroup var output: OutputOptions

        func validate() throws {
            if !(1...10_000).contains(rounds) || !(1...1000).contains(boots) {
                throw ValidationError("--rounds may be 1 to 10000 and --boots 1 to 1000")
            }
        }
        func run() async throws {
            let configuration = try options.load()
            let result = try await withLogger(configuration.makeLogger(isQuiet: true)) { _ in
                var settings = configuration.host
                // It makes its own, and nothing else shall run beside what is measured.
                settings.warm = WarmSettings()
                return try await MachineHost.with(settings) { host in
                    try await RestoreBench.run(
                        image: "code", host: host, rounds: rounds, boots: boots
                    ) { Console.say($0) }
                }
            }
            var table = Table("WHAT", "UNIT", "N", "P50", "P95", "P99", "MIN")
            for row in result.rows {
                table.add(
                    .string(row.name), .string(row.unit), .number(row.count), Self.number(row.p50),
                    Self.number(row.p95), Self.number(row.p99), Self.number(row.minimum))
            }
            if output.isJSON {
                let all: JSON = .object([
                    "host": .string(result.host), "rows": table.json,
                    "boot_to_restore_ratio": .number(Format.rounded(result.bootToRestoreRatio)),
                    "remark": .string(result.remark),
                ])
                return Console.data(all.text)
            }
            table.print(asJSON: false, empty: "")
            Console.say("host: \(result.host)")
            let ratio = Format.rounded(result.bootToRestoreRatio)
            Console.say("cold boot / restore: \(ratio). \(result.remark)")
        }
        private static func number(_ value: Double) -> JSON { .number(Format.rounded(value, 2)) }
    }
}

/// `mayfly bench queue`: the database's side alone.
struct QueueBench: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "queue",
        abstract: "Enqueues, claims and settles jobs that do nothing; no machine is used.",
        discussion: """
            Works on the real tables, in queues of its own, and cancels what it leaves.

            Examples:
              mayfly bench queue
              mayfly bench queue --seconds 10 --json
            """)
    @Option(help: "How long to measure each row.") var seconds = 2.0
    @OptionGroup var options: ConfigurationOptions
    @OptionGroup var database: DatabaseOptions
    @OptionGroup var output: OutputOptions

    func validate() throws {
        if !(0.1...600).contains(seconds) { throw ValidationError("--seconds may be 0.1 to 600") }
    }

    func run() async throws {
        let configuration = try options.load([database.assignment])
        var table = Table("WHAT", "BATCH", "JOBS PER SECOND", "P50 MS", "P95 MS", "P99 MS")
        for row in try await Bench.queue(configuration.connection, seconds: seconds) {
            table.add(
                .string(row.name), .number(row.batch),
                row.jobsPerSecond.map { .number(Format.rounded($0, 0)) } ?? .null,
                Self.number(row.p50), Self.number(row.p95), Self.number(row.p99))
        }
        table.print(asJSON: output.isJSON, empty: "")
    }
    private static func number(_ duration: Duration?) -> JSON {
        duration.map { .number(Format.rounded($0.milliseconds, 2)) } ?? .null
    }
}

/// `mayfly bench jobs`: whole jobs, from the enqueue to the stored result.
struct JobsBench: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "jobs",
        abstract:
            "Enqueues small code jobs for the workers that run, and measures each to its end.",
        discussion: """
            Start workers first. The times are the database's: from created_at to
            finished_at.

            Examples:
              mayfly bench jobs --jobs 50
              mayfly bench jobs --jobs 200 --language bash --json
            """)
    @Option(help: "How many jobs.") var jobs = 50
    @Option(help: "python, node or bash.") var language = "python"
    @OptionGroup var options: ConfigurationOptions
    @OptionGroup var database: DatabaseOptions
    @OptionGroup var output: OutputOptions

    func validate() throws {
        if !(1...10_000).contains(jobs) { throw ValidationError("--jobs may be 1 to 10000") }
        if CodePayload.Language(rawValue: language) == nil {
            throw ValidationError("--language is python, node or bash")
        }
    }

    func run() async throws {
        let configuration = try options.load([database.assignment])
        let source = ["python": "print(6*7)", "node": "console.log(6*7)", "bash": "echo 42"]
        let one: JSON = .object([
            "kind": .string("code"),
            "payload": .object([
                "language": .string(language), "source": .string(source[language] ?? ""),
            ]),
        ])
        let many = JSON.array(Array(repeating: one, count: jobs)).text
        let begin = ContinuousClock.now
        let ended = try await Database(configuration).with { ledger throws(JobsError) in
            var ended: [JobRow] = []
            for id in try await ledger.enqueueMany(many) { ended.append(try await ledger.wait(id)) }
            return ended
        }
        let took = ContinuousClock.now - begin
        let succeeded = ended.filter { $0.state == "succeeded" }
        var table = Table("WHAT", "N", "P50", "P95", "P99")
        for name in [
            "queue_ms", "restore_ms", "prepare_ms", "first_byte_ms", "run_ms", "destroy_ms",
        ] {
            let samples = succeeded.compactMap {
                JSON.stored($0.result)["timings"]?[name].flatMap { Double($0.text) }
            }.sorted()
            guard !samples.isEmpty else { continue }
            table.add(
                .string(name), .number(samples.count), .number(Self.percentile(samples, 0.5)),
                .number(Self.percentile(samples, 0.95)), .number(Self.percentile(samples, 0.99)))
        }
        table.print(asJSON: output.isJSON, empty: "no job succeeded; is a worker running?")
        let rate = Format.rounded(Double(ended.count) / took.milliseconds * 1000, 2)
        Console.say(
            "\(succeeded.count) of \(ended.count) succeeded in \(Format.duration(took)): "
                + "\(rate) jobs/s")
        if succeeded.count < ended.count { throw ExitCode(1) }
    }

    static func percentile(_ sorted: [Double], _ share: Double) -> Double {
        let place = Int((Double(sorted.count) * share).rounded(.up)) - 1
        return sorted[min(max(place, 0), sorted.count - 1)]
    }
}
