// Builds one generation of an image: boot once, warm the interpreters, park the agent with nothing
// in flight, snapshot, prove on real clones that no two are alike, sign, publish by one rename.

import CLinux
import Events
import Foundation
import Glibc
import Processes
import Wire

/// The outcome of a build.
package struct BuiltImage: Sendable, Codable {
    package var name: String
    package var hypervisor: HypervisorName
    package var generation: String
    package var directory: String
    /// False when the same inputs were built before.
    package var isNew: Bool
    package var seconds: Double
}

@LoopActor
package struct ImageBuilder {
    let settings: HostSettings
    let definition: ImageDefinition
    private let tools: [AddedFile]
    let signing: ImageSigning
    let progress: @Sendable (String) -> Void
    var store: ImageStore {
        ImageStore(stateDirectory: settings.stateDirectory, keys: settings.imageKeys)
    }

    /// How many clones prove that they differ, at the same time.
    static let canaryCount = 4
    /// From the start of the hypervisor to READY; interpreters start slowly under emulation.
    private static let bootTimeout = Duration.seconds(1200)

    package nonisolated init(
        settings: HostSettings, definition: ImageDefinition, tools: [AddedFile] = [],
        signing: ImageSigning = ImageSigning(), progress: @escaping @Sendable (String) -> Void
    ) {
        self.settings = settings
        self.definition = definition
        self.tools = tools
        self.signing = signing
        self.progress = progress
    }

    private var baseBuilder: BaseBuilder {
        BaseBuilder(store: store, definition: definition, progress: progress)
    }

    /// Installs the packages only: the part of a build that needs a network.
    ///
    /// - Returns: the directory, to be copied to the same place of a host without a network.
    package func buildBase(refresh: Bool) async throws(MachineError) -> String {
        if let problem = definition.problem { throw MachineError(.buildFailed, problem) }
        return try await baseBuilder.base(fresh: refresh).directory
    }

    /// Builds and publishes for each hypervisor that this host has, or for the one that is set;
    /// with nothing changed it says so and does nothing, unless `force`.
    ///
    /// - Parameter refresh: installs the packages anew, to take Debian's updates.
    package func build(force: Bool, refresh: Bool) async throws(MachineError) -> [BuiltImage] {
        if let problem = definition.problem { throw MachineError(.buildFailed, problem) }
        try store.removeDrafts()
        let probes = try await HostProbe.all(settings, retryingKVM: force)
        let agent = try agentBytes()
        let base = try await baseBuilder.base(fresh: refresh)
        try await checkInit(of: base)
        var built: [BuiltImage] = []
        var hasFallenBack = false
        for probe in probes {
            let (name, accelerator) = (probe.profile.hypervisor, probe.profile.accelerator)
            if hasFallenBack, accelerator == .kvm {
                progress("no image for \(name): QEMU's guest has just not come up under KVM")
                continue
            }
            let begin = ContinuousClock.now
            var (image, isFallback) = try await buildOrFallBack(
                on: probe, base, agent, force: force)
            hasFallenBack = hasFallenBack || isFallback
            image.seconds = (ContinuousClock.now - begin).milliseconds / 1000
            built.append(image)
        }
        return built
    }

    /// As `build`; and for emulation where QEMU's guest does not come up under KVM, if allowed.
    ///
    /// A guest of Firecracker's that does not come up says nothing about KVM: QEMU's may have.
    private func buildOrFallBack(
        on probe: HostProbe, _ base: ImageBase, _ agent: [UInt8], force: Bool
    ) async throws(MachineError) -> (BuiltImage, isFallback: Bool) {
        do throws(MachineError) {
            return (try await build(on: probe, base, agent, force: force), false)
        } catch  where error.reason == .bootFailed && probe.profile.accelerator == .kvm {
            guard probe.profile.hypervisor == .qemu else {
                throw MachineError(
                    .bootFailed,
                    "\(error.description); machine.hypervisor = qemu does without Firecracker")
            }
            if settings.accelerator == .kvm {
                throw MachineError(
                    .hostUnfit, "machine.accelerator = kvm, but \(error.description)")
            }
            let refusal = KVMRefusal(error.description, probe.profile)
            progress("kvm does not work: \(refusal.obstacle.found); building for emulation")
            var emulated = settings
            emulated.accelerator = .tcg
            emulated.hypervisor = .qemu
            let built = try await build(
                on: try await HostProbe.run(emulated), base, agent, force: force)
            // Not before: only emulation that works shows that KVM was to blame.
            try refusal.record(settings)
            return (built, true)
        }
    }

    private func build(
        on probe: HostProbe, _ base: ImageBase, _ agent: [UInt8], force: Bool
    ) async throws(MachineError) -> BuiltImage {
        let profile = probe.profile
        progress("host: \(profile.hypervisor), \(profile.accelerator), \(profile.transport)")
        for fallback in probe.fallbacks { progress(fallback) }
        let hardware = VirtualHardware(
            vCPUCount: definition.vCPUCount, memory: definition.memory,
            accelerator: profile.accelerator, transport: profile.transport,
            scratch: definition.scratch.bytes > 0 ? definition.scratch : nil,
            emulated: profile.emulated)
        let agentDigest = SHA256.hex(of: agent)
        let generation = Manifest.generation(
            definition: definition, base: base.id, packages: base.packages, agent: agentDigest,
            tools: tools, host: profile, hardware: hardware)
        let images = "\(store.imagesDirectory)/\(definition.name)"
        let directory = "\(images)/\(generation)"
        if !force, FileManager.default.fileExists(atPath: "\(directory)/manifest.json") {
            let trust = try store.trustedKeys().and(try signing.publicKey(store))
            let isSound = await offload {
                (try? GoldenImage.verify(directory: directory, trust: trust, host: profile)) != nil
            }
            if isSound {
                try renew(directory, profile)
                try switchCurrent(to: generation, for: profile.hypervisor)
                return BuiltImage(
                    name: definition.name, hypervisor: profile.hypervisor, generation: generation,
                    directory: directory,
                    isNew: false, seconds: 0)
            }
            progress("generation \(generation) is damaged; building it again")
        }
        let work = workDirectory(of: directory)
        let lock = try ImageLock.making(work)
        defer {
            withExtendedLifetime(lock) {}
            try? FileManager.default.removeItem(atPath: work)
        }
        try link(base, into: work)
        try writeFile("\(work)/initramfs", initramfs(base, agent), mode: 0o444)
        if profile.hypervisor == .firecracker {
            try await KernelImage(path: "\(base.directory)/kernel").extract(to: "\(work)/vmlinux")
        }
        if let size = hardware.scratch {
            try await ScratchDisk.makeTemplate("\(work)/scratch", size: size)
        }
        var manifest = try newManifest(
            base: base, hardware: hardware, profile: profile, agent: agentDigest,
            generation: generation, directory: work)
        manifest.epoch = try epoch(
            above: try store.floor(of: definition.name, for: profile.hypervisor).epoch)
        try await snapshot(&manifest, on: probe, into: work)
        try sign(manifest, in: work)
        try await proveClones(in: work, profile: profile)
        try publish(work, as: directory)
        try switchCurrent(to: generation, for: profile.hypervisor)
        return BuiltImage(
            name: definition.name, hypervisor: profile.hypervisor, generation: generation,
            directory: directory, isNew: true, seconds: 0)
    }

    // MARK: Parts

    /// Before a machine is booted that could only end with a line on its console.
    private func checkInit(of base: ImageBase) async throws(MachineError) {
        guard definition.initProcess == .systemd else { return }
        let path = "/lib/systemd/systemd"
        for place in [path, "/usr" + path] {
            let shown = try await runTool([
                "debugfs", "-R", "stat \(place)", "\(base.directory)/root.ext4",
            ])
            if shown.output.contains("Inode:") { return }
        }
        throw MachineError(
            .buildFailed,
            "image.\(definition.name).init: the image has no \(path); add systemd to "
                + "image.\(definition.name).packages")
    }

    /// With systemd it begins when every service is up; one that is not is named by its failure.
    private var warmUp: String? {
        let own = definition.warmUp
        guard definition.initProcess == .systemd else { return own.isEmpty ? nil : own }
        return """
            until [ -S /run/systemd/private ]; do sleep 0.1; done
            state=$(systemctl is-system-running --wait)
            if [ "$state" != running ]; then
                echo "systemd is $state"; systemctl --failed --no-legend --plain; exit 1
            fi
            \(own)
            """
    }

    private func agentBytes() throws(MachineError) -> [UInt8] {
        let program =
            (try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")) ?? ""
        let beside = (program as NSString).deletingLastPathComponent + "/mayfly-agent"
        let path = settings.agentBinary ?? beside
        guard let data = FileManager.default.contents(atPath: path) else {
            throw MachineError(
                .buildFailed,
                "no guest agent at \(path); build it with `swift build -c release` or name it "
                    + "with machine.agent.binary")
        }
        return [UInt8](data)
    }

    private func initramfs(_ base: ImageBase, _ agent: [UInt8]) throws(MachineError) -> [UInt8] {
        var archive = CpioArchive()
        archive.addDirectory("dev")
        archive.addDevice("dev/console", major: 5, minor: 1)
        archive.addFile("init", agent, mode: 0o100755)
        if let warmUp { archive.addFile("warmup", Array(warmUp.utf8)) }
        if !base.process.isEmpty { archive.addFile("process", base.process) }
        if !tools.isEmpty {
            // In RAM, a few hundred KiB: a base need not be built again when only they change.
            archive.addDirectory("added")
            let paths = tools.map { $0.path + "\n" }.joined()
            archive.addFile("added/paths", Array(paths.utf8))
            for (number, file) in tools.enumerated() {
                archive.addFile("added/\(number)", file.bytes)
            }
        }
        archive.addDirectory("modules")
        for name in children(of: "\(base.directory)/modules") {
            guard
                let data = FileManager.default.contents(
                    atPath: "\(base.directory)/modules/\(name)")
            else { throw MachineError(.buildFailed, "cannot read the module \(name)") }
            archive.addFile("modules/\(name)", [UInt8](data))
        }
        return archive.finish()
    }

    /// A generation refers to its base by one link, so that both move together.
    private func link(_ base: ImageBase, into work: String) throws(MachineError) {
        do {
            try FileManager.default.createSymbolicLink(
                atPath: "\(work)/base", withDestinationPath: "../../../bases/\(base.id)")
        } catch { throw MachineError(.buildFailed, "cannot link the base: \(error)") }
    }

    private func newManifest(
        base: ImageBase, hardware: VirtualHardware, profile: HostProfile, agent: String,
        generation: String, directory: String
    ) throws(MachineError) -> Manifest {
        var line = [
            "console=ttyS0", "quiet", "panic=-1", "no_timer_check", "mayfly.agent=\(agent)",
        ]
        switch profile.hypervisor {
        case .qemu: line.append("reboot=t")
        // It takes the keyboard's reset for the end; its vsock is nobody's but the worker's.
        case .firecracker: line += ["reboot=k", "mayfly.listen=\(Firecracker.agentPort)"]
        }
        // Emulation shows the host's time stamp counter, but a guest cannot calibrate it: told a
        // wrong rate its clock runs away, told none it falls back to a clock of 4 ms steps.
        if hardware.accelerator == .tcg {
            line += ["tsc=reliable", "tsc_early_khz=\(mayfly_tsc_khz())"]
            // What it translated stays of use only at the same address.
            line.append("mayfly.layout=fixed")
        }
        if !definition.interpreters.isEmpty {
            line.append("mayfly.warm=\(definition.interpreters.joined(separator: ","))")
        }
        if definition.initProcess == .systemd { line.append("mayfly.init=systemd") }
        if hardware.scratch != nil { line.append("mayfly.scratch=on") }
        if !definition.pythonModules.isEmpty {
            line.append("mayfly.modules=\(definition.pythonModules.joined(separator: ","))")
        }
        let none = ImageFile(path: "", byteCount: 0, sha256: "")
        return Manifest(
            definition: definition, generation: generation,
            createdAt: ISO8601DateFormatter().string(from: Date()), hardware: hardware,
            deviceModel: profile.hypervisor.deviceModel, hypervisor: profile.hypervisor,
            hypervisorVersion: profile.hypervisorVersion, processor: profile.processor,
            agent: agent, guestKernel: base.kernelRelease,
            memory: none, state: none,
            rootDisk: try describe("base/root.ext4", in: directory),
            kernel: try describe(
                profile.hypervisor == .firecracker ? "vmlinux" : "base/kernel", in: directory),
            initramfs: try describe("initramfs", in: directory),
            scratch: hardware.scratch == nil ? nil : try describe("scratch", in: directory),
            commandLine: line.joined(separator: " "), buildBootMilliseconds: 0)
    }

    private func describe(
        _ path: String, in directory: String
    ) throws(MachineError) -> ImageFile {
        let file = try openImageFile("\(directory)/\(path)")
        let size = Int(lseek(file.number, 0, SEEK_END))
        return ImageFile(
            path: path, byteCount: size, sha256: try SHA256.hex(ofDescriptor: file.number))
    }

    // MARK: Snapshot

    private func snapshot(
        _ manifest: inout Manifest, on probe: HostProbe, into work: String
    ) async throws(MachineError) {
        progress("booting \(definition.memory) with \(definition.vCPUCount) vCPU")
        let mark = try HostMark(runtimeDirectory: settings.runtimeDirectory)
        let jail = try await jail(on: probe, in: mark.directory)
        let boot = try BootedMachine(
            manifest, in: work, work: "\(work)/.machine", program: probe.hypervisor, jail: jail,
            mark: mark.environment)
        do throws(MachineError) {
            let deadline = ContinuousClock.now + Self.bootTimeout
            let begin = ContinuousClock.now
            let session = try await firstAnswer(of: boot, manifest, before: deadline)
            progress("the agent answers after \((ContinuousClock.now - begin).shown)")
            try await warm(session, before: deadline)
            manifest.buildBootMilliseconds = Int((ContinuousClock.now - begin).milliseconds)
            try await session.park(before: deadline)
            let parked = ContinuousClock.now
            try await boot.hypervisor.pause(before: deadline)
            try await boot.hypervisor.save(before: deadline)
            progress("parked and saved in \((ContinuousClock.now - parked).shown)")
            _ = await boot.hypervisor.end()
        } catch {
            throw await boot.hypervisor.end(explaining: error)
        }
        unsafe rmdir("\(work)/.machine")
        let (memory, state) = (boot.memory.number, boot.state.number)
        try await offload { () throws(MachineError) in
            try copySparse(from: memory, to: "\(work)/memory")
            try copySparse(from: state, to: "\(work)/state")
        }
        manifest.memory = try describe("memory", in: work)
        manifest.state = try describe("state", in: work)
        for name in ["memory", "state"] { unsafe chmod("\(work)/\(name)", 0o444) }
    }

    /// The same wall as around a job's machine, or a line that says why there is none.
    private func jail(
        on probe: HostProbe, in directory: String
    ) async throws(MachineError) -> Jail? {
        switch try await Jail.found(settings, probe, in: directory) {
        case .success(let jail):
            if let words = jail?.shortfall { progress(words) }
            return jail
        case .failure(let error):
            progress("the machine boots without the jail: \(error)")
            return nil
        }
    }

    /// The image's own warm-up, then the interpreters.
    private func warm(
        _ session: AgentSession, before deadline: ContinuousClock.Instant
    ) async throws(MachineError) {
        let parked = definition.interpreters.joined(separator: " and ")
        if definition.initProcess == .systemd { progress("waiting for systemd's services") }
        if !definition.warmUp.isEmpty { progress("warming up: \(definition.warmUp)") }
        if !parked.isEmpty { progress("starting \(parked) to be parked") }
        let begin = ContinuousClock.now
        do throws(MachineError) { try await session.warm(before: deadline) } catch {
            let isSystemd = definition.initProcess == .systemd
            let what = warmUp == nil ? "interpreters" : isSystemd ? "init" : "warmup"
            if session.slowness == .deadline {
                throw MachineError(
                    .buildFailed,
                    "image.\(definition.name).\(what): not done \(Self.bootTimeout.shown) after "
                        + "the boot")
            }
            guard error.reason == .buildFailed else { throw error }
            throw MachineError(.buildFailed, "image.\(definition.name).\(what): \(error)")
        }
        progress("warm after \((ContinuousClock.now - begin).shown)")
    }

    /// The session once the agent has answered, which under KVM is the proof that KVM works.
    private func firstAnswer(
        of boot: borrowing BootedMachine, _ manifest: Manifest,
        before deadline: ContinuousClock.Instant
    ) async throws(MachineError) -> AgentSession {
        let isKVM = manifest.hardware.accelerator == .kvm
        let limit = isKVM ? min(deadline, .now + settings.probeTimeout) : deadline
        do throws(MachineError) {
            let session = try await boot.session(agent: manifest.agent, before: limit)
            if isKVM { KVMRefusal.forget(settings) }
            return session
        } catch {
            // Only these say that the guest did not come up.
            guard error.reason == .machineLost || error.reason == .restoreFailed else {
                throw error
            }
            let within =
                .now >= limit && isKVM
                ? " within \(settings.probeTimeout.shown) (machine.probe.timeout)" : ""
            throw MachineError(
                .bootFailed,
                "the guest did not come up under \(manifest.hardware.accelerator)\(within): "
                    + error.description)
        }
    }

    // MARK: Publishing

    /// Restores real clones at the same time and compares what must differ.
    private func proveClones(in work: String, profile: HostProfile) async throws(MachineError) {
        progress("comparing \(Self.canaryCount) clones")
        let begin = ContinuousClock.now
        let trust = try store.trustedKeys().and(try signing.publicKey(store))
        let image = try await offload { () throws(MachineError) in
            try GoldenImage.load(directory: work, trust: trust, host: profile)
        }
        var canarySettings = settings
        canarySettings.standbys = 0
        canarySettings.hypervisor = profile.hypervisor
        canarySettings.accelerator = profile.accelerator
        let host = try await MachineHost.start(canarySettings)
        // All restored before the first one ends, as in a worker; the tasks share this actor.
        let tasks = (0..<Self.canaryCount).map { number in
            Task { @LoopActor () async throws -> [String] in
                // Half of them as most jobs will meet them.
                try await Canary.answers(
                    of: image, on: host, isWarm: number % 2 == 1 && host.canKeepWarm)
            }
        }
        var clones: [[String]] = []
        var failure: MachineError?
        for task in tasks {
            switch await task.result {
            case .success(let lines): clones.append(lines)
            case .failure(let error):
                failure =
                    failure ?? error as? MachineError
                    ?? MachineError(.buildFailed, "a clone failed: \(error)")
            }
        }
        await host.close()
        if let failure { throw failure }
        if let alike = Canary.alike(clones) {
            throw MachineError(
                .buildFailed, "two clones share \(alike); the image was not published")
        }
        progress("no two are alike; that took \((ContinuousClock.now - begin).shown)")
    }

    /// One rename puts a generation in place; of one that is built again the old goes away, and a
    /// worker that uses it keeps what it has open.
    func publish(_ work: String, as directory: String) throws(MachineError) {
        let file = try attempting(Descriptor.open(work, O_RDONLY | O_DIRECTORY))
        fsync(file.number)
        if unsafe rename(work, directory) == 0 { return }
        guard errno == EEXIST || errno == ENOTEMPTY else {
            throw MachineError(SystemError("rename to", directory))
        }
        let status = unsafe mayfly_exchange(work, directory)
        guard status == 0 else { throw MachineError(SystemError("exchange", directory, -status)) }
        // What stood there is at `work` now, and goes with it.
    }
    private func switchCurrent(
        to generation: String, for hypervisor: HypervisorName
    ) throws(MachineError) {
        try replaceLink(
            store.currentLink(of: definition.name, for: hypervisor), with: generation)
    }
}

/// Copies a memory file to disk; pages of zeros become holes.
private func copySparse(from source: CInt, to path: String) throws(MachineError) {
    let target = try attempting(Descriptor.open(path, O_WRONLY | O_CREAT | O_TRUNC))
    let size = Int(lseek(source, 0, SEEK_END))
    var buffer = [UInt8](repeating: 0, count: 64 << 10)
    let zeros = buffer
    for offset in stride(from: 0, to: size, by: buffer.count) {
        let count = unsafe pread(source, &buffer, buffer.count, off_t(offset))
        guard count > 0 else { break }
        if buffer == zeros { continue }
        guard unsafe pwrite(target.number, buffer, count, off_t(offset)) == count else {
            throw MachineError(.buildFailed, "cannot write \(path): \(errnoText(errno))")
        }
    }
    guard ftruncate(target.number, off_t(size)) == 0, fsync(target.number) == 0 else {
        throw MachineError(.buildFailed, "cannot finish \(path): \(errnoText(errno))")
    }
}
