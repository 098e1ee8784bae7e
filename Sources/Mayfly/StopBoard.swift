// Who must stop and why: a cancelled job, a lost lease, a worker that shuts down. Supervisor writes
// on the board, each attempt watches its own line. Knows neither queue nor machine.

import Synchronization

/// Why an attempt is stopped before its program has ended.
enum StopReason: Sendable, Equatable {
    /// By an operator or a producer; or the lease is lost, and then nothing can be stored anyway.
    case cancelled
    /// This worker ends: the attempt is given back and costs nothing.
    case shutdown
}

/// One line for each attempt that is under way.
final class StopBoard: Sendable {
    private struct State {
        var lines: [Int64: AsyncStream<StopReason>.Continuation] = [:]
        /// Stops that came before their attempt had opened its line.
        var early: [(token: Int64, reason: StopReason)] = []
        var isShutDown = false
    }
    private let state = Mutex(State())
    private static let earlyMax = 1024  // older ones belong to attempts that are long over

    func stop(_ token: Int64, _ reason: StopReason) {
        let line = state.withLock { state in
            guard let line = state.lines[token] else {
                state.early.append((token, reason))
                if state.early.count > Self.earlyMax { state.early.removeFirst() }
                return nil as AsyncStream<StopReason>.Continuation?
            }
            return line
        }
        line?.yield(reason)
    }

    /// Stops every attempt, and every one that begins from now on.
    func shutDown() {
        let lines = state.withLock { state in
            state.isShutDown = true
            return Array(state.lines.values)
        }
        for line in lines { line.yield(.shutdown) }
    }

    /// How many attempts are under way.
    var count: Int { state.withLock { $0.lines.count } }

    private func open(_ token: Int64) -> AsyncStream<StopReason> {
        let (stream, line) = AsyncStream<StopReason>.makeStream()
        let reason = state.withLock { state in
            state.lines[token] = line
            let early = state.early.first { $0.token == token }?.reason
            state.early.removeAll { $0.token == token }
            return early ?? (state.isShutDown ? .shutdown : nil)
        }
        if let reason { line.yield(reason) }
        return stream
    }
    private func close(_ token: Int64) {
        let line = state.withLock { $0.lines.removeValue(forKey: token) }
        line?.finish()
    }

    private enum Event<Value: Sendable>: Sendable {
        case done(Value)
        case stop(StopReason?)
    }

    /// Runs `body` and cancels it when its line says so; waits for its end in any case.
    func stoppable<Value: Sendable>(
        _ token: Int64, _ body: @escaping @Sendable () async -> Value
    ) async -> (value: Value, stop: StopReason?) {
        let stream = open(token)
        return await withTaskGroup(of: Event<Value>.self) { group in
            group.addTask { .done(await body()) }
            group.addTask { .stop(await stream.first { _ in true }) }
            var reason: StopReason?
            var value: Value?
            for await event in group {
                switch event {
                case .stop(let stopped?):
                    reason = stopped
                    group.cancelAll()
                case .stop(nil): break
                case .done(let done):
                    value = done
                    close(token)  // ends the watcher, too
                }
            }
            guard let value else { preconditionFailure("a task group lost the task it waited for") }
            return (value, reason)
        }
    }
}
