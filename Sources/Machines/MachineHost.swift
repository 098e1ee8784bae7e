// A worker's host: verified images, hypervisors on standby, and the one way to run a job in a
// machine of its own. Called by the program; knows no queue.

import Events
import Foundation
import Glibc
import Logging
import Processes
import Wire

/// Everything that machines on this host share.
@LoopActor
package final class MachineHost {
    /// From the request to READY; generous, because an overloaded host under emulation is slow.
    private static let restoreTimeout = Duration.seconds(60)

    package nonisolated let settings: HostSettings
    package nonisolated let probe: HostProbe
    let store: ImageStore
    let mark: HostMark
    /// The second wall; `nil`: off, and `fallbacks` says why.
    let walls: (any Walls)?
    /// One sentence for each choice that was left to us and fell back to the lesser way.
    package nonisolated let fallbacks: [String]
    /// What need not be found out again at a second start.
    let facts: FileFacts?
    /// The generation of each image that new machines are made from.
    var images: [String: GoldenImage] = [:]
    /// The last generation that a pinned replay asked for.
    var pinned: GoldenImage?
    var loads: [String: Task<Result<GoldenImage, MachineError>, Never>] = [:]
    /// What was looked at as a successor of a current generation and found unfit.
    var refused: [String: RefusedGeneration] = [:]
    private var standbys: [GenerationIdentity: [StandbyBox]] = [:]
    private var spawning: [GenerationIdentity: Int] = [:]
    private var refills: [Int: Task<Void, Never>] = [:]
    private var refillCount = 0
    private(set) var isClosed = false
    var warmPool: WarmPool
    /// One at a time.
    var isMakingWarm = false
    /// Hypervisors of machines that have a job.
    private(set) var working: Set<pid_t> = []
    /// What `room` was last told; `nil`: not a moment ago.
    var lastMemory: (available: ByteCount, taken: ByteCount, at: ContinuousClock.Instant)?
    /// What they want of the processors.
    var demand = ProcessorDemand()
    /// Machines alive now, for `close`.
    package private(set) var machineCount = 0

    private init(
        settings: HostSettings, probe: HostProbe, mark: consuming HostMark, facts: FileFacts?,
        walls: Result<(any Walls)?, MachineError>
    ) {
        switch walls {
        case .success(let walls):
            self.walls = walls
            fallbacks = probe.fallbacks + [walls?.shortfall].compactMap(\.self)
        case .failure(let error):
            self.walls = nil
            fallbacks = probe.fallbacks + ["machines run without the jail: \(error)"]
        }
        self.settings = settings
        self.probe = probe
        self.mark = mark
        warmPool = WarmPool(settings.warm)
        self.facts = facts
        store = ImageStore(
            stateDirectory: settings.stateDirectory, keys: settings.imageKeys)
    }

    /// Probes the host and removes what dead hosts left.
    ///
    /// - Throws: `hostUnfit` with what to install or to set.
    package static func start(_ settings: HostSettings) async throws(MachineError) -> MachineHost {
        let facts = FileFacts(runtimeDirectory: settings.runtimeDirectory)
        let probe = try await HostProbe.run(settings, facts: facts)
        let mark = try HostMark(runtimeDirectory: settings.runtimeDirectory)
        let walls = try await wallsFound(settings, probe, in: mark.directory)
        let host = MachineHost(
            settings: settings, probe: probe, mark: mark, facts: facts, walls: walls)
        _ = await host.sweep()
        return host
    }

    /// The scope of a host: started before `body`, closed after it, whatever happens in it.
    ///
    /// - Parameter standbys: how many, instead of what is set; then nothing is kept warm either.
    package nonisolated(nonsending) static func with<Value: Sendable>(
        _ settings: HostSettings, standbys: Int? = nil,
        _ body: (MachineHost) async throws -> Value
    ) async throws -> Value {
        var settings = settings
        if let standbys {
            settings.standbys = standbys
            settings.warm = WarmSettings()
        }
        let host = try await MachineHost.start(settings)
        do {
            let value = try await body(host)
            await host.close()
            return value
        } catch {
            await host.close()
            throw error
        }
    }

    /// How many descriptors this process needs for so many machines and standbys, of which so many
    /// have jobs, and all else.
    ///
    /// Measured: 8 for each machine, over vsock 9; each stream of a job's network is a pair and a
    /// way to its server; the rest is for images and the database, and the runtime's reserve.
    package nonisolated static func descriptorsNeeded(machines: Int, jobs: Int) -> UInt64 {
        let rest = 64 + OpenFileLimit.reserve
        return UInt64(rest + 10 * machines + 3 * Limits.networkStreams * jobs)
    }

    /// Removes processes and directories of hosts that died; every 30 s in a worker.
    package func sweep() async -> SweepReport {
        let directory = settings.runtimeDirectory
        let users = settings.jailUsers
        return await offload { sweepDeadHosts(runtimeDirectory: directory, users: users) }
    }

    /// Verifies and loads images, brings one machine of each to READY, and starts their standbys.
    ///
    /// - Throws: `imageMissing`, `imageRefused` naming what does not match, or why no machine can
    ///   be restored: then this host must not claim jobs, only to lose them.
    package func prepare(images names: [String]) async throws(MachineError) {
        // Reading them is most of it where machines are fast.
        let loads = await withTaskGroup { group in
            for name in names { group.addTask { await (name, self.loaded(name)) } }
            var loads: [String: Result<GoldenImage, MachineError>] = [:]
            for await (name, load) in group { loads[name] = load }
            return loads
        }
        for case (let name, let load?) in names.map({ ($0, loads[$0]) }) {
            let image = try load.get()
            async let filling: Void = fillStandbys(of: image)
            _ = try await restoreOnce(image: name)
            await filling
            refillLater(image)
        }
    }

    private func loaded(_ name: String) async -> Result<GoldenImage, MachineError> {
        do throws(MachineError) { return .success(try await image(name, generation: nil)) } catch {
            return .failure(error)
        }
    }

    /// Runs one job in a machine of its own; cancel the Swift task to stop it.
    ///
    /// - Throws: what is not the job's own doing; then nothing of the machine is left either.
    package func run(
        _ job: GuestJob, image name: String, pin: Pin? = nil,
        onOutput: (@Sendable (OutputStream, [UInt8]) -> Void)? = nil
    ) async throws(MachineError) -> MachineRun {
        try await run(job, image: name, pin: pin, mayBeWarm: pin == nil, onOutput: onOutput)
    }
    private func run(
        _ job: GuestJob, image name: String, pin: Pin?, mayBeWarm: Bool,
        onOutput: (@Sendable (OutputStream, [UInt8]) -> Void)?
    ) async throws(MachineError) -> MachineRun {
        let image = try await image(name, generation: pin?.generation)
        let (run, timings) = try await withMachine(
            restoring: image, pin: pin, mayBeWarm: mayBeWarm
        ) { machine throws(MachineError) in
            (try await machine.session.run(job, onOutput: onOutput), machine.identity)
        }
        return MachineRun(report: run.0, identity: run.1, timings: timings)
    }

    /// As `run`, but returns when the machine was killed: its result can be stored while the kernel
    /// takes it apart.
    package func runUntilKilled(
        _ job: GuestJob, image name: String, pin: Pin?
    ) async throws(MachineError) -> (run: MachineRun, machine: TerminatingMachine) {
        let image = try await image(name, generation: pin?.generation)
        let (run, timings, machine) = try await withMachineUntilKilled(
            restoring: image, pin: pin, mayBeWarm: pin == nil
        ) { machine throws(MachineError) in
            (try await machine.session.run(job), machine.identity)
        }
        return (MachineRun(report: run.0, identity: run.1, timings: timings), machine)
    }

    /// Restores one machine, proves it fresh, and destroys it: an operator's smoke test.
    package func restoreOnce(image name: String) async throws(MachineError) -> MachineRun {
        try await run(
            GuestJob(program: .command(["/bin/true"])), image: name, pin: nil, mayBeWarm: false,
            onOutput: nil)
    }

    /// The scope of a machine: restored before `body`, destroyed after it, whatever happens in it.
    func withMachine<Value>(
        restoring image: GoldenImage, pin: Pin? = nil, mayBeWarm: Bool = false,
        _ body: @LoopActor (borrowing Machine) async throws(MachineError) -> Value
    ) async throws(MachineError) -> (value: Value, timings: MachineTimings) {
        var (value, timings, machine) = try await withMachineUntilKilled(
            restoring: image, pin: pin, mayBeWarm: mayBeWarm, body)
        timings.destroy = await machine.gone()
        return (value, timings)
    }

    /// The same scope up to the kill; the caller waits for `TerminatingMachine.gone`.
    private func withMachineUntilKilled<Value>(
        restoring image: GoldenImage, pin: Pin?, mayBeWarm: Bool,
        _ body: @LoopActor (borrowing Machine) async throws(MachineError) -> Value
    ) async throws(MachineError) -> (Value, MachineTimings, TerminatingMachine) {
        guard !isClosed else { throw MachineError(.cancelled, "the host is shutting down") }
        machineCount += 1
        defer { machineCount -= 1 }
        let deadline = ContinuousClock.now + Self.restoreTimeout
        let machine = try await obtain(image, pin: pin, mayBeWarm: mayBeWarm, before: deadline)
        let pid = machine.hypervisor.pid
        working.insert(pid)
        defer {
            working.remove(pid)
            demand.forget(pid)
        }
        do throws(MachineError) {
            let (value, timings) = (try await body(machine), machine.timings)
            return (value, timings, TerminatingMachine(machine, of: image, on: self))
        } catch {
            let lost = await machine.hypervisor.end(explaining: error.of(machine.identity))
            refillLater(image)
            throw lost
        }
    }

    /// A warm machine, or one from a standby, or from a hypervisor that is started now.
    private func obtain(
        _ image: GoldenImage, pin: Pin?, mayBeWarm: Bool, before deadline: ContinuousClock.Instant
    ) async throws(MachineError) -> Machine {
        let begin = ContinuousClock.now
        if mayBeWarm, let machine = try await takeWarm(image, since: begin) { return machine }
        let standby = try await takeStandby(of: image)
        let (origin, waited) = (standby.startedFrom, ContinuousClock.now - begin)
        do throws(MachineError) {
            return try await Machine.restore(
                from: standby, freshness: Freshness(pin: pin), waited: waited, before: deadline)
        } catch {
            // It was dying when it was taken: no reason to fail the job.
            guard origin == .standby, error.reason == .machineLost else { throw error }
            Logger.current.notice("a standby had died", metadata: ["error": "\(error)"])
        }
        return try await Machine.restore(
            from: try await spawnStandby(of: image), freshness: Freshness(pin: pin),
            waited: .now - begin, before: deadline)
    }

    /// Ends everything that waits; machines must have ended before.
    package func close() async {
        isClosed = true
        // A standby that is just being started ends itself when it sees that we are closed.
        for refill in Array(refills.values) {
            refill.cancel()
            await refill.value
        }
        for machine in warmPool.removeAll() { await machine.destroy() }
        let waiting = standbys.values.joined()
        standbys = [:]
        for box in waiting { await box.take()?.destroy() }
    }

    // MARK: Standbys

    /// Ends what waits of a generation that no new machine is made from.
    func endStandbys(of image: GoldenImage) async {
        for machine in warmPool.remove(image.identity) { await machine.destroy() }
        for box in standbys.removeValue(forKey: image.identity) ?? [] {
            await box.take()?.destroy()
        }
    }

    private func takeStandby(of image: GoldenImage) async throws(MachineError) -> Standby {
        while let box = standbys[image.identity]?.popLast() {
            // One that died while it waited is no reason to fail the job.
            if let standby = box.take(), !standby.hypervisor.hasEnded { return standby }
        }
        return try await spawnStandby(of: image)
    }
    func spawnStandby(
        of image: GoldenImage, forWarm: Bool = false, jailed: Bool = true
    ) async throws(MachineError) -> Standby {
        try await Standby.spawn(
            for: image, isForWarm: forWarm, program: probe.hypervisor, mark: mark,
            walls: jailed ? walls : nil,
            scratchDirectory: "\(settings.stateDirectory)/scratch")
    }
    func fillStandbys(of image: GoldenImage) async {
        while !isClosed,
            (standbys[image.identity]?.count ?? 0) + (spawning[image.identity] ?? 0)
                < settings.standbys
        {
            spawning[image.identity, default: 0] += 1
            defer { spawning[image.identity, default: 0] -= 1 }
            do throws(MachineError) {
                let standby = try await spawnStandby(of: image)
                if isClosed || !isInUse(image) {
                    await standby.destroy()
                    return
                } else {
                    standbys[image.identity, default: []].append(StandbyBox(standby))
                }
            } catch {
                // This host is being closed.
                guard error.reason != .cancelled else { return }
                Logger.current.warning("no standby started", metadata: ["error": "\(error)"])
                return
            }
        }
    }
    /// Until nothing is being made that shall wait.
    func settle() async {
        while let refill = refills.values.first { await refill.value }
    }
    /// What waits is made when this machine is gone, so that it takes no time from a job.
    func refillLater(_ image: GoldenImage) {
        // Not for a generation that was replaced, nor for a pinned one, which is seldom asked for.
        guard settings.standbys > 0 || warmPool.isOn, !isClosed, isInUse(image) else { return }
        refillCount += 1
        let number = refillCount
        refills[number] = Task(executorPreference: EventLoop.shared) {
            await self.refill(image, number)
        }
    }
    private func refill(_ image: GoldenImage, _ number: Int) async {
        await fillStandbys(of: image)
        await fillWarm(of: image)
        refills[number] = nil
    }
}

/// Lets a `Standby` wait in a collection; taken once.
@LoopActor
private final class StandbyBox {
    private var standby: Standby?
    init(_ standby: consuming Standby) {
        standby.startedFrom = .standby
        self.standby = consume standby
    }
    func take() -> Standby? { standby.take() }
}
