// A host that knows when it is ill, and the three ends of a stopped attempt: pure, without a
// database or machines. With both: EndToEndLossTests.

import Jobs
import Testing

@testable import Machines
@testable import Mayfly

@Suite("A host's health") struct HostHealthTests {
    private static let loss = Outcome.lost(Failure(.restoreFailed, "no memory left"))
    private static let success = Outcome.succeeded(Report())

    private func isProven(_ outcome: Outcome) -> Bool? { outcome.report?.isHostProven }

    @Test func `is lost after three losses in a row and not before`() {
        let health = HostHealth()
        for _ in 0..<2 { _ = health.observe(Self.loss) }
        #expect(health.illness == nil)
        _ = health.observe(Self.success)
        for _ in 0..<2 { _ = health.observe(Self.loss) }
        #expect(health.illness == nil)
        _ = health.observe(Self.loss)
        #expect(health.illness == "restore_failed: no memory left")
    }

    @Test func `comes back when a machine was restored or a job ran to its own end`() {
        let health = HostHealth()
        for _ in 0..<3 { _ = health.observe(Self.loss) }
        health.recover()
        #expect(health.illness == nil)
        for _ in 0..<3 { _ = health.observe(Self.loss) }
        _ = health.observe(.failed(Failure(.exitNonzero, "1"), Report()))
        #expect(health.illness == nil)
    }

    @Test func `lets only the first loss after something that worked speak against a job`() {
        let health = HostHealth()
        #expect(isProven(health.observe(Self.loss)) == true)
        #expect(isProven(health.observe(Self.loss)) == false)
        _ = health.observe(Self.success)
        #expect(isProven(health.observe(Self.loss)) == true)
    }

    @Test(arguments: [Reason.leaseLost, .storeFailed, .internal, .deadlineExceeded])
    func `is not judged by what the database did`(reason: Reason) {
        let health = HostHealth()
        for _ in 0..<10 { _ = health.observe(.lost(Failure(reason, ""))) }
        #expect(health.illness == nil)
    }

    @Test func `is not judged by a job that was refused without a machine`() {
        let health = HostHealth()
        for _ in 0..<3 { _ = health.observe(Self.loss) }
        _ = health.observe(.failed(Failure(.invalidPayload, "$: no"), nil))
        #expect(health.illness != nil)
    }
}

@Suite("The end of a stopped attempt") struct StoppedAttemptTests {
    private static let machine = MachineIdentity(
        id: "m-1", image: "code", generation: "g1", hypervisor: .qemu, accelerator: .tcg,
        transport: .virtioSerial, entropySeed: [1], clock: 7)
    private static let error = AttemptError.machine(
        MachineError(.cancelled, "the job was stopped", machine))

    private func outcome(_ stopped: StopReason?) -> Outcome {
        Outcome(.failure(Self.error), stopped: stopped)
    }

    @Test func `is cancelled only when somebody cancelled the job`() {
        #expect(outcome(.cancelled).how == "cancelled")
        #expect(outcome(.cancelled).report?.machine == "m-1")
        #expect(outcome(.lost).how == "lost")
        #expect(outcome(.lost).failure?.reason == .leaseLost)
        #expect(outcome(.interrupted).how == "interrupted")
        // The host itself stopped: it shuts down.
        #expect(outcome(nil).how == "interrupted")
    }

    @Test(arguments: [StopReason.cancelled, .lost, .interrupted])
    func `is the job's own when the job was faster than the stop`(stopped: StopReason) {
        let outcome = Outcome(.success(.succeeded(Report(result: "{}"))), stopped: stopped)
        #expect(outcome.how == "succeeded")
    }

    @Test func `is the job's failure when the guest broke the protocol`() {
        let error = MachineError(.protocolViolation, "an unknown frame", Self.machine)
        let outcome = Outcome(.failure(.machine(error)), stopped: nil)
        #expect(outcome.how == "failed")
        #expect(outcome.failure?.reason == .guestProtocolViolation)
    }
}
