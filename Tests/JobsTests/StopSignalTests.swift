// How an attempt is told to stop: every reason arrives, keeps its name, and the first one stands.

import Testing

@testable import Jobs

@Suite("A stop signal", .timeLimit(.minutes(1))) struct StopSignalTests {
    private struct Stopped: Error {}

    @Test(arguments: [StopReason.cancelled, .lost, .interrupted])
    func `cancels the work that it guards and says why`(reason: StopReason) async {
        let (signal, source) = StopSignal.make()
        let (result, stopped) = await signal.guarding { () async throws(Stopped) -> Int in
            source.yield(reason)
            guard (try? await Task.sleep(for: .seconds(60))) == nil else { return 1 }
            throw Stopped()
        }
        #expect(stopped == reason)
        #expect(throws: Stopped.self) { try result.get() }
    }

    @Test func `a stop signal that was given before the work began stops it all the same`() async {
        let (signal, source) = StopSignal.make()
        source.yield(.interrupted)
        #expect(await reason(of: signal) == .interrupted)
    }

    @Test func `keeps its first reason: a lost attempt does not become a cancelled one`() async {
        let (signal, source) = StopSignal.make()
        source.yield(.lost)
        source.yield(.cancelled)
        #expect(await reason(of: signal) == .lost)
    }

    @Test func `leaves the value of work that had ended before it`() async {
        let (signal, _) = StopSignal.make()
        let (result, stopped) = await signal.guarding { 42 }
        #expect(stopped == nil)
        #expect(result == .success(42))
    }
}
