// What the kinds of jobs have in common: a payload comes in, a recipe for one machine comes out, or
// a refusal that names the place in the payload. Called by Attempt; touches neither queue nor VM.

import Machines

/// One kind of job, by the word in `mayfly.job.kind`.
protocol Kind: Sendable {
    var name: String { get }
    /// Checks everything about a payload that can be checked without a machine.
    ///
    /// - Throws: ``RecipeError/invalid(_:)`` for the job's own fault,
    ///   ``RecipeError/unavailable(_:)`` for ours.
    func recipe(
        payload: String, timeout: Duration?, blobs: any BlobSource
    ) async throws(RecipeError) -> Recipe
}

/// What one machine is to do.
struct Recipe: Sendable {
    /// The golden image to restore.
    var image: String
    var job: GuestJob
    /// What the program is called in messages: `python`.
    var programName: String
}

/// Why there is no recipe.
enum RecipeError: Error, Sendable {
    case invalid(InvalidPayload)
    /// The database did not give a blob; the job is not to blame.
    case unavailable(String)
}

/// A place in a payload and what is wrong there: `$.files[0].name: …`.
struct InvalidPayload: Error, Sendable, CustomStringConvertible {
    var path: String
    var sentence: String
    /// In the words of `error.reason`.
    var reason = "invalid_payload"
    var description: String { "\(path): \(sentence)" }
}

/// Where content-addressed files come from.
protocol BlobSource: Sendable {
    /// The bytes, or `nil` when there is no such blob.
    func bytes(of digest: String) async throws -> [UInt8]?
}

/// The kinds that this worker can do.
struct Kinds: Sendable {
    let all: [any Kind]
    init(_ configuration: Configuration) { all = [CodeKind(configuration)] }
    func named(_ name: String) -> (any Kind)? { all.first { $0.name == name } }
    var names: [String] { all.map(\.name) }
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
        guard case .string(let text) = value else { throw expected("a text") }
        guard text.utf8.count <= limit.bytes else {
            throw refuse("is \(text.utf8.count) bytes long; at most \(limit) are allowed")
        }
        guard !text.utf8.contains(0) else { throw refuse("contains a zero byte") }
        return text
    }

    func list(atMost limit: Int) throws(InvalidPayload) -> [PayloadField] {
        guard case .array(let values) = value else { throw expected("a list") }
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
