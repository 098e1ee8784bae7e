// Measures whether anything holds the event loop: what every lease, timer and machine there would
// feel.

import Events
import Foundation
import Machines
import Wire

/// A beat on the event loop, as every timer, lease and other machine there.
@LoopActor
enum Heartbeat {
    struct Worst: Sendable, CustomStringConvertible {
        /// By how much a beat was late, without what the kernel let the thread wait for a processor.
        var late = Duration.zero
        /// Processor time that the loop's thread used from one beat to the next.
        var used = Duration.zero
        var description: String {
            "\(late.milliseconds) ms late at worst, \(used.milliseconds) ms used between two beats"
        }
    }
    private static let interval = Duration.milliseconds(5)
    /// What the loop's thread may work between two beats, on the machine that these tests were
    /// written on.
    nonisolated static let turnMax = Duration.milliseconds(50) * processorSlowness
    /// How much longer reading a guest's frames takes this processor than that machine's, at least
    /// 1; in the lab, where the processor itself is emulated, about 20.
    nonisolated static let processorSlowness: Double = {
        let bytes = (try? message(.stdout([1], isFinal: false), 3)) ?? []
        let frames = Array(repeatElement(bytes, count: referenceFrames).joined())
        let begin = threadTime()
        var (decoder, count) = (FrameDecoder(from: .guest), 0)
        decoder.feed(frames)
        while let frame = try? decoder.next() {
            count += (try? GuestMessage(decoding: frame)) == nil ? 0 : 1
        }
        precondition(count == referenceFrames)
        return max(1, (threadTime() - begin) / referenceTime)
    }()
    private nonisolated static let referenceFrames = 20_000
    /// Of `referenceFrames` there, in a debug build.
    private nonisolated static let referenceTime = Duration.milliseconds(25)

    /// The worst beat while `body` ran.
    static func worst(_ body: () async throws -> Void) async rethrows -> Worst {
        let beating = Task { @LoopActor in
            var worst = Worst()
            while !Task.isCancelled {
                let (due, used) = (ContinuousClock.now + interval, threadTime())
                let waited = threadWait()
                _ = await EventLoop.shared.ready([], before: due, ignoringCancellation: true)
                worst.late = max(worst.late, .now - due - (threadWait() - waited))
                worst.used = max(worst.used, threadTime() - used)
            }
            return worst
        }
        do { try await body() } catch {
            beating.cancel()
            throw error
        }
        beating.cancel()
        return await beating.value
    }
    /// Works without a pause, as a session does that has much to read; answers how much longer
    /// everything takes now than on a host that does nothing else, which is 1 at best.
    @discardableResult
    static func spin(for duration: Duration) async -> Double {
        let (end, used) = (ContinuousClock.now + duration, threadTime())
        while .now < end {
            let turn = ContinuousClock.now + .microseconds(500)
            while .now < turn {}
            await EventLoop.shared.yield()
        }
        return duration / max(threadTime() - used, .milliseconds(1))
    }
    /// How long this thread could have run and had no processor; nothing where the kernel does not
    /// count that.
    private nonisolated static func threadWait() -> Duration {
        let text = try? String(contentsOfFile: "/proc/thread-self/schedstat", encoding: .utf8)
        let fields = text?.split(separator: " ") ?? []
        return .nanoseconds(fields.count > 1 ? Int64(fields[1]) ?? 0 : 0)
    }
    private nonisolated static func threadTime() -> Duration {
        var time = timespec()
        unsafe clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time)
        return .seconds(time.tv_sec) + .nanoseconds(time.tv_nsec)
    }
}
