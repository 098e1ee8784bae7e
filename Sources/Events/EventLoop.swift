// One thread with one epoll: the executor of the actors that own descriptors, and the source of
// their readiness. Postgres connections and machines share it, so that nothing blocks the pool.
// It must never be asked to do long work: that belongs to `offload`, or is cut up by `yield`.

import CLinux
import Glibc
import Synchronization

/// One thread that waits for descriptors and runs the actors that own them.
package final class EventLoop: SerialExecutor, TaskExecutor, @unchecked Sendable {
    // SAFETY: `local` and `handlers` are touched by the loop's own thread only (checked by
    // `checkIsolated`); `inbox` is a mutex; the rest is constant after `init`.

    /// What a descriptor is watched for; the raw values are epoll's.
    package struct Interest: OptionSet, Sendable {
        package let rawValue: UInt32
        package init(rawValue: UInt32) { self.rawValue = rawValue }
        package static let read = Interest(rawValue: 1)
        package static let write = Interest(rawValue: 4)
    }

    private struct Inbox {
        var jobs: [UnownedJob] = []
        var isSleeping = false
    }

    /// The process's loop: a thread that lives as long as the process, as PR_SET_PDEATHSIG needs.
    package static let shared = EventLoop()

    /// How often jobs that jobs have left are run before descriptors and timers are looked at.
    private static let stepsPerRound = 4

    private let epoll: CInt
    private let wake: CInt
    private let inbox = Mutex(Inbox())
    private let thread = Atomic<UInt>(0)
    private var local: [UnownedJob] = []
    /// By descriptor: the kernel gives the lowest number that is free, so there are no large ones.
    private var handlers: [((Interest) -> Void)?] = []
    /// What each of them waits for now.
    private var interests: [Interest] = []
    /// The first to fire comes first.
    ///
    /// Only what is needed of one is looked at: to copy it would count references, at each wait.
    private var timers: [(at: ContinuousClock.Instant, id: Int, handler: () -> Void)] = []
    private var lastTimer = 0
    /// Those who let others go first, in their order.
    private var yielding: [CheckedContinuation<Void, Never>] = []

    private init() {
        epoll = mayfly_epoll()
        wake = mayfly_eventfd()
        precondition(epoll >= 0 && wake >= 0, "no descriptors left for the event loop")
        _ = mayfly_epoll_add(epoll, wake, Interest.read.rawValue)
        let retained = unsafe Unmanaged.passRetained(self).toOpaque()
        var handle = pthread_t()
        // SAFETY: the retained pointer is taken over, once, by the new thread.
        let status = unsafe pthread_create(
            &handle, nil,
            { raw in
                guard let raw = unsafe raw else { return nil }
                unsafe Unmanaged<EventLoop>.fromOpaque(raw).takeRetainedValue().run()
            }, retained)
        precondition(status == 0, "no thread for the event loop")
        pthread_detach(handle)
    }

    // MARK: Executor

    package func enqueue(_ job: consuming ExecutorJob) {
        let job = UnownedJob(job)
        if isOnLoop {
            local.append(job)
            return
        }
        let mustWake = inbox.withLock { inbox in
            inbox.jobs.append(job)
            defer { inbox.isSleeping = false }
            return inbox.isSleeping
        }
        if mustWake {
            var one: UInt64 = 1
            _ = unsafe write(wake, &one, 8)
        }
    }
    package func asUnownedSerialExecutor() -> UnownedSerialExecutor {
        unsafe UnownedSerialExecutor(ordinary: self)
    }
    package func asUnownedTaskExecutor() -> UnownedTaskExecutor {
        unsafe UnownedTaskExecutor(ordinary: self)
    }
    package func checkIsolated() { precondition(isOnLoop, "not on the event loop's thread") }

    private var isOnLoop: Bool { thread.load(ordering: .relaxed) == UInt(pthread_self()) }

    // MARK: Descriptors (from the loop's thread only)

    /// Calls `handler` on the loop's thread whenever `descriptor` is ready; level-triggered.
    package func watch(
        _ descriptor: CInt, _ interest: Interest, _ handler: @escaping (Interest) -> Void
    ) {
        checkIsolated()
        let place = Int(descriptor)
        while handlers.count <= place {
            handlers.append(nil)
            interests.append(interest)
        }
        (handlers[place], interests[place]) = (handler, interest)
        add(descriptor)
    }
    /// Tries again a little later when the kernel has no room for another watch.
    private func add(_ descriptor: CInt, isRetry: Bool = false) {
        let interest = interests[Int(descriptor)]
        let status = mayfly_epoll_add(epoll, descriptor, interest.rawValue)
        // The number may be another descriptor's by now, which is watched already.
        if status == 0 || (isRetry && (status == -EEXIST || status == -EBADF)) { return }
        precondition(
            status == -ENOMEM || status == -ENOSPC,
            "descriptor \(descriptor) cannot be watched: errno \(-status)")
        _ = schedule(at: .now + .milliseconds(20)) { [self] in
            if handler(of: descriptor) != nil { add(descriptor, isRetry: true) }
        }
    }
    private func handler(of descriptor: CInt) -> ((Interest) -> Void)? {
        let place = Int(descriptor)
        return handlers.indices.contains(place) ? handlers[place] : nil
    }
    package func change(_ descriptor: CInt, _ interest: Interest) {
        checkIsolated()
        guard handler(of: descriptor) != nil else { return }
        // For the case that it could not be added yet.
        interests[Int(descriptor)] = interest
        _ = mayfly_epoll_change(epoll, descriptor, interest.rawValue)
    }
    /// Must be called before the descriptor is closed.
    package func unwatch(_ descriptor: CInt) {
        checkIsolated()
        guard handler(of: descriptor) != nil else { return }
        handlers[Int(descriptor)] = nil
        _ = mayfly_epoll_remove(epoll, descriptor)
    }
    /// Calls `handler` once, on the loop's thread, not before `instant`; rounded up to 1 ms.
    package func schedule(
        at instant: ContinuousClock.Instant, _ handler: @escaping () -> Void
    ) -> Int {
        checkIsolated()
        lastTimer += 1
        var place = timers.count
        while place > 0, timers[place - 1].at > instant { place -= 1 }
        timers.insert((instant, lastTimer, handler), at: place)
        return lastTimer
    }
    package func cancelTimer(_ id: Int) {
        checkIsolated()
        for place in timers.indices where timers[place].id == id {
            timers.remove(at: place)
            return
        }
    }
    private func fireTimers() {
        while !timers.isEmpty, timers[0].at <= .now { timers.removeFirst().handler() }
    }
    /// Milliseconds to the first timer, rounded up; -1 when there is none.
    private var patience: CInt {
        guard !timers.isEmpty else { return -1 }
        if timers[0].at <= .now { return 0 }
        let (seconds, attoseconds) = (timers[0].at - .now).components
        let milliseconds = seconds * 1000 + attoseconds / 1_000_000_000_000_000 + 1
        return CInt(clamping: max(0, milliseconds))
    }

    // MARK: Sharing the thread

    /// Suspends until everything else that is ready now has had its turn: descriptors, timers,
    /// other actors' jobs.
    ///
    /// For long work on the loop, between slices of a millisecond at most.
    ///
    /// One caller goes on per round: however many have much to do, between two of them everybody
    /// else is served.
    @LoopActor
    package func yield() async {
        await resumedHere { yielding.append($0) }
    }
    /// Suspends an actor of this loop until `body`'s continuation is resumed.
    ///
    /// Swift resumes a continuation on the task's executor and goes back to the actor from there.
    /// Without a preference that is the global pool: two threads woken for each wait.
    package func resumedHere<Value: Sendable>(
        isolation: isolated (any Actor)? = #isolation,
        _ body: (CheckedContinuation<Value, Never>) -> Void
    ) async -> Value {
        if isPreferred { return await withCheckedContinuation(body) }
        return await withTaskExecutorPreference(self) { await withCheckedContinuation(body) }
    }
    /// Whether the running task prefers this loop already.
    private var isPreferred: Bool {
        unsafe withUnsafeCurrentTask { unsafe $0?.unownedTaskExecutor == asUnownedTaskExecutor() }
    }
    private func resumeOneYielding() {
        guard !yielding.isEmpty else { return }
        yielding.removeFirst().resume()
    }

    // MARK: The thread

    private func run() -> Never {
        unsafe mayfly_name_thread("mayfly-loop")
        thread.store(UInt(pthread_self()), ordering: .relaxed)
        // Both, or each call from actor to actor of a task that prefers this loop takes a turn of
        // the queue: Swift compares them with what the job is said to run on.
        let executor = unsafe asUnownedSerialExecutor()
        let taskExecutor = unsafe asUnownedTaskExecutor()
        var ready = [UInt64](repeating: 0, count: 64)
        var batch: [UnownedJob] = []
        while true {
            let mayWait =
                local.isEmpty && yielding.isEmpty
                && inbox.withLock { inbox in
                    inbox.isSleeping = inbox.jobs.isEmpty
                    return inbox.isSleeping
                }
            let count = unsafe mayfly_epoll_wait(epoll, mayWait ? patience : 0, &ready, 64)
            for event in ready.prefix(Int(count)) {
                let descriptor = CInt(truncatingIfNeeded: event)
                if descriptor == wake {
                    var ignored: UInt64 = 0
                    _ = unsafe read(wake, &ignored, 8)
                } else {
                    handler(of: descriptor)?(Interest(rawValue: UInt32(event >> 32)))
                }
            }
            fireTimers()
            resumeOneYielding()
            inbox.withLock { inbox in
                inbox.isSleeping = false
                local += inbox.jobs
                inbox.jobs.removeAll(keepingCapacity: true)
            }
            // A resumption takes a few steps back to its actor: not each is worth a look around.
            for _ in 0..<Self.stepsPerRound where !local.isEmpty {
                swap(&batch, &local)
                for job in batch {
                    unsafe job.runSynchronously(isolatedTo: executor, taskExecutor: taskExecutor)
                }
                batch.removeAll(keepingCapacity: true)
            }
        }
    }
}

/// Runs blocking work (hashing, copying, waiting for a program) on a thread of its own; on the
/// caller's when the system gives no other, which is slow and better than not at all.
package func offload<Value: Sendable, Failure: Error>(
    _ body: @escaping @Sendable () throws(Failure) -> Value
) async throws(Failure) -> Value {
    let result: Result<Value, Failure> = await withCheckedContinuation { continuation in
        Thread.start {
            continuation.resume(returning: Result { () throws(Failure) in try body() })
        }
    }
    return try result.get()
}

private enum Thread {
    private final class Start {
        let body: @Sendable () -> Void
        init(_ body: @escaping @Sendable () -> Void) { self.body = body }
    }
    static func start(_ body: @escaping @Sendable () -> Void) {
        var handle = pthread_t()
        let retained = unsafe Unmanaged.passRetained(Start(body)).toOpaque()
        // SAFETY: the retained pointer is taken over, once, by the new thread.
        let status = unsafe pthread_create(
            &handle, nil,
            { raw in
                guard let raw = unsafe raw else { return nil }
                unsafe Unmanaged<Start>.fromOpaque(raw).takeRetainedValue().body()
                return nil
            }, retained)
        guard status == 0 else {
            unsafe Unmanaged<Start>.fromOpaque(retained).takeRetainedValue().body()
            return
        }
        pthread_detach(handle)
    }
}
