// What this host can do, found by trying: hypervisor, accelerator, transport. Used at start and by
// `mayfly doctor`; a device node that exists proves nothing.

import CLinux
import Events
import Foundation
import Glibc

/// How machines are to be made; `auto` lets the probes decide.
package struct HostSettings: Sendable {
    package var stateDirectory: String
    package var runtimeDirectory: String
    package var hypervisor = "auto"
    package var accelerator = "auto"
    package var transport = "auto"
    /// Pre-spawned hypervisor processes kept waiting, per image.
    package var shells = 1
    package var qemuBinary = "qemu-system-x86_64"
    /// The guest agent to build into images; `nil`: beside this program.
    package var agentBinary: String?

    package init(stateDirectory: String, runtimeDirectory: String) {
        self.stateDirectory = stateDirectory
        self.runtimeDirectory = runtimeDirectory
    }
}

/// One line of `mayfly doctor`.
package struct DoctorFinding: Sendable, Codable {
    package var name: String
    /// `active`, `degraded` or `off`.
    package var state: String
    package var found: String
    /// What would make it better; empty when nothing would.
    package var remedy: String
}

/// The host as probed, for image lists and checks.
package struct MachineHostFacts: Sendable {
    let facts: HostFacts
    package var accelerator: String { facts.accelerator }
    package var transport: String { facts.transport }
    package var qemuVersion: String { facts.qemuVersion }
}

/// What the probes chose and why.
package struct HostProbe: Sendable {
    package let host: MachineHostFacts
    package let findings: [DoctorFinding]

    /// Chooses hypervisor, accelerator and transport for `settings`.
    ///
    /// - Throws: `hostUnfit` when something forced in the settings does not work here.
    @LoopActor
    package static func run(_ settings: HostSettings) async throws(MachineError) -> HostProbe {
        var findings: [DoctorFinding] = []
        guard ["auto", "qemu"].contains(settings.hypervisor) else {
            throw MachineError(
                .hostUnfit,
                "machine.hypervisor = \(settings.hypervisor): this version has auto and qemu")
        }
        let version = try await qemuVersion(settings.qemuBinary)
        findings.append(
            DoctorFinding(name: "hypervisor", state: "active", found: version, remedy: ""))
        let accelerator = try await chooseAccelerator(settings, &findings)
        let transport = try chooseTransport(settings, &findings)
        findings += hardening(accelerator)
        let facts = HostFacts(
            qemuVersion: version, processor: try .current(), accelerator: accelerator,
            transport: transport)
        return HostProbe(host: MachineHostFacts(facts: facts), findings: findings)
    }

    /// The layers between a guest that broke out of its hypervisor and this host, as they are.
    private static func hardening(_ accelerator: String) -> [DoctorFinding] {
        let asRoot = QEMU.isRoot
        let hasOwnUser = asRoot && accelerator == "tcg"
        let jail = "comes with the jail, a later version"
        return [
            DoctorFinding(
                name: "hardening.seccomp", state: "active",
                found: "QEMU's own filter: no new processes, no other privileges", remedy: ""),
            DoctorFinding(
                name: "hardening.user", state: hasOwnUser ? "degraded" : "off",
                found: hasOwnUser
                    ? "all machines share the user id \(QEMU.unprivilegedUser)"
                    : "machines run as the worker's own user",
                remedy: hasOwnUser ? "one user id per machine \(jail)" : jail),
            DoctorFinding(
                name: "hardening.namespaces", state: asRoot ? "degraded" : "off",
                found: asRoot
                    ? "network, IPC and host name are separate; the file system is shared"
                    : "none: making them needs root",
                remedy: "an empty root file system \(jail)"),
            DoctorFinding(
                name: "hardening.network", state: "active",
                found: "no machine has a network card", remedy: ""),
            DoctorFinding(
                name: "hardening.cgroup", state: "off",
                found: "no limits on the hypervisor's memory and processor time",
                remedy: "a cgroup per machine \(jail)"),
        ]
    }

    @LoopActor
    private static func chooseAccelerator(
        _ settings: HostSettings, _ findings: inout [DoctorFinding]
    ) async throws(MachineError) -> String {
        switch settings.accelerator {
        case "tcg":
            findings.append(
                DoctorFinding(
                    name: "accelerator", state: "degraded",
                    found: "tcg (software emulation), as machine.accelerator says",
                    remedy: "set machine.accelerator = auto to use KVM where it works"))
            return "tcg"
        case "auto", "kvm":
            let obstacle = await kvmObstacle(settings)
            guard let obstacle else {
                findings.append(
                    DoctorFinding(
                        name: "accelerator", state: "active",
                        found: "kvm: a probe guest ran", remedy: ""))
                return "kvm"
            }
            if settings.accelerator == "kvm" {
                throw MachineError(
                    .hostUnfit,
                    "machine.accelerator = kvm, but \(obstacle.found); \(obstacle.remedy)")
            }
            findings.append(
                DoctorFinding(
                    name: "accelerator", state: "degraded",
                    found: "tcg (software emulation): \(obstacle.found)",
                    remedy: obstacle.remedy))
            return "tcg"
        default:
            throw MachineError(
                .hostUnfit,
                "machine.accelerator = \(settings.accelerator): use auto, kvm or tcg")
        }
    }

    private static func chooseTransport(
        _ settings: HostSettings, _ findings: inout [DoctorFinding]
    ) throws(MachineError) -> String {
        guard ["auto", "vsock", "virtio-serial"].contains(settings.transport) else {
            throw MachineError(
                .hostUnfit,
                "machine.transport = \(settings.transport): use auto, vsock or virtio-serial")
        }
        if settings.transport == "virtio-serial" {
            findings.append(
                DoctorFinding(
                    name: "transport", state: "active",
                    found: "virtio-serial, as machine.transport says", remedy: ""))
            return "virtio-serial"
        }
        if unsafe access("/dev/vhost-vsock", R_OK | W_OK) == 0 {
            findings.append(
                DoctorFinding(
                    name: "transport", state: "active",
                    found: "vsock: /dev/vhost-vsock can be opened", remedy: ""))
            return "vsock"
        }
        let remedy = "load the module (modprobe vhost_vsock) and let the worker open the device"
        if settings.transport == "vsock" {
            throw MachineError(
                .hostUnfit, "machine.transport = vsock, but there is no /dev/vhost-vsock; \(remedy)"
            )
        }
        findings.append(
            DoctorFinding(
                name: "transport", state: "degraded",
                found: "virtio-serial: there is no usable /dev/vhost-vsock", remedy: remedy))
        return "virtio-serial"
    }

    /// Why KVM cannot run a stock guest here, or `nil` when it does.
    @LoopActor
    private static func kvmObstacle(
        _ settings: HostSettings
    ) async -> (found: String, remedy: String)? {
        guard unsafe access("/dev/kvm", R_OK | W_OK) == 0 else {
            return (
                "there is no usable /dev/kvm",
                "enable virtualization in the firmware, load kvm_intel or kvm_amd, and let the "
                    + "worker open /dev/kvm"
            )
        }
        let flags = (try? String(contentsOfFile: "/proc/cpuinfo", encoding: .utf8)) ?? ""
        guard flags.contains(" vmx") || flags.contains(" svm") else {
            return (
                "/dev/kvm exists, but the processor shows neither vmx nor svm, so stock guests "
                    + "do not run",
                "use a host with hardware virtualization (or nested virtualization switched on)"
            )
        }
        return await KVMProbe.obstacle(settings)
    }
}
