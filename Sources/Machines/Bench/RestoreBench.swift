// What a restore costs and what it saves, measured in one run on one host: `mayfly bench restore`.

import Events
import Glibc
import Processes
import Wire

/// One measured quantity: percentiles of its samples, in milliseconds or MiB.
package struct BenchRow: Sendable, Codable {
    package var name: String
    package var unit: String
    package var count: Int
    package var p50: Double
    package var p95: Double
    package var p99: Double
    package var minimum: Double

    init(_ name: String, unit: String = "ms", _ samples: [Double]) {
        let sorted = samples.sorted()
        func percentile(_ share: Double) -> Double {
            guard let last = sorted.last else { return .nan }
            let place = Int((Double(sorted.count) * share).rounded(.up)) - 1
            return sorted.indices.contains(place) ? sorted[place] : last
        }
        self.name = name
        self.unit = unit
        count = sorted.count
        p50 = percentile(0.50)
        p95 = percentile(0.95)
        p99 = percentile(0.99)
        minimum = sorted.first ?? .nan
    }
}

/// The rows and what follows from them.
package struct RestoreBenchResult: Sendable, Codable {
    package var host: String
    package var rows: [BenchRow]
    /// Median cold boot over median restore.
    package var bootToRestoreRatio: Double
    package var remark: String
}

@LoopActor
package struct RestoreBench {
    let host: MachineHost
    let image: GoldenImage
    let rounds: Int
    private let progress: @Sendable (String) -> Void
    static let limit = Duration.seconds(300)

    package static func run(
        image name: String, host: MachineHost, rounds: Int, boots: Int, machines: Int,
        progress: @escaping @Sendable (String) -> Void
    ) async throws(MachineError) -> RestoreBenchResult {
        let image = try await host.image(name, generation: nil)
        let bench = RestoreBench(host: host, image: image, rounds: rounds, progress: progress)
        return try await bench.measure(boots: boots, machines: machines)
    }

    private func measure(
        boots: Int, machines: Int
    ) async throws(MachineError) -> RestoreBenchResult {
        progress("cold boots: \(boots)")
        let boot = try await coldBoots(boots)
        let (jailed, free) = try await restores()
        progress("resumes of a stopped machine: \(rounds)")
        let resumes = try await resumes()
        progress("print in Python, parked and cold: \(rounds)")
        let parked = try await prints(parked: true, rounds)
        let cold = try await prints(parked: false, max(3, rounds / 4))
        progress("claim to first byte, by a standby and warm: \(rounds)")
        let python = try await firstBytes(of: .python(source: "print(6*7)"))
        let bash = try await firstBytes(of: .bash(source: "echo 42"))
        progress("memory of machines that wait and that work: \(machines)")
        let waiting = try await memory(of: machines, working: false)
        let working = try await memory(of: machines, working: true)
        var rows = [
            BenchRow("cold boot to READY, interpreters started", boot.warm),
            BenchRow("cold boot to READY, interpreters not started", boot.plain),
            BenchRow("restore to READY, standby waiting", jailed.standing.ready),
            BenchRow("  of it: load and resume", jailed.standing.load),
            BenchRow("  of it: HELLO, PREPARE, READY", jailed.standing.prepare),
            BenchRow("restore to READY, hypervisor started first", jailed.spawned.ready),
        ]
        rows += Self.rows(jailed, without: free)
        rows += [
            BenchRow("stopped machine, resume to PONG", resumes),
            BenchRow("READY to first byte of a Python print, parked", parked),
            BenchRow("READY to first byte of a Python print, cold", cold),
        ]
        rows += Self.rows("a Python print", python) + Self.rows("a bash echo", bash)
        rows += [
            BenchRow("making a warm machine of a standby", python.making + bash.making),
            BenchRow("destroy", jailed.standing.destroy),
        ]
        rows += waiting + working
        rows.append(
            BenchRow(
                "memory of one warm machine (its own)", unit: "MiB", python.weight + bash.weight))
        return RestoreBenchResult(
            host: "\(image.manifest.hypervisorVersion), \(host.probe.profile.accelerator), "
                + "\(host.probe.profile.transport), \(image.manifest.definition.memory)",
            rows: rows, bootToRestoreRatio: rows[1].p50 / rows[2].p50,
            remark: host.probe.profile.accelerator == .tcg
                ? "under emulation the first run of each piece of guest code is translated anew "
                    + "in every clone; that dominates PREPARE and the first byte"
                : "page faults of the copy-on-write memory dominate")
    }

    private func coldBoots(
        _ count: Int
    ) async throws(MachineError) -> (plain: [Double], warm: [Double]) {
        var (plain, warm): ([Double], [Double]) = ([], [])
        for index in 0..<count * 2 {
            let startsInterpreters = index % 2 == 0
            let manifest = image.manifest
            let deadline = ContinuousClock.now + Self.limit
            let begin = ContinuousClock.now
            let boot = try BootedMachine(
                manifest, in: image.directory, work: host.mark.machinesDirectory,
                program: host.probe.hypervisor, jail: host.walls as? Jail,
                mark: host.mark.environment)
            do throws(MachineError) {
                let session = try await boot.session(agent: manifest.agent, before: deadline)
                if startsInterpreters { try await session.warm(before: deadline) }
                _ = try await session.prepare(
                    Freshness(pin: nil), id: "bench", generation: manifest.generation,
                    before: deadline)
                let took = (ContinuousClock.now - begin).milliseconds
                if startsInterpreters { warm.append(took) } else { plain.append(took) }
                _ = await boot.hypervisor.end()
            } catch {
                _ = await boot.hypervisor.end()
                throw error
            }
        }
        return (plain, warm)
    }

    /// Restores of one sort, in milliseconds.
    private struct Restores {
        var load: [Double] = []
        var prepare: [Double] = []
        /// From the restore's beginning, or the hypervisor's start, to READY.
        var ready: [Double] = []
        var destroy: [Double] = []
    }
    /// With a standby that waits, and with nothing started.
    private struct Ways {
        var standing = Restores()
        var spawned = Restores()
    }

    /// One of each sort after the other, round by round: whatever else the host does meets all.
    private func restores() async throws(MachineError) -> (jailed: Ways, free: Ways) {
        let hasJail = host.walls != nil
        progress("restores, with and without a standby\(hasJail ? " and a jail" : ""): \(rounds)")
        var (jailed, free) = (Ways(), Ways())
        for _ in 0..<rounds {
            try await restore(withStandby: true, jailed: true, into: &jailed.standing)
            if hasJail { try await restore(withStandby: true, jailed: false, into: &free.standing) }
            try await restore(withStandby: false, jailed: true, into: &jailed.spawned)
            if hasJail { try await restore(withStandby: false, jailed: false, into: &free.spawned) }
        }
        return (jailed, free)
    }
    private func restore(
        withStandby: Bool, jailed: Bool, into all: inout Restores
    ) async throws(MachineError) {
        let waiting = withStandby ? try await host.spawnStandby(of: image, jailed: jailed) : nil
        let begin = ContinuousClock.now
        let machine: Machine
        if let waiting {
            machine = try await makeMachine(waiting)
        } else {
            let standby = try await host.spawnStandby(of: image, jailed: jailed)
            machine = try await makeMachine(standby)
        }
        all.ready.append((ContinuousClock.now - begin).milliseconds)
        all.load.append(machine.timings.restore.milliseconds)
        all.prepare.append(machine.timings.prepare.milliseconds)
        let destroying = ContinuousClock.now
        _ = await machine.destroy()
        all.destroy.append((ContinuousClock.now - destroying).milliseconds)
    }
    /// Nothing where there is no jail.
    private static func rows(_ jailed: Ways, without free: Ways) -> [BenchRow] {
        guard !free.standing.ready.isEmpty else { return [] }
        func costs(_ path: KeyPath<Ways, Restores>) -> [Double] {
            zip(jailed[keyPath: path].ready, free[keyPath: path].ready).map(-)
        }
        return [
            BenchRow("restore to READY, standby waiting, no jail", free.standing.ready),
            BenchRow("restore to READY, hypervisor started first, no jail", free.spawned.ready),
            BenchRow("  what the jail adds in a round, standby waiting", costs(\.standing)),
            BenchRow("  what the jail adds in a round, hypervisor first", costs(\.spawned)),
        ]
    }

    func makeMachine(
        _ standby: consuming Standby
    ) async throws(MachineError) -> Machine {
        try await Machine.restore(
            from: standby, freshness: Freshness(pin: nil), before: .now + Self.limit)
    }

    private func resumes() async throws(MachineError) -> [Double] {
        var samples: [Double] = []
        for _ in 0..<rounds {
            let machine = try await makeMachine(try await host.spawnStandby(of: image))
            try await machine.session.ping(before: .now + Self.limit)
            try await machine.pause()
            let begin = ContinuousClock.now
            try await machine.resume()
            try await machine.session.ping(before: .now + Self.limit)
            samples.append((ContinuousClock.now - begin).milliseconds)
            _ = await machine.destroy()
        }
        return samples
    }

    private func prints(parked: Bool, _ count: Int) async throws(MachineError) -> [Double] {
        var samples: [Double] = []
        for _ in 0..<count {
            var job = GuestJob(program: .python(source: "print(6*7)"), timeout: .seconds(60))
            job.usesParkedInterpreter = parked
            let (report, _) = try await host.withMachine(restoring: image) {
                machine throws(MachineError) in try await machine.session.run(job)
            }
            guard report.stdout.bytes == Array("42\n".utf8), report.isWarm == parked,
                let firstByte = report.firstByte
            else {
                throw MachineError(.machineLost, "the bench's own job went wrong: \(report)")
            }
            samples.append(firstByte.milliseconds)
        }
        return samples
    }

    /// Proportional memory of each of `count` clones alive together, as the kernel shares it out;
    /// fresh, or when each has run a small Python job.
    private func memory(
        of count: Int, working: Bool
    ) async throws(MachineError) -> [BenchRow] {
        var job = GuestJob(
            program: .python(source: "import json; print(sum(i * i for i in range(20000)))"),
            timeout: .seconds(120))
        job.usesParkedInterpreter = true
        var machines: [MachineBox] = []
        for _ in 0..<count {
            let machine = try await makeMachine(try await host.spawnStandby(of: image))
            if working { _ = try await machine.session.run(job) }
            machines.append(MachineBox(machine))
        }
        let samples = machines.compactMap { MachineMemory(of: $0.pid) }
        for box in machines { await box.destroy() }
        let what = working ? "a machine that has run a Python job" : "a clone that waits"
        func row(_ name: String, _ part: (MachineMemory) -> Double) -> BenchRow {
            BenchRow(name, unit: "MiB", samples.map(part))
        }
        return [
            row("memory of \(what), \(count) at once (PSS)") { $0.total },
            row("  of it: pages that its guest wrote") { $0.guest },
            row("  of it: translated code") { $0.code },
            row("  of it: the hypervisor's own") { $0.hypervisor },
            row("  of it: its share of what all have") { $0.shared },
        ]
    }
}

/// Lets a `Machine` stand in a collection.
@LoopActor
private final class MachineBox {
    private var machine: Machine?
    let pid: pid_t
    init(_ machine: consuming Machine) {
        pid = machine.hypervisor.pid
        self.machine = consume machine
    }
    func destroy() async {
        if let machine = machine.take() { _ = await machine.destroy() }
    }
}
