// From machines' words to the queue's: the only place where a report of Machines becomes an outcome
// of Jobs. Called by Attempt; pure.

import Jobs
import Machines

extension Outcome {
    /// A program that ran to some end; what it printed and left is stored either way.
    init(job: Job, recipe: Recipe, run: MachineRun) {
        let result = CodeResult(
            run: run, programName: recipe.programName, timeout: recipe.job.timeout,
            queueDelay: job.queueDelay)
        var report = Report(
            result: result.json.text,
            blobs: run.report.files.map { Blob(sha256: $0.sha256, bytes: $0.bytes) })
        report.name(run.identity)
        report.timings = result.timings.text
        report.usage = result.usage.text
        report.logTail = result.logTail
        guard let failure = result.failure else {
            self = .succeeded(report)
            return
        }
        self = .failed(
            Failure(Reason(rawValue: failure.reason) ?? .internal, failure.message), report)
    }

    /// For the log.
    var word: String {
        switch self {
        case .succeeded: "succeeded"
        case .failed(let failure, _): "failed (\(failure.reason.rawValue))"
        case .lost(let failure, _): "lost (\(failure.reason.rawValue))"
        case .interrupted: "interrupted"
        case .cancelled: "cancelled"
        }
    }
    var machine: String? {
        switch self {
        case .succeeded(let report): report.machine
        case .failed(_, let report), .lost(_, let report), .cancelled(let report): report?.machine
        case .interrupted: nil
        }
    }
    var message: String? {
        switch self {
        case .failed(let failure, _), .lost(let failure, _): failure.message
        case .succeeded, .interrupted, .cancelled: nil
        }
    }
}

extension Report {
    /// An attempt that has no finished program, but perhaps had a machine.
    init(_ error: MachineError) {
        self.init()
        if let machine = error.machine { name(machine) }
    }
    fileprivate mutating func name(_ identity: MachineIdentity) {
        machine = identity.id
        generation = identity.generation
        seed = identity.entropySeed
        clock = identity.clock
    }
}

extension Reason {
    init(_ problem: InvalidPayload) { self = Reason(rawValue: problem.reason) ?? .invalidPayload }

    /// What a machine's failure is called in `error.reason`.
    init(_ error: MachineError) {
        switch error.reason {
        case .machineLost, .cancelled: self = .machineLost
        case .restoreFailed, .hostUnfit: self = .restoreFailed
        // A refused image is as good as none: this worker has no verified one.
        case .imageMissing, .imageRefused: self = .imageMissing
        case .protocolViolation: self = .guestProtocolViolation
        case .buildFailed, .bootFailed: self = .internal
        }
    }
}

extension Machines.Pin {
    init(_ pin: Jobs.Pin) {
        self.init(generation: pin.generation, entropySeed: pin.seed, clock: pin.clock)
    }
}
