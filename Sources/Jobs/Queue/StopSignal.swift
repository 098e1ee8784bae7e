// How an attempt is told to stop before its program has ended. Queue makes one signal with each
// claim and keeps its other end for as long as the attempt is held; whoever runs the attempt runs
// it under the signal's guard.

/// Why an attempt must stop now: three different ends, which stay different up to the last row.
package enum StopReason: String, Sendable {
    /// Somebody cancelled the job, and the database says so.
    case cancelled
    /// The lease ran out, or the attempt was given to somebody else.
    case lost
    /// This worker shuts down: the attempt is given back and costs the job nothing.
    case interrupted
}

/// What tells one attempt to stop; carried by its claim.
package struct StopSignal: Sendable {
    /// The first reason stands: a later one cannot make a lost attempt a cancelled one.
    private let reasons: AsyncStream<StopReason>

    /// A signal, and the end by which its maker gives it.
    static func make() -> (signal: StopSignal, source: AsyncStream<StopReason>.Continuation) {
        let (reasons, source) = AsyncStream.makeStream(
            of: StopReason.self, bufferingPolicy: .bufferingOldest(1))
        return (StopSignal(reasons: reasons), source)
    }

    private enum Event<Value: Sendable, Failure: Error>: Sendable {
        case ended(Result<Value, Failure>)
        case stopped(StopReason?)
    }

    /// Runs `body`, cancels its Swift task when the signal is given, and waits for its end.
    ///
    /// - Returns: how `body` ended, and why it was told to stop, if it was. A value stands even
    ///   then: it came before the stop could take hold.
    package func guarding<Value: Sendable, Failure: Error>(
        _ body: @escaping @Sendable () async throws(Failure) -> Value
    ) async -> (result: Result<Value, Failure>, stopped: StopReason?) {
        await withTaskGroup(of: Event<Value, Failure>.self) { group in
            group.addTask {
                do throws(Failure) { return .ended(.success(try await body())) } catch {
                    return .ended(.failure(error))
                }
            }
            group.addTask { .stopped(await reasons.first { _ in true }) }
            var stopped: StopReason?
            var result: Result<Value, Failure>?
            for await event in group {
                switch event {
                case .stopped(let reason): if result == nil { stopped = reason }
                case .ended(let ended): result = ended
                }
                group.cancelAll()  // the body, or the watcher, whichever is left
            }
            guard let result else { preconditionFailure("a task group lost a child task") }
            return (result, stopped)
        }
    }
}
