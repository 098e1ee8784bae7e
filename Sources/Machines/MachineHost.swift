// A worker's host: verified images, shells that wait, and the one way to run a job in a machine of
// its own. Called by the program; knows no queue.

import Events
import Foundation
import Glibc
import Logging
import Wire

/// Everything that machines on this host share.
@LoopActor
package final class MachineHost {
    /// From the request to READY; generous, because an overloaded host under emulation is slow.
    private static let restoreTimeout = Duration.seconds(60)

    package nonisolated let settings: HostSettings
    package nonisolated let probe: HostProbe
    private let store: ImageStore
    let mark: HostMark
    private var images: [String: GoldenImage] = [:]
    private var shells: [String: [ShellBox]] = [:]
    private var spawning: [String: Int] = [:]
    private var refills: [Int: Task<Void, Never>] = [:]
    private var refillCount = 0
    private var isClosed = false
    /// Machines alive now, for `close` and for `mayfly top`.
    package private(set) var machineCount = 0

    private init(
        settings: HostSettings, probe: HostProbe, mark: consuming HostMark
    ) {
        self.settings = settings
        self.probe = probe
        self.mark = mark
        store = ImageStore(stateDirectory: settings.stateDirectory)
    }

    /// Probes the host and removes what dead hosts left.
    ///
    /// - Throws: `hostUnfit` with what to install or to set.
    package static func start(_ settings: HostSettings) async throws(MachineError) -> MachineHost {
        let probe = try await HostProbe.run(settings)
        let mark = try HostMark(runtimeDirectory: settings.runtimeDirectory)
        let host = MachineHost(settings: settings, probe: probe, mark: mark)
        _ = await host.sweep()
        return host
    }

    /// Removes processes and directories of hosts that died; every 30 s in a worker.
    package func sweep() async -> SweepReport {
        let directory = settings.runtimeDirectory
        return await offload { sweepDeadHosts(runtimeDirectory: directory) }
    }

    /// Verifies and loads images, brings one machine of each to READY, and starts their shells.
    ///
    /// - Throws: `imageMissing`, `imageRefused` naming what does not match, or why no machine can
    ///   be restored: then this host must not claim jobs, only to lose them.
    package func prepare(images names: [String]) async throws(MachineError) {
        for name in names {
            let image = try await image(name, generation: nil)
            _ = try await restoreOnce(image: name)
            await fillShells(of: image)
        }
    }

    /// Runs one job in a machine of its own; cancel the Swift task to stop it.
    ///
    /// - Throws: what is not the job's own doing; then nothing of the machine is left either.
    package func run(
        _ job: GuestJob, image name: String, pin: Pin? = nil,
        onOutput: (@Sendable (OutputStream, [UInt8]) -> Void)? = nil
    ) async throws(MachineError) -> MachineRun {
        let image = try await image(name, generation: pin?.generation)
        let (run, timings) = try await withMachine(restoring: image, pin: pin) {
            machine throws(MachineError) in
            (try await machine.session.run(job, onOutput: onOutput), machine.facts)
        }
        return MachineRun(report: run.0, facts: run.1, timings: timings)
    }

    /// Restores one machine, proves it fresh, and destroys it: an operator's smoke test.
    package func restoreOnce(image name: String) async throws(MachineError) -> MachineRun {
        try await run(GuestJob(program: .command(["/bin/true"])), image: name)
    }

    /// The scope of a machine: restored before `body`, destroyed after it, whatever happens in it.
    func withMachine<Value>(
        restoring image: GoldenImage, pin: Pin? = nil,
        _ body: @LoopActor (borrowing Machine) async throws(MachineError) -> Value
    ) async throws(MachineError) -> (value: Value, timings: MachineTimings) {
        guard !isClosed else { throw MachineError(.cancelled, "the host is shutting down") }
        machineCount += 1
        defer { machineCount -= 1 }
        let deadline = ContinuousClock.now + Self.restoreTimeout
        let freshness = try Freshness(pin: pin)
        let begin = ContinuousClock.now
        let shell = try await takeShell(of: image)
        let waited = ContinuousClock.now - begin
        let machine = try await Machine.restore(
            from: shell, freshness: freshness, before: deadline)
        var timings = machine.timings
        timings.restore += waited
        let result: Result<Value, MachineError>
        do throws(MachineError) { result = .success(try await body(machine)) } catch {
            result = .failure(await machine.qemu.end(explaining: error.of(machine.facts)))
        }
        let destroying = ContinuousClock.now
        _ = await machine.destroy()
        timings.destroy = .now - destroying
        refillLater(image)
        return (try result.get(), timings)
    }

    /// Ends every shell; machines must have ended before.
    package func close() async {
        isClosed = true
        // A shell that is just being started ends itself when it sees that we are closed.
        for refill in Array(refills.values) { await refill.value }
        let waiting = shells.values.joined()
        shells = [:]
        for box in waiting { await box.take()?.destroy() }
    }

    // MARK: Images

    func image(_ name: String, generation: String?) async throws(MachineError) -> GoldenImage {
        let key = generation.map { "\(name)@\($0)" } ?? name
        if let image = images[key] { return image }
        let directory = try store.directory(of: name, generation: generation)
        let trust = try store.trustedKeys()
        let facts = probe.host.facts
        let image = try await offload { () throws(MachineError) in
            try GoldenImage.load(directory: directory, trust: trust, host: facts)
        }
        images[key] = image
        Logger.current.info(
            "image loaded",
            metadata: [
                "image": "\(name)", "generation": "\(image.manifest.generation)",
            ])
        return image
    }

    // MARK: Shells

    private func takeShell(of image: GoldenImage) async throws(MachineError) -> Shell {
        while let box = shells[image.key]?.popLast() {
            // One that died while it waited is no reason to fail the job.
            if let shell = box.take(), !shell.qemu.hasEnded { return shell }
        }
        return try await spawnShell(of: image)
    }
    func spawnShell(of image: GoldenImage) async throws(MachineError) -> Shell {
        try await Shell.spawn(
            for: image, binary: settings.qemuBinary, mark: mark.environment)
    }
    private func fillShells(of image: GoldenImage) async {
        while !isClosed,
            (shells[image.key]?.count ?? 0) + (spawning[image.key] ?? 0) < settings.shells
        {
            spawning[image.key, default: 0] += 1
            defer { spawning[image.key, default: 0] -= 1 }
            do throws(MachineError) {
                let shell = try await spawnShell(of: image)
                if isClosed {
                    await shell.destroy()
                } else {
                    shells[image.key, default: []].append(ShellBox(shell))
                }
            } catch {
                Logger.current.warning("no shell started", metadata: ["error": "\(error)"])
                return
            }
        }
    }
    /// The next shell starts when this machine is gone, so that it takes no time from a job.
    private func refillLater(_ image: GoldenImage) {
        guard settings.shells > 0, !isClosed else { return }
        refillCount += 1
        let number = refillCount
        refills[number] = Task { @LoopActor in
            await fillShells(of: image)
            refills[number] = nil
        }
    }
}

extension GoldenImage {
    /// Which shells fit: the generation decides memory, disk and devices.
    var key: String { manifest.generation }
}

/// Lets a `Shell` wait in a collection; taken once.
@LoopActor
private final class ShellBox {
    private var shell: Shell?
    init(_ shell: consuming Shell) {
        shell.startedFrom = .shell
        self.shell = consume shell
    }
    func take() -> Shell? { shell.take() }
}
