// `mayfly demo`: everything once, on this host, with nothing left behind.

import ArgumentParser
import Logging

struct DemoCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "demo",
        abstract: "Runs real jobs of every kind on this host, with a private PostgreSQL.",
        discussion: """
            Builds the code image if it is missing (minutes, once), starts a PostgreSQL
            of its own under the state directory, applies the schema, starts a worker,
            enqueues jobs through psql, shows what comes back, and ends with nothing
            left running. Needs root for the image; scripts/demo installs what else is
            missing.

            Examples:
              sudo mayfly demo
              sudo mayfly demo --state-directory /var/tmp/mayfly-demo
            """)

    @OptionGroup var options: ConfigurationOptions

    func run() async throws {
        let configuration = try options.load()
        try await withLogger(configuration.makeLogger(isQuiet: true)) { _ in
            try await withStopSignals(stopping: "the demo") { try await Demo(configuration).run() }
        }
    }
}
