// The program `mayfly`: its subcommands and how it ends. Each command is a file in Commands/ that
// parses and calls; the work is done elsewhere. Exit code 0: done, 1: failed, 2: wrong usage or
// configuration.

import ArgumentParser
import Glibc
import Processes

@main
struct Mayfly: AsyncParsableCommand {
    static let version = "0.1.0"

    static let configuration = CommandConfiguration(
        commandName: "mayfly",
        abstract: "Agent task queue worker: one disposable microVM per job.",
        discussion: """
            Backends put jobs into a PostgreSQL table; workers run each one in a microVM
            of its own, restored from a golden snapshot, and store the result.

            Examples:
              mayfly demo                             everything once, on this host
              mayfly run python script.py             one job in one machine, no database
              mayfly image build code                 the golden image that workers restore
              mayfly migrate                          the schema, into $DATABASE_URL
              mayfly worker --slots 8                 a worker on this host
              mayfly jobs --state failed --since 1h   what went wrong lately
            """,
        version: version,
        groupedSubcommands: [
            CommandGroup(name: "Try it:", subcommands: [DemoCommand.self, RunCommand.self]),
            CommandGroup(
                name: "Jobs:",
                subcommands: [
                    EnqueueCommand.self, JobsCommand.self, ShowCommand.self, LogsCommand.self,
                    CancelCommand.self, ReplayCommand.self, BlobCommand.self,
                    EgressCommand.self,
                ]),
            CommandGroup(
                name: "Hosts:",
                subcommands: [
                    WorkerCommand.self, LauncherCommand.self, ImageCommand.self, SecretCommand.self,
                    RestoreCommand.self,
                    DoctorCommand.self, ConfigCommand.self, BenchCommand.self,
                ]),
            CommandGroup(
                name: "Database:", subcommands: [MigrateCommand.self, PruneCommand.self]),
        ])

    /// Runs the command named by the arguments and ends the process.
    static func main() async {
        signal(SIGPIPE, SIG_IGN)  // a closed pipe is an error to handle, not an end
        OpenFileLimit.raise()
        do {
            var command = try parseAsRoot()
            if var asynchronous = command as? any AsyncParsableCommand {
                try await asynchronous.run()
            } else {
                try command.run()
            }
        } catch {
            LogWriter.standardError.flush()
            Glibc.exit(report(error))
        }
        LogWriter.standardError.flush()
        Glibc.exit(0)
    }

    /// Says what went wrong, on one line where one is enough, and answers the exit code.
    private static func report(_ error: any Error) -> Int32 {
        if let code = error as? ExitCode { return code.rawValue }
        if let error = error as? ConfigurationError {
            Console.say("mayfly: \(error)")
            return 2
        }
        // ArgumentParser's own errors, and requests for help: those end well.
        let code = exitCode(for: error)
        if code.isSuccess {
            Console.data(message(for: error))
            return 0
        }
        if code == .validationFailure {
            Console.say(fullMessage(for: error))
            return 2
        }
        Console.say("mayfly: \(Console.harmless("\(error)"))")
        return 1
    }
}
