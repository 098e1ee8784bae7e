// `mayfly cancel` and `mayfly replay`: an operator's two levers.

import ArgumentParser
import Jobs
import StrictJSON

struct CancelCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "cancel",
        abstract: "Cancels jobs; the machine of a running one is destroyed within a second.",
        discussion: """
            Prints each job's new state: cancelled, cancelling, or the state in which it
            had already ended.

            Examples:
              mayfly cancel 64466213 64466214
              mayfly jobs --state queued --limit 100000 --json |
                  jq .[].id | xargs mayfly cancel
            """)

    @Argument(help: "The jobs' ids.") var ids: [Int64]
    @OptionGroup var options: ConfigurationOptions
    @OptionGroup var database: DatabaseOptions
    @OptionGroup var output: OutputOptions

    func run() async throws {
        let configuration = try options.load([database.assignment])
        var table = Table("ID", "STATE")
        try await Database(configuration).with { ledger throws(JobsError) in
            for id in ids {
                table.add(.number(Int(id)), .string(try await ledger.cancel(id)))
            }
        }
        table.print(asJSON: output.isJSON, empty: "")
    }
}

struct ReplayCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "replay",
        abstract: "Runs jobs again that have ended, as new jobs that name the original.",
        discussion: """
            --pinned gives the new job the image generation, the entropy and the clock
            of the original's last attempt, so that a program with no other source of
            randomness does the same again. With a filter, jobs that were replayed
            before are left out.

            Examples:
              mayfly replay 64466213
              mayfly replay 64466213 --pinned
              mayfly replay --state failed --kind code --since 1h --dry-run
            """)

    @Argument(help: "The jobs' ids; or none, and a filter.") var ids: [Int64] = []
    @OptionGroup var which: FilterOptions
    @Flag(help: "Only prints which jobs would be replayed.") var dryRun = false
    @Flag(help: "Same image generation, same entropy, same clock.") var pinned = false
    @OptionGroup var options: ConfigurationOptions
    @OptionGroup var database: DatabaseOptions
    @OptionGroup var output: OutputOptions

    func validate() throws {
        if ids.isEmpty == which.isEmpty {
            throw ValidationError("name jobs by their ids, or by a filter such as --state failed")
        }
    }

    func run() async throws {
        let configuration = try options.load([database.assignment])
        var table = Table("ORIGINAL", "ID")
        try await Database(configuration).with { ledger throws(JobsError) in
            if ids.isEmpty {
                let replayed = try await ledger.replay(
                    which.filter, pinned: pinned, isDryRun: dryRun)
                which.sayWhetherCut(replayed.count)
                for (original, id, refusal) in replayed {
                    table.add(.number(Int(original)), id.map { .number(Int($0)) } ?? .null)
                    if let refusal { Console.say("job \(original) is not replayed: \(refusal)") }
                }
                return
            }
            for id in ids {
                if dryRun {
                    _ = try await ledger.found(id)
                    table.add(.number(Int(id)), .null)
                } else {
                    let new = try await ledger.replay(id, pinned: pinned)
                    table.add(.number(Int(id)), .number(Int(new)))
                }
            }
        }
        table.print(asJSON: output.isJSON, empty: "no such jobs")
    }
}
