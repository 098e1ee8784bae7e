// What every attempt of a worker shares. Made by `mayfly worker`, handed to each attempt.

import Jobs
import Logging
import Machines

struct WorkerContext: Sendable {
    let host: MachineHost
    let kinds: Kinds
    let health: HostHealth
    let network: NetworkContext

    /// One line per attempt.
    func log(_ outcome: Outcome, _ settlement: Settlement, _ metadata: Logger.Metadata) {
        var metadata = metadata
        metadata["outcome"] = "\(outcome.how)"
        metadata["settlement"] = "\(settlement.word)"
        if let failure = outcome.failure {
            metadata["reason"] = "\(failure.reason.rawValue)"
            metadata["error"] = "\(failure.message)"
        }
        if let machine = outcome.report?.machine { metadata["machine.id"] = "\(machine)" }
        Logger.current.info("attempt ended", metadata: metadata)
    }
}

extension Settlement {
    /// For the log.
    var word: String {
        switch self {
        case .stored(let state): state
        case .retried: "retried"
        case .givenBack: "given back"
        case .fenced: "fenced"
        }
    }
}

extension MachineHost {
    /// Runs what a recipe says in a machine of its own; pinned, as the original attempt ran.
    func run(
        _ recipe: Recipe, pin: Jobs.Pin?
    ) async throws(AttemptError) -> (run: MachineRun, machine: TerminatingMachine) {
        do throws(MachineError) {
            return try await runUntilKilled(
                recipe.job, image: recipe.image, pin: pin.map(Machines.Pin.init))
        } catch { throw .machine(recipe.mask.masked(error)) }
    }
}

extension Machines.Pin {
    init(_ pin: Jobs.Pin) {
        self.init(generation: pin.generation, entropySeed: pin.seed, clock: pin.clock)
    }
}
