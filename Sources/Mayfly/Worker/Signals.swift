// SIGTERM and SIGINT as a stream: the first asks for a graceful end, the second for one at once.
// Used by the worker, by `mayfly run` and by the demo; nothing else in the program handles signals.

import Dispatch
import Glibc

/// The stop signals of this process, for the length of a scope.
enum StopSignals {
    /// Runs `body` with the signals that arrive meanwhile; afterwards they end the process again.
    static func watched<Value: Sendable>(
        _ body: (AsyncStream<Int32>) async throws -> Value
    ) async rethrows -> Value {
        let (stream, sink) = AsyncStream<Int32>.makeStream()
        let numbers = [SIGTERM, SIGINT]
        let sources = numbers.map { number in
            signal(number, SIG_IGN)
            let source = DispatchSource.makeSignalSource(signal: number)
            source.setEventHandler { sink.yield(number) }
            source.resume()
            return source
        }
        defer {
            for source in sources { source.cancel() }
            for number in numbers { signal(number, SIG_DFL) }
            sink.finish()
        }
        return try await body(stream)
    }
}

/// Runs `body`; the first stop signal cancels it, so that its machine ends in order.
func withStopSignals<Value: Sendable>(
    stopping what: String, _ body: @escaping @Sendable () async throws -> Value
) async throws -> Value {
    try await StopSignals.watched { signals in
        try await withThrowingTaskGroup(of: Value?.self) { group in
            group.addTask { try await body() }
            group.addTask {
                guard await signals.first(where: { _ in true }) != nil else { return nil }
                Console.say("mayfly: stopping \(what)")
                return nil
            }
            while let finished = try await group.next() {
                group.cancelAll()
                if let finished { return finished }
            }
            throw CancellationError()
        }
    }
}
