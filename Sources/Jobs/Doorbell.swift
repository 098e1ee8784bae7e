// A doorbell between tasks: one waits, others ring. Used by the background tasks of a queue, and by
// whoever waits for the end of a job.

import Events
import Synchronization

/// Remembers a ring that nobody was waiting for.
final class Doorbell: Sendable {
    private struct State {
        var hasRung = false
        var round = 0
        var waiter: CheckedContinuation<Void, Never>?
    }
    private let state = Mutex(State())

    func ring() {
        let waiter = state.withLock { state in
            defer { state.waiter = nil }
            if state.waiter == nil { state.hasRung = true }
            return state.waiter
        }
        waiter?.resume()
    }

    /// Until the bell rings, at most `duration`; not cut short by cancellation, for the bell is
    /// rung then.
    @LoopActor
    func wait(atMost duration: Duration) async {
        // The loop's own timer: one of the global pool's wakes two threads.
        let timer = EventLoop.shared.schedule(at: .now + duration) { [self] in ring() }
        await EventLoop.shared.resumedHere { continuation in
            let mustWait = state.withLock { state in
                precondition(state.waiter == nil, "only one may wait")
                if state.hasRung {
                    state.hasRung = false
                    return false
                }
                state.waiter = continuation
                return true
            }
            if !mustWait { continuation.resume() }
        }
        EventLoop.shared.cancelTimer(timer)
    }
}

/// Sleeps although the surrounding task is cancelled: for work that must be finished.
func uncancelledSleep(_ duration: Duration) async {
    await Task { try? await Task.sleep(for: duration) }.value
}
