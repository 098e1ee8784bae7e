// Waiting for descriptors from an actor that lives on the loop: one suspension, one deadline, and
// cancellation that is noticed at once. Called by machines; a descriptor has one waiter at a time.

/// Why a wait ended.
package enum Readiness: Sendable, Equatable {
    case ready(descriptor: CInt, EventLoop.Interest)
    case timedOut
    case cancelled

    package static func == (left: Readiness, right: Readiness) -> Bool {
        switch (left, right) {
        case (.timedOut, .timedOut), (.cancelled, .cancelled): true
        case (.ready(let a, let b), .ready(let c, let d)): a == c && b == d
        default: false
        }
    }
}

/// The actor of everything that owns descriptors on the shared loop.
@globalActor
package actor LoopActor {
    package static let shared = LoopActor()
    package nonisolated var unownedExecutor: UnownedSerialExecutor {
        unsafe EventLoop.shared.asUnownedSerialExecutor()
    }
}

extension EventLoop {
    /// Suspends until one of `descriptors` is ready, the deadline has passed, or the caller's
    /// Swift task is cancelled (unless `ignoringCancellation`).
    @LoopActor
    package func ready(
        _ descriptors: [(CInt, Interest)], before deadline: ContinuousClock.Instant?,
        ignoringCancellation: Bool = false
    ) async -> Readiness {
        let wait = Wait(loop: self, descriptors: descriptors.map(\.0))
        if ignoringCancellation {
            return await resumedHere { wait.begin($0, descriptors, deadline) }
        }
        if Task.isCancelled { return .cancelled }
        return await withTaskCancellationHandler {
            await resumedHere { wait.begin($0, descriptors, deadline) }
        } onCancel: {
            Task { @LoopActor in wait.end(.cancelled) }
        }
    }
}

/// One suspension: resumed exactly once, by whichever event comes first.
@LoopActor
private final class Wait {
    private let loop: EventLoop
    private let descriptors: [CInt]
    private var continuation: CheckedContinuation<Readiness, Never>?
    private var timer: Int?
    private var early: Readiness?

    init(loop: EventLoop, descriptors: [CInt]) {
        self.loop = loop
        self.descriptors = descriptors
    }
    func begin(
        _ continuation: CheckedContinuation<Readiness, Never>,
        _ interests: [(CInt, EventLoop.Interest)], _ deadline: ContinuousClock.Instant?
    ) {
        if let early {
            continuation.resume(returning: early)
            return
        }
        self.continuation = continuation
        for (descriptor, interest) in interests {
            loop.watch(descriptor, interest) { [self] seen in
                LoopActor.assumeIsolated { end(.ready(descriptor: descriptor, seen)) }
            }
        }
        if let deadline {
            timer = loop.schedule(at: deadline) { [self] in
                LoopActor.assumeIsolated { end(.timedOut) }
            }
        }
    }
    func end(_ readiness: Readiness) {
        guard let continuation else {
            early = early ?? readiness
            return
        }
        self.continuation = nil
        for descriptor in descriptors { loop.unwatch(descriptor) }
        if let timer { loop.cancelTimer(timer) }
        continuation.resume(returning: readiness)
    }
}

extension LoopActor {
    /// Runs `body` as the actor; traps when called from another thread than the loop's.
    package static func assumeIsolated<Value>(_ body: @LoopActor () -> Value) -> Value {
        EventLoop.shared.checkIsolated()
        return withoutActuallyEscaping(body) { body in
            // SAFETY: only the isolation changes; the line above proved the thread.
            unsafe unsafeBitCast(body, to: (() -> Value).self)()
        }
    }
}
