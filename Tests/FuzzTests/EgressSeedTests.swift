// The targets of the network and of the launcher, given damaged honest inputs by a seeded generator: a million in all, or as
// many as MAYFLY_FUZZ_CASES says; MAYFLY_TEST_SEED repeats a run.

import Foundation
import TestSupport
import Testing

@Suite("What a guest says to the network")
struct EgressSeedTests {
    private static let cases =
        ProcessInfo.processInfo.environment["MAYFLY_FUZZ_CASES"].flatMap { Int($0) } ?? 1_000_000

    /// What share of all cases a target has: the others cost a debug build less.
    private static let shares: [(target: FuzzTarget, percent: Int)] = [
        (.proxyRequests, 12), (.exchanges, 10), (.handshakes, 26), (.nameQueries, 30),
        (.rules, 12), (.launchRequests, 10),
    ]

    @Test(
        "damaged requests, handshakes, queries and rules end in order",
        arguments: EgressSeedTests.shares.indices)
    func endsInOrder(_ index: Int) throws {
        let (target, percent) = Self.shares[index]
        let directory = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
            .appendingPathComponent("Corpus/\(target.rawValue)")
        let samples = try FileManager.default.contentsOfDirectory(atPath: directory.path).sorted()
            .map { [UInt8](try Data(contentsOf: directory.appendingPathComponent($0))) }
        var random = SeededGenerator(for: target.rawValue)
        for _ in 0..<(Self.cases / 100 * percent) {
            let draw = random.next()
            var bytes = samples[Int(draw & 0xFFFF) % samples.count]
            guard !bytes.isEmpty else { continue }
            for shift in 0...Int(draw >> 62) {
                let more = random.next()
                let place = Int(more & 0xFFFF) % bytes.count
                switch more >> 61 {
                case 0: bytes.removeLast(min(bytes.count - 1, place))
                case 1: bytes.insert(UInt8(more >> 16 & 0xFF), at: place)
                case 2: bytes.remove(at: place)
                case 3: bytes += bytes.suffix(shift + 1)
                default: bytes[place] = UInt8(more >> 16 & 0xFF)
                }
                if bytes.isEmpty { bytes = [0] }
            }
            do throws(BrokenPromise) { try target.run(bytes) } catch {
                Issue.record("\(target.rawValue), seed \(random.seed): \(error) for \(bytes)")
                return
            }
        }
    }
}
