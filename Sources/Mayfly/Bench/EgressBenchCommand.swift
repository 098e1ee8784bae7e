// `mayfly bench egress`: what a job's network can carry, as far as this host is concerned.

import ArgumentParser
import Egress
import StrictJSON

/// `mayfly bench egress`: the host's side of the network of jobs.
struct EgressBenchCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "egress",
        abstract: "Bytes through the gateway between a server on loopback and a guest's stream.",
        discussion: """
            No machine is used: it is the part of the way that all jobs of a worker
            share. The lateness is that of a timer on the worker's loop meanwhile.

            Examples:
              mayfly bench egress
              mayfly bench egress --megabytes 4000 --json
            """)
    @Option(help: "Bytes of each row, in 10^6.") var megabytes = 1000
    @OptionGroup var output: OutputOptions

    func validate() throws {
        if !(8...1_000_000).contains(megabytes) {
            throw ValidationError("--megabytes may be 8 to 1000000")
        }
    }
    func run() async throws {
        var table = Table("WAY", "STREAMS", "MB PER SECOND", "LATE P50 MS", "LATE P99 MS")
        for row in try await EgressBench.run(bytes: megabytes * 1_000_000) {
            table.add(
                .string(row.name), .number(row.streams),
                .number(Format.rounded(row.megabytesPerSecond, 0)),
                .number(Format.rounded(row.latenessMedian.milliseconds, 2)),
                .number(Format.rounded(row.lateness99.milliseconds, 2)))
        }
        table.print(asJSON: output.isJSON, empty: "")
    }
}
