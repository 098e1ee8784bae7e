// Jobs of the kind `code`: a program in Python, JavaScript or bash with its input and the patterns
// of its output files. docs/payloads.md has the table of its fields; everything else is refused.

import Jobs
import Machines
import StrictJSON
import Wire

/// The kind `code`.
struct CodeKind: Kind {
    static let name = "code"
    let settings: KindSettings

    init(_ configuration: Configuration) {
        settings = KindSettings(
            configuration, image: .codeImage, timeout: .codeTimeout, timeoutMax: .codeTimeoutMax,
            inputFile: .inputFile, inputTotal: .inputTotal)
    }

    static func check(payload: String) throws(InvalidPayload) { _ = try CodePayload(payload) }

    func recipe(
        payload: String, timeout: Duration?, blobs: any BlobSource, secrets: SecretOpener
    ) async throws(AttemptError) -> Recipe {
        let (code, limit): (CodePayload, Duration)
        do throws(InvalidPayload) {
            code = try CodePayload(payload)
            limit = try settings.timeout(timeout)
        } catch { throw .invalidPayload(error) }
        // Each reads a key and multiplies points of a curve.
        let opened = try await besideTheLoop(unless: code.secrets.isEmpty) {
            () async throws(AttemptError) in try code.openedSecrets(secrets)
        }
        let first = code.steps[0]
        var job = GuestJob(
            program: first.language.program(source: first.source), arguments: first.arguments,
            standardInput: Array(first.standardInput.utf8),
            environment: first.environment + opened.variables,
            files: try await code.resolvedFiles(blobs, settings.inputs),
            outputs: code.outputs ?? [],
            timeout: limit, limits: settings.outputs,
            usesParkedInterpreter: first.interpreter == .warm)
        job.collectsChanges = code.outputs == nil
        job.reportsValues = first.reportsValues
        job.allowsFailure = first.allowsFailure
        job.nextSteps = code.steps.dropFirst().map { step in
            var step = step.guestStep
            step.environment += opened.variables
            return step
        }
        return Recipe(
            image: image, job: job,
            programName: code.steps.map(\.language.rawValue).joined(separator: ", "),
            mask: opened.mask, network: code.network)
    }

    func result(
        of run: MachineRun, recipe: Recipe, queueDelay: Duration?
    ) -> any JobResult {
        CodeResult(
            run: run, programName: recipe.programName, timeout: recipe.job.timeout,
            queueDelay: queueDelay, network: recipe.didOnNetwork)
    }
}

/// A payload of the kind `code`, checked.
struct CodePayload: Sendable {
    enum Language: String, CaseIterable, Sendable {
        case python, node, typescript, bash

        func program(source: String) -> GuestJob.Program {
            switch self {
            case .python: .python(source: source)
            case .node: .node(source: source)
            case .typescript: .typescript(source: source)
            case .bash: .bash(source: source)
            }
        }
        /// The file that the source becomes in the job's directory.
        var sourceName: String {
            switch self {
            case .python: "main.py"
            case .node: "main.js"
            case .typescript: "main.ts"
            case .bash: "main.sh"
            }
        }
        /// Whether its interpreter can say what the last expression was.
        var hasValues: Bool { self != .bash }
        /// By a file name's ending.
        init?(fileName: String) {
            switch fileName.split(separator: ".").last {
            case "py": self = .python
            case "js", "mjs", "cjs": self = .node
            case "ts", "mts", "cts": self = .typescript
            case "sh", "bash": self = .bash
            default: return nil
            }
        }
    }
    /// Where Python and Node start: in the process that waits in the image, which has imported much
    /// but shares its hash seed and address layout with every other job's, or in one of their own.
    enum Interpreter: String, CaseIterable, Sendable {
        case warm, fresh
    }
    /// What comes back of the last expression; with it come displays and the exception.
    enum Value: String, CaseIterable, Sendable {
        case last, none
    }
    struct File: Sendable {
        enum Content: Sendable {
            case bytes([UInt8])
            /// SHA-256 in lower-case hex.
            case blob(String)
        }
        var path: String
        var name: String
        var content: Content
    }

    /// Bounds on one payload; more does not fit the machine or one frame of the protocol.
    enum Bounds {
        static let source = ByteCount.mebibytes(8)  // a program, not data: data comes as files
        static let input = ByteCount.mebibytes(64)  // source, stdin and files without blobs
        static let files = 256
        static let steps = 16
        static let arguments = 256
        static let variables = 128
        static let secrets = 32
        static let commandLine = ByteCount.kibibytes(48)  // one 64 KiB frame carries it all
        static let outputs = 32
        static let outputBytes = ByteCount.kibibytes(16)  // one frame, too
    }

    /// In the order in which they run; at least one.
    var steps: [Step]
    var files: [File] = []
    /// `nil`: every file that is new or changed.
    var outputs: [String]?
    /// Variables of every program whose values stand sealed in the payload.
    var secrets: [SecretField] = []
    /// Where its programs may connect to.
    var network = NetworkRequest()

    static let keys = Step.keys + ["files", "outputs", "network", "setup", "steps", "secrets"]

    init(_ payload: String) throws(InvalidPayload) {
        try self.init(try PayloadField(parsing: payload))
    }

    init(_ root: PayloadField) throws(InvalidPayload) {
        let fields = try root.members(Self.keys)
        steps = try Self.readSteps(root, fields)
        if let field = fields["secrets"] { try readSecrets(field) }
        if let field = fields["files"] { try readFiles(field) }
        if let field = fields["outputs"] { try readOutputs(field) }
        if let field = fields["network"] { network = try NetworkRequest(field) }
        var total = inlineByteCount
        for case .bytes(let bytes) in files.map(\.content) { total += bytes.count }
        guard total <= Bounds.input.bytes else {
            throw root.refuse(
                "source, stdin and files are \(total) bytes; at most \(Bounds.input) are allowed")
        }
    }

    /// Sources and standard inputs together.
    var inlineByteCount: Int {
        steps.reduce(0) { $0 + $1.source.utf8.count + $1.standardInput.utf8.count }
    }

    private mutating func readOutputs(_ field: PayloadField) throws(InvalidPayload) {
        var total = 0
        var outputs: [String] = []
        for entry in try field.list(atMost: Bounds.outputs) {
            let pattern = try entry.text(atMost: Bounds.outputBytes)
            do throws(WireError) { _ = try GuestGlob(pattern) } catch {
                throw entry.refuse(
                    "\"\(JSON.shortened(pattern))\" is not a valid pattern for files in the job's "
                        + "directory: \(error.reason)")
            }
            total += pattern.utf8.count
            outputs.append(pattern)
        }
        guard total <= Bounds.outputBytes.bytes else {
            throw field.refuse("the patterns are longer than \(Bounds.outputBytes) together")
        }
        self.outputs = outputs
    }
}

extension WireError {
    /// Why a name or pattern is refused, as part of a sentence.
    var reason: String {
        switch self {
        case .invalidName(let reason), .invalidPattern(let reason): reason
        default: description
        }
    }
}
