// A claimed job in the hands of whoever runs it: the job, its files, how it is told to stop, and
// the one right to settle it. Made by Queue.

/// The right to settle one attempt, which must be used once.
package struct Claim: ~Copyable {
    package let job: Job
    /// Given when work on this attempt must stop.
    package let stop: StopSignal
    /// The blobs of its tenant and the files of its result, for as long as the attempt is held.
    package let files: JobFiles
    /// What is told of the attempt while it runs.
    package let reports: JobReports
    private let queue: Queue
    private let obligation: Obligation

    init(_ job: Job, _ stop: StopSignal, _ following: Following, from queue: Queue) {
        self.job = job
        self.stop = stop
        files = JobFiles(job, queue)
        reports = JobReports(job, following, queue)
        self.queue = queue
        obligation = Obligation(token: job.token)
    }

    /// Stores how the attempt ended; tries until the database has answered, cancelled or not.
    ///
    /// - Parameter egress: what it did on the network and was not reported yet.
    /// - Throws: ``JobsError`` only when the database stays away for longer than
    ///   `QueueSettings.settlePatience`; the lease then brings the job back.
    package consuming func settle(
        _ outcome: Outcome, egress: [EgressRow] = []
    ) async throws(JobsError) -> Settlement {
        obligation.fulfil()
        return try await queue.settle(job, outcome, egress)
    }
}

/// Traps in debug builds when a claim is dropped; in release builds the deadline gives the job
/// back.
struct Obligation: ~Copyable {
    let token: Int64
    consuming func fulfil() { discard self }
    deinit { assertionFailure("the claim with token \(token) was dropped without settling it") }
}
