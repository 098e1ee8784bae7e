// What the pool decides without a machine, and guests that lie about their rehearsal.

import CLinux
import Events
import Foundation
import Processes
import Testing
import Wire

@testable import Machines

@Suite("Warm machines")
struct WarmPoolTests {
    @Test func `are as many as jobs began while one was made`() {
        var arrivals = Arrivals()
        let start = ContinuousClock.now
        #expect(arrivals.peak(at: start) == 0)
        for tenth in 0..<50 {
            arrivals.note(start + .milliseconds(100 * tenth), within: .milliseconds(450))
        }
        #expect(arrivals.peak(at: start + .seconds(5)) == 5)
    }

    @Test func `remember a burst for a while`() {
        var arrivals = Arrivals()
        let start = ContinuousClock.now
        for _ in 0..<8 { arrivals.note(start, within: .seconds(1)) }
        let later = start + .seconds(200)
        arrivals.note(later, within: .seconds(1))
        #expect(arrivals.peak(at: later) == 8)
        let muchLater = start + .seconds(301)
        #expect(arrivals.peak(at: muchLater) == 0)
        arrivals.note(muchLater, within: .seconds(1))
        #expect(arrivals.peak(at: muchLater) == 1)
    }

    @Test @LoopActor func `are none without a budget, and none when memory is short`() throws {
        let directory = try TemporaryDirectory()
        try writeFile(directory.path + "/manifest.json", [], mode: 0o600)
        let image = try GenerationIdentity(of: directory.path)
        let plenty = ByteCount(bytes: HostMemory.reserve.bytes + (1 << 30))
        #expect(!WarmPool(WarmSettings()).wants(image, available: plenty))
        var settings = WarmSettings()
        settings.memory = .gibibytes(1)
        #expect(WarmPool(settings).wants(image, available: plenty))
        #expect(!WarmPool(settings).wants(image, available: HostMemory.reserve))
        settings.memory = .mebibytes(40)
        #expect(!WarmPool(settings).wants(image, available: plenty))
        settings.memory = .gibibytes(1)
        var pool = WarmPool(settings)
        pool.noteFailure()
        #expect(!pool.wants(image, available: plenty))
    }

    static let answers: [(String, [GuestMessage], MachineError.Reason)] = [
        ("that it could not", [.ack(.failed, message: "no bash")], .restoreFailed),
        (
            "READY", [.ready(ReadyReport(steps: [], realtime: 0, sample: randomBytes(32)))],
            .protocolViolation
        ),
        ("PARKED", [.parked], .protocolViolation),
        ("its last words", [.error(message: "enough")], .machineLost),
    ]

    @Test(arguments: answers.indices)
    func `of a guest that answers REHEARSE with something else are thrown away`(
        index: Int
    ) async throws {
        let (name, messages, reason) = Self.answers[index]
        try await rehearsing(try messages.flatMap { try message($0, 0) }) {
            #expect(($0 as? MachineError)?.reason == reason, "\(name): \($0)")
        }
    }

    @Test func `of a guest that acknowledges more than it was told are thrown away`() async throws {
        let twice = try message(.ack(.ok, message: ""), 0) + message(.ack(.ok, message: ""), 0)
        try await rehearsing(twice, times: 2) {
            #expect(($0 as? MachineError)?.reason == .protocolViolation, "\($0)")
        }
    }

    /// What the session throws when the guest answers with these bytes; PINGs `times` - 1 times.
    @LoopActor
    private func rehearsing(
        _ bytes: [UInt8], times: Int = 1, _ judge: (any Error) -> Void
    ) async throws {
        let pair = try SocketPair()
        let peer = Peer(dup(pair.theirs.number))
        let living = Descriptor(mayfly_pidfd_open(getpid()))
        let session = try AgentSession(ByteStream(pair.take()), living.number)
        let deadline = ContinuousClock.now + .seconds(5)
        try peer.greet()
        try await session.greet(agent: Peer.agent, before: deadline)
        peer.write(bytes)
        do {
            try await session.rehearse(before: deadline)
            for _ in 1..<times { try await session.ping(before: deadline) }
            Issue.record("nothing was thrown")
        } catch { judge(error) }
    }
}
