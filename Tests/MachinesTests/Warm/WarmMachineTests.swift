// Machines that waited for their job: taken once, fresh, on time, empty; and a job that finds none, or
// a broken one, ends as any other.

import Events
import Foundation
import Testing
import Wire

@testable import Machines

extension RealMachineTests {
    @Suite("A warm machine", .serialized)
    struct WarmMachineTests {
        /// A host that keeps machines of the image warm, and one is there.
        @LoopActor
        private func withHost(
            age: Duration = .seconds(600),
            _ body: @LoopActor (MachineHost, GoldenImage) async throws -> Void
        ) async throws {
            var settings = TestImage.settings
            settings.warm.memory = .gibibytes(1)
            settings.warm.age = age
            let host = try await MachineHost.start(settings)
            do {
                try await host.prepare(images: [TestImage.name])
                await host.settle()
                try await body(host, try await host.image(TestImage.name, generation: nil))
            } catch {
                await host.close()
                throw error
            }
            await host.close()
            #expect(hypervisors(of: host).isEmpty)
        }
        @LoopActor
        private func run(
            _ program: GuestJob.Program, on host: MachineHost, pin: Pin? = nil
        ) async throws -> MachineRun {
            try await host.run(
                GuestJob(program: program, timeout: .seconds(60)), image: TestImage.name, pin: pin)
        }

        @Test func `is taken by one job, and the next job gets another`() async throws {
            try await withHost { host, _ in
                #expect(host.warmCount == 1)
                var machines: Set<String> = []
                for _ in 0..<3 {
                    let run = try await run(.bash(source: "echo 42; hostname"), on: host)
                    #expect(run.timings.startedFrom == .warm)
                    #expect(TestImage.text(run.report.stdout) == "42\n\(run.identity.id)\n")
                    machines.insert(run.identity.id)
                    await host.settle()
                }
                #expect(machines.count == 3)
            }
        }

        @Test func `is not waited for: a job that finds none takes the way by a standby`()
            async throws
        {
            try await withHost { host, _ in
                let first = Task { @LoopActor in
                    try await run(.bash(source: "sleep 1"), on: host)
                }
                let second = Task { @LoopActor in
                    try await run(.bash(source: "sleep 1"), on: host)
                }
                let ways = try await [
                    first.value.timings.startedFrom, second.value.timings.startedFrom,
                ]
                #expect(ways.filter { $0 == .warm }.count == 1)
                #expect(ways.filter { $0 == .standby }.count == 1)
                // Two at a time are what comes: next time there are two.
                await host.settle()
                await host.tendWarmMachines()
                await host.settle()
                #expect(host.warmCount == 2)
            }
        }

        @Test func `is unlike every other, warm or not`() async throws {
            try await withHost { host, image in
                var clones: [[String]] = []
                for isWarm in [true, true, true, false] {
                    clones.append(
                        try await Canary.answers(of: image, on: host, isWarm: isWarm))
                }
                #expect(clones.allSatisfy { $0.count >= 5 })
                #expect(Canary.alike(clones) == nil)
            }
        }

        @Test func `runs Python in the process that was forked ahead, and the next in another`()
            async throws
        {
            guard try await TestImage.parks("python") else { return }
            try await withHost { host, image in
                let machine = try await host.makeWarm(of: image).claim(before: .now + .seconds(60))
                let source = "import os, random; print(os.getpid(), random.random())"
                var lines: Set<String> = []
                for _ in 0..<3 {
                    let report = try await machine.session.run(
                        GuestJob(program: .python(source: source), timeout: .seconds(60)))
                    #expect(report.isWarm)
                    #expect(report.ending == .exited(code: 0))
                    lines.insert(TestImage.text(report.stdout))
                }
                #expect(lines.count == 3)
                _ = await machine.destroy()
            }
        }

        @Test func `has the host's time, however long it stood still`() async throws {
            try await withHost { host, _ in
                // What is tested: time that passes without the guest.
                try await Task.sleep(for: .seconds(2))
                let before = realtimeNow()
                let run = try await run(.bash(source: "echo $EPOCHREALTIME"), on: host)
                #expect(run.timings.startedFrom == .warm)
                let shown = try #require(Double(TestImage.text(run.report.stdout).trimmed))
                #expect(Int64(shown * 1e9) > before - 100_000_000)
                #expect(Int64(shown * 1e9) < realtimeNow() + 100_000_000)
                #expect(run.identity.clock >= before)
            }
        }

        @Test func `never runs a pinned replay, and a replay of its job has the same randomness`()
            async throws
        {
            guard try await TestImage.parks("python") else { return }
            try await withHost { host, _ in
                let program = GuestJob.Program.python(
                    source: "import random; print(random.random(), random.getrandbits(64))")
                let first = try await run(program, on: host)
                #expect(first.timings.startedFrom == .warm)
                await host.settle()
                let pin = Pin(
                    generation: first.identity.generation,
                    entropySeed: first.identity.entropySeed, clock: first.identity.clock)
                let again = try await run(program, on: host, pin: pin)
                #expect(again.timings.startedFrom != .warm)
                #expect(host.warmCount == 1)
                #expect(first.report.stdout.bytes == again.report.stdout.bytes)
                #expect(first.identity.clock == again.identity.clock)
            }
        }

        @Test(arguments: [SIGKILL, SIGSTOP])
        func `costs its job nothing when its hypervisor was struck`(signal: Int32) async throws {
            try await withHost { host, _ in
                let struck = host.warmPool.processes.filter { kill($0, signal) == 0 }
                try #require(!struck.isEmpty)
                let run = try await run(.bash(source: "echo fine"), on: host)
                #expect(TestImage.text(run.report.stdout) == "fine\n")
                #expect(run.timings.startedFrom != .warm)
            }
        }

        @Test func `is replaced when it has become too old`() async throws {
            try await withHost(age: .milliseconds(1)) { host, _ in
                let old = hypervisors(of: host)
                #expect(host.warmCount == 1)
                await host.tendWarmMachines()
                await host.settle()
                #expect(host.warmCount == 1)
                #expect(hypervisors(of: host).subtracting(old).count == 1)
                let run = try await run(.bash(source: "echo fine"), on: host)
                #expect(run.timings.startedFrom != .warm)
            }
        }

        @Test func `shows its job nothing of its rehearsal`() async throws {
            let script = """
                ls -A /work /tmp /var/tmp /dev/shm
                for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline; echo; done | sort -u
                """
            try await withHost { host, _ in
                let warm = try await run(.bash(source: script), on: host)
                #expect(warm.timings.startedFrom == .warm)
                let plain = try await host.withMachine(
                    restoring: try await host.image(TestImage.name, generation: nil)
                ) { machine throws(MachineError) in
                    try await machine.session.run(GuestJob(program: .bash(source: script)))
                }
                #expect(warm.report.stdout.bytes == plain.value.stdout.bytes)
            }
        }

        @Test func `is not kept of a generation that is in use no more`() async throws {
            try await withHost { host, image in
                #expect(host.warmCount == 1)
                await host.endStandbys(of: image)
                #expect(host.warmCount == 0)
            }
        }
    }
}
