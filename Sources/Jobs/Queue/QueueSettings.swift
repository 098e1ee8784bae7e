// What a worker's queue is told at its start, and the defaults: this is their one place.

import Postgres

package struct QueueSettings: Sendable {
    /// How long the jobs of a worker that died wait for another one.
    ///
    /// Long enough for a pause of the host or a failover of the database; a worker that comes back
    /// on the same host need not wait for it.
    package static let defaultLease = Duration.seconds(30)
    /// Settlements that can be under way at the same time.
    static let poolSize = 4
    /// Parts of files that can be on their way at the same time; a connection holds one.
    static let transferPoolSize = 3
    /// Nothing that a worker does waits for a lock of a producer; should it ever, not for long.
    static let lockTimeout = Duration.seconds(2)

    package var connection: ConnectionSettings
    /// What people call this worker: the host, as a rule.
    package var name: String
    /// Where it runs, for losses are counted by host; nil: `name`.
    package var host: String?
    package var version: String
    package var kinds: [String]
    /// Empty: all queues.
    package var queues: [String] = []
    package var slots: Int
    /// What only one process can be at a time, because it holds a lock for it: when it comes back
    /// after a crash, the jobs of its former life are given back at once.
    package var identity: String?
    package var lease = QueueSettings.defaultLease
    /// How long an idle worker relies on notifications alone.
    package var poll: Duration = .seconds(2)
    /// How soon it looks again after it has found nothing; then ever later, up to `poll`.
    ///
    /// A job may have been committed by a transaction that began before the bell was armed.
    package var firstPause: Duration = .milliseconds(10)
    /// How long settling waits for an absent database.
    package var settlePatience: Duration = .seconds(600)
    /// With so many bytes of outcomes waiting to be stored, nothing is claimed.
    ///
    /// What runs already may add as much as its results may have: slots bound that.
    package var unstoredBytesMax = 256 * 1024 * 1024
    /// How many more jobs may be claimed beside those that are held; `nil`: one for each slot.
    package var room: (@Sendable (_ held: Int) async -> Int)?

    package init(
        connection: ConnectionSettings, name: String, version: String, kinds: [String], slots: Int
    ) {
        self.connection = connection
        self.name = name
        self.version = version
        self.kinds = kinds
        self.slots = slots
    }

    /// The connection's settings with what every session of a worker needs.
    func sessionSettings(statementTimeout: Duration) -> ConnectionSettings {
        var settings = connection
        settings.session = [
            // Under a snapshot of yesterday, claims fail again and again.
            ("default_transaction_isolation", "read committed"),
            ("lock_timeout", "\(Self.lockTimeout.components.seconds)s"),
            ("statement_timeout", "\(statementTimeout.components.seconds)s"),
            ("idle_in_transaction_session_timeout", "60s"),
        ]
        return settings
    }
}
