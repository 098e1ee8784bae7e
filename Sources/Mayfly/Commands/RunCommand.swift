// `mayfly run`: one job in one machine, without a database. Output streams as it comes; the exit
// code is the program's own, 124 for a timeout, 137 for memory, 1 for our failure, 2 for a bad
// payload.

import ArgumentParser
import Glibc
import Jobs
import Logging
import Machines
import Secrets
import StrictJSON

struct RunCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "run",
        abstract: "Runs one job in one machine; no database is used.",
        discussion: """
            The program's stdout and stderr are passed through as they come, and its
            exit code becomes this command's: 124 after a timeout, 137 when memory ran
            out, 125 when it printed or left more than may be kept, 2 for a payload that
            is refused.

            Examples:
              mayfly run python script.py
              mayfly run python script.py --arg 10 --output '*.png' --out results
              echo 'console.log(6*7)' | mayfly run node -
              mayfly run --language bash --source 'uname -a; id'
              mayfly run --payload job.json --out results --json
              mayfly run bash fetch.sh --allow example.com:443 --allow '*.example.com'
            """)

    @Argument(help: "A language and a script, or a script whose extension names it.")
    var what: [String] = []
    @Option(help: "python, node, typescript or bash.") var language: String?
    @Option(help: "The program's source; - reads standard input.") var source: String?
    @Option(
        help: ArgumentHelp("A whole payload as JSON; - reads standard input.", valueName: "file"))
    var payload: String?
    @Option(name: .customLong("arg"), parsing: .singleValue, help: "An argument. Repeatable.")
    var arguments: [String] = []
    @Option(
        name: .customLong("file"), parsing: .singleValue,
        help: ArgumentHelp("An input file. Repeatable.", valueName: "path[=name]"))
    var files: [String] = []
    @Option(
        name: .customLong("output"), parsing: .singleValue,
        help: ArgumentHelp("A pattern of output files. Repeatable.", valueName: "pattern"))
    var outputs: [String] = []
    @Option(
        name: .customLong("stdin"), help: ArgumentHelp("Its standard input.", valueName: "file"))
    var standardInput: String?
    @Option(help: "Where output files are written.") var out: String?
    @Flag(help: "Lets output files overwrite existing files.") var force = false
    @Option(
        help: ArgumentHelp(
            "warm: the one that waits in the image; fresh: a new one.", valueName: "warm|fresh"))
    var interpreter: CodePayload.Interpreter?
    @Option(help: "Wall clock, e.g. 30s. (default: the kind's)") var timeout: String?
    @Option(help: "The kind of job: code; with --payload document or browse, too.")
    var kind = "code"
    @OptionGroup var network: AllowOptions
    @Option(
        name: .customLong("network"), parsing: .singleValue,
        help: ArgumentHelp(
            "With --allow: a network that is not globally routable. Repeatable.",
            valueName: "cidr"))
    var networks: [String] = []
    @OptionGroup var secrets: SecretOptions
    @OptionGroup var options: ConfigurationOptions
    @OptionGroup var output: OutputOptions

    func validate() throws {
        if payload != nil && !(what.isEmpty && language == nil && source == nil) {
            throw ValidationError("--payload already holds the language and the source")
        }
        if !Kinds.names.contains(kind) {
            throw ValidationError(
                "--kind \(kind): the kinds are \(Kinds.names.joined(separator: ", "))")
        }
        if kind != "code" && payload == nil {
            throw ValidationError("--kind \(kind) takes what to do from --payload FILE")
        }
        if payload != nil && interpreter != nil {
            throw ValidationError("--payload already says which interpreter")
        }
        if what.count > 2 {
            throw ValidationError("pass the program's arguments with --arg, one by one")
        }
    }

    func run() async throws {
        let configuration = try options.load()
        var (text, limit) = try request(configuration)
        let kind = try Kinds(configuration).named(kind)
        // Sealed for a key that lives as long as this command: the payload has one form.
        var keys = configuration.secretKeys
        keys.held = [PrivateKey.generate()]
        text = try network.added(to: text, of: kind.name)
        text = try secrets.sealed(
            into: text, of: kind.name, for: keys.held[0].publicKey, tenant: nil)
        var recipe: Recipe
        do throws(AttemptError) {
            recipe = try await kind.recipe(
                payload: text, timeout: limit, blobs: NoBlobs(),
                secrets: SecretOpener(keys: keys, tenant: nil))
        } catch {
            if case .invalidPayload(let problem) = error {
                Console.say("mayfly: \(problem.reason.rawValue): \(Console.harmless("\(problem)"))")
                throw ExitCode(2)
            }
            if case .secretKeyMissing(let sentence) = error { throw FileError(sentence) }
            throw FileError("\(error)")
        }
        if let out { try Files.makeDirectory(out) }
        let spool = try OutputSpool()
        recipe.job.sink = spool.sink
        let own = try await JobNetwork(NetworkContext(configuration))
        // Whoever runs a job by hand is its operator.
        let ceiling = try network.ceiling(of: recipe, networks)
        await own.open(for: &recipe, below: ceiling)
        let (job, image) = (recipe.job, recipe.image)
        let isQuiet = output.isJSON
        let run = try await withLogger(configuration.makeLogger(isQuiet: true)) { _ in
            try await MachineHost.with(configuration.host, standbys: 0) { host in
                try await withStopSignals(stopping: "the job") {
                    try await host.run(job, image: image) { stream, bytes in
                        guard !isQuiet else { return }
                        Console.bytes(bytes, to: stream == .stdout ? STDOUT_FILENO : STDERR_FILENO)
                    }
                }
            }
        }
        recipe.didOnNetwork = await own.end()
        try await finish(
            kind.maskedResult(of: run, recipe: recipe, queueDelay: nil), run.report.ending, spool)
    }

    /// Writes what may be written; `false` when a file was left out, which has been said.
    private func writeFiles(
        _ files: [OutputFile], to out: String, from spool: OutputSpool
    ) async throws -> Bool {
        var isWritten = true
        for file in files {
            let shown = "\(out)/\(Console.harmless(file.name))"
            do {
                _ = try await Files.writing(
                    file.name, below: out, sha256: file.sha256, overwriting: force
                ) { descriptor in
                    switch file.content {
                    case .bytes(let bytes):
                        try Files.write(bytes, to: descriptor, named: shown)
                    case .stored(let number):
                        try spool.copy(
                            number, byteCount: file.byteCount, to: descriptor, named: shown)
                    }
                    return file.byteCount
                }
                Console.say("\(shown): \(file.byteCount) bytes")
            } catch let error as FileError {
                isWritten = false
                Console.say("mayfly: \(Console.harmless("\(error)"))")
            }
        }
        return isWritten
    }

    private func finish(
        _ result: any JobResult, _ ending: GuestReport.Ending, _ spool: OutputSpool
    ) async throws {
        var isWritten = true
        if let out {
            isWritten = try await writeFiles(result.files, to: out, from: spool)
        } else if !result.files.isEmpty {
            Console.say("the job left output files; use --out to write them somewhere")
        }
        if output.isJSON {
            var members: [JSON.Member] = [.init(name: "result", value: result.json)]
            if let failure = result.failure {
                members.append(.init(name: "error", value: failure.json))
            }
            Console.data(JSON.object(members).text)
        }
        for warning in result.warnings {
            Console.say("mayfly: \(warning.code): \(Console.harmless(warning.message))")
        }
        if !output.isJSON, let text = result.json["value"]?["text"]?.string {
            Console.say("value: \(Console.harmless(text))")
        }
        guard let failure = result.failure else {
            if !isWritten { throw ExitCode(1) }
            return
        }
        if failure.reason != .exitNonzero {
            Console.say("mayfly: \(failure.reason.rawValue): \(Console.harmless(failure.message))")
        }
        switch ending {
        case .exited(let code): throw ExitCode(code == 0 ? 1 : code)
        case .signalled(let signal): throw ExitCode(128 + signal)
        case .timedOut: throw ExitCode(124)
        case .outOfMemory: throw ExitCode(137)
        case .outputLimit: throw ExitCode(125)
        }
    }

    // MARK: The payload

    /// The payload as a backend would write it, and the timeout that would stand beside it.
    private func request(_ configuration: Configuration) throws -> (String, Duration?) {
        var limit: Duration?
        if let timeout {
            guard let duration = Duration(setting: timeout) else {
                throw ConfigurationError("--timeout \(timeout): write 500ms, 30s, 5min or 2h")
            }
            limit = duration
        }
        if let payload { return (try Files.text(payload, atMost: .mebibytes(128)), limit) }
        var members: [JSON.Member] = []
        let (word, text) = try program()
        members.append(.init(name: "language", value: .string(word)))
        members.append(.init(name: "source", value: .string(text)))
        if !arguments.isEmpty {
            members.append(.init(name: "args", value: .array(arguments.map { .string($0) })))
        }
        if !outputs.isEmpty {
            members.append(.init(name: "outputs", value: .array(outputs.map { .string($0) })))
        }
        if let interpreter {
            members.append(.init(name: "interpreter", value: .string(interpreter.rawValue)))
        }
        if let standardInput {
            let text = try Files.text(standardInput, atMost: CodePayload.Bounds.input)
            members.append(.init(name: "stdin", value: .string(text)))
        }
        if !files.isEmpty {
            members.append(.init(name: "files", value: .array(try files.map(Self.inputFile))))
        }
        return (JSON.object(members).text, limit)
    }

    private func program() throws -> (language: String, source: String) {
        var words = what
        var language = language
        if language == nil, let first = words.first {
            if CodePayload.Language(rawValue: first) != nil || words.count == 2 {
                language = words.removeFirst()
            } else {
                language = CodePayload.Language(fileName: first)?.rawValue
            }
        }
        guard let language else {
            throw ConfigurationError("which language? For example: mayfly run python script.py")
        }
        if let source, source != "-" { return (language, source) }
        guard let path = words.first ?? source else {
            throw ConfigurationError("what to run? Name a script, --source TEXT, or - for stdin")
        }
        do throws(FileError) {
            return (language, try Files.text(path, atMost: CodePayload.Bounds.source))
        } catch {
            guard error.isTooLarge else { throw error }
            throw ConfigurationError("invalid_payload: $.source: \(error)")
        }
    }

    /// `path` or `path=name`; without a name the last part of the path.
    private static func inputFile(_ text: String) throws -> JSON {
        let parts = text.split(separator: "=", maxSplits: 1).map(String.init)
        guard let path = parts.first else { throw ConfigurationError("--file needs a path") }
        let name = parts.count == 2 ? parts[1] : String(path.split(separator: "/").last ?? "")
        let bytes = try Files.read(path, atMost: CodePayload.Bounds.input)
        return .object(["name": .string(name), "base64": .string(Base64.encode(bytes))])
    }
}

extension Failure {
    var json: JSON { .object(["reason": .string(reason.rawValue), "message": .string(message)]) }
}

/// Where there is no database, there are no blobs.
struct NoBlobs: BlobSource {
    func part(of digest: String, at offset: Int) async throws -> BlobPart? {
        throw FileError("without a database there are no blobs; give text or base64")
    }
}

extension CodePayload.Interpreter: ExpressibleByArgument {}
