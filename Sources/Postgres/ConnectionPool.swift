// A few connections that are lent out one caller at a time, so that a slow transaction holds up
// nobody but its own caller. Used by Jobs for settlements.

import Events

package actor ConnectionPool {
    nonisolated package var unownedExecutor: UnownedSerialExecutor {
        unsafe EventLoop.shared.asUnownedSerialExecutor()
    }

    private let settings: ConnectionSettings
    private let limit: Int
    private var idle: [Connection] = []
    private var lentCount = 0
    private var waiters = Fifo<CheckedContinuation<Void, Never>>()
    private var isClosed = false

    package init(_ settings: ConnectionSettings, limit: Int) {
        precondition(limit > 0, "a pool of no connections serves nobody")
        self.settings = settings
        self.limit = limit
    }

    /// Runs `body` with a connection that nobody else uses meanwhile; waits for one as long as it
    /// takes, cancelled or not.
    ///
    /// - Throws: what `body` throws, or why no connection can be opened.
    package func with<Value>(
        _ body: (Connection) async throws(PostgresError) -> Value
    ) async throws(PostgresError) -> Value {
        await borrow()
        var connection: Connection?
        do {
            let lent = try await openConnection()
            connection = lent
            let value = try await body(lent)
            await giveBack(lent)
            return value
        } catch {
            await giveBack(connection)
            throw error
        }
    }

    private func borrow() async {
        if lentCount < limit {
            lentCount += 1
        } else {
            // Whoever gives a connection back hands its place on.
            await withCheckedContinuation { waiters.append($0) }
        }
    }

    private func openConnection() async throws(PostgresError) -> Connection {
        while let connection = idle.popLast() {
            if await connection.isOpen { return connection }
        }
        return try await Connection(settings)
    }

    private func giveBack(_ connection: Connection?) async {
        if let connection {
            if isClosed {
                await connection.close()
            } else if await connection.isOpen {
                idle.append(connection)
            }
        }
        if let waiter = waiters.popFirst() { waiter.resume() } else { lentCount -= 1 }
    }

    /// Closes what is not lent; what is, when it comes back.
    package func close() async {
        isClosed = true
        let open = idle
        idle = []
        for connection in open { await connection.close() }
    }
}
