// Every way to lose a machine in the middle of its job: the hypervisor, the agent, the guest's
// kernel, the connection. Each is noticed within two seconds and called what it is.

import CLinux
import Events
import Foundation
import Processes
import StrictJSON
import Testing
import Wire

@testable import Machines

extension RealMachineTests {
    @Suite("A machine in the middle of its job", .serialized)
    struct LossTests {
        enum Loss: String, CaseIterable, Sendable, CustomTestStringConvertible {
            case hypervisorKilled = "its hypervisor is killed"
            case agentGone = "its agent ends without a word"
            case agentConfused = "its agent sees the protocol broken"
            case guestReset = "its guest resets, as its kernel does when the agent is killed"
            case connectionCut = "its connection is shut down"
            var testDescription: String { rawValue }
        }

        /// Nobody can give a guest of Firecracker's a machine check.
        static let losses = Loss.allCases.filter {
            $0 != .guestReset || TestImage.hypervisor == .qemu
        }

        @Test(arguments: losses)
        func `is lost within two seconds when`(loss: Loss) async throws {
            let error = try await expectLoss(within: .seconds(2)) {
                machine throws(MachineError) in
                try await Self.cause(loss, machine)
            }
            // What the operator will ask for: how the process ended, and the guest's last words.
            let words = error?.description ?? ""
            if loss == .hypervisorKilled { #expect(words.contains("killed by signal 9")) }
            if loss == .guestReset { #expect(words.contains("exit status 0"), "\(words)") }
            if loss == .agentGone { #expect(words.contains("mayfly-agent"), "\(words)") }
            let next = try await TestImage.run(.bash(source: "echo fine"))
            #expect(TestImage.text(next.report.stdout) == "fine\n")
        }

        @Test(.enabled(if: TestImage.isOverVsock, TestImage.noVsock))
        func `is lost within two seconds when the host's kernel resets its connection`()
            async throws
        {
            try await expectLoss(within: .seconds(2)) { machine throws(MachineError) in
                try Self.reset(machine)
            }
        }

        /// Not everything dies with a signal: a hypervisor that stands still says nothing at all.
        @Test func `is lost in bounded time when it falls silent`() async throws {
            try await expectLoss(within: .seconds(35)) { machine in
                kill(machine.hypervisor.pid, SIGSTOP)
            }
        }

        // MARK: Steps

        @LoopActor
        private static func cause(
            _ loss: Loss, _ machine: borrowing Machine
        ) async throws(MachineError) {
            switch loss {
            case .hypervisorKilled: kill(machine.hypervisor.pid, SIGKILL)
            case .agentGone: try machine.session.send(.shutdown)
            // A second WARM is out of place while a job is here.
            case .agentConfused: try machine.session.send(.warm)
            case .guestReset:
                // A fatal machine check: uncorrected, the processor's context corrupt.
                try await (machine.hypervisor as? QEMU)?.monitor.command(
                    "human-monitor-command", ["command-line": "mce 0 1 0xbe00000000000000 0x5 0 0"],
                    before: .now + .seconds(5))
            case .connectionCut: machine.session.cut()
            }
            // The session's driver waits for the guest and looks for nothing new to send.
            try machine.session.flush()
        }

        /// The kernel resets connections to a context id that vanished, whenever any vhost-vsock
        /// device is closed; so the machine's id is changed under it, and another device closed.
        @LoopActor
        private static func reset(_ machine: borrowing Machine) throws(MachineError) {
            guard let vsock = (machine.hypervisor as? QEMU)?.vsock else { return }
            let other = try VsockContext.take()
            let free = other.id ^ 1
            let status = mayfly_vhost_vsock_set_cid(vsock.descriptor.number, UInt64(free))
            #expect(status == 0)
        }

        /// Runs a long program, does `harm` once it runs, and expects the machine to be lost.
        @LoopActor
        @discardableResult
        private func expectLoss(
            within limit: Duration,
            _ harm: @LoopActor (borrowing Machine) async throws(MachineError) -> Void
        ) async throws -> MachineError? {
            let host = try await TestImage.host()
            let image = try await host.image(TestImage.name, generation: nil)
            var harmed = ContinuousClock.now
            var lost: MachineError?
            do {
                _ = try await host.withMachine(restoring: image) {
                    machine throws(MachineError) in
                    let (session, started) = (machine.session, Signal())
                    let job = GuestJob(
                        program: .bash(source: "echo started; sleep 60"), timeout: .seconds(90))
                    let running = Task { @LoopActor in
                        return await Result { () async throws(MachineError) in
                            try await session.run(
                                job, onOutput: { _, _ in started.raise() })
                        }
                    }
                    await started.wait()
                    harmed = .now
                    try await harm(machine)
                    _ = try await running.value.get()
                }
                Issue.record("the job ended although its machine was lost")
            } catch {
                #expect(error.reason == .machineLost, "\(error)")
                #expect(error.machine != nil)
                lost = error
            }
            #expect(.now - harmed < limit)
            #expect(host.machineCount == 0)
            return lost
        }
    }
}

extension Result where Failure == MachineError {
    fileprivate init(_ body: () async throws(MachineError) -> Success) async {
        do throws(MachineError) { self = .success(try await body()) } catch {
            self = .failure(error)
        }
    }
}
