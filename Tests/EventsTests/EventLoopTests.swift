// The event loop: descriptors, deadlines, cancellation and long work, each by what it promises to the
// actors that live on it. Run under the thread sanitizer by `scripts/test --sanitize thread`.

import Events
import Glibc
import Testing

@Suite("The event loop")
struct EventLoopTests {
    /// A stream that is closed when the test is over.
    private final class Pipe: Sendable {
        let read: CInt
        let write: CInt
        init() throws {
            var ends: [CInt] = [0, 0]
            let kind = SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue | SOCK_NONBLOCK.rawValue
            let status = unsafe socketpair(AF_UNIX, CInt(kind), 0, &ends)
            try #require(status == 0)
            (read, write) = (ends[0], ends[1])
        }
        deinit {
            close(read)
            close(write)
        }
        func put(_ byte: UInt8) {
            var byte = byte
            _ = unsafe Glibc.write(write, &byte, 1)
        }
    }

    @Test func `a wait ends when its descriptor becomes readable`() async throws {
        let pipe = try Pipe()
        async let readiness = EventLoop.shared.ready([(pipe.read, .read)], before: nil)
        pipe.put(1)
        #expect(await readiness == .ready(descriptor: pipe.read, .read))
    }

    @Test func `a wait on a silent descriptor ends at its deadline and not before`() async throws {
        let pipe = try Pipe()
        let begin = ContinuousClock.now
        let readiness = await EventLoop.shared.ready(
            [(pipe.read, .read)], before: begin + .milliseconds(20))
        #expect(readiness == .timedOut)
        #expect(ContinuousClock.now - begin >= .milliseconds(20))
    }

    @Test func `a cancelled wait ends at once, before or after it began`() async throws {
        let pipe = try Pipe()
        for _ in 0..<200 {
            let waiting = Task { await EventLoop.shared.ready([(pipe.read, .read)], before: nil) }
            waiting.cancel()
            #expect(await waiting.value == .cancelled)
        }
    }

    @Test func `a wait that ignores cancellation ends by its descriptor`() async throws {
        let pipe = try Pipe()
        let waiting = Task {
            await EventLoop.shared.ready(
                [(pipe.read, .read)], before: nil, ignoringCancellation: true)
        }
        waiting.cancel()
        pipe.put(1)
        #expect(await waiting.value == .ready(descriptor: pipe.read, .read))
    }

    @Test func `a hundred waits from many threads each end by their own descriptor`() async throws {
        let pipes = try (0..<100).map { _ in try Pipe() }
        await withTaskGroup(of: Bool.self) { group in
            for pipe in pipes {
                group.addTask {
                    await EventLoop.shared.ready([(pipe.read, .read)], before: nil)
                        == .ready(descriptor: pipe.read, .read)
                }
            }
            for pipe in pipes {
                group.addTask {
                    pipe.put(1); return true
                }
            }
            for await isRight in group { #expect(isRight) }
        }
    }

    @LoopActor private final class Counter {
        var value = 0
        nonisolated init() {}
    }

    @Test func `what runs on the loop runs one at a time`() async {
        let counter = Counter()
        await withTaskGroup(of: Void.self) { group in
            for _ in 0..<50 {
                group.addTask { @LoopActor in for _ in 0..<200 { counter.value += 1 } }
            }
        }
        #expect(await counter.value == 10_000)
    }

    @Test func `who yields lets the others go on`() async {
        let counter = Counter()
        let patient = Task { @LoopActor in
            while counter.value < 10 { await EventLoop.shared.yield() }
        }
        for _ in 0..<10 { await Task { @LoopActor in counter.value += 1 }.value }
        await patient.value
        #expect(await counter.value == 10)
    }

    @Test func `blocking work leaves the loop free and answers with its value or its error`()
        async throws
    {
        struct Refusal: Error {}
        let pipe = try Pipe()
        // The work blocks until the loop has done something: it could not, were it on the loop.
        let value = await offload { () -> UInt8 in
            Task { @LoopActor in pipe.put(42) }
            var byte: UInt8 = 0
            while unsafe read(pipe.read, &byte, 1) != 1 { sched_yield() }
            return byte
        }
        #expect(value == 42)
        await #expect(throws: Refusal.self) {
            try await offload { () throws(Refusal) -> Int in throw Refusal() }
        }
    }
}
