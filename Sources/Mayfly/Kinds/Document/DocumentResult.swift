// What a `document` job leaves in `mayfly.job.result` and how its end is called. Pure: a machine's
// report goes in, JSON and words come out. Everything in a report may have been chosen by a guest.

import Jobs
import Machines
import StrictJSON

/// A document that the tools are done with, well or not.
struct DocumentResult: ToolResult {
    let events: JobEvents
    let operation: String
    let run: MachineRun
    let common: CodeResult

    init(run: MachineRun, operation: String, timeout: Duration, queueDelay: Duration?) {
        self.run = run
        self.operation = operation
        events = JobEvents(run.report.events)
        common = CodeResult(
            run: run, programName: operation, timeout: timeout, queueDelay: queueDelay)
    }

    /// Why the tools may refuse a document: the reasons that they may give, a closed list.
    static let reasons: Set<Reason> = [
        .unsupportedFormat, .formatMismatch, .documentDamaged, .documentEncrypted, .wrongPassword,
        .pageRange, .expansionLimit, .pixelLimit, .converterCrashed, .packageUnavailable,
        .outOfMemory, .timeout, .outputLimit, .invalidPayload,
    ]
    /// What they may warn of, a closed list, too; anything else is not from them.
    static let warningCodes: Set<String> = [
        "macros_present", "external_references", "embedded_files", "javascript_present",
        "launch_action", "xfa_present", "dtd_present", "active_content_removed", "hidden_text",
        "fonts_substituted", "no_text_layer", "low_confidence", "repaired", "type_mismatch",
        "pages_skipped", "formula_values_missing", "columns_uncertain", "screenshot_clipped",
    ]

    /// `nil` when the tools did what they should.
    var failure: Failure? {
        switch run.report.ending {
        case .exited(code: 0):
            if let (word, message) = events.failure {
                guard let reason = Reason(rawValue: word), Self.reasons.contains(reason) else {
                    return Failure(.converterCrashed, "\(operation) failed: \(message)")
                }
                return Failure(reason, message)
            }
            guard events.value == nil else { return nil }
            return Failure(
                .converterCrashed, "\(operation) ended without a word about the document")
        case .exited, .signalled:
            // The tools end with 0 whatever a document is: it was too much for one of them.
            let end = common.failure?.message ?? "the tools ended"
            return Failure(.converterCrashed, "the document ended what should read it: \(end)")
        case .timedOut, .outOfMemory, .outputLimit: return common.failure
        }
    }

    // MARK: JSON

    /// `result`, without the files' bytes; those are blobs.
    var json: JSON {
        var members: [JSON.Member] = [
            .init(name: "value", value: value),
            .init(name: "warnings", value: .array(allWarnings.map(\.json))),
            .init(name: "files", value: .array(files.map(CodeResult.file))),
            .init(name: "truncated", value: truncated),
        ]
        if let progress = events.progress {
            members.append(.init(name: "progress", value: progress))
        }
        members += [
            .init(name: "usage", value: common.usage),
            .init(name: "timings", value: common.timings),
            .init(name: "machine", value: common.machine),
        ]
        return .object(members)
    }

    /// What the tools said last; of a job that did not come so far, the pages that it had.
    private var value: JSON {
        if let value = events.value { return value }
        guard !events.pages.isEmpty else { return .null }
        let done = events.pages.compactMap { $0["page"]?.int }
        return .object([
            "pages_done": .array(done.map { .number($0) }), "per_page": .array(events.pages),
        ])
    }
}
