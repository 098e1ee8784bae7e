// What the kinds of jobs have in common: a payload becomes a recipe for one machine, or a refusal
// that names the place in the payload; what the machine leaves becomes an outcome. Called by
// Attempt; touches neither the queue nor a machine.

import Jobs
import Machines
import StrictJSON

/// One kind of job, by the word in `mayfly.job.kind`.
protocol Kind: Sendable {
    var name: String { get }
    /// The golden image that its machines are restored from.
    var image: String { get }
    /// Checks everything about a payload that can be checked without a machine.
    ///
    /// - Throws: ``AttemptError/invalidPayload(_:)`` for the job's own fault,
    ///   ``AttemptError/blobUnavailable(_:)`` for ours.
    func recipe(
        payload: String, timeout: Duration?, blobs: any BlobSource
    ) async throws(AttemptError) -> Recipe
    /// What is made of a machine's report when it ran to the job's own end, well or not.
    ///
    /// - Parameter queueDelay: how long the job waited in the queue; `nil` where there was none.
    func result(of run: MachineRun, recipe: Recipe, queueDelay: Duration?) -> any JobResult
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
    /// What is stored of a job whose machine ran to the job's own end, well or not.
    func outcome(of run: MachineRun, recipe: Recipe, job: Job) -> Outcome {
        Outcome(result(of: run, recipe: recipe, queueDelay: job.queueDelay))
    }
    func checkTimeout(
        _ timeout: Duration?, atMost limit: Duration, setting: String
    ) throws(InvalidPayload) {
        guard let timeout, timeout <= .zero || timeout > limit else { return }
        throw InvalidPayload(
            path: "timeout",
            sentence: "is \(timeout.settingText); it may be up to \(limit.settingText) "
                + "(\(setting) of the worker)")
    }
    func recipe(for job: Job, blobs: any BlobSource) async throws(AttemptError) -> Recipe {
        try await recipe(payload: job.payload, timeout: job.timeout, blobs: blobs)
    }
}

/// What one machine is to do.
struct Recipe: Sendable {
    /// The golden image to restore.
    var image: String
    var job: GuestJob
    /// What the program is called in messages: `python`.
    var programName: String
}

/// A place in a payload and what is wrong there: `$.files[0].name: …`.
struct InvalidPayload: Error, Sendable, CustomStringConvertible {
    var path: String
    var sentence: String
    var reason = Reason.invalidPayload
    var description: String { "\(path): \(sentence)" }
}

/// The kinds of jobs.
struct Kinds: Sendable {
    /// Those that there are, by the word in `mayfly.job.kind`.
    static let names = ["code", "document"]

    let all: [any Kind]
    init(_ configuration: Configuration) {
        all = [CodeKind(configuration), DocumentKind(configuration)]
    }
    private init(_ all: [any Kind]) { self.all = all }
    func filter(_ isWanted: (any Kind) throws -> Bool) rethrows -> Kinds {
        Kinds(try all.filter(isWanted))
    }
    func named(_ name: String) throws(AttemptError) -> any Kind {
        guard let kind = all.first(where: { $0.name == name }) else { throw .unknownKind(name) }
        return kind
    }
    var names: [String] { all.map(\.name) }
    /// Each image once.
    var images: [String] { Set(all.map(\.image)).sorted() }
}

// MARK: Reading payloads

/// A value with its path, read strictly; every kind uses it.
struct PayloadField: Sendable {
    let path: String
    let value: JSON

    func refuse(_ sentence: String) -> InvalidPayload {
        InvalidPayload(path: path, sentence: sentence)
    }
    private func expected(_ what: String) -> InvalidPayload {
        refuse("expected \(what), found \(value.kind)")
    }

    /// The members, every one of which must be in `known`.
    func members(_ known: [String]) throws(InvalidPayload) -> [String: PayloadField] {
        guard case .object(let members) = value else { throw expected("an object") }
        var fields: [String: PayloadField] = [:]
        for member in members {
            guard known.contains(where: { $0.utf8.elementsEqual(member.name.utf8) }) else {
                let name = JSON.shortened(member.name)
                throw refuse(
                    "unknown key \"\(name)\"; the keys are \(known.joined(separator: ", "))")
            }
            fields[member.name] = PayloadField(path: "\(path).\(member.name)", value: member.value)
        }
        return fields
    }

    /// Any text without zero bytes, which neither a program nor PostgreSQL can take.
    func text(atMost limit: ByteCount) throws(InvalidPayload) -> String {
        guard case .string(let text) = value else { throw expected("a string") }
        guard text.utf8.count <= limit.bytes else {
            throw refuse("is \(text.utf8.count) bytes long; at most \(limit) are allowed")
        }
        guard !text.utf8.contains(0) else { throw refuse("contains a zero byte") }
        return text
    }

    func list(atMost limit: Int) throws(InvalidPayload) -> [PayloadField] {
        guard case .array(let values) = value else { throw expected("an array") }
        guard values.count <= limit else {
            throw refuse("has \(values.count) entries; at most \(limit) are allowed")
        }
        return values.enumerated().map { PayloadField(path: "\(path)[\($0)]", value: $1) }
    }

    /// Members with free names.
    func dictionary(atMost limit: Int) throws(InvalidPayload) -> [(String, PayloadField)] {
        guard case .object(let members) = value else { throw expected("an object") }
        guard members.count <= limit else {
            throw refuse("has \(members.count) entries; at most \(limit) are allowed")
        }
        return members.map {
            ($0.name, PayloadField(path: "\(path).\(JSON.shortened($0.name))", value: $0.value))
        }
    }
}
