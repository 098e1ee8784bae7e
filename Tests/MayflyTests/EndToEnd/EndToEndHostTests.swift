// Hosts that are slow, paused or broken: a paused worker loses its attempt and nothing else, and a
// host that cannot restore machines stops claiming by itself and comes back by itself.

import CTestSupport
import Foundation
import Glibc
import Jobs
import Machines
import Processes
import TestSupport
import Testing

@testable import Mayfly

extension EndToEndTests {
    @Suite("A host in trouble", .serialized)
    struct HostTroubleTests {
        /// Stops the worker that runs the job, as a host that swaps or is suspended does, until
        /// `isLongEnough`.
        private func pause(
            _ workers: [Worker], running id: Int64, in world: World,
            until isLongEnough: () async throws -> Bool
        ) async throws {
            let name = try world.sql(
                """
                select w.name from mayfly.running r join mayfly.worker w using (worker)
                where r.id = \(id)
                """)
            let worker = try #require(workers.first { name.hasSuffix("-\($0.program.pid)") })
            worker.program.signal(SIGSTOP)
            let deadline = ContinuousClock.now + .seconds(60)
            while try await !isLongEnough(), .now < deadline {
                try await Task.sleep(for: .milliseconds(20))
            }
            worker.program.signal(SIGCONT)
            #expect(.now < deadline)
        }

        private func expectOneOutcome(of id: Int64, in world: World) async throws {
            let job = try await world.ended(id)
            #expect(job.state == "succeeded", "\(job.error ?? "")")
            #expect(job.stdout == "done\n")
            let attempts = try await world.attempts(id)
            #expect(attempts.map(\.outcome) == ["lost", "succeeded"], "\(attempts)")
            #expect(attempts.first?.reason == "lease_lost")
            #expect(try world.number("select count(*) from mayfly.outcome where id = \(id)") == 1)
        }

        @Test
        func `a worker paused beyond its lease loses the attempt, and nobody cancelled the job`()
            async throws
        {
            try await World.with { world in
                let workers = [
                    try await world.worker(["--slots", "1"]),
                    try await world.worker(["--slots", "1"]),
                ]
                let id = try world.enqueue("bash", "sleep 8; echo done", ", timeout => '5 min'")
                _ = try await world.until(id) { $0.state == "running" }
                try await pause(workers, running: id, in: world) {
                    try await !world.attempts(id).isEmpty  // taken over by the other worker
                }
                try await expectOneOutcome(of: id, in: world)
                #expect(workers.allSatisfy { $0.program.poll() == nil })
            }
        }

        @Test func `the only worker, paused beyond its lease, runs the job again when it wakes`()
            async throws
        {
            try await World.with { world in
                let worker = try await world.worker(["--slots", "1"])
                let id = try world.enqueue("bash", "sleep 8; echo done", ", timeout => '5 min'")
                _ = try await world.until(id) { $0.state == "running" }
                try await pause([worker], running: id, in: world) {
                    try world.number(
                        """
                        select count(*) from mayfly.worker
                        where lease_until < clock_timestamp() - interval '1 s'
                        """) == 1
                }
                try await expectOneOutcome(of: id, in: world)
            }
        }

        @Test
        func `a job is followed on, past a worker that was paused and a database that restarted`()
            async throws
        {
            try await World.with { world in
                let workers = [
                    try await world.worker(["--slots", "1"]),
                    try await world.worker(["--slots", "1"]),
                ]
                let id = try world.enqueue(
                    "bash",
                    "echo begin; for n in 1 2 3 4 5 6 7 8; do sleep 1; echo $n; done; echo end",
                    ", timeout => '5 min'")
                async let followed = world.mayfly(["logs", "-f", "\(id)"])
                func hasShown(_ text: String, in attempt: Int) async throws {
                    let deadline = ContinuousClock.now + .seconds(60)
                    while try world.number(
                        """
                        select count(*) from mayfly.live_output
                        where id = \(id) and place >> 32 = \(attempt) and text like '%\(text)%'
                        """) == 0
                    {
                        try #require(.now < deadline, "attempt \(attempt) never said \(text)")
                        try await Task.sleep(for: .milliseconds(50))
                    }
                }
                try await hasShown("1", in: 1)
                try await pause(workers, running: id, in: world) {
                    try await !world.attempts(id).isEmpty  // taken over by the other worker
                }
                try await hasShown("2", in: 2)
                try await Cluster.shared.get().restart()
                let logs = try await followed
                #expect(logs.status == 0, "\(logs.errors)")
                #expect(logs.errors == "")
                // The second attempt begins anew; what nobody could store while the database was
                // away comes with the result.
                let whole = "begin\n1\n2\n3\n4\n5\n6\n7\n8\nend\n"
                #expect(logs.output.hasPrefix("begin\n1\n"))
                let last = try #require(logs.output.range(of: "begin", options: .backwards))
                #expect(last.lowerBound > logs.output.startIndex)
                let second = String(logs.output[last.lowerBound...])
                #expect(withoutGaps(second, of: whole) == whole)
                #expect(try await world.ended(id).stdout == whole)
            }
        }

        /// What was printed, with each place where something was left out filled from the whole.
        private func withoutGaps(_ printed: String, of whole: String) -> String {
            var filled = ""
            for (index, part) in printed.components(separatedBy: "\n[… ").enumerated() {
                var part = Substring(part)
                if index > 0, let count = Int(part.prefix { $0.isNumber }) {
                    part = part.dropFirst("\(count) bytes left out …]\n".count)
                    filled += whole.dropFirst(filled.count).prefix(count)
                }
                filled += part
            }
            return filled
        }

        @Test func `jobs that compute wait for a processor, and jobs that wait do not`()
            async throws
        {
            try await World.with { world in
                let count = HostProcessors.count
                _ = try await world.worker([
                    "--slots", "\(count + 2)", "--set", "worker.processor.overcommit=1",
                    "--set", "machine.warm.memory=0B",
                ])
                func state(_ ids: [Int64], _ word: String) throws -> Int64 {
                    let list = ids.map(String.init).joined(separator: ",")
                    return try world.number(
                        "select count(*) from mayfly.job where id in (\(list)) "
                            + "and state = '\(word)'")
                }
                func wait(for ids: [Int64], toBe word: String) async throws {
                    let deadline = ContinuousClock.now + .seconds(120)
                    while try state(ids, word) < ids.count, .now < deadline {
                        try await Task.sleep(for: .milliseconds(50))
                    }
                    #expect(try state(ids, word) == ids.count)
                }
                let waiting = try (0..<count + 2).map { _ in
                    try world.enqueue("bash", "sleep 600")
                }
                try await wait(for: waiting, toBe: "running")
                for id in waiting { try world.sql("select mayfly.cancel(\(id))") }
                try await wait(for: waiting, toBe: "cancelled")

                let computing = try (0..<count).map { _ in
                    try world.enqueue(
                        "bash", "end=$((SECONDS + 4)); while ((SECONDS < end)); do :; done")
                }
                try await wait(for: computing, toBe: "running")
                let last = try world.enqueue("bash", "echo last")
                #expect(try await world.ended(last).state == "succeeded")
                let ids = computing.map(String.init).joined(separator: ",")
                let overtook = try world.number(
                    """
                    select count(*) from mayfly.attempt last
                    where id = \(last) and started_at < (
                        select min(finished_at) from mayfly.attempt where id in (\(ids)))
                    """)
                #expect(overtook == 0)
            }
        }

        @Test func `a host that runs out of descriptors claims nothing, says so, and comes back`()
            async throws
        {
            try await World.with { world in
                let worker = try await world.worker([
                    "--slots", "1", "--set", "machine.standby=0", "--set", "machine.warm.memory=0B",
                ])
                let first = try await world.ended(try world.enqueue("bash", "echo first"))
                #expect(first.state == "succeeded")
                let limit = try setDescriptorLimit(of: worker, to: nil)
                let ids = try (0..<4).map { try world.enqueue("bash", "echo \($0)") }
                let deadline = ContinuousClock.now + .seconds(60)
                let ill = "select count(*) from mayfly.worker where health = 'ill'"
                while try world.number(ill) == 0, .now < deadline {
                    try await Task.sleep(for: .milliseconds(50))
                }
                #expect(try world.number(ill) == 1, "\(worker.words)")
                let losses = "select count(*) from mayfly.attempt where outcome = 'lost'"
                let before = try world.number(losses)
                #expect((3...4).contains(before))
                // Jobs are due again, and it still takes none of them.
                try await Task.sleep(for: .seconds(3))
                #expect(try world.number(losses) == before, "\(worker.words)")
                let doctor = try await world.mayfly(["doctor"])
                let hosts = doctor.output.split(separator: "\n").first {
                    $0.hasPrefix("queue.hosts")
                }
                #expect(hosts?.contains("degraded") == true, "\(doctor.output)")
                #expect(hosts?.contains("restore_failed") == true)

                _ = try setDescriptorLimit(of: worker, to: limit)
                for id in ids {
                    let job = try await world.ended(id)
                    try #require(job.state == "succeeded", "\(job.error ?? "") \(worker.words)")
                }
                #expect(try world.number(ill) == 0)
            }
        }

        @Test(.enabled(if: geteuid() == 0, "without root there is no jail of the worker's own"))
        func `a machine that does not start leaves no descriptor open`() async throws {
            try await World.with { world in
                let jail = "\(world.directory)/mayfly-jail"
                let built = (TestState.program as NSString).deletingLastPathComponent
                try FileManager.default.copyItem(atPath: "\(built)/mayfly-jail", toPath: jail)
                let worker = try await world.worker([
                    "--slots", "1", "--set", "machine.standby=0", "--set",
                    "machine.warm.memory=0B", "--set", "machine.jail.binary=\(jail)",
                ])
                func succeeds(_ id: Int64) async throws {
                    try #require(await world.ended(id).state == "succeeded", "\(worker.words)")
                    let deadline = ContinuousClock.now + .seconds(30)
                    while !worker.machines.isEmpty, .now < deadline {
                        try await Task.sleep(for: .milliseconds(20))
                    }
                    try await Task.sleep(for: .milliseconds(500))  // until that is noticed
                }
                try await succeeds(try world.enqueue("bash", "echo first"))
                let before = try descriptorCount(of: worker)
                // What may not be executed is not, and everything for it had been made.
                try setMode(0o600, of: jail)
                let lost = "select count(*) from mayfly.attempt where outcome = 'lost'"
                let ids = try (0..<8).map { _ in try world.enqueue("bash", "echo later") }
                let deadline = ContinuousClock.now + .seconds(60)
                while try world.number(lost) < 3, .now < deadline {
                    try await Task.sleep(for: .milliseconds(50))
                }
                // And the probes of a host that is ill.
                try await Task.sleep(for: .seconds(4))
                try setMode(0o700, of: jail)
                for id in ids { try await succeeds(id) }
                #expect(worker.words.contains("execve"), "\(worker.words)")
                let after = try descriptorCount(of: worker)
                // Connections to the database may have been made meanwhile.
                #expect(after <= before + 4, "\(before), then \(after)")
            }
        }

        private func setMode(_ mode: Int, of path: String) throws {
            try FileManager.default.setAttributes([.posixPermissions: mode], ofItemAtPath: path)
        }
        private func descriptorCount(of worker: Worker) throws -> Int {
            try FileManager.default
                .contentsOfDirectory(atPath: "/proc/\(worker.program.pid)/fd").count
        }

        /// Sets the soft limit of a process; nil: to what it has open now and a few more, which are
        /// not for machines.
        ///
        /// - Returns: the limit before.
        private func setDescriptorLimit(of worker: Worker, to wanted: UInt?) throws -> UInt {
            let pid = worker.program.pid
            let open = try descriptorCount(of: worker)
            var before: UInt = 0
            let few = UInt(open + OpenFileLimit.reserve / 2)
            try #require(unsafe test_limit_files(pid, wanted ?? few, &before) == 0)
            return before
        }
    }
}
