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
