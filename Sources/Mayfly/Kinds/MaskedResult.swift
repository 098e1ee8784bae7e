// What a job leaves, with stars in the place of the secrets that it was given: applied once, to
// what a machine reported, before anything of it is stored. Used by Kind for every job with
// secrets.

import Jobs
import Machines
import Secrets
import StrictJSON

extension Kind {
    /// The result as it is stored and shown.
    func maskedResult(
        of run: MachineRun, recipe: Recipe, queueDelay: Duration?
    ) -> any JobResult {
        let mask = recipe.mask
        guard !mask.isEmpty else {
            return result(of: run, recipe: recipe, queueDelay: queueDelay)
        }
        var run = run
        run.report = mask.masked(run.report)
        return MaskedResult(
            base: result(of: run, recipe: recipe, queueDelay: queueDelay), mask: mask)
    }
}

private struct MaskedResult: JobResult {
    let base: any JobResult
    let mask: SecretMask

    var failure: Failure? {
        base.failure.map { Failure($0.reason, mask.masked($0.message)) }
    }
    var json: JSON { mask.masked(result: base.json) }
    var warnings: [(code: String, message: String)] {
        base.warnings.map { ($0.code, mask.masked($0.message)) }
    }
    var files: [OutputFile] { base.files }
    var logTail: String? { base.logTail.map { mask.masked($0) } }
    var timings: JSON { base.timings }
    var usage: JSON { base.usage }
    var identity: MachineIdentity { base.identity }
}

extension SecretMask {
    /// What programs printed, as bytes: their exact form is stored, too.
    fileprivate func masked(_ report: GuestReport) -> GuestReport {
        var report = report
        var isCutShort = true
        if case .exited = report.ending { isCutShort = false }
        for stream in [\GuestReport.stdout, \GuestReport.stderr] {
            report[keyPath: stream] = masked(report[keyPath: stream], isCutShort: isCutShort)
        }
        report.steps = report.steps.map { masked($0) }
        return report
    }
    private func masked(_ output: CapturedOutput, isCutShort: Bool) -> CapturedOutput {
        var output = output
        output.bytes = masked(
            output.bytes, marker: output.marker, isCutShort: isCutShort)
        return output
    }

    /// Members that a machine's programs fill as they like, keys and numbers included.
    private static let free = ["value", "displays", "exception", "progress"]
    /// Members with words of the program among ours.
    private static let worded = ["stdout", "stderr", "warnings", "files", "skipped_files"]

    /// A result; what only the host writes into it stays as it is.
    fileprivate func masked(result: JSON) -> JSON {
        guard case .object(let members) = result else { return result }
        return .object(
            members.map { member in
                var member = member
                if Self.free.contains(member.name) {
                    member.value = masked(member.value, isFree: true)
                } else if Self.worded.contains(member.name) {
                    member.value = masked(member.value, isFree: false)
                } else if member.name == "steps", case .array(let steps) = member.value {
                    member.value = .array(steps.map { masked(result: $0) })
                }
                return member
            })
    }
    /// A value of a program's own making, if `isFree`: its keys and numbers are masked, too.
    func masked(_ value: JSON, isFree: Bool) -> JSON {
        switch value {
        case .string(let text): return .string(masked(text))
        case .number(let digits) where isFree:
            let shown = masked(digits)
            return shown == digits ? value : .string(shown)
        case .array(let values): return .array(values.map { masked($0, isFree: isFree) })
        case .object(let members):
            return .object(
                members.map { member in
                    // The digest is the host's own.
                    if !isFree, member.name == "sha256" { return member }
                    return .init(
                        name: isFree ? masked(member.name) : member.name,
                        value: masked(member.value, isFree: isFree))
                })
        case .null, .bool, .number: return value
        }
    }
}

extension SecretMask {
    /// A machine's failure may quote its guest.
    func masked(_ error: MachineError) -> MachineError {
        MachineError(error.reason, masked(error.description), error.machine)
    }
}
