// What this host can do, found by trying: hypervisor, accelerator, transport. Used at start and by
// `mayfly doctor`; a device node that exists proves nothing. What is forced and does not work is an
// error; what is left to us falls back, and says why.

import Events
import Glibc

/// One line of `mayfly doctor`.
package struct DoctorFinding: Sendable, Codable, Equatable {
    package var name: String
    /// `active`, `degraded` or `off`.
    package var state: String
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
    /// - Parameter retryingKVM: looks past an earlier boot under KVM that failed.
    /// - Throws: `hostUnfit` when something forced in the settings does not work here.
    @LoopActor
    package static func run(
        _ settings: HostSettings, retryingKVM: Bool = false
    ) async throws(MachineError) -> HostProbe {
        let (probe, findings) = await examine(settings, retryingKVM: retryingKVM)
        if Task.isCancelled { throw MachineError(.cancelled, "stopped while probing the host") }
        if let probe { return probe }
        let problem = findings.first { $0.state == "off" }
        throw MachineError(
            .hostUnfit,
            problem.map { "\($0.found); \($0.remedy)" } ?? "machines cannot run on this host")
    }

    /// As `run`, but what does not work is a finding like the others, and the probe is missing.
    @LoopActor
    package static func examine(
        _ settings: HostSettings, retryingKVM: Bool = false
    ) async -> (probe: HostProbe?, findings: [DoctorFinding]) {
        let binary: QEMUBinary
        let qemu: QEMUFeatures
        let processor: Processor
        do throws(MachineError) {
            binary = try QEMUBinary(settings.qemuBinary)
            qemu = try await QEMUFeatures.of(settings.qemuBinary)
            guard binary.isInPlace else {
                throw MachineError(
                    .hostUnfit, "\(binary.path) was replaced while it was probed; start again")
            }
            processor = try Processor.current()
        } catch {
            let remedy = "install qemu-system-x86, or set machine.qemu.binary"
            return (
                nil,
                [
                    DoctorFinding(
                        name: "hypervisor", state: "off", found: "\(error)", remedy: remedy)
                ]
            )
        }
        let choices = [
            DoctorFinding(
                name: "hypervisor", state: "active", chosen: "qemu",
                found: "qemu, the one driver of this version: \(qemu.version)", remedy: ""),
            await accelerator(settings, qemu, processor, retryingKVM),
            transport(settings, qemu),
        ]
        guard let accelerator = choices[1].chosen, let transport = choices[2].chosen else {
            return (nil, choices)
        }
        let profile = HostProfile(
            qemuVersion: qemu.version, processor: processor, accelerator: accelerator,
            transport: transport)
        let hardening = Hardening.findings(accelerator: accelerator)
        let ours = zip(choices, [settings.hypervisor, settings.accelerator, settings.transport])
            .filter { $0.state == "degraded" && $1 == "auto" }.map { $0.0 }
        // A root worker whose machines run as root is worth a line at every start.
        let asRoot = hardening.filter {
            $0.name == "hardening.user" && $0.state == "off" && geteuid() == 0
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
    ) async -> DoctorFinding {
        var obstacle: Obstacle?
        if settings.accelerator != "tcg" {
            obstacle = await KVMProbe.obstacle(settings, qemu)
            if obstacle == nil, !retryingKVM {
                obstacle = KVMRefusal.standing(settings, qemu, processor)?.obstacle
            }
        }
        return Choice(
            key: "machine.accelerator", setting: settings.accelerator,
            preferred: .init(
                name: "kvm", found: "a probe guest ran on the processor itself",
                obstacle: obstacle),
            fallback: .init(
                name: "tcg", found: "software emulation", obstacle: qemu.tcgObstacle)
        ).finding
    }

    private static func transport(
        _ settings: HostSettings, _ qemu: QEMUFeatures
    ) -> DoctorFinding {
        Choice(
            key: "machine.transport", setting: settings.transport,
            preferred: .init(
                name: "vsock", found: "/dev/vhost-vsock gave a context id",
                obstacle: settings.transport == "virtio-serial" ? nil : VsockProbe.obstacle(qemu)),
            fallback: .init(name: "virtio-serial", found: "a port of QEMU's", obstacle: nil)
        ).finding
    }
}

/// One choice between a better way and one that works almost everywhere; pure.
struct Choice: Sendable {
    struct Way: Sendable {
        var name: String
        /// What it is, or what showed that it works.
        var found: String
        var obstacle: Obstacle?
    }
    let key: String
    /// `auto`, or the name of one of the two.
    let setting: String
    let preferred: Way
    let fallback: Way

    /// `off`, with nothing chosen, when what is forced does not work, or when nothing does.
    var finding: DoctorFinding {
        switch setting {
        case "auto", preferred.name:
            guard let obstacle = preferred.obstacle else {
                return chosen(preferred, "active", preferred.found, "")
            }
            if setting == preferred.name { return refused(obstacle) }
            if let other = fallback.obstacle {
                return off(
                    "neither works here. \(preferred.name): \(obstacle.found). "
                        + "\(fallback.name): \(other.found)",
                    "\(obstacle.remedy); or \(other.remedy)")
            }
            return chosen(
                fallback, "degraded",
                "\(fallback.found), because \(preferred.name) does not work: \(obstacle.found)",
                obstacle.remedy)
        case fallback.name:
            if let obstacle = fallback.obstacle { return refused(obstacle) }
            return chosen(
                fallback, "degraded", "\(fallback.found), because \(key) says so",
                "set \(key) = auto to use \(preferred.name) where it works")
        default:
            return off(
                "\(key) = \(setting) is not known",
                "use auto, \(preferred.name) or \(fallback.name)")
        }
    }

    private var name: String { String(key.drop { $0 != "." }.dropFirst()) }
    private func chosen(
        _ way: Way, _ state: String, _ why: String, _ remedy: String
    ) -> DoctorFinding {
        DoctorFinding(
            name: name, state: state, chosen: way.name, found: "\(way.name): \(why)",
            remedy: remedy)
    }
    private func refused(_ obstacle: Obstacle) -> DoctorFinding {
        off("\(key) = \(setting), but \(obstacle.found)", obstacle.remedy)
    }
    private func off(_ found: String, _ remedy: String) -> DoctorFinding {
        DoctorFinding(name: name, state: "off", found: found, remedy: remedy)
    }
}
