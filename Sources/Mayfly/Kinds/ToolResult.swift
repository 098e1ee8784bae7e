// What the results of jobs that run our own tools in the guest have in common: documents and pages.
// The tools tell by events; a guest may have written them, so codes and reasons are closed lists.

import Jobs
import Machines
import StrictJSON

/// The result of a job whose program is ours.
protocol ToolResult: JobResult {
    /// What the tools may warn of; anything else is not from them.
    static var warningCodes: Set<String> { get }
    var run: MachineRun { get }
    var events: JobEvents { get }
    /// Usage, timings and machine, as for every program.
    var common: CodeResult { get }
}

extension ToolResult {
    /// Where the tools leave files, below the job's directory.
    static var outputDirectory: String { "out" }

    var logTail: String? { common.logTail }
    var timings: JSON { common.timings }
    var usage: JSON { common.usage }
    var identity: MachineIdentity { run.identity }

    var warnings: [(code: String, message: String)] {
        allWarnings.map { ($0.code, $0.message) }
    }
    var allWarnings: [JobEvents.Warning] {
        events.warnings.filter { Self.warningCodes.contains($0.code) }
            + CodeResult.warnings(of: run.report).map {
                JobEvents.Warning(code: $0.code, message: $0.message)
            }
    }

    /// The files by the names that `value` calls them.
    var files: [OutputFile] {
        run.report.files.map { file in
            var file = file
            file.name = String(file.name.dropFirst(Self.outputDirectory.count + 1))
            return file
        }
    }

    /// What was cut of what the tools told.
    var truncated: JSON {
        guard run.report.events.isTruncated else { return .object([]) }
        return ["value": ["bytes": .number(run.report.events.total.bytes)]]
    }
}
