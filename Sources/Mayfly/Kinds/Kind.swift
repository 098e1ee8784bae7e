// What the kinds of jobs have in common: a payload becomes a recipe for one machine, or a refusal
// that names the place in the payload; what the machine leaves becomes an outcome. Called by
// Attempt; touches neither the queue nor a machine.

import Jobs
import Machines
import Secrets
import StrictJSON

/// One kind of job, by the word in `mayfly.job.kind`.
protocol Kind: Sendable {
    static var name: String { get }
    var settings: KindSettings { get }
    init(_ configuration: Configuration)
    /// Whether a payload says what to do, as far as that can be seen from it alone.
    static func check(payload: String) throws(InvalidPayload)
    /// Checks everything about a payload that can be checked without a machine.
    ///
    /// - Throws: ``AttemptError/invalidPayload(_:)`` for the job's own fault,
    ///   ``AttemptError/blobUnavailable(_:)`` and ``AttemptError/secretKeyMissing(_:)`` for ours.
    func recipe(
        payload: String, timeout: Duration?, blobs: any BlobSource, secrets: SecretOpener
    ) async throws(AttemptError) -> Recipe
    /// What is made of a machine's report when it ran to the job's own end, well or not.
    ///
    /// - Parameter queueDelay: how long the job waited in the queue; `nil` where there was none.
    func result(of run: MachineRun, recipe: Recipe, queueDelay: Duration?) -> any JobResult
}

/// What an operator sets for a kind.
struct KindSettings: Sendable {
    let image: String
    let inputs: InputLimits
    var outputs: OutputLimits
    let secretKeys: SecretKeys
    private let standardTimeout: Duration
    private let timeoutMax: Duration
    private let timeoutMaxKey: String

    init(
        _ configuration: Configuration, image: Setting, timeout: Setting, timeoutMax: Setting,
        inputFile: Setting, inputTotal: Setting
    ) {
        self.image = configuration.text(image)
        inputs = InputLimits(configuration, file: inputFile, total: inputTotal)
        outputs = configuration.outputLimits
        secretKeys = configuration.secretKeys
        standardTimeout = configuration.duration(timeout)
        self.timeoutMax = configuration.duration(timeoutMax)
        timeoutMaxKey = timeoutMax.key
    }

    /// The wall clock of one attempt at a job that asks for `timeout`.
    func timeout(_ timeout: Duration?) throws(InvalidPayload) -> Duration {
        guard let timeout else { return standardTimeout }
        guard timeout > .zero, timeout <= timeoutMax else {
            throw InvalidPayload(
                path: "timeout",
                sentence: "is \(timeout.settingText); it may be up to \(timeoutMax.settingText) "
                    + "(\(timeoutMaxKey) of the worker)")
        }
        return timeout
    }
}

/// What a job leaves, in the words of its kind.
protocol JobResult: Sendable {
    /// `nil` when it did what it should.
    var failure: Failure? { get }
    /// `mayfly.job.result`, without the files' bytes.
    var json: JSON { get }
    /// What is not as it should be although it did its part.
    var warnings: [(code: String, message: String)] { get }
    var files: [OutputFile] { get }
    /// The end of what it wrote to stderr, for `mayfly.attempt`.
    var logTail: String? { get }
    var timings: JSON { get }
    var usage: JSON { get }
    var identity: MachineIdentity { get }
}

extension Outcome {
    /// What a job printed and left is stored whether it succeeded or not.
    init(_ result: any JobResult) {
        var report = Report(
            result: result.json.text,
            blobs: result.files.map(Blob.init))
        report.identify(result.identity)
        report.timings = result.timings.text
        report.usage = result.usage.text
        report.logTail = result.logTail
        self = result.failure.map { .failed($0, report) } ?? .succeeded(report)
    }
}

extension Kind {
    var name: String { Self.name }
    /// The golden image that its machines are restored from.
    var image: String { settings.image }

    /// What is stored of a job whose machine ran to the job's own end, well or not.
    func outcome(of run: MachineRun, recipe: Recipe, job: Job) -> Outcome {
        Outcome(maskedResult(of: run, recipe: recipe, queueDelay: job.queueDelay))
    }
    func recipe(for job: Job, blobs: any BlobSource) async throws(AttemptError) -> Recipe {
        try await recipe(
            payload: job.payload, timeout: job.timeout, blobs: blobs,
            secrets: SecretOpener(keys: settings.secretKeys, tenant: job.tenant))
    }
}

/// What one machine is to do.
struct Recipe: Sendable {
    /// The golden image to restore.
    var image: String
    var job: GuestJob
    /// What the program is called in messages: `python`.
    var programName: String
    /// The secrets that it was given, which are stored nowhere.
    var mask = SecretMask()
    /// Where it wants to connect to; `nil`: jobs of its kind connect to nothing.
    var network: NetworkRequest?
    /// What it did there, when it has ended.
    var didOnNetwork: NetworkSummary?
}

/// A recipe holds what a payload kept secret: whatever prints it prints nothing of that.
extension Recipe: CustomStringConvertible, CustomReflectable {
    var description: String { "a job of \(programName) for a machine of \(image)" }
    var customMirror: Mirror { Mirror(self, children: []) }
}

/// The kinds of jobs.
struct Kinds: Sendable {
    private static let types: [any Kind.Type] = [
        CodeKind.self, DocumentKind.self, BrowseKind.self,
    ]
    /// Those that there are, by the word in `mayfly.job.kind`.
    static let names = types.map { $0.name }

    let all: [any Kind]
    init(_ configuration: Configuration) { all = Self.types.map { $0.init(configuration) } }
    private init(_ all: [any Kind]) { self.all = all }
    func filter(_ isWanted: (any Kind) throws -> Bool) rethrows -> Kinds {
        Kinds(try all.filter(isWanted))
    }
    /// Whether a payload is one of that kind's.
    ///
    /// Of a kind that is not known here nothing can be said.
    static func check(_ payload: String, of kind: String) throws(InvalidPayload) {
        try types.first { $0.name == kind }?.check(payload: payload)
    }
    func named(_ name: String) throws(AttemptError) -> any Kind {
        guard let kind = all.first(where: { $0.name == name }) else { throw .unknownKind(name) }
        return kind
    }
    var names: [String] { all.map(\.name) }
    /// Each image once.
    var images: [String] { Set(all.map(\.image)).sorted() }
}
