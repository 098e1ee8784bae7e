// One attempt at one job, from claim to outcome. READ THIS FIRST: it is the way of every job.
// Called by Supervisor, once per claim; it never leaves a claim unsettled or a machine alive.

import Jobs
import Logging
import Machines

/// Runs the claimed job in a machine of its own and stores how that ended, exactly once.
func attempt(_ claim: consuming Claim, in workshop: Workshop) async {
    let job = claim.job
    let metadata: Logger.Metadata = ["job.id": "\(job.id)", "attempt": "\(job.attempt)"]
    let outcome = await withLogger(mergingMetadata: metadata) { _ in
        await perform(job, in: workshop)
    }
    do throws(JobsError) {
        let settlement = try await claim.settle(outcome)  // consumes the claim: once
        workshop.note(outcome, settlement, metadata)
    } catch {
        Logger.current.error(
            "the outcome could not be stored; the lease gives the job back",
            metadata: metadata.merging(["error": "\(error)"]) { $1 })
    }
}

private func perform(_ job: Job, in workshop: Workshop) async -> Outcome {
    guard let kind = workshop.kinds.named(job.kind) else {
        return .lost(Failure(.internal, "this worker does not know the kind \(job.kind)"))
    }
    let work = await workshop.stops.stoppable(job.token) {
        () async -> Result<(Recipe, MachineRun), AttemptError> in
        do throws(RecipeError) {
            let recipe = try await kind.recipe(
                payload: job.payload, timeout: job.timeout, blobs: workshop.blobs)
            do throws(MachineError) {
                let run = try await workshop.host.run(
                    recipe.job, image: recipe.image, pin: job.pin.map(Machines.Pin.init))
                return .success((recipe, run))
            } catch { return .failure(.machine(error)) }
        } catch { return .failure(.recipe(error)) }
    }
    switch (work.value, work.stop) {
    case (.success(let (recipe, run)), _): return .init(job: job, recipe: recipe, run: run)
    case (.failure, .shutdown?): return .interrupted
    case (.failure(.machine(let error)), .cancelled?): return .cancelled(Report(error))
    case (.failure(.recipe), .cancelled?): return .cancelled()
    case (.failure(.recipe(.invalid(let problem))), nil):  // no machine was used
        return .failed(Failure(Reason(problem), problem.description), nil)
    case (.failure(.recipe(.unavailable(let sentence))), nil):
        return .lost(Failure(.internal, sentence))
    case (.failure(.machine(let error)), nil):
        return .lost(Failure(Reason(error), error.description), Report(error))
    }
}

/// Why an attempt has no finished program.
private enum AttemptError: Error {
    case recipe(RecipeError)
    case machine(MachineError)
}
