// Programs for the tests of `code` jobs, with what must come of each. Data, and how it is compared.

import Jobs
import Machines
import StrictJSON
import Testing

@testable import Mayfly

/// A payload and what its result must be; what is `nil` may be anything.
struct SampleProgram: Sendable, CustomTestStringConvertible {
    var title: String
    var payload: JSON
    var timeout = Duration.seconds(180)
    /// `error.reason`; `nil` where the job must succeed.
    var reason: String?
    var stdout: String?
    /// `result.value.json`.
    var json: JSON?
    /// What `result.value.text` begins with.
    var text: String?
    /// `result.value` must be null.
    var hasNoValue = false
    /// Of each display, in their order: its MIME types.
    var displays: [Set<String>]?
    /// Names in `result.files`, in any order.
    var files: Set<String>?
    var exception: (type: String, line: Int?)?
    /// Part of `error.message`.
    var message: String?
    /// Codes in `result.warnings`.
    var warnings: Set<String> = []
    /// What else must hold of the result.
    var also: @Sendable (JSON) -> Bool = { _ in true }

    var testDescription: String { title }

    /// In Python.
    init(
        _ title: String, _ source: String, more: JSON = [:],
        _ change: (inout SampleProgram) -> Void
    ) {
        self.init(title, "python", source, more: more, change)
    }
    init(
        _ title: String, _ language: String, _ source: String, more: JSON = [:],
        _ change: (inout SampleProgram) -> Void
    ) {
        self.init(
            title, payload: ["language": .string(language), "source": .string(source)], more: more,
            change)
    }
    init(
        _ title: String, payload: JSON, more: JSON = [:], _ change: (inout SampleProgram) -> Void
    ) {
        self.title = title
        guard case .object(var members) = payload, case .object(let others) = more else {
            preconditionFailure("a payload is an object")
        }
        members += others
        self.payload = .object(members)
        change(&self)
    }

    /// Holds a run against it.
    func check(_ run: MachineRun, _ result: CodeResult) {
        let json = result.json
        let context: Comment = "\(title): \(json.text.prefix(4000))"
        #expect(result.failure?.reason.rawValue == reason, context)
        if let stdout { #expect(json["stdout"] == .string(stdout), context) }
        if let expected = self.json { #expect(json["value"]?["json"] == expected, context) }
        if let text {
            #expect(json["value"]?["text"]?.string?.hasPrefix(text) == true, context)
        }
        if hasNoValue { #expect(json["value"] == .null, context) }
        if let displays {
            let found = json["displays"]?.elements.map { Set($0["data"]?.names ?? []) }
            #expect(found == displays, context)
        }
        let names = Set(run.report.files.map(\.name))
        if let files { #expect(names == files, context) }
        if let exception {
            #expect(json["exception"]?["type"] == .string(exception.type), context)
            #expect(json["exception"]?["line"]?.int == exception.line, context)
        }
        if let message { #expect(result.failure?.message.contains(message) == true, context) }
        #expect(Set(result.warnings.map(\.code)) == warnings, context)
        #expect(also(json), context)
        for file in run.report.files where file.name.hasSuffix(".png") {
            // The picture's own width and height, behind its signature.
            let bytes = file.bytes ?? []
            let isPicture = bytes.starts(with: [0x89, 0x50, 0x4E, 0x47]) && bytes.count > 24
            #expect(isPicture && bytes[16...19].contains { $0 > 0 }, context)
        }
        #expect((try? JSON(parsing: json.text)) == json, context)
    }
}

extension JSON {
    var names: [String] {
        if case .object(let members) = self { members.map(\.name) } else { [] }
    }
}
