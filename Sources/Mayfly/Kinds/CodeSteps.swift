// One program of a `code` payload: alone, or a step of several in one machine that share the job's
// directory. Called by CodePayload.

import Machines
import StrictJSON

extension CodePayload {
    /// A program with what belongs to it and to no other.
    struct Step: Sendable {
        var language: Language
        var source: String
        var arguments: [String] = []
        var standardInput = ""
        var environment: [(name: String, value: String)] = []
        var interpreter = Interpreter.warm
        var value = Value.last
        /// Its failure does not end the job.
        var allowsFailure = false
        /// Of `args` and `env`, with what the protocol puts between them.
        private(set) var commandLineByteCount = 0

        static let keys = ["language", "source", "args", "stdin", "env", "interpreter", "value"]

        /// `fields`: the members of `root`, which are known.
        init(_ root: PayloadField, _ fields: [String: PayloadField]) throws(InvalidPayload) {
            let known = PayloadField.oneOf(Language.self)
            guard let languageField = fields["language"] else {
                throw root.refuse("\"language\" is missing; use \(known)")
            }
            let word = try languageField.text(atMost: .kibibytes(1))
            guard let language = Language(rawValue: word) else {
                throw languageField.refuse(
                    "\"\(JSON.shortened(word))\" is not a supported language; use \(known)")
            }
            guard let sourceField = fields["source"] else {
                throw root.refuse("\"source\" is missing; it holds the program's text")
            }
            self.language = language
            source = try sourceField.text(atMost: Bounds.source)
            if let field = fields["stdin"] { standardInput = try field.text(atMost: Bounds.input) }
            try readCommandLine(args: fields["args"], env: fields["env"])
            if let field = fields["interpreter"] { interpreter = try field.word() }
            if let field = fields["value"] { value = try field.word() }
            if let field = fields["continue"] { allowsFailure = try field.flag() }
        }

        var reportsValues: Bool { value == .last && language.hasValues }

        var guestStep: GuestJob.Step {
            var step = GuestJob.Step(program: language.program(source: source))
            step.arguments = arguments
            step.standardInput = Array(standardInput.utf8)
            step.environment = environment
            step.usesParkedInterpreter = interpreter == .warm
            step.reportsValues = reportsValues
            step.allowsFailure = allowsFailure
            return step
        }

        private mutating func readCommandLine(
            args: PayloadField?, env: PayloadField?
        ) throws(InvalidPayload) {
            var total = 0
            for field in try args?.list(atMost: Bounds.arguments) ?? [] {
                let text = try field.text(atMost: Bounds.commandLine)
                total += text.utf8.count + 4
                arguments.append(text)
            }
            for (name, field) in try env?.dictionary(atMost: Bounds.variables) ?? [] {
                guard Self.isVariableName(name) else {
                    throw field.refuse("is not a valid variable name; use letters, digits and _")
                }
                let text = try field.text(atMost: Bounds.commandLine)
                total += name.utf8.count + text.utf8.count + 8
                environment.append((name, text))
            }
            commandLineByteCount = total
            guard total <= Bounds.commandLine.bytes else {
                let place = (env ?? args)?.path ?? "$"
                throw InvalidPayload(
                    path: place,
                    sentence: "args and env are \(total) bytes together; at most "
                        + "\(Bounds.commandLine) are allowed, put larger data into files")
            }
        }

        static func isVariableName(_ name: String) -> Bool {
            guard let first = name.utf8.first, name.utf8.count <= 128,
                !(48...57).contains(first)
            else { return false }
            return name.utf8.allSatisfy {
                (48...57).contains($0) || (65...90).contains($0) || (97...122).contains($0)
                    || $0 == 95
            }
        }
    }

    /// The programs of a payload: `setup` first, then the payload's own, or its `steps`.
    static func readSteps(
        _ root: PayloadField, _ fields: [String: PayloadField]
    ) throws(InvalidPayload) -> [Step] {
        var steps: [Step] = []
        if let setup = fields["setup"] { steps.append(try Step(setup, setup.members(Step.keys))) }
        guard let list = fields["steps"] else { return steps + [try Step(root, fields)] }
        if let field = Step.keys.lazy.compactMap({ fields[$0] }).first {
            throw field.refuse("belongs into one of the steps")
        }
        let entries = try list.list(atMost: Bounds.steps)
        guard !entries.isEmpty else { throw list.refuse("has no step") }
        for entry in entries {
            steps.append(try Step(entry, entry.members(Step.keys + ["continue"])))
        }
        return steps
    }
}
