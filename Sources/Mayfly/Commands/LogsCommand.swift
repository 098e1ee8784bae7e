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

    @Argument(help: "The job's id.") var id: Int64
    @Flag(name: [.customShort("f"), .long], help: "Prints what comes until the job has ended.")
    var follow = false
    @OptionGroup var options: ConfigurationOptions
    @OptionGroup var database: DatabaseOptions

    func run() async throws {
        let configuration = try options.load([database.assignment])
        let job = try await Database(configuration).using { client in
            var printed = PrintedOutput()
            let job = try await follow ? followed(client, &printed) : client.found(id)
            for text in job.hasEnded ? printed.rest(of: job) : [] { Self.show(text) }
            return job
        }
        guard job.hasEnded else {
            throw FileError(
                "job \(id) is \(job.state); its output is stored when it ends; "
                    + "follow it with: mayfly logs -f \(id)")
        }
        // How it ended, for people; a file gets the job's own stderr and nothing else.
        if follow, isatty(STDERR_FILENO) == 1 { Console.say("job \(id) \(job.state)") }
    }

    /// Prints what comes until the job has ended, and answers it.
    private func followed(
        _ client: QueueClient, _ printed: inout PrintedOutput
    ) async throws -> JobRow {
        var place: Int64 = 0
        var said = ""
        while true {
            let job = try await client.found(id)
            if job.hasEnded { return job }
            let pieces = try await client.follow(id, after: place)
            for piece in pieces {
                place = piece.place
                if let text = printed.take(piece) { Self.show(text) }
            }
            let words = JobText.progress(job) ?? (job.state == "queued" ? "waits in the queue" : "")
            if words != said, !words.isEmpty, isatty(STDERR_FILENO) == 1 {
                Console.say("job \(id): \(words)")
            }
            said = words
            if pieces.isEmpty { try await Task.sleep(for: Self.pause) }
        }
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
