// `mayfly bench …`: what this host does, measured by the product's own code.

import ArgumentParser
import Jobs
import Logging
import Machines
import StrictJSON

struct BenchCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "bench",
        abstract: "Measures restores, documents, pages, the network, the queue, or whole jobs.",
        discussion: """
            Examples:
              mayfly bench restore --rounds 30
              mayfly bench documents
              mayfly bench pages
              mayfly bench egress
              mayfly bench queue --seconds 5
              mayfly bench jobs --jobs 100
            """,
        subcommands: [
            Restore.self, DocumentsBench.self, PagesBench.self, EgressBenchCommand.self,
            QueueBench.self, JobsBench.self,
        ])

    struct Restore: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "restore",
            abstract: "Cold boot, restore, first byte, resume, destroy, and memory of each clone.",
            discussion: """
                All in one run on one host, so that the numbers compare.

                Examples:
                  mayfly bench restore
                  mayfly bench restore --rounds 50 --boots 5 --json
                  mayfly bench restore --image ml --machines 4
                """)
        @Option(help: "The image that is restored; it parks a Python.") var image = "code"
        @Option(help: "Restores of each sort.") var rounds = 20
        @Option(help: "Cold boots; seconds each without KVM.") var boots = 3
        @Option(help: "Machines alive at once when memory is measured.") var machines = 32
        @OptionGroup var options: ConfigurationOptions
        @OptionGroup var output: OutputOptions

        func validate() throws {
            if !(1...10_000).contains(rounds) || !(1...1000).contains(boots) {
                throw ValidationError("--rounds may be 1 to 10000 and --boots 1 to 1000")
            }
            if !(1...1000).contains(machines) {
                throw ValidationError("--machines may be 1 to 1000")
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
                        image: image, host: host, rounds: rounds, boots: boots,
                        machines: machines
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

/// `mayfly bench documents`: what the office in the snapshot saves.
struct DocumentsBench: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "documents",
        abstract: "A DOCX to PDF: by the office that waits, and by one started for the job.",
        discussion: """
            Each conversion has a machine of its own, turn and turn about: with the office
            that waits in the snapshot, with one that is started for the job, and with one
            that must make its profile first. Processor time is that of the whole machine,
            emulation included; the ratios are of medians.

            Examples:
              mayfly bench documents
              mayfly bench documents --rounds 5 --json
            """)
    @Option(help: "Conversions of each sort.") var rounds = 3
    @OptionGroup var options: ConfigurationOptions
    @OptionGroup var output: OutputOptions

    func validate() throws {
        if !(1...1000).contains(rounds) { throw ValidationError("--rounds may be 1 to 1000") }
    }

    func run() async throws {
        let configuration = try options.load()
        let rounds = rounds
        let result = try await withLogger(configuration.makeLogger(isQuiet: true)) { _ in
            try await DocumentsMeasurement(configuration: configuration, rounds: rounds)
                .run { Console.say($0) }
        }
        result.show(asJSON: output.isJSON)
    }
}

/// `mayfly bench pages`: what the browser in the snapshot saves.
struct PagesBench: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "pages",
        abstract: "A page and its picture: by the browser that waits, and by one started for it.",
        discussion: """
            Each page has a machine of its own, turn and turn about. Processor time is that
            of the whole machine, emulation included; the ratio is of medians.

            Examples:
              mayfly bench pages
              mayfly bench pages --rounds 5 --json
            """)
    @Option(help: "Pages of each sort.") var rounds = 3
    @OptionGroup var options: ConfigurationOptions
    @OptionGroup var output: OutputOptions

    func validate() throws {
        if !(1...1000).contains(rounds) { throw ValidationError("--rounds may be 1 to 1000") }
    }

    func run() async throws {
        let configuration = try options.load()
        let rounds = rounds
        let result = try await withLogger(configuration.makeLogger(isQuiet: true)) { _ in
            try await PagesMeasurement(configuration: configuration, rounds: rounds)
                .run { Console.say($0) }
        }
        result.show(asJSON: output.isJSON)
    }
}

extension WaitingMeasurement {
    fileprivate func show(asJSON: Bool) {
        if asJSON {
            var shown = Table("WAY", "RATIO")
            for (way, ratio) in ratios {
                shown.add(.string(way), .number(Format.rounded(ratio, 2)))
            }
            let all: JSON = .object([
                "host": .string(host), "rows": table.json, "waiting_to": shown.json,
            ])
            return Console.data(all.text)
        }
        table.print(asJSON: false, empty: "")
        Console.say("host: \(host)")
        for (way, ratio) in ratios {
            Console.say("processor time, waiting / \(way): \(Format.rounded(ratio, 2))")
        }
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
        abstract: "Small code jobs for the workers that run: times, rate, processor and memory.",
        discussion: """
            Start workers first. Times of a way of starting a machine and a hypervisor stand
            beside each other; processor time and memory are those of the workers and the
            PostgreSQL of this host, where they can be seen.

            Examples:
              mayfly bench jobs --jobs 50
              mayfly bench jobs --jobs 200 --language bash --json
              mayfly bench jobs --one-by-one 30 --machines 1,8 --worker 4711
            """)
    @Option(help: "How many jobs are put in at once.") var jobs = 50
    @Option(help: "How many jobs are put in one after the other, before.") var oneByOne = 10
    @Option(help: "python, node or bash.") var language = "python"
    @Option(help: "Process ids of workers on this host, by commas; else they are searched.")
    var worker: String?
    @Option(help: "At how many machines at once to weigh them, by commas; 0: not at all.")
    var machines = "1,8,32"
    @OptionGroup var options: ConfigurationOptions
    @OptionGroup var database: DatabaseOptions
    @OptionGroup var output: OutputOptions

    func validate() throws {
        if !(1...10_000).contains(jobs) || !(0...10_000).contains(oneByOne) {
            throw ValidationError("--jobs may be 1 to 10000 and --one-by-one 0 to 10000")
        }
        if CodePayload.Language(rawValue: language) == nil {
            throw ValidationError("--language is python, node or bash")
        }
        if Self.numbers(machines, upTo: 1000) == nil {
            throw ValidationError("--machines is numbers up to 1000, such as 1,8,32")
        }
        if let worker, Self.numbers(worker, upTo: Int(Int32.max)) == nil {
            throw ValidationError("--worker is process ids, such as 4711,4712")
        }
    }

    func run() async throws {
        let configuration = try options.load([database.assignment])
        let pids = worker.flatMap { Self.numbers($0, upTo: Int(Int32.max)) }
        let bench = JobsMeasurement(
            database: Database(configuration), language: language, oneByOne: oneByOne, jobs: jobs,
            machines: (Self.numbers(machines, upTo: 1000) ?? []).filter { $0 > 0 },
            workers: pids?.map(Int32.init))
        let result = try await bench.run { Console.say($0) }
        result.table.print(asJSON: output.isJSON, empty: "no job succeeded; is a worker running?")
        for remark in result.remarks { Console.say(remark) }
        Console.say("\(result.succeeded) of \(result.ended) jobs succeeded")
        if result.succeeded < result.ended { throw ExitCode(1) }
    }

    /// `nil` when it is no list of numbers.
    private static func numbers(_ text: String, upTo most: Int) -> [Int]? {
        let parts = text.split(separator: ",", omittingEmptySubsequences: false)
        let numbers = parts.compactMap { Int($0) }.filter { (0...most).contains($0) }
        return numbers.count == parts.count ? numbers : nil
    }
}
