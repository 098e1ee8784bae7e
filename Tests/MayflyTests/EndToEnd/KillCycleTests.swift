// A worker with real jobs, struck by kill -9 again and again: itself, a jail that is still being
// built, a hypervisor. Every job ends once, and after one sweep nothing of any of them is left.

import CLinux
import Foundation
import Glibc
import TestSupport
import Testing

@testable import Jobs
@testable import Mayfly

extension EndToEndTests {
    @Suite("Cycles of kill -9", .serialized)
    struct KillCycleTests {
        private static let isRoot = geteuid() == 0
        private static let notRoot: Comment = "the jail needs root"
        private static let cycles =
            ProcessInfo.processInfo.environment["MAYFLY_JAIL_CYCLES"].flatMap { Int($0) } ?? 12
        private enum Victim: CaseIterable { case worker, jail, hypervisor }

        /// User ids of this test's own, so that those of other tests' machines do not count.
        private static let firstUser = 1_960_000_000 + UInt32.random(in: 0..<1000) * 4096
        private static let flags = [
            "--slots", "2", "--set", "machine.warm.memory=0B", "--set", "worker.kinds=code",
            "--set", "machine.jail=on", "--set", "machine.jail.users=\(firstUser)",
        ]

        @Test(.enabled(if: isRoot, notRoot))
        func `of worker, jail and hypervisor leave nothing, and every job ends once`()
            async throws
        {
            try await World.with { world in
                try world.sql("update mayfly.setting set losses_limit = 1000, losses_max = 1000")
                var generator = SeededGenerator(for: "cycles of kill -9")
                let mounts = try String(contentsOfFile: "/proc/self/mountinfo", encoding: .utf8)
                var worker = try await world.worker(Self.flags)
                var (pids, struck) = ([worker.program.pid], [Victim: Int]())
                for _ in 0..<Self.cycles {
                    try keepBusy(world)
                    try await Task.sleep(
                        for: .milliseconds(Int.random(in: 0..<500, using: &generator)))
                    let victim = Victim.allCases.randomElement(using: &generator) ?? .worker
                    if try await strike(victim, at: worker) { struck[victim, default: 0] += 1 }
                    if victim == .worker {
                        worker = try await world.worker(Self.flags)
                        pids.append(worker.program.pid)
                    }
                }
                print("struck: \(struck)")
                #expect(struck.count == Victim.allCases.count || Self.cycles < 30)
                try await allEnded(world)
                try await expectNoDescriptorsLeft(worker, world)
                await worker.kill()
                let swept = try await world.mayfly(
                    ["restore", "code"],
                    environment: ["MAYFLY_MACHINE_JAIL_USERS": "\(Self.firstUser)"])
                #expect(swept.status == 0, "\(swept.errors)")
                try expectNothingLeft(of: pids, world)
                #expect(
                    try String(contentsOfFile: "/proc/self/mountinfo", encoding: .utf8) == mounts)
            }
        }

        // MARK: Steps

        private func keepBusy(_ world: World) throws {
            try world.sql(
                """
                select mayfly.enqueue('code', '{"language": "bash", "source": "sleep 0.2; echo 42"}')
                from generate_series(1, 6 - (select count(*) from mayfly.job
                    where state in ('queued', 'running')))
                """)
        }
        /// - Returns: whether there was something to strike.
        private func strike(_ victim: Victim, at worker: Worker) async throws -> Bool {
            switch victim {
            case .worker:
                await worker.kill()
                return true
            case .hypervisor: return worker.machines.randomElement().map { kill($0, SIGKILL) } == 0
            case .jail:
                // It is one for two milliseconds: then it has become the hypervisor.
                let deadline = ContinuousClock.now + .seconds(3)
                while .now < deadline {
                    for pid in children(of: worker.program.pid) where name(of: pid) == "mayfly-jail"
                    {
                        return kill(pid, SIGKILL) == 0
                    }
                }
                return false
            }
        }
        private func children(of pid: pid_t) -> [pid_t] {
            let tasks = (try? FileManager.default.contentsOfDirectory(atPath: "/proc/\(pid)/task"))
            return (tasks ?? []).flatMap { task -> [pid_t] in
                text("/proc/\(pid)/task/\(task)/children").split(separator: " ").compactMap {
                    pid_t($0)
                }
            }
        }
        private func name(of pid: pid_t) -> String {
            text("/proc/\(pid)/comm").trimmingCharacters(in: .newlines)
        }
        private func text(_ path: String) -> String {
            String(decoding: FileManager.default.contents(atPath: path) ?? Data(), as: UTF8.self)
        }

        private func allEnded(_ world: World) async throws {
            let open = "select count(*) from mayfly.job where state in ('queued', 'running')"
            let deadline = ContinuousClock.now + .seconds(300)
            while try world.number(open) > 0, .now < deadline {
                try await Task.sleep(for: .milliseconds(100))
            }
            let sums = try world.sql(
                """
                select count(*) = count(*) filter (where state = 'succeeded'
                        and rtrim(result ->> 'stdout', E'\\n') = '42'),
                    count(*) = (select count(*) from mayfly.outcome),
                    (select count(*) from mayfly.running)
                from mayfly.job
                """)
            #expect(sums == "t|t|0")
        }

        /// As many as a worker has that lost nothing; but for connections to the database, of which a
        /// pool keeps as many as were once needed at the same time.
        private func expectNoDescriptorsLeft(_ worker: Worker, _ world: World) async throws {
            let fresh = try await world.worker(Self.flags)
            for _ in 0..<4 { _ = try await world.ended(try world.enqueue("bash", "echo 1")) }
            let deadline = ContinuousClock.now + .seconds(60)
            let pools = QueueSettings.poolSize + QueueSettings.transferPoolSize
            func count(_ worker: Worker) -> (sockets: Int, others: Int) {
                let path = "/proc/\(worker.program.pid)/fd"
                let names = (try? FileManager.default.contentsOfDirectory(atPath: path)) ?? []
                let targets = names.compactMap {
                    try? FileManager.default.destinationOfSymbolicLink(atPath: "\(path)/\($0)")
                }
                let sockets = targets.count { $0.hasPrefix("socket:") }
                return (sockets, targets.count - sockets)
            }
            var (old, new) = (count(worker), count(fresh))
            while old.others > new.others || old.sockets > new.sockets + pools, .now < deadline {
                try await Task.sleep(for: .milliseconds(100))
                (old, new) = (count(worker), count(fresh))
            }
            #expect(old.others <= new.others && old.sockets <= new.sockets + pools)
            await fresh.kill()
        }

        private func expectNothingLeft(of pids: [pid_t], _ world: World) throws {
            let entries = try FileManager.default.contentsOfDirectory(atPath: "/proc")
            let last = Self.firstUser + 4096
            let running = entries.filter { entry in
                let line = text("/proc/\(entry)/status").split(separator: "\n")
                    .first { $0.hasPrefix("Uid:") }
                let user = line?.split(separator: "\t").dropFirst().first.flatMap { UInt32($0) }
                return user.map { $0 >= Self.firstUser && $0 < last } ?? false
            }
            #expect(running == [], "processes of machines' users")
            for pid in pids { #expect(marked(by: "MAYFLY_HOST=\(pid)-") == []) }
            let hosts = "\(world.runtime)/hosts"
            #expect(try FileManager.default.contentsOfDirectory(atPath: hosts) == [])
            let groups = try Program.run(["find", "/sys/fs/cgroup", "-name", "mayfly-[0-9]*"])
            for pid in pids { #expect(!groups.output.contains("/mayfly-\(pid)-"), "\(groups)") }
            // Each user is free: its byte of the file that says who has which can be locked.
            let file = unsafe open("/run/mayfly/users", O_RDWR | O_CLOEXEC)
            defer { close(file) }
            for user in Self.firstUser..<last {
                #expect(mayfly_lock_byte(file, Int64(user)) == 0, "\(user) is held")
            }
        }
    }
}
