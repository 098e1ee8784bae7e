// One attempt at one job, from claim to outcome. READ THIS FIRST: it is the way of every job.
// Called by Supervisor, once per claim; it never leaves a claim unsettled or a machine alive.

import Jobs
import Logging
import Machines
import Secrets

/// Runs the claimed job in a machine of its own and stores how that ended, exactly once.
func attempt(_ claim: consuming Claim, in context: WorkerContext) async {
    let job = claim.job
    let files = claim.files
    let reports = claim.reports
    let network = await JobNetwork(context.network)
    let metadata: Logger.Metadata = ["job.id": "\(job.id)", "attempt": "\(job.attempt)"]
    let (result, stopped) = await withLogger(mergingMetadata: metadata) { _ in
        await claim.stop.guarding { () async throws(AttemptError) in
            let kind = try context.kinds.named(job.kind)
            let isSmall = job.payload.utf8.count < smallByteCount
            var recipe = try await besideTheLoop(unless: isSmall) {
                () async throws(AttemptError) in try await kind.recipe(for: job, blobs: files)
            }
            try await network.open(for: &recipe, of: job, reports)
            recipe.job.sink = ByteSink(files)  // large files are stored while they come
            let (view, mask) = (OutputView(), recipe.mask)
            recipe.job.view = view
            async let _: Void = report(view, mask, network, to: reports)  // ends with this scope
            let (run, machine) = try await context.host.run(recipe, pin: job.pin)
            recipe.didOnNetwork = await network.end()
            let done = recipe
            let outcome = await besideTheLoop(
                unless: isSmall && done.mask.isEmpty && run.report.isSmall
            ) {
                kind.outcome(of: run, recipe: done, job: job)
            }
            return (outcome, machine)
        }
    }
    // Killed before its result is stored; the slot is free when nothing of it is left.
    let machine = (try? result.get())?.1
    async let gone = machine?.gone()
    let outcome = context.health.observe(Outcome(result.map(\.0), stopped: stopped))
    let egress = await network.ended()
    do throws(JobsError) {
        // Consumes the claim: once.
        let settlement = try await claim.settle(outcome, egress: egress)
        context.log(outcome, settlement, metadata)
    } catch {
        Logger.current.error(
            "the outcome could not be stored; the lease gives the job back",
            metadata: metadata.merging(["error": "\(error)"]) { $1 })
    }
    _ = await gone
}

/// Of a payload or of outputs: looked at in less time than two changes of threads take.
private let smallByteCount = 16 << 10

extension GuestReport {
    fileprivate var isSmall: Bool {
        files.isEmpty && steps.count < 2
            && stdout.total.bytes + stderr.total.bytes + events.total.bytes < smallByteCount
    }
}

/// Attempts live on the loop's thread; what may take long, because others chose its size, does not.
func besideTheLoop<Value: Sendable, Failure: Error>(
    unless isSmall: Bool = false, _ work: @Sendable () async throws(Failure) -> Value
) async throws(Failure) -> Value {
    if isSmall { return try await work() }
    return try await withTaskExecutorPreference(globalConcurrentExecutor) {
        () async throws(Failure) in try await concurrently(work)
    }
}
@concurrent private func concurrently<Value: Sendable, Failure: Error>(
    _ work: @Sendable () async throws(Failure) -> Value
) async throws(Failure) -> Value { try await work() }
