// What a program said in its events: one JSON object a line, each with one member. Read strictly
// and bounded: it is a guest's word, and becomes part of a row. Called by the kinds' results.

import Machines
import StrictJSON

/// The events of one program, sorted by what they are.
struct JobEvents: Sendable {
    /// The last one stands.
    var value: JSON?
    var exception: JSON?
    var displays: [JSON] = []
    /// Results of single pages, in the order in which they came.
    var pages: [JSON] = []
    var warnings: [Warning] = []
    /// How far it had come: `done` of `total`.
    var progress: JSON?
    /// The last words of a tool of ours that could not do its work.
    var failure: (reason: String, message: String)?
    /// Lines that are no events, one that a cut went through included.
    var unreadableCount = 0

    struct Warning: Sendable, Equatable {
        /// Lower-case words with underscores.
        var code: String
        var message: String
        var page: Int?
    }

    /// Bounds beside those of the stream itself.
    private enum Bounds {
        static let lineByteCount = 2 << 20
        static let entryCount = 10_000
        static let messageLength = 1000
    }

    init(_ output: CapturedOutput) {
        for line in output.bytes.split(separator: 0x0A) where !read(line) { unreadableCount += 1 }
    }

    /// False when the line is no event.
    private mutating func read(_ line: ArraySlice<UInt8>) -> Bool {
        guard line.count <= Bounds.lineByteCount,
            let parsed = try? JSON(parsing: Array(line)), case .object(let members) = parsed,
            members.count == 1, let member = members.first,
            let value = member.value.storable
        else { return false }
        switch member.name {
        case "value": self.value = value
        case "exception": exception = value
        case "progress": progress = value
        case "display": return Self.add(value, to: &displays)
        case "page": return Self.add(value, to: &pages)
        case "warning":
            guard let warning = Warning(value), warnings.count < Bounds.entryCount else {
                return false
            }
            warnings.append(warning)
        case "failure":
            guard let reason = value["reason"]?.string, let message = value["message"]?.string
            else {
                return false
            }
            failure = (reason, String(message.prefix(Bounds.messageLength)))
        default: return false
        }
        return true
    }
    private static func add(_ value: JSON, to list: inout [JSON]) -> Bool {
        guard list.count < Bounds.entryCount else { return false }
        list.append(value)
        return true
    }
}

extension JobEvents.Warning {
    fileprivate init?(_ value: JSON) {
        guard let code = value["code"]?.string, (1...40).contains(code.utf8.count),
            code.utf8.allSatisfy({ (97...122).contains($0) || $0 == 95 })
        else { return nil }
        self.code = code
        message = String((value["message"]?.string ?? "").prefix(1000))
        page = value["page"]?.int
    }

    var json: JSON {
        var members: [JSON.Member] = [
            .init(name: "code", value: .string(code)),
            .init(name: "message", value: .string(message)),
        ]
        if let page { members.append(.init(name: "page", value: .number(page))) }
        return .object(members)
    }
}

extension JSON {
    /// As PostgreSQL's jsonb can hold it, zero bytes replaced; `nil` for numbers beyond every use,
    /// which `numeric` would refuse and with it the whole result.
    var storable: JSON? {
        switch self {
        case .null, .bool: return self
        case .number(let digits):
            guard digits.utf8.count <= 400 else { return nil }
            let exponent = digits.split(whereSeparator: { $0 == "e" || $0 == "E" }).dropFirst()
                .first
            if let exponent, (Int(exponent).map { abs($0) > 400 } ?? true) { return nil }
            return self
        case .string(let text):
            return text.utf8.contains(0) ? .string(text.replacing("\0", with: "\u{FFFD}")) : self
        case .array(let values):
            var result: [JSON] = []
            for value in values {
                guard let value = value.storable else { return nil }
                result.append(value)
            }
            return .array(result)
        case .object(let members):
            var result: [JSON.Member] = []
            for member in members {
                guard let value = member.value.storable else { return nil }
                let name = member.name.replacing("\0", with: "\u{FFFD}")
                result.append(.init(name: name, value: value))
            }
            return .object(result)
        }
    }
}
