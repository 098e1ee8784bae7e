// A payload, read strictly: every kind goes through it member by member, and a refusal names the
// place.

import Jobs
import Machines
import Secrets
import StrictJSON

/// A place in a payload and what is wrong there: `$.files[0].name: …`.
struct InvalidPayload: Error, Sendable, CustomStringConvertible {
    var path: String
    var sentence: String
    var reason = Reason.invalidPayload
    var description: String { "\(path): \(sentence)" }
}

/// A value with its path, read strictly; every kind uses it.
struct PayloadField: Sendable {
    let path: String
    let value: JSON

    init(path: String, value: JSON) {
        self.path = path
        self.value = value
    }
    /// The root of a payload.
    init(parsing payload: String) throws(InvalidPayload) {
        path = "$"
        do throws(JSONError) { value = try JSON(parsing: payload) } catch {
            throw InvalidPayload(path: path, sentence: "is not valid JSON: \(error)")
        }
    }

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

    /// A secret, sealed; what is refused is never repeated.
    func sealed() throws(InvalidPayload) -> SealedSecret {
        guard case .string(let text) = value else { throw expected("a sealed secret") }
        do throws(SecretError) { return try SealedSecret(text) } catch { throw refuse("\(error)") }
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

    func flag() throws(InvalidPayload) -> Bool {
        guard case .bool(let value) = value else {
            throw expected("a boolean")
        }
        return value
    }
    func integer(in range: ClosedRange<Int>) throws(InvalidPayload) -> Int {
        guard let number = value.int, range.contains(number) else {
            throw refuse(
                "expected a whole number from \(range.lowerBound) to \(range.upperBound)")
        }
        return number
    }
    /// `a, b or c`.
    static func oneOf(_ words: [String]) -> String {
        guard words.count > 1, let last = words.last else { return words.first ?? "" }
        return "\(words.dropLast().joined(separator: ", ")) or \(last)"
    }
    static func oneOf<Word: RawRepresentable & CaseIterable>(_: Word.Type) -> String
    where Word.RawValue == String { oneOf(Word.allCases.map(\.rawValue)) }

    func word(of words: [String]) throws(InvalidPayload) -> String {
        let word = try text(atMost: .kibibytes(1))
        guard words.contains(word) else {
            throw refuse(
                "\"\(JSON.shortened(word))\" is not known; use \(Self.oneOf(words))")
        }
        return word
    }
    func word<Word: RawRepresentable & CaseIterable>() throws(InvalidPayload) -> Word
    where Word.RawValue == String {
        let words = Word.allCases.map(\.rawValue)
        guard let found = Word(rawValue: try word(of: words)) else { throw refuse("is not known") }
        return found
    }
}
