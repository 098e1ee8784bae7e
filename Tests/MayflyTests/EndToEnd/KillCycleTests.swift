// A worker with real jobs, struck by kill -9 again and again: itself, a jail that is still being
// built, a hypervisor; without privileges also its launcher, and what that starts for each machine.
// Every job ends once, and after one sweep nothing of any of them is left.

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
        private enum Victim: String, CaseIterable {
            case worker, jail, hypervisor
            /// Of a worker without privileges.
            case launcher, service
            static let ofRoot: [Victim] = [.worker, .jail, .hypervisor]
            static let apart: [Victim] = [.worker, .launcher, .service, .hypervisor]
        }

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
                let groups = try groups()
                var worker = try await world.worker(Self.flags)
                var (pids, struck) = ([worker.program.pid], [Victim: Int]())
                for _ in 0..<Self.cycles {
                    try keepBusy(world)
                    try await Task.sleep(
                        for: .milliseconds(Int.random(in: 0..<500, using: &generator)))
                    let victim = Victim.ofRoot.randomElement(using: &generator) ?? .worker
                    if try await strike(victim, at: worker) { struck[victim, default: 0] += 1 }
                    if victim == .worker {
                        worker = try await world.worker(Self.flags)
                        pids.append(worker.program.pid)
                    }
                }
                report(struck)
                #expect(struck.count == Victim.ofRoot.count || Self.cycles < 30)
                try await allEnded(world)
                try await expectNoDescriptorsLeft(worker, world)
                await worker.kill()
                let swept = try await world.mayfly(
                    ["restore", "code"],
                    environment: ["MAYFLY_MACHINE_JAIL_USERS": "\(Self.firstUser)"])
                #expect(swept.status == 0, "\(swept.errors)")
                try expectNothingLeft(of: pids, in: "\(world.runtime)/hosts", besides: groups)
                #expect(
                    try FileManager.default.contentsOfDirectory(atPath: "\(world.runtime)/hosts")
                        == [])
                // Not a comparison of all mounts: image builds of other tests have some meanwhile.
                let mounts = try String(contentsOfFile: "/proc/self/mountinfo", encoding: .utf8)
                let own = mounts.split(separator: "\n").filter {
                    $0.contains(world.directory) || $0.contains("/roots/")
                }
                #expect(own == [])
            }
        }

        @Test(.enabled(if: isRoot && TestState.hypervisor == "qemu", "needs root, and QEMU"))
        func `of a worker without privileges, its launcher and its machines leave nothing either`()
            async throws
        {
            try await World.with { world in
                try world.sql("update mayfly.setting set losses_limit = 1000, losses_max = 1000")
                var generator = SeededGenerator(for: "cycles of kill -9 of a launcher")
                let groups = try groups()
                let place = try LauncherPlace(of: world)
                var launcher = try await place.launcher(Self.firstUser)
                var worker = try await place.worker(of: world)
                var (pids, struck) = ([launcher.pid], [Victim: Int]())
                for _ in 0..<Self.cycles {
                    try keepBusy(world)
                    try await Task.sleep(
                        for: .milliseconds(Int.random(in: 0..<500, using: &generator)))
                    let victim = Victim.apart.randomElement(using: &generator) ?? .worker
                    switch victim {
                    case .worker:
                        await worker.kill()
                        // Nobody sweeps: the launcher sees to that by itself.
                        try await expectNoMachines()
                        worker = try await place.worker(of: world)
                        struck[victim, default: 0] += 1
                    case .launcher:
                        launcher.signal(SIGKILL)
                        _ = launcher.wait()
                        try await expectNoMachines()
                        launcher = try await place.launcher(Self.firstUser)
                        pids.append(launcher.pid)
                        struck[victim, default: 0] += 1
                    case .service, .jail:
                        let services = children(of: launcher.pid)
                        if services.randomElement().map({ kill($0, SIGKILL) }) == 0 {
                            struck[.service, default: 0] += 1
                        }
                    case .hypervisor:
                        if try machines().randomElement().map({ kill($0, SIGKILL) }) == 0 {
                            struck[victim, default: 0] += 1
                        }
                    }
                }
                report(struck)
                #expect(struck.count == Victim.apart.count || Self.cycles < 30)
                try await allEnded(world)
                await worker.kill()
                try await expectNoMachines()
                launcher.signal(SIGKILL)
                _ = launcher.wait()
                // The next one sweeps.
                let last = try await place.launcher(Self.firstUser)
                try expectNothingLeft(of: pids, in: "/run/mayfly/hosts", besides: groups)
                last.signal(SIGKILL)
                _ = last.wait()
            }
        }

        // MARK: Steps

        private func report(_ struck: [Victim: Int]) {
            let words = struck.sorted { $0.key.rawValue < $1.key.rawValue }
                .map { "\($0.key.rawValue) \($0.value)" }
            print("struck: \(words.joined(separator: ", "))")
        }
        /// Living processes of this test's users.
        private func machines() throws -> [pid_t] {
            try FileManager.default.contentsOfDirectory(atPath: "/proc").compactMap(pid_t.init)
                .filter { pid in
                    let status = text("/proc/\(pid)/status").split(separator: "\n")
                    let user = status.first { $0.hasPrefix("Uid:") }?.split(separator: "\t")
                        .dropFirst().first.flatMap { UInt32($0) }
                    return user.map { $0 >= Self.firstUser && $0 < Self.firstUser + 4096 } ?? false
                        && !status.contains { $0.hasPrefix("State:\tZ") }
                }
        }
        private func expectNoMachines() async throws {
            let deadline = ContinuousClock.now + .seconds(60)
            while try !machines().isEmpty, .now < deadline {
                try await Task.sleep(for: .milliseconds(10))
            }
            #expect(try machines() == [], "machines outlive what started them")
        }

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
                let lists = ChildLists(of: worker.program.pid)
                let machines = Set(worker.machines)
                let deadline = ContinuousClock.now + .seconds(3)
                while .now < deadline {
                    for pid in lists.children where !machines.contains(pid) {
                        if name(of: pid) == "mayfly-jail" { return kill(pid, SIGKILL) == 0 }
                    }
                    usleep(100)
                }
                return false
            case .launcher, .service: return false
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

        private func groups() throws -> Set<String> {
            let found = try Program.run(["find", "/sys/fs/cgroup", "-name", "mayfly-[0-9]*"])
            return Set(found.output.split(separator: "\n").map(String.init))
        }
        private func expectNothingLeft(
            of pids: [pid_t], in hosts: String, besides before: Set<String>
        ) throws {
            let last = Self.firstUser + 4096
            #expect(try machines() == [], "processes of machines' users")
            for pid in pids { #expect(marked(by: "MAYFLY_HOST=\(pid)-") == []) }
            let left = try FileManager.default.contentsOfDirectory(atPath: hosts)
            #expect(left.filter { name in pids.contains { name.hasPrefix("\($0)-") } } == [])
            // A process that has ended long ago may have had the same number.
            let own = try groups().subtracting(before).filter { group in
                pids.contains { group.contains("/mayfly-\($0)-") }
            }
            #expect(own == [], "control groups")
            // Each user is free: its byte of the file that says who has which can be locked.
            let file = unsafe open("/run/mayfly/users", O_RDWR | O_CLOEXEC)
            defer { close(file) }
            for user in Self.firstUser..<last {
                #expect(mayfly_lock_byte(file, Int64(user)) == 0, "\(user) is held")
            }
        }
    }
}

/// The lists of a process's children that the kernel keeps, one for each thread, open: a jail is one
/// for two milliseconds only.
private struct ChildLists: ~Copyable {
    private let files: [CInt]

    init(of pid: pid_t) {
        let threads = try? FileManager.default.contentsOfDirectory(atPath: "/proc/\(pid)/task")
        files = (threads ?? []).map {
            unsafe open("/proc/\(pid)/task/\($0)/children", O_RDONLY | O_CLOEXEC)
        }.filter { $0 >= 0 }
    }
    deinit { for file in files { close(file) } }

    var children: [pid_t] {
        files.flatMap { file -> [pid_t] in
            var bytes = [UInt8](repeating: 0, count: 1024)
            let count = unsafe pread(file, &bytes, bytes.count, 0)
            guard count > 0 else { return [] }
            return String(decoding: bytes[..<count], as: UTF8.self).split(separator: " ")
                .compactMap { pid_t($0) }
        }
    }
}

/// A launcher like that of the systemd units, and a worker of the user nobody beside it.
private struct LauncherPlace {
    private let socket: String
    private let runtime: String
    private static let nobody: uid_t = 65_534

    init(of world: World) throws {
        socket = "\(world.directory)/launcher.sock"
        runtime = "\(world.directory)/nobody"
        try FileManager.default.createDirectory(
            atPath: runtime, withIntermediateDirectories: true)
        try #require(unsafe chown(runtime, Self.nobody, Self.nobody) == 0)
        // Others than root come to the server's socket.
        let found = try #require(world.url.firstMatch(of: /host=(\S+)/))
        try #require(unsafe chmod(String(found.1), 0o711) == 0)
    }

    func launcher(_ firstUser: uid_t) async throws -> Program {
        var request = Program.Request([
            TestState.program, "launcher", "--worker", "nobody", "--socket", socket, "--set",
            "machine.jail.users=\(firstUser)",
        ])
        request.environment = ["MAYFLY_MACHINE_HYPERVISOR": "qemu"]
        let launcher = try Program.start(request)
        let deadline = ContinuousClock.now + .seconds(120)
        while try String(contentsOfFile: "/proc/\(launcher.pid)/comm", encoding: .utf8)
            != "mayfly-launcher\n"
        {
            try #require(launcher.poll() == nil && .now < deadline, "the launcher did not start")
            try await Task.sleep(for: .milliseconds(10))
        }
        return launcher
    }
    func worker(of world: World) async throws -> Worker {
        try await world.worker(
            ["--slots", "2", "--set", "machine.warm.memory=0B", "--set", "worker.kinds=code"],
            prefix: [
                "setpriv", "--reuid=\(Self.nobody)", "--regid=\(Self.nobody)", "--clear-groups",
            ],
            environment: [
                "HOME": runtime, "MAYFLY_RUNTIME_DIRECTORY": runtime,
                "MAYFLY_MACHINE_LAUNCHER": socket,
            ])
    }
}
