// What this host can do, found by trying: hypervisor, accelerator, transport. Used at start and by
// `mayfly doctor`; a device node that exists proves nothing. What is forced and does not work is an
// error; what is left to us falls back, and says why.

import Events
import Glibc

/// One line of `mayfly doctor`.
package struct DoctorFinding: Sendable, Codable, Equatable {
    package enum State: String, Sendable, Codable {
        case active
        /// It works, and could be better.
        case degraded
        case off
    }
    package var name: String
    package var state: State
    /// What machines will use, where there was a choice.
    package var chosen: String?
    /// What was found, and why this follows from it.
    package var found: String
    /// What would make it better; empty when nothing would.
    package var remedy: String
}

/// Why something does not work here, and what would change that.
struct Obstacle: Sendable, Equatable {
    var found: String
    var remedy: String
}

/// What the probes chose and why.
package struct HostProbe: Sendable {
    let hypervisor: HypervisorProgram
    package let profile: HostProfile
    /// One sentence for each choice that was left to us and fell back to the lesser way.
    package let fallbacks: [String]

    /// Chooses hypervisor, accelerator and transport for `settings`.
    ///
    /// - Parameters:
    ///   - retryingKVM: looks past an earlier boot under KVM that failed.
    ///   - facts: what QEMU said of itself before; without them it is asked.
    /// - Throws: `hostUnfit` when something forced in the settings does not work here.
    @LoopActor
    package static func run(
        _ settings: HostSettings, retryingKVM: Bool = false
    ) async throws(MachineError) -> HostProbe {
        try await run(settings, retryingKVM: retryingKVM, facts: nil)
    }
    @LoopActor
    static func run(
        _ settings: HostSettings, retryingKVM: Bool = false, facts: FileFacts?
    ) async throws(MachineError) -> HostProbe {
        let (probe, findings) = await examine(settings, retryingKVM: retryingKVM, facts: facts)
        if Task.isCancelled { throw MachineError(.cancelled, "stopped while probing the host") }
        if let probe { return probe }
        let problem = findings.first { $0.state == .off }
        throw MachineError(
            .hostUnfit,
            problem.map { "\($0.found); \($0.remedy)" } ?? "machines cannot run on this host")
    }

    /// The host with each hypervisor that works here, or with the one that is forced.
    ///
    /// - Throws: `hostUnfit` when none does.
    @LoopActor
    static func all(
        _ settings: HostSettings, retryingKVM: Bool
    ) async throws(MachineError) -> [HostProbe] {
        var probes: [HostProbe] = []
        for name in HypervisorName.allCases where settings.hypervisor ?? name == name {
            var one = settings
            one.hypervisor = name
            if let probe = await examine(one, retryingKVM: retryingKVM).probe {
                probes.append(probe)
            }
        }
        return probes.isEmpty ? [try await run(settings, retryingKVM: retryingKVM)] : probes
    }

    /// As `run`, but what does not work is a finding like the others, and the probe is missing.
    @LoopActor
    package static func examine(
        _ settings: HostSettings, retryingKVM: Bool = false
    ) async -> (probe: HostProbe?, findings: [DoctorFinding]) {
        let (probe, findings) = await examine(settings, retryingKVM: retryingKVM, facts: nil)
        guard let probe else { return (nil, findings) }
        return (probe, findings + (await Hardening.examine(settings, probe)))
    }
    @LoopActor
    private static func examine(
        _ settings: HostSettings, retryingKVM: Bool, facts: FileFacts?
    ) async -> (probe: HostProbe?, findings: [DoctorFinding]) {
        let found = await HypervisorsFound.look(settings, facts)
        let processor: Processor
        do throws(MachineError) { processor = try Processor.current() } catch {
            let finding = DoctorFinding(
                name: "accelerator", state: .off, found: "\(error)", remedy: "mount /proc")
            return (nil, [finding])
        }
        let accelerator = await accelerator(settings, found, processor, retryingKVM)
        let hypervisor = found.choice(settings, accelerator)
        let transport = transport(settings, found, hypervisor.chosen)
        let choices = [hypervisor.finding, accelerator.finding, transport.finding]
        guard let name = hypervisor.chosen, let program = found.program(name),
            let chosenAccelerator = accelerator.chosen, let chosenTransport = transport.chosen
        else { return (nil, choices + found.findings) }
        let profile = HostProfile(
            hypervisor: name, hypervisorVersion: program.version, processor: processor,
            accelerator: chosenAccelerator, transport: chosenTransport,
            emulated: chosenAccelerator == .tcg && settings.processorModel != .max
                ? settings.processorModel : nil)
        let ours = choices.filter { $0.state == .degraded }.filter {
            switch $0.name {
            case "hypervisor": settings.hypervisor == nil
            case "accelerator": settings.accelerator == nil
            default: settings.transport == nil
            }
        }
        // A root worker whose machines run as root is worth a line at every start.
        let user = Hardening.user(chosenAccelerator, isRoot: geteuid() == 0)
        let asRoot = settings.jail == .off && user.state == .off && geteuid() == 0 ? [user] : []
        let fallbacks = (ours + asRoot).map { "\($0.name) \($0.found); \($0.remedy)" }
        return (
            HostProbe(hypervisor: program, profile: profile, fallbacks: fallbacks),
            choices + found.findings
        )
    }

    @LoopActor
    private static func accelerator(
        _ settings: HostSettings, _ found: HypervisorsFound, _ processor: Processor,
        _ retryingKVM: Bool
    ) async -> Choice<Accelerator> {
        var obstacle: Obstacle?
        if settings.accelerator != .tcg {
            let qemu = (try? found.qemu.get())?.features
            if found.program(.firecracker) == nil || settings.hypervisor == .qemu {
                obstacle = qemu?.kvmObstacle
            }
            if obstacle == nil {
                // The probe guest runs in QEMU, where that can.
                obstacle = await KVMProbe.obstacle(
                    settings, qemu?.kvmObstacle == nil ? qemu : nil)
            }
            if obstacle == nil, !retryingKVM {
                let versions = HypervisorName.allCases.compactMap { found.program($0)?.version }
                obstacle = KVMRefusal.standing(settings, versions, processor)?.obstacle
            }
        }
        return Choice(
            key: "machine.accelerator", setting: settings.accelerator,
            preferred: .init(
                .kvm, found: "a probe guest ran on the processor itself",
                obstacle: obstacle),
            fallback: .init(
                .tcg, found: "software emulation", obstacle: found.emulationObstacle(settings)))
    }

    private static func transport(
        _ settings: HostSettings, _ found: HypervisorsFound, _ hypervisor: HypervisorName?
    ) -> Choice<Transport> {
        if hypervisor == .firecracker {
            return Choice(
                key: "machine.transport", setting: settings.transport,
                preferred: .init(.vsock, found: "Firecracker's own, a Unix socket", obstacle: nil),
                fallback: .init(
                    .virtioSerial, found: "",
                    obstacle: Obstacle(
                        found: "Firecracker has no such device",
                        remedy: "set machine.transport = auto")))
        }
        var obstacle: Obstacle?
        if settings.transport != .virtioSerial, case .success(let qemu) = found.qemu {
            obstacle = VsockProbe.obstacle(qemu.features)
        }
        return Choice(
            key: "machine.transport", setting: settings.transport,
            preferred: .init(
                .vsock, found: "/dev/vhost-vsock gave a context id", obstacle: obstacle),
            fallback: .init(.virtioSerial, found: "a port of QEMU's", obstacle: nil))
    }
}

/// One choice between a better way and one that works almost everywhere; pure.
struct Choice<Option>: Sendable
where Option: RawRepresentable & Equatable & Sendable, Option.RawValue == String {
    struct Way: Sendable {
        let option: Option
        /// What it is, or what showed that it works.
        let found: String
        let obstacle: Obstacle?
        var name: String { option.rawValue }

        init(_ option: Option, found: String, obstacle: Obstacle?) {
            self.option = option
            self.found = found
            self.obstacle = obstacle
        }
    }
    let key: String
    /// One of the two, where it is forced.
    let setting: Option?
    let preferred: Way
    let fallback: Way
    /// Nobody has asked for the preferred way, and nothing is wrong without it.
    var isFallbackFine = false

    /// `nil` when what is forced does not work, or when nothing does.
    var chosen: Option? {
        switch setting {
        case nil:
            preferred.obstacle == nil
                ? preferred.option : fallback.obstacle == nil ? fallback.option : nil
        case preferred.option: preferred.obstacle == nil ? preferred.option : nil
        default: fallback.obstacle == nil ? fallback.option : nil
        }
    }

    /// What was chosen and why; `off` when nothing was.
    var finding: DoctorFinding {
        guard let chosen else { return refusal }
        if chosen == preferred.option { return finding(preferred, .active, preferred.found, "") }
        guard setting == nil, let obstacle = preferred.obstacle else {
            return finding(
                fallback, isFallbackFine ? .active : .degraded,
                "\(fallback.found), because \(key) says so",
                isFallbackFine ? "" : "set \(key) = auto to use \(preferred.name) where it works")
        }
        return finding(
            fallback, isFallbackFine ? .active : .degraded,
            "\(fallback.found), because \(preferred.name) does not work: \(obstacle.found)",
            isFallbackFine ? "" : obstacle.remedy)
    }

    private var refusal: DoctorFinding {
        let obstacles = [preferred, fallback].compactMap { way in
            way.obstacle.map { (way: way, obstacle: $0) }
        }
        guard let setting else {
            let found = obstacles.map { "\($0.way.name): \($0.obstacle.found)" }
            return off(
                "neither works here. \(found.joined(separator: ". "))",
                obstacles.map(\.obstacle.remedy).joined(separator: "; or "))
        }
        let obstacle = obstacles.first { $0.way.option == setting }?.obstacle
        return off(
            "\(key) = \(setting.rawValue), but \(obstacle?.found ?? "it does not work")",
            obstacle?.remedy ?? "")
    }
    private var name: String { String(key.drop { $0 != "." }.dropFirst()) }
    private func finding(
        _ way: Way, _ state: DoctorFinding.State, _ why: String, _ remedy: String
    ) -> DoctorFinding {
        DoctorFinding(
            name: name, state: state, chosen: way.name, found: "\(way.name): \(why)",
            remedy: remedy)
    }
    private func off(_ found: String, _ remedy: String) -> DoctorFinding {
        DoctorFinding(name: name, state: .off, found: found, remedy: remedy)
    }
}
