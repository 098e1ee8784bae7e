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
    let qemu: QEMUBinary
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

    /// As `run`, but what does not work is a finding like the others, and the probe is missing.
    @LoopActor
    package static func examine(
        _ settings: HostSettings, retryingKVM: Bool = false
    ) async -> (probe: HostProbe?, findings: [DoctorFinding]) {
        await examine(settings, retryingKVM: retryingKVM, facts: nil)
    }
    @LoopActor
    private static func examine(
        _ settings: HostSettings, retryingKVM: Bool, facts: FileFacts?
    ) async -> (probe: HostProbe?, findings: [DoctorFinding]) {
        let binary: QEMUBinary
        let qemu: QEMUFeatures
        let processor: Processor
        do throws(MachineError) {
            binary = try QEMUBinary(settings.qemuBinary)
            qemu = try await QEMUFeatures.of(binary, named: settings.qemuBinary, facts)
            processor = try Processor.current()
        } catch {
            let remedy = "install qemu-system-x86, or set machine.qemu.binary"
            return (
                nil,
                [
                    DoctorFinding(
                        name: "hypervisor", state: .off, found: "\(error)", remedy: remedy)
                ]
            )
        }
        let accelerator = await accelerator(settings, qemu, processor, retryingKVM)
        let transport = transport(settings, qemu)
        let choices = [
            DoctorFinding(
                name: "hypervisor", state: .active, chosen: Hypervisor.qemu.rawValue,
                found: "qemu, the one driver of this version: \(qemu.version)", remedy: ""),
            accelerator.finding, transport.finding,
        ]
        guard let chosenAccelerator = accelerator.chosen, let chosenTransport = transport.chosen
        else { return (nil, choices) }
        let profile = HostProfile(
            qemuVersion: qemu.version, processor: processor, accelerator: chosenAccelerator,
            transport: chosenTransport)
        let hardening = Hardening.findings(accelerator: chosenAccelerator)
        let ours = choices.filter { $0.state == .degraded }.filter {
            $0.name == "accelerator" ? settings.accelerator == nil : settings.transport == nil
        }
        // A root worker whose machines run as root is worth a line at every start.
        let asRoot = hardening.filter {
            $0.name == "hardening.user" && $0.state == .off && geteuid() == 0
        }
        let fallbacks = (ours + asRoot).map { "\($0.name) \($0.found); \($0.remedy)" }
        return (
            HostProbe(qemu: binary, profile: profile, fallbacks: fallbacks),
            choices + hardening
        )
    }

    @LoopActor
    private static func accelerator(
        _ settings: HostSettings, _ qemu: QEMUFeatures, _ processor: Processor,
        _ retryingKVM: Bool
    ) async -> Choice<Accelerator> {
        var obstacle: Obstacle?
        if settings.accelerator != .tcg {
            obstacle = await KVMProbe.obstacle(settings, qemu)
            if obstacle == nil, !retryingKVM {
                obstacle = KVMRefusal.standing(settings, qemu, processor)?.obstacle
            }
        }
        return Choice(
            key: "machine.accelerator", setting: settings.accelerator,
            preferred: .init(
                .kvm, found: "a probe guest ran on the processor itself",
                obstacle: obstacle),
            fallback: .init(
                .tcg, found: "software emulation", obstacle: qemu.tcgObstacle))
    }

    private static func transport(
        _ settings: HostSettings, _ qemu: QEMUFeatures
    ) -> Choice<Transport> {
        Choice(
            key: "machine.transport", setting: settings.transport,
            preferred: .init(
                .vsock, found: "/dev/vhost-vsock gave a context id",
                obstacle: settings.transport == .virtioSerial ? nil : VsockProbe.obstacle(qemu)),
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
                fallback, .degraded, "\(fallback.found), because \(key) says so",
                "set \(key) = auto to use \(preferred.name) where it works")
        }
        return finding(
            fallback, .degraded,
            "\(fallback.found), because \(preferred.name) does not work: \(obstacle.found)",
            obstacle.remedy)
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
