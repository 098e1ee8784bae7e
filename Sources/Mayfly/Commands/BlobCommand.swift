// `mayfly blob put|get|ls`: what jobs read and leave, stored by content.

import ArgumentParser
import Glibc
import Jobs
import StrictJSON

struct BlobCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "blob",
        abstract: "Files of jobs, stored by their SHA-256: put, get, list.",
        discussion: """
            Examples:
              mayfly blob put table.csv
              mayfly blob ls --job 64466213
            """,
        subcommands: [BlobPut.self, BlobGet.self, BlobList.self])
}

struct BlobPut: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "put",
        abstract: "Stores a file and prints its address, for {\"blob\": \"…\"} in a payload.",
        discussion: """
            The same bytes are stored once for each tenant. They stay as long as a job
            names them, and at least for the retention time.

            Examples:
              mayfly blob put table.csv
              tar c data | mayfly blob put -
              mayfly blob put --tenant shop image.png
            """)

    @Argument(help: "A file; - reads standard input.") var file: String
    @Option(help: "Whose it is.") var tenant = ""
    @OptionGroup var options: ConfigurationOptions
    @OptionGroup var database: DatabaseOptions
    @OptionGroup var output: OutputOptions

    func run() async throws {
        let base = Database(try options.load([database.assignment]))
        let (sha256, size) = try await Files.reading(file) { descriptor in
            try await BlobTransfer(base: base).put(descriptor, named: file, tenant: tenant)
        }
        if output.isJSON {
            Console.data(JSON.object(["sha256": .string(sha256), "size": .number(size)]).text)
        } else {
            Console.data(sha256)
        }
    }
}

struct BlobGet: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "get",
        abstract: "Writes a blob to standard output or into a file.",
        discussion: """
            Its bytes are held against its address: a file appears only when all of them
            are right, and without one the exit code tells.

            Examples:
              mayfly blob get 8ba4…a717 -o plot.png
              mayfly blob get 8ba4…a717 | tar x
            """)

    @Argument(help: "Its SHA-256: 64 hexadecimal digits.") var sha256: String
    @Option(
        name: [.customShort("o"), .customLong("out")],
        help: ArgumentHelp("Where to write it; an existing file is replaced.", valueName: "file"))
    var out: String?
    @OptionGroup var options: ConfigurationOptions
    @OptionGroup var database: DatabaseOptions

    func run() async throws {
        let transfer = BlobTransfer(base: Database(try options.load([database.assignment])))
        let size: Int?
        if let out {
            size = try await Files.replacing(out) { file in
                try await transfer.get(sha256, to: file, named: out)
            }
            if let size { Console.say("\(out): \(size) bytes") }
        } else {
            size = try await transfer.get(sha256, to: STDOUT_FILENO, named: "standard output")
        }
        if size == nil { throw FileError("there is no blob \(sha256)") }
    }
}

struct BlobList: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "ls",
        abstract: "Lists blobs, the newest first.",
        discussion: """
            Examples:
              mayfly blob ls --job 64466213    (its inputs and its outputs)
              mayfly blob ls --tenant shop --json
            """)

    @Option(help: "Those that a job's payload or result names.") var job: Int64?
    @Option(help: "Those of one tenant.") var tenant: String?
    @Option(help: "How many at most.") var limit = 100
    @OptionGroup var options: ConfigurationOptions
    @OptionGroup var database: DatabaseOptions
    @OptionGroup var output: OutputOptions

    func run() async throws {
        let base = Database(try options.load([database.assignment]))
        let rows = try await base.with { client throws(JobsError) in
            try await client.blobs(job: job, tenant: tenant, limit: limit)
        }
        var table = Table("SHA256", "SIZE", "TENANT", "JOBS", "PUT AT")
        for row in rows {
            table.add(
                .string(row.sha256), .number(row.byteCount), .string(row.tenant),
                .number(row.jobCount), .string(row.putAt))
        }
        table.print(asJSON: output.isJSON, empty: "no such blobs")
    }
}
