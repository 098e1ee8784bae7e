// `mayfly logs`: what a job printed, or prints while it runs.

import ArgumentParser
import Glibc
import Jobs

struct LogsCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "logs",
        abstract: "Prints what a job printed: its stdout to stdout, its stderr to stderr.",
        discussion: """
            The exact bytes, as far as they were kept; pipe them through `cat -v` when
            the job is not trusted and the output goes to a terminal. To a terminal,
            control characters are replaced.

            With --follow it waits for the job, prints what it prints within a second,
            and ends with it. What is printed faster than 128 KiB in a quarter of a
            second is left out, and said so; the result has more of it.

            Examples:
              mayfly logs 64466213
              mayfly logs 64466213 > stdout.txt 2> stderr.txt
              mayfly logs -f 64466213
            """)

    private static let pause = Duration.milliseconds(300)
    /// How long a database may be away in the middle.
    private static let patience = Duration.seconds(60)

    @Argument(help: "The job's id.") var id: Int64
    @Flag(name: [.customShort("f"), .long], help: "Prints what comes until the job has ended.")
    var follow = false
    @OptionGroup var options: ConfigurationOptions
    @OptionGroup var database: DatabaseOptions

    func run() async throws {
        let configuration = try options.load([database.assignment])
        let database = Database(configuration)
        var reading = Reading()
        let job =
            follow
            ? try await followed(database, &reading)
            : try await database.with { client throws(JobsError) in try await client.found(id) }
        for text in job.hasEnded ? reading.printed.rest(of: job) : [] { Self.show(text) }
        guard job.hasEnded else {
            throw FileError(
                "job \(id) is \(job.state); its output is stored when it ends; "
                    + "follow it with: mayfly logs -f \(id)")
        }
        // How it ended, for people; a file gets the job's own stderr and nothing else.
        if follow, isatty(STDERR_FILENO) == 1 { Console.say("job \(id) \(job.state)") }
    }

    /// How far a job has been followed; it outlives a connection.
    private struct Reading {
        var printed = PrintedOutput()
        var place: Int64 = 0
        var said = ""
        /// When the database answered last; `nil` before it ever has.
        var answeredAt: ContinuousClock.Instant?
    }

    /// Prints what comes until the job has ended, and answers it.
    ///
    /// A database that goes away meanwhile is waited for, as workers do.
    private func followed(
        _ database: Database, _ reading: inout Reading
    ) async throws -> JobRow {
        while true {
            do {
                return try await database.using { client in try await followed(client, &reading) }
            } catch JobsError.unavailable(let error) {
                guard let answeredAt = reading.answeredAt, .now - answeredAt < Self.patience else {
                    throw JobsError.unavailable(error)
                }
                say("the database does not answer; trying again", &reading)
                try await Task.sleep(for: Self.pause)
            }
        }
    }

    private func followed(_ client: QueueClient, _ reading: inout Reading) async throws -> JobRow {
        while true {
            let job = try await client.found(id)
            reading.answeredAt = .now
            if job.hasEnded { return job }
            let pieces = try await client.follow(id, after: reading.place)
            for piece in pieces {
                reading.place = piece.place
                if let text = reading.printed.take(piece) { Self.show(text) }
            }
            say(
                JobText.progress(job) ?? (job.state == "queued" ? "waits in the queue" : ""),
                &reading)
            if pieces.isEmpty { try await Task.sleep(for: Self.pause) }
        }
    }

    /// Words for people, each once; a file gets none of them.
    private func say(_ words: String, _ reading: inout Reading) {
        if words != reading.said, !words.isEmpty, isatty(STDERR_FILENO) == 1 {
            Console.say("job \(id): \(words)")
        }
        reading.said = words
    }

    private static func show(_ text: OutputText) {
        let descriptor = text.stream == "stdout" ? STDOUT_FILENO : STDERR_FILENO
        if isatty(descriptor) == 1 {
            let shown = Console.harmless(String(decoding: text.bytes, as: UTF8.self))
            Console.write(shown, to: descriptor)
        } else {
            Console.bytes(text.bytes, to: descriptor)
        }
    }
}
