// `mayfly migrate` and `mayfly prune`: the schema and its history.

import ArgumentParser
import Jobs
import Postgres

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
            History goes by whole weeks, so that nothing is deleted row by row. Safe to
            run at any time, e.g. once a day from cron.

            Examples:
              mayfly prune
              mayfly prune --older-than 7d
            """)

    @Option(help: "What ended before that goes. (default: retention.history)")
    var olderThan: String?
    @OptionGroup var options: ConfigurationOptions
    @OptionGroup var database: DatabaseOptions
    @OptionGroup var output: OutputOptions

    func run() async throws {
        let configuration = try options.load([
            database.assignment, (Setting.retention.key, olderThan, "--older-than"),
        ])
        let retention = configuration.duration(.retention)
        let done = try await Database(configuration).with { ledger throws(JobsError) in
            try await ledger.prune(retention: retention)
        }
        var table = Table("DONE")
        for sentence in done { table.add(.string(sentence)) }
        table.print(asJSON: output.isJSON, empty: "nothing to do")
    }
}
