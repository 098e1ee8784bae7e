// `mayfly migrate` and `mayfly prune`: the schema and its history.

import ArgumentParser
import Jobs
import Postgres
import StrictJSON

struct MigrateCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "migrate",
        abstract: "Brings the database to this program's schema; does nothing when it is there.",
        discussion: """
            One transaction per step, one process at a time. The same files are in sql/
            for psql.

            Examples:
              mayfly migrate
              mayfly migrate --status
              mayfly migrate --database postgresql://owner@db/app
            """)

    @Flag(help: "Only prints what is applied and what is not.") var status = false
    @OptionGroup var options: ConfigurationOptions
    @OptionGroup var database: DatabaseOptions
    @OptionGroup var output: OutputOptions

    func run() async throws {
        let configuration = try options.load([database.assignment])
        let states =
            status
            ? try await Migrations.status(configuration.connection)
            : try await Migrations.apply(configuration.connection)
        var table = Table("VERSION", "NAME", "APPLIED")
        for state in states {
            table.add(.number(state.version), .string(state.name), .optional(state.appliedAt))
        }
        table.print(asJSON: output.isJSON, empty: "the schema is up to date")
    }
}

struct PruneCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "prune",
        abstract: "Drops old history and the blobs that only it used; prepares the coming weeks.",
        discussion: """
            Workers do this by themselves, every hour, with the retention that an operator
            set in the database (update mayfly.setting set retention = '90 days'). History
            goes by whole weeks, step by step; no step waits for a lock, so that nobody
            waits for it: what is in use is left for the next time.

            Examples:
              mayfly prune
              mayfly prune --older-than 7d
            """)

    @Option(help: "What ended before that goes, at least 1d. (default: mayfly.setting.retention)")
    var olderThan: String?
    @OptionGroup var options: ConfigurationOptions
    @OptionGroup var database: DatabaseOptions
    @OptionGroup var output: OutputOptions

    func validate() throws {
        if let olderThan, Duration(setting: olderThan) == nil {
            throw ValidationError("--older-than \(olderThan): write 7d or 36h")
        }
    }

    func run() async throws {
        let configuration = try options.load([database.assignment])
        let retention = olderThan.flatMap { Duration(setting: $0) }
        let done = try await Database(configuration).with { client throws(JobsError) in
            try await client.prune(retention: retention) { Console.say($0) }
        }
        var table = Table("DONE")
        for sentence in done { table.add(.string(sentence)) }
        table.print(asJSON: output.isJSON, empty: "nothing to do")
    }
}
