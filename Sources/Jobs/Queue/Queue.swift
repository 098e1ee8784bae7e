// A worker's side of the queue: registers it, keeps its lease, hands out claims, stores outcomes.
// The program calls `withQueue`, then `next()` once per free slot. It knows nothing of machines.
// Connecting is in Queue+Connection.swift, heartbeats and upkeep in Queue+Lease.swift, storing in
// Queue+Settle.swift.

import Events
import Logging
import Postgres

/// Registers a worker for as long as `body` runs, then gives back what it still holds.
///
/// - Throws: ``JobsError`` when the database cannot be reached at the start. Later it is tried
///   again until it answers.
package func withQueue<Value: Sendable>(
    _ settings: QueueSettings, logger: Logger, _ body: (Queue) async -> Value
) async throws(JobsError) -> Value {
    let queue = Queue(settings, logger)
    try await queue.open()
    let loop = EventLoop.shared
    return await withTaskGroup(of: Void.self) { background in
        background.addTask(executorPreference: loop) { await queue.keepAlive() }
        background.addTask(executorPreference: loop) { await queue.watchLease() }
        background.addTask(executorPreference: loop) { await queue.listen() }
        background.addTask(executorPreference: loop) { await queue.dispatch() }
        background.addTask(executorPreference: loop) { await queue.maintain() }
        let value = await body(queue)
        await queue.close()
        background.cancelAll()
        return value
    }
}

package actor Queue {
    nonisolated package var unownedExecutor: UnownedSerialExecutor {
        unsafe EventLoop.shared.asUnownedSerialExecutor()
    }

    /// What the database knows this worker by: a number, and the secret that proves it.
    struct Registration: Sendable {
        let worker: Int64
        let secret: String
    }

    /// An attempt that this worker holds: claimed, and not settled yet.
    struct Held {
        let registration: Registration
        let stop: AsyncStream<StopReason>.Continuation
        let following: Following
        /// How many bytes of its outcome wait to be stored; nil: it has no outcome yet.
        var unstoredByteCount: Int?
    }

    /// What `next` and the background tasks may do; it only goes from top to bottom, but for the
    /// first two.
    enum Phase {
        case claiming
        /// The host is ill: slots wait, nothing is claimed.
        case suspended
        /// Nothing new; what was claimed goes on.
        case draining
        case closed
    }

    /// One for each background task that waits.
    struct Doorbells: Sendable {
        let dispatch = Doorbell()
        let listen = Doorbell()
        let keepAlive = Doorbell()
        let watchLease = Doorbell()
        let maintain = Doorbell()

        func ringAll() {
            for bell in [dispatch, listen, keepAlive, watchLease, maintain] { bell.ring() }
        }
    }

    let settings: QueueSettings
    let logger: Logger
    let doorbells = Doorbells()
    var phase = Phase.claiming
    /// For heartbeats, claims and notifications, whose statements are all short.
    var connection: Connection?
    /// For what may be long: settlements, upkeep.
    let pool: ConnectionPool
    /// For files, part by part: however many are moved, settlements do not wait behind them.
    let transfers: ConnectionPool
    /// Nil until the first connection.
    var registration: Registration?
    var held: [Int64: Held] = [:]
    /// When the last heartbeat that was answered had been sent.
    var lastBeat = ContinuousClock.now
    /// When the heartbeat was sent that has no answer yet.
    var beatSentAt: ContinuousClock.Instant?
    /// Whether a claim has no answer yet.
    var isClaiming = false
    /// Something may have been cancelled: the next heartbeat, which asks, should come soon.
    var isHinted = false
    /// A claim was under way when a connection broke: jobs may be ours without our knowing.
    var hasLostClaims = false
    var health: (state: HostState, note: String?) = (.ok, nil)
    var isHealthTold = true
    private var slots: [CheckedContinuation<(Job, StopSignal, Following)?, Never>] = []

    init(_ settings: QueueSettings, _ logger: Logger) {
        self.settings = settings
        self.logger = logger
        pool = ConnectionPool(
            settings.sessionSettings(statementTimeout: .seconds(60)),
            limit: QueueSettings.poolSize)
        transfers = ConnectionPool(
            settings.sessionSettings(statementTimeout: .seconds(60)),
            limit: QueueSettings.transferPoolSize)
    }

    var isClosed: Bool { phase == .closed }

    // MARK: For the program

    /// Waits for a job, as long as it takes.
    ///
    /// - Returns: nil once the queue drains.
    package func next() async -> Claim? {
        guard phase == .claiming || phase == .suspended else { return nil }
        let claimed = await withCheckedContinuation { slot in
            slots.append(slot)
            doorbells.dispatch.ring()
        }
        guard let (job, stop, following) = claimed else { return nil }
        return Claim(job, stop, following, from: self)
    }

    /// From now on `next` answers nil; what was claimed goes on.
    package func drain() {
        if phase != .closed { phase = .draining }
        while let slot = slots.popLast() { slot.resume(returning: nil) }
        doorbells.dispatch.ring()
    }

    /// Claims nothing until `resume`; what was claimed goes on, and slots go on waiting.
    package func suspend() { if phase == .claiming { phase = .suspended } }
    package func resume() {
        if phase == .suspended { phase = .claiming }
        doorbells.dispatch.ring()
    }

    /// What `mayfly.worker` and `mayfly doctor` show of this worker's host; told to the database
    /// with the next heartbeat.
    package func reportHealth(_ state: HostState, note: String?) {
        health = (state, note)
        isHealthTold = false
        isHinted = true
        doorbells.keepAlive.ring()
    }

    /// Stops every attempt that is held, to be given back.
    package func interruptAll() { stopAll(.interrupted) }

    /// How many claims are not settled.
    package var heldCount: Int { held.count }

    // MARK: Stopping

    func stopAll(_ reason: StopReason) { for token in held.keys { stop(token, reason) } }

    /// An attempt whose outcome is on its way to the database is past stopping.
    func stop(_ token: Int64, _ reason: StopReason) {
        guard let attempt = held[token], attempt.unstoredByteCount == nil else { return }
        logger.info(
            "an attempt must stop", metadata: ["token": "\(token)", "why": "\(reason.rawValue)"])
        attempt.stop.yield(reason)
    }

    // MARK: Dispatching

    /// While too many bytes of outcomes wait for the database, no more are produced.
    private var isFull: Bool {
        held.values.reduce(0) { $0 + ($1.unstoredByteCount ?? 0) } >= settings.unstoredBytesMax
    }

    /// How many more jobs this host could run.
    private var room: Int {
        get async { await settings.room?(held.count) ?? .max }
    }

    /// Claims as many jobs as slots are free, for as long as the queue is open.
    func dispatch() async {
        var idle = Idleness(first: settings.firstPause, longest: settings.poll)
        while !isClosed {
            guard phase == .claiming, !slots.isEmpty, !isFull, let connection else {
                await doorbells.dispatch.wait(atMost: .seconds(60))
                continue
            }
            // Without room the database is not even asked: what is due there is for others.
            guard await room > 0 else {
                await doorbells.dispatch.wait(atMost: idle.pause())
                continue
            }
            do throws(PostgresError) {
                if try await claim(connection) > 0 {
                    idle.reset()
                    continue
                }
                let due = try await arm(connection)
                if try await claim(connection) == 0 {
                    let pause = idle.pause()
                    let soon = due.map { max($0, settings.firstPause) } ?? pause
                    await doorbells.dispatch.wait(atMost: min(soon, pause))
                }
            } catch {
                hasLostClaims = true
                await disconnected(connection, error)
            }
        }
    }

    private func claim(_ connection: Connection) async throws(PostgresError) -> Int {
        let want = min(await room, slots.count)
        guard want > 0, let me = registration else { return 0 }
        isClaiming = true
        defer { isClaiming = false }
        let rows = try await connection.run(
            """
            select id, token, attempt, queue, tenant, kind, priority, payload, max_attempts,
                (extract(epoch from timeout) * 1000)::bigint as timeout_ms,
                mayfly.iso(created_at) as created_at, mayfly.iso(run_at) as run_at,
                (extract(epoch from queue_delay) * 1000000)::bigint as delay_us,
                pin ->> 'generation' as pin_generation, pin ->> 'seed' as pin_seed,
                (pin ->> 'clock')::bigint as pin_clock
            from mayfly.claim(\(me.worker), \(me.secret), \(settings.queues), \(settings.kinds),
                \(want))
            """)
        let taken = min(rows.count, slots.count)
        for row in 0..<taken {
            let job = Job(rows, row, worker: me.worker)
            let (signal, source) = StopSignal.make()
            let following = Following()
            held[job.token] = Held(registration: me, stop: source, following: following)
            slots.removeLast().resume(returning: (job, signal, following))
        }
        if taken < rows.count {
            // Drained while the claim was under way: the rest goes back to its place.
            try await giveBackOthers(connection)
        }
        return rows.count
    }

    /// Gives back what the database says this worker holds and it knows nothing of.
    func giveBackOthers(_ connection: Connection) async throws(PostgresError) {
        guard let me = registration else { return }
        try await connection.run(
            "select mayfly.give_back(\(me.worker), \(me.secret), \(Array(held.keys)))")
    }

    /// - Returns: in how long a delayed job is due.
    private func arm(_ connection: Connection) async throws(PostgresError) -> Duration? {
        guard let me = registration else { return nil }
        let rows = try await connection.run(
            """
            select ceil(extract(epoch from mayfly.arm_bell(\(me.worker), \(me.secret),
                \(settings.queues), \(settings.poll * 3))) * 1000)::bigint as due_ms
            """)
        return rows.integer(0, "due_ms").map { .milliseconds(min($0, 3_600_000)) }
    }
}

/// How long to wait before looking again: ever longer, and never quite the same for two.
struct Idleness {
    let first: Duration
    let longest: Duration
    private var next: Duration

    init(first: Duration = .milliseconds(10), longest: Duration) {
        self.first = first
        self.longest = longest
        next = first
    }
    mutating func reset() { next = first }
    mutating func pause() -> Duration {
        defer { next = min(next * 3, longest) }
        return next * Double.random(in: 0.8...1.2)
    }
}
