// A machine lost in the middle of its job, by harm from outside the worker: the attempt is stored as
// ours to blame, the job runs again in another machine, and its outcome is stored once.

import CLinux
import CTestSupport
import Foundation
import Jobs
import Machines
import TestSupport
import Testing

@testable import Mayfly

extension EndToEndTests {
    @Suite("A job whose machine is lost", .serialized)
    struct LossTests {
        enum Harm: String, CaseIterable, Sendable {
            case hypervisorKilled, agentGone, connectionCut, connectionReset
        }
        private static let isRoot = geteuid() == 0
        private static let notRoot: Comment = "reaching into the worker needs root"
        private static let hasVsock =
            unsafe access("/dev/vhost-vsock", R_OK | W_OK) == 0 && TestState.hypervisor == "qemu"
        private static let noVsock: Comment =
            TestState.hypervisor == "qemu"
            ? "no /dev/vhost-vsock here; scripts/lab test runs it"
            : "Firecracker's vsock is none of the kernel's"

        @Test(.enabled(if: isRoot, notRoot))
        func `runs again elsewhere, and its one outcome is stored once`() async throws {
            try await expectAnotherRun(after: [.hypervisorKilled, .agentGone, .connectionCut])
        }
        @Test(
            .enabled(if: isRoot, notRoot),
            .enabled(if: hasVsock, noVsock))
        func `runs again when the host's kernel resets the connection`() async throws {
            try await expectAnotherRun(after: [.connectionReset])
        }

        private func expectAnotherRun(after harms: [Harm]) async throws {
            try await World.with { world in
                let flags = [
                    "--slots", "1", "--set", "machine.standby=0", "--set", "machine.warm.memory=0B",
                    "--set", "log.level=debug",
                ]
                let workers = [try await world.worker(flags), try await world.worker(flags)]
                for harm in harms {
                    let starts = workers.map(\.programStarts)
                    let id = try world.enqueue(
                        "bash", "echo begun; sleep 6; echo done", ", timeout => '5 min'")
                    let victim = try await running(workers, after: starts)
                    #expect(try cause(harm, on: victim) > 0, "\(harm) harmed nothing")
                    let began = ContinuousClock.now
                    while try await world.attempts(id).isEmpty, .now - began < .seconds(60) {
                        try await Task.sleep(for: .milliseconds(10))
                    }
                    #expect(.now - began < .seconds(2), "\(harm) was noticed late")
                    let job = try await world.ended(id)
                    #expect(job.state == "succeeded", "\(harm): \(job.error ?? "")")
                    #expect(job.stdout == "begun\ndone\n")
                    let attempts = try await world.attempts(id)
                    #expect(attempts.map(\.outcome) == ["lost", "succeeded"], "\(harm)")
                    #expect(attempts.first?.reason == "machine_lost", "\(harm): \(attempts)")
                    #expect(Set(attempts.compactMap(\.machine)).count == 2)
                    #expect(
                        try world.number("select count(*) from mayfly.outcome where id = \(id)")
                            == 1)
                    // The result is stored before its machine is gone.
                    try await expectNoMachines(workers)
                }
            }
        }

        @Test func `is not lost to a host that cannot restore machines: it claims nothing`()
            async throws
        {
            try await World.with { world in
                let id = try world.enqueue("bash", "echo fine")
                let binary = world.directory + "/qemu"
                let script =
                    "#!/bin/sh\ncase \"$*\" in *-incoming*) exit 1 ;; esac\n"
                    + "exec qemu-system-x86_64 \"$@\"\n"
                try script.write(toFile: binary, atomically: false, encoding: .utf8)
                #expect(unsafe chmod(binary, 0o755) == 0)
                // Bounded, for a worker that works after all would never end.
                var request = Program.Request(
                    ["timeout", "150", TestState.program, "worker"]
                        + [
                            "--set", "machine.qemu.binary=\(binary)",
                            "--set", "machine.hypervisor=qemu",
                        ])
                request.environment = [
                    "MAYFLY_STATE_DIRECTORY": TestState.directory,
                    "MAYFLY_RUNTIME_DIRECTORY": world.runtime, "DATABASE_URL": world.url,
                ]
                let ended = try await World.run(request, "")
                #expect(ended.status == 1, "\(ended.errors)")
                #expect(ended.errors.contains("QEMU ended"), "\(ended.errors)")
                let job = try await world.until(id, within: .zero) { _ in true }
                #expect(job.state == "queued" && job.attempt == 0)
            }
        }

        // MARK: Steps

        private func expectNoMachines(_ workers: [Worker]) async throws {
            let deadline = ContinuousClock.now + .seconds(30)
            while !workers.flatMap(\.machines).isEmpty, .now < deadline {
                try await Task.sleep(for: .milliseconds(20))
            }
            #expect(workers.flatMap(\.machines) == [])
        }
        /// The worker whose machine has just started its program.
        private func running(_ workers: [Worker], after starts: [Int]) async throws -> Worker {
            let deadline = ContinuousClock.now + .seconds(60)
            while .now < deadline {
                for (worker, before) in zip(workers, starts) where worker.programStarts > before {
                    return worker
                }
                try await Task.sleep(for: .milliseconds(5))
            }
            return try #require(nil as Worker?, "no worker started the program")
        }

        /// How many things were harmed.
        private func cause(_ harm: Harm, on worker: Worker) throws -> Int {
            if harm == .hypervisorKilled {
                return worker.machines.count { kill($0, SIGKILL) == 0 }
            }
            if harm == .connectionReset { return try resetVsock(of: worker) }
            // Over virtio-serial the port and the monitor look alike from here: both are harmed.
            let sockets = descriptors(of: worker) { _ in true }
                .filter { test_machine_socket($0) > 0 }
            let wanted = sockets.map(test_machine_socket).max() ?? 0
            defer { for socket in sockets { close(socket) } }
            return sockets.filter { test_machine_socket($0) == wanted }.count { socket in
                if harm == .connectionCut { return shutdown(socket, CInt(SHUT_RDWR)) == 0 }
                // No frame looks like this; the agent powers its machine off.
                var garbage = [UInt8](repeating: 0xFF, count: 64)
                return unsafe write(socket, &garbage, garbage.count) == garbage.count
            }
        }

        /// The kernel resets connections to a context id that vanished whenever a vhost-vsock device
        /// is closed: the machine gets another id, and a device of ours is closed.
        private func resetVsock(of worker: Worker) throws -> Int {
            let devices = descriptors(of: worker) { $0 == "/dev/vhost-vsock" }
            let harmed = devices.count { device in
                defer { close(device) }
                return mayfly_vhost_vsock_set_cid(device, UInt64.random(in: 3...0x7FFF_FFFF)) == 0
            }
            let other = unsafe open("/dev/vhost-vsock", O_RDWR)
            try #require(mayfly_vhost_vsock_set_cid(other, UInt64.random(in: 3...0x7FFF_FFFF)) == 0)
            close(other)
            return harmed
        }

        /// Duplicates of the worker's descriptors whose path is as wanted.
        private func descriptors(
            of worker: Worker, _ isWanted: (String) -> Bool
        ) -> [CInt] {
            let directory = "/proc/\(worker.program.pid)/fd"
            let names = (try? FileManager.default.contentsOfDirectory(atPath: directory)) ?? []
            return names.compactMap { name in
                let path = try? FileManager.default.destinationOfSymbolicLink(
                    atPath: "\(directory)/\(name)")
                guard let number = CInt(name), let path, isWanted(path) else { return nil }
                let taken = test_take_descriptor(worker.program.pid, number)
                return taken >= 0 ? taken : nil
            }
        }
    }
}

extension Worker {
    /// Programs that its machines have started, by its log at the level debug.
    fileprivate var programStarts: Int {
        words.components(separatedBy: "program started").count - 1
    }
}
