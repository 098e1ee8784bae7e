// Why an attempt has no outcome of its kind's own, and which outcome it has instead. Thrown by
// every step of Attempt.

import Jobs
import Machines

enum AttemptError: Error, Sendable {
    /// The job asks for a kind that this worker cannot do.
    case unknownKind(String)
    /// The job's own fault; no machine was used.
    case invalidPayload(InvalidPayload)
    /// The database did not give a blob; the job is not to blame.
    case blobUnavailable(String)
    /// The database did not say how far the job may reach; the job is not to blame.
    case ceilingUnavailable(String)
    /// This host has not the key for one of the job's secrets; the job is not to blame.
    case secretKeyMissing(String)
    case machine(MachineError)

    /// What an attempt that nobody stopped ends with.
    fileprivate var outcome: Outcome {
        switch self {
        case .unknownKind(let name):
            return .lost(Failure(.internal, "this worker cannot do jobs of the kind \(name)"))
        case .invalidPayload(let problem):
            return .failed(Failure(problem.reason, problem.description), nil)
        case .blobUnavailable(let sentence), .ceilingUnavailable(let sentence):
            return .lost(Failure(.storeFailed, sentence))
        case .secretKeyMissing(let sentence):
            return .lost(Failure(.secretKeyMissing, sentence))
        case .machine(let error):
            // Nobody stopped the attempt, so the host did: it is shutting down.
            if error.reason == .cancelled { return .interrupted }
            let failure = Failure(Reason(error), error.description)
            return failure.reason.isOurs
                ? .lost(failure, Report(error)) : .failed(failure, Report(error))
        }
    }

    /// What is known of a machine that did not finish its job.
    fileprivate var report: Report? {
        if case .machine(let error) = self { Report(error) } else { nil }
    }
}

extension Outcome {
    /// How an attempt ended that may have been told to stop; each reason keeps its name.
    init(_ result: Result<Outcome, AttemptError>, stopped: StopReason?) {
        switch (result, stopped) {
        case (.success(let outcome), _): self = outcome
        case (.failure(let error), nil): self = error.outcome
        case (.failure(let error), .cancelled?): self = .cancelled(error.report)
        case (.failure, .interrupted?): self = .interrupted
        case (.failure(let error), .lost?):
            // Stored only if the attempt is still held after all: then the job is tried again
            // at once instead of waiting to be reaped.
            self = .lost(
                Failure(.leaseLost, "the lease ran out while the job ran; its machine was stopped"),
                error.report)
        }
    }
}

extension Reason {
    /// What a machine's failure is called in `error.reason`.
    init(_ error: MachineError) {
        switch error.reason {
        case .machineLost, .cancelled: self = .machineLost
        case .hypervisorMemory: self = .hypervisorMemory
        case .restoreFailed, .hostUnfit: self = .restoreFailed
        // A refused image is as good as none: this worker has no verified one.
        case .imageMissing, .imageRefused: self = .imageMissing
        case .protocolViolation: self = .guestProtocolViolation
        case .inputUnavailable: self = .blobUnavailable
        case .storageFailed: self = .storeFailed
        case .diskFull: self = .diskFull
        case .buildFailed, .bootFailed: self = .internal
        }
    }
}

extension Report {
    /// An attempt that has no finished program, but perhaps had a machine.
    init(_ error: MachineError) {
        self.init()
        if let machine = error.machine { identify(machine) }
    }
    mutating func identify(_ machine: MachineIdentity) {
        self.machine = machine.id
        generation = machine.generation
        seed = machine.entropySeed
        clock = machine.clock
    }
}
