// One job as it was claimed. Made by Queue, read by whoever runs it; it never changes.

/// A row of the queue, and the attempt at it that this worker holds.
///
/// Times are the database's.
package struct Job: Sendable, Equatable {
    /// Below 2^53, so that a JavaScript number holds it.
    package let id: Int64
    /// The fencing token: given out once, ever.
    package let token: Int64
    /// The ordinal of this attempt, from 1; it counts every try.
    package let attempt: Int
    package let queue: String
    package let tenant: String
    package let kind: String
    package let priority: Int
    /// A JSON object, as text.
    package let payload: String
    /// The wall clock of one attempt; nil: the default of the kind.
    package let timeout: Duration?
    package let maxAttempts: Int
    /// ISO 8601.
    package let createdAt: String
    package let runAt: String
    /// From when it could have run to the claim.
    package let queueDelay: Duration
    package let pin: Pin?
    /// The worker that claimed it, for `settle`.
    package let worker: Int64
}

/// What a pinned replay repeats of the original's last attempt.
package struct Pin: Sendable, Equatable {
    package let generation: String
    package let seed: [UInt8]
    /// Nanoseconds since 1970.
    package let clock: Int64
}

/// The blobs that an attempt may read: those of its job's tenant.
package struct JobInputs: Sendable {
    fileprivate let job: Job
    fileprivate let queue: Queue

    /// The bytes, or nil when there is no such blob.
    package func bytes(of sha256: String) async throws -> [UInt8]? {
        try await queue.input(sha256, for: job)
    }
}

/// The right to settle one attempt, which must be used once.
package struct Claim: ~Copyable {
    package let job: Job
    /// Given when work on this attempt must stop.
    package let stop: StopSignal
    /// The blobs of its tenant, for as long as the attempt is held.
    package let inputs: JobInputs
    private let queue: Queue
    private let obligation: Obligation

    init(_ job: Job, _ stop: StopSignal, from queue: Queue) {
        self.job = job
        self.stop = stop
        inputs = JobInputs(job: job, queue: queue)
        self.queue = queue
        obligation = Obligation(token: job.token)
    }

    /// Stores how the attempt ended; tries until the database has answered, cancelled or not.
    ///
    /// - Throws: ``JobsError`` only when the database stays away for longer than
    ///   `QueueSettings.settlePatience`; the lease then brings the job back.
    package consuming func settle(_ outcome: Outcome) async throws(JobsError) -> Settlement {
        obligation.fulfil()
        return try await queue.settle(job, outcome)
    }
}

/// Traps in debug builds when a claim is dropped; in release builds the deadline gives the job
/// back.
private struct Obligation: ~Copyable {
    let token: Int64
    consuming func fulfil() { discard self }
    deinit { assertionFailure("the claim with token \(token) was dropped without settling it") }
}
