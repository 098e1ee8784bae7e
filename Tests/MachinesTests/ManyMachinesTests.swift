// Many machines one after the other and beside each other: every one READY, none stuck, nothing of
// them taken afterwards. MAYFLY_TEST_RESTORES says how many (the lab restores 100).

import Events
import Foundation
import Testing

@testable import Machines

extension RealMachineTests {
    @Suite("Many machines", .serialized)
    struct ManyMachinesTests {
        static let count =
            ProcessInfo.processInfo.environment["MAYFLY_TEST_RESTORES"].flatMap { Int($0) } ?? 12

        @Test func `are restored four at a time, each READY and answering`() async throws {
            let results = try await restoreMany(12)
            #expect(await (results.answered, results.ids.count) == (12, 12))
        }

        @Test(.enabled(if: TestImage.isOverVsock, TestImage.noVsock))
        func `have a context id each, connect right after the resume, and leave no id taken`()
            async throws
        {
            let results = try await restoreMany(Self.count)
            let (contexts, tries) = await (results.contexts, results.tries)
            #expect(await (results.answered, results.ids.count) == (Self.count, Self.count))
            #expect(contexts.count == Self.count)
            // The first try comes right after the resume, into the race; the last one won it.
            #expect(tries.count == Self.count)
            let raced = tries.count { $0 > 1 }
            print(
                "\(Self.count) machines, \(contexts.count) context ids: \(raced) lost the first "
                    + "try to the race after a resume; at most \(tries.max() ?? 0) tries")
            // Every one can be taken again.
            for id in contexts { #expect(try VsockContext.take(id) != nil) }
        }

        private func restoreMany(_ count: Int) async throws -> Results {
            let host = try await TestImage.host()
            let image = try await host.image(TestImage.name, generation: nil)
            let results = Results(left: count)
            let slots = (0..<4).map { _ in
                Task { @LoopActor () async throws -> Void in
                    while results.takeOne() {
                        _ = try await host.withMachine(restoring: image) {
                            machine throws(MachineError) in
                            try await machine.session.ping(before: .now + .seconds(60))
                            results.note(machine)
                            let report = try await machine.session.run(
                                GuestJob(program: .bash(source: "echo here")))
                            results.answered += TestImage.text(report.stdout) == "here\n" ? 1 : 0
                        }
                    }
                }
            }
            for slot in slots { try await slot.value }
            #expect(await host.machineCount == 0)
            return results
        }

        @Test func `many machines are lost one by one, not together`() async throws {
            let host = try await TestImage.host()
            let image = try await host.image(TestImage.name, generation: nil)
            let begin = ContinuousClock.now
            let cut = Task { @LoopActor in
                try await host.withMachine(restoring: image) {
                    machine throws(MachineError) in
                    machine.session.cut()
                    _ = try await machine.session.run(
                        GuestJob(program: .bash(source: "sleep 60"), timeout: .seconds(90)))
                }
            }
            let other = try await TestImage.run(.bash(source: "echo fine"))
            #expect(TestImage.text(other.report.stdout) == "fine\n")
            let result = await cut.result
            #expect(ContinuousClock.now - begin < .seconds(30))
            #expect {
                _ = try result.get()
            } throws: { ($0 as? MachineError)?.reason == .machineLost }
        }
    }
}

@LoopActor
private final class Results {
    private var left: Int
    var answered = 0
    var ids: Set<String> = []
    var contexts: Set<UInt32> = []
    var tries: [Int] = []
    nonisolated init(left: Int) { self.left = left }
    func takeOne() -> Bool {
        left -= 1
        return left >= 0
    }
    func note(_ machine: borrowing Machine) {
        ids.insert(machine.id)
        if let vsock = (machine.hypervisor as? QEMU)?.vsock { contexts.insert(vsock.id) }
        tries.append(machine.session.tries)
    }
}
