// Sharing the loop's thread: whoever reads what others send could read for ever.

/// One party's share of the thread, for loops whose length somebody else decides.
@LoopActor
package final class LoopTurn {
    /// Half of what nobody may exceed: what is begun at its end takes time as well.
    private static let length = Duration.microseconds(500)

    private var began = ContinuousClock.now

    package init() {}

    /// A wait has ended: everybody else was served.
    package func begin() { began = .now }

    /// Serves everybody else when this party has had its share; to be called before each step.
    ///
    /// Answers the time, which the caller will want for its deadline.
    package func take() async -> ContinuousClock.Instant {
        let now = ContinuousClock.now
        guard now - began >= Self.length else { return now }
        await EventLoop.shared.yield()
        began = .now
        return began
    }
}
