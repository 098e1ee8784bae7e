// A worker's side of the queue: registers it, keeps its lease, hands out claims, stores outcomes.
// The program calls `withQueue`, then `next()` once per free slot. What goes on in the background
// is in Keeping.swift, storing in Settling.swift. It knows nothing of machines.

import Events
import Logging
import Postgres

package struct QueueSettings: Sendable {
    package var connection: ConnectionSettings
    /// What people call this worker: the host, as a rule.
    package var name: String
    /// Where it runs; losses are counted by host. Nil: `name`.
    package var host: String?
    package var version: String
    package var kinds: [String]
    /// Empty: all queues.
    package var queues: [String] = []
    package var slots: Int
    /// What only one process can be at a time, because it holds a lock for it: when it comes back
    /// after a crash, the jobs of its former life are given back at once.
    package var identity: String?
    package var lease: Duration = .seconds(15)
    /// How long an idle worker relies on notifications alone.
    package var poll: Duration = .seconds(2)
    /// How soon it looks again after it has found nothing; then ever later, up to `poll`.
    ///
    /// A job may have been committed by a transaction that began before the bell was armed.
    package var firstPause: Duration = .milliseconds(10)
    /// How long settling waits for an absent database.
    package var settlePatience: Duration = .seconds(600)

    package init(
        connection: ConnectionSettings, name: String, version: String, kinds: [String], slots: Int
    ) {
        self.connection = connection
        self.name = name
        self.version = version
        self.kinds = kinds
        self.slots = slots
    }
}

/// Registers a worker for as long as `body` runs, then gives back what it still holds.
///
/// - Throws: ``JobsError`` when the database cannot be reached at the start. Later it is tried
///   again until it answers.
package func withQueue<Value: Sendable>(
    _ settings: QueueSettings, logger: Logger, _ body: (Queue) async -> Value
) async throws(JobsError) -> Value {
    let queue = Queue(settings, logger)
    try await queue.open()
    return await withTaskGroup(of: Void.self) { background in
        background.addTask { await queue.keepAlive() }
        background.addTask { await queue.watchLease() }
        background.addTask { await queue.listen() }
        background.addTask { await queue.hand() }
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
        var isSettling = false
    }

    let settings: QueueSettings
    let logger: Logger
    /// Nil until the first connection.
    var registration: Registration?
    var connection: Connection?
    var store: Connection?
    var held: [Int64: Held] = [:]
    /// When the last heartbeat that was answered had been sent.
    var lastBeat = ContinuousClock.now
    /// Something may have been cancelled: the next heartbeat, which asks, should come soon.
    var isHinted = false
    /// A claim was under way when a connection broke: jobs may be ours without our knowing.
    var hasLostClaims = false
    var health: (state: HostState, note: String?) = (.ok, nil)
    var isHealthTold = true
    var isDraining = false
    /// Nothing is claimed while the host is ill; see `suspend`.
    private var isSuspended = false
    var isClosed = false

    private var slots: [CheckedContinuation<(Job, StopSignal)?, Never>] = []
    // One bell for each background task that waits.
    let wake = Wake()
    let connected = Wake()
    let listening = Wake()
    let keeper = Wake()
    let leaseWatch = Wake()
    var hasStoppedAll = false

    init(_ settings: QueueSettings, _ logger: Logger) {
        self.settings = settings
        self.logger = logger
    }

    /// Waits for a job, as long as it takes.
    ///
    /// - Returns: nil once the queue drains.
    package func next() async -> Claim? {
        guard !isDraining else { return nil }
        let claimed = await withCheckedContinuation { slot in
            slots.append(slot)
            wake.ring()
        }
        guard let (job, stop) = claimed else { return nil }
        return Claim(job, stop, from: self)
    }

    /// From now on `next` answers nil; what was claimed goes on.
    package func drain() {
        isDraining = true
        while let slot = slots.popLast() { slot.resume(returning: nil) }
        wake.ring()
    }

    /// Claims nothing until `resume`; what was claimed goes on, and slots go on waiting.
    package func suspend() { isSuspended = true }
    package func resume() {
        isSuspended = false
        wake.ring()
    }

    /// What `mayfly.worker` and `mayfly doctor` show of this worker's host; told to the database
    /// with the next heartbeat.
    package func reportHealth(_ state: HostState, note: String?) {
        health = (state, note)
        isHealthTold = false
        isHinted = true
        keeper.ring()
    }

    /// Stops every attempt that is held, to be given back.
    package func interruptAll() { stopAll(.interrupted) }

    func stopAll(_ reason: StopReason) { for token in held.keys { stop(token, reason) } }

    /// An attempt whose outcome is on its way to the database is past stopping.
    func stop(_ token: Int64, _ reason: StopReason) {
        guard let attempt = held[token], !attempt.isSettling else { return }
        logger.info(
            "an attempt must stop", metadata: ["token": "\(token)", "why": "\(reason.rawValue)"])
        attempt.stop.yield(reason)
    }

    /// How many claims are not settled.
    package var heldCount: Int { held.count }

    // MARK: Handing out

    /// Claims as many jobs as slots are free, for as long as the queue is open.
    func hand() async {
        var idle = Idleness(first: settings.firstPause, longest: settings.poll)
        while !isClosed {
            guard !slots.isEmpty, !isDraining, !isSuspended else {
                await wake.wait(atMost: .seconds(60))
                continue
            }
            guard let connection else {
                await connected.wait(atMost: .seconds(1))
                continue
            }
            do {
                if try await claim(connection) > 0 {
                    idle.reset()
                    continue
                }
                let due = try await arm(connection)
                if try await claim(connection) == 0 {
                    let pause = idle.pause()
                    await wake.wait(atMost: due.map { min($0, pause) } ?? pause)
                }
            } catch {
                hasLostClaims = true
                await lose(connection, error)
            }
        }
    }

    private func claim(_ connection: Connection) async throws(PostgresError) -> Int {
        let want = slots.count
        guard want > 0, let me = registration else { return 0 }
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
            held[job.token] = Held(registration: me, stop: source)
            slots.removeLast().resume(returning: (job, signal))
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

extension Job {
    fileprivate init(_ rows: Rows, _ row: Int, worker: Int64) {
        var pin: Pin?
        if let generation = rows.text(row, "pin_generation"),
            let clock = rows.integer(row, "pin_clock"),
            let seed = rows.text(row, "pin_seed").flatMap(Hex.decode)
        {
            pin = Pin(generation: generation, seed: seed, clock: clock)
        }
        self.init(
            id: rows.integer(row, "id") ?? 0, token: rows.integer(row, "token") ?? 0,
            attempt: Int(rows.integer(row, "attempt") ?? 0), queue: rows.string(row, "queue"),
            tenant: rows.string(row, "tenant"), kind: rows.string(row, "kind"),
            priority: Int(rows.integer(row, "priority") ?? 0), payload: rows.string(row, "payload"),
            timeout: rows.integer(row, "timeout_ms").map { .milliseconds($0) },
            maxAttempts: Int(rows.integer(row, "max_attempts") ?? 1),
            createdAt: rows.string(row, "created_at"), runAt: rows.string(row, "run_at"),
            queueDelay: .microseconds(rows.integer(row, "delay_us") ?? 0), pin: pin, worker: worker)
    }
}

enum Hex {
    static func decode(_ text: String) -> [UInt8]? {
        let digits = text.utf8.map { byte -> UInt8? in
            switch byte {
            case UInt8(ascii: "0")...UInt8(ascii: "9"): byte - UInt8(ascii: "0")
            case UInt8(ascii: "a")...UInt8(ascii: "f"): byte - UInt8(ascii: "a") + 10
            default: nil
            }
        }
        guard digits.count.isMultiple(of: 2), !digits.contains(nil) else { return nil }
        return stride(from: 0, to: digits.count, by: 2).map { index in
            (digits[index] ?? 0) << 4 | (digits[index + 1] ?? 0)
        }
    }
}
