// What a `browse` job leaves in `mayfly.job.result` and how its end is called. Pure: a machine's
// report goes in, JSON and words come out. Everything in a report may have been chosen by a guest.

import Jobs
import Machines
import StrictJSON

/// A page that the browser is done with, well or not.
struct BrowseResult: ToolResult {
    let events: JobEvents
    let run: MachineRun
    let common: CodeResult

    /// What it did on the network; `nil` where it had none.
    private let network: NetworkSummary?

    init(
        run: MachineRun, timeout: Duration, queueDelay: Duration?, network: NetworkSummary? = nil
    ) {
        self.network = network
        self.run = run
        events = JobEvents(run.report.events)
        common = CodeResult(
            run: run, programName: "browse", timeout: timeout, queueDelay: queueDelay)
    }

    /// Why a page may fail: a closed list.
    static let reasons: Set<Reason> = [
        .urlRefused, .networkDenied, .navigationFailed, .redirectLoop, .httpStatus, .actionFailed,
        .waitFailed, .pageUnresponsive, .pageCrashed, .dialogStorm, .pageStorm, .downloadLimit,
        .pixelLimit, .outOfMemory, .timeout, .invalidPayload,
    ]
    /// What may be warned of, a closed list, too.
    static let warningCodes: Set<String> = [
        "wait_lapsed", "requests_blocked", "dialogs_dismissed", "popups_closed",
        "downloads_cancelled", "screenshot_clipped", "snapshot_truncated", "certificate_error",
        "service_worker_blocked", "hidden_text", "no_article", "frames_skipped",
    ]

    /// `nil` when the page did what it should.
    var failure: Failure? {
        switch run.report.ending {
        case .exited(code: 0):
            if let (word, message) = events.failure {
                guard let reason = Reason(rawValue: word), Self.reasons.contains(reason) else {
                    return Failure(.pageCrashed, "the browser failed: \(message)")
                }
                return Failure(reason, message + advice(for: reason))
            }
            guard events.value == nil else { return nil }
            return Failure(.pageCrashed, "the browser ended without a word about the page")
        case .exited, .signalled:
            let end = common.failure?.message ?? "it ended"
            return Failure(.pageCrashed, "what drives the browser broke: \(end)")
        case .timedOut, .outOfMemory, .outputLimit: return common.failure
        }
    }

    /// Whose rule is missing: the page's own words name the job's list only.
    private func advice(for reason: Reason) -> String {
        reason == .networkDenied ? network?.advice ?? "" : ""
    }

    /// `result`, without the files' bytes; those are blobs.
    var json: JSON {
        var members: [JSON.Member] = [
            .init(name: "value", value: events.value ?? .null),
            .init(name: "warnings", value: .array(allWarnings.map(\.json))),
            .init(name: "files", value: .array(files.map(CodeResult.file))),
            .init(name: "truncated", value: truncated),
            .init(name: "usage", value: common.usage),
            .init(name: "timings", value: common.timings),
            .init(name: "machine", value: common.machine),
        ]
        if let network = network?.json { members.append(.init(name: "network", value: network)) }
        return .object(members)
    }
}
