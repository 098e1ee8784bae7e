// Which hypervisor, accelerator and transport are chosen, and what is said about it: what is forced
// and cannot be is an error, what is left to us falls back with its reason.

import Events
import Foundation
import Processes
import Synchronization
import Testing

@testable import Machines

@Suite("A host")
struct HostProbeTests {
    private static let broken = Obstacle(found: "it is broken", remedy: "mend it")

    private static func choice(
        _ setting: Accelerator?, better: Obstacle? = nil, other: Obstacle? = nil
    ) -> DoctorFinding {
        Choice(
            key: "machine.accelerator", setting: setting,
            preferred: .init(.kvm, found: "it ran", obstacle: better),
            fallback: .init(.tcg, found: "emulation", obstacle: other)
        ).finding
    }

    @Test func `uses the better way where it works`() {
        for setting in [nil, Accelerator.kvm] {
            let finding = Self.choice(setting)
            #expect(finding.chosen == "kvm" && finding.state == .active)
            #expect(finding.found == "kvm: it ran" && finding.remedy.isEmpty)
        }
    }
    @Test func `falls back when the choice is ours, and says why and what would help`() {
        let finding = Self.choice(nil, better: Self.broken)
        #expect(finding.chosen == "tcg" && finding.state == .degraded)
        #expect(finding.found == "tcg: emulation, because kvm does not work: it is broken")
        #expect(finding.remedy == "mend it")
    }
    @Test func `refuses what is forced and does not work`() {
        let better = Self.choice(.kvm, better: Self.broken)
        #expect(better.chosen == nil && better.state == .off)
        #expect(better.found == "machine.accelerator = kvm, but it is broken")
        let other = Self.choice(.tcg, other: Self.broken)
        #expect(other.chosen == nil && other.remedy == "mend it")
    }
    @Test func `does what is forced although better is there`() {
        let finding = Self.choice(.tcg)
        #expect(finding.chosen == "tcg" && finding.remedy.contains("= auto"))
    }
    @Test func `a host without any way that works says both reasons`() {
        let other = Obstacle(found: "it was left out", remedy: "build it in")
        let finding = Self.choice(nil, better: Self.broken, other: other)
        #expect(finding.chosen == nil && finding.state == .off)
        #expect(finding.found.contains("it is broken") && finding.found.contains("left out"))
    }

    /// The same in every world: forcing what `auto` found works, forcing what it passed over fails
    /// with the reason that it gave.
    @Test func `is judged alike whether a choice is forced or left to the probes`() async throws {
        var ours = TestImage.settings
        ours.hypervisor = nil
        let (probe, findings) = await HostProbe.examine(ours)
        let host = try #require(probe).profile
        for (key, isBetter) in [
            ("accelerator", host.accelerator == .kvm), ("transport", host.transport == .vsock),
        ] {
            var settings = ours
            if key == "accelerator" { settings.accelerator = .kvm }
            if key == "transport" { settings.transport = .vsock }
            let forced = await HostProbe.examine(settings)
            #expect((forced.probe != nil) == isBetter)
            if isBetter { continue }
            let why = try #require(findings.first { $0.name == key }).found
                .components(separatedBy: " does not work: ").last
            let finding = forced.findings.first { $0.name == key }
            #expect(finding?.found.hasSuffix(why ?? "?") == true, "\(finding?.found ?? "")")
            await #expect(throws: MachineError.self) { try await HostProbe.run(settings) }
        }
        #expect(
            try #require(probe).fallbacks.count
                == findings.filter { $0.chosen != nil && $0.state == .degraded }.count)
    }

    @Test func `a host with a QEMU that lacks a part names the part and the package`() async throws
    {
        let directory = try TemporaryDirectory()
        // As Debian's qemu-system-x86_64-microvm answers: KVM only, no vsock.
        let binary = try directory.program(
            "qemu",
            """
            case "$*" in
                --version) echo "QEMU emulator version 7.2.22" ;;
                "-accel help") printf 'Accelerators supported in QEMU binary:\\nkvm\\n' ;;
                "-device help") echo 'name "virtio-blk-device", bus virtio-bus' ;;
                *) exit 1 ;;
            esac
            """)
        let qemu = try await QEMUFeatures.of(binary)
        #expect(qemu.version == "QEMU emulator version 7.2.22")
        #expect(qemu.kvmObstacle == nil)
        #expect(qemu.tcgObstacle?.found == "\(binary) was built without software emulation (tcg)")
        #expect(VsockProbe.obstacle(qemu)?.remedy.contains("qemu-system-x86") == true)
        var settings = TestImage.settings
        settings.qemuBinary = binary
        settings.accelerator = .tcg
        await #expect {
            try await HostProbe.run(settings)
        } throws: { "\($0)".contains("machine.accelerator = tcg, but") }
        // Left to us: this KVM guest cannot run here (the program above runs none), and no emulation.
        settings.accelerator = nil
        await #expect {
            try await HostProbe.run(settings)
        } throws: { "\($0)".contains("neither works here") }
    }

    @Test func `a host without QEMU says what to install`() async throws {
        var settings = TestImage.settings
        settings.hypervisor = nil
        settings.qemuBinary = "/nonexistent/qemu"
        settings.firecrackerBinary = "/nonexistent/firecracker"
        let (probe, findings) = await HostProbe.examine(settings)
        #expect(probe == nil)
        #expect(findings.first?.name == "hypervisor" && findings.first?.state == .off)
        #expect(findings.first?.remedy.contains("qemu-system-x86") == true)
        settings.qemuBinary = "/bin/true"
        await #expect {
            try await HostProbe.run(settings)
        } throws: { "\($0)".contains("is not QEMU's") }
    }

    @Test func `remembers a guest that did not come up under KVM until something changes`() throws {
        let directory = try TemporaryDirectory()
        var settings = TestImage.settings
        settings.stateDirectory = directory.path + "/state"
        let versions = ["QEMU 1"]
        let processor = try Processor.current()
        #expect(KVMRefusal.standing(settings, versions, processor) == nil)
        let profile = HostProfile(
            hypervisor: .qemu, hypervisorVersion: "QEMU 1", processor: processor,
            accelerator: .kvm, transport: .vsock)
        try KVMRefusal("it hung", profile).record(settings)
        let standing = try #require(KVMRefusal.standing(settings, versions, processor))
        #expect(standing.obstacle.found.contains("it hung"))
        #expect(standing.obstacle.remedy.contains("--force"))
        #expect(KVMRefusal.standing(settings, ["QEMU 2"], processor) == nil)
        var another = processor
        another.flags = "none"
        #expect(KVMRefusal.standing(settings, versions, another) == nil)
        KVMRefusal.forget(settings)
        #expect(KVMRefusal.standing(settings, versions, processor) == nil)
    }

    @Test func `runs hypervisors without privileges where the device allows it`() {
        let nobody = HypervisorUser.unprivileged
        #expect(
            HypervisorUser.forDevice(mode: 0o020660, group: 105)
                == Credentials(user: nobody, group: 105))
        #expect(
            HypervisorUser.forDevice(mode: 0o020666, group: 0)
                == Credentials(user: nobody, group: nobody))
        #expect(HypervisorUser.forDevice(mode: 0o020660, group: 0) == nil)
        #expect(HypervisorUser.forDevice(mode: 0o020600, group: 105) == nil)
    }
}

/// Where `auto` takes KVM: an image build whose guest does not come up there.
extension RealMachineTests {
    @Suite("KVM that runs no stock guest", .enabled(if: TestImage.isUnderKVM, TestImage.noKVM))
    struct BrokenKVMTests {
        @Test func `is given up for emulation with one clear line, and is an error when forced`()
            async throws
        {
            let directory = try TemporaryDirectory()
            // The probe program runs; a kernel hangs. Emulation is seen to be tried next.
            let binary = try directory.program(
                "qemu",
                """
                case "$*" in
                    *"-accel kvm"*-kernel*) exec sleep 600 ;;
                    *"-accel tcg"*-kernel*) exit 3 ;;
                esac
                exec qemu-system-x86_64 "$@"
                """)
            var settings = TestImage.settings
            settings.hypervisor = nil
            settings.firecrackerBinary = "/nonexistent/firecracker"
            settings.stateDirectory = directory.path + "/state"
            settings.qemuBinary = binary
            settings.jail = nil  // which holds no script
            settings.probeTimeout = .seconds(3)
            settings.agentBinary = TestImage.agent
            try FileManager.default.createDirectory(
                atPath: settings.stateDirectory, withIntermediateDirectories: true)
            try FileManager.default.createSymbolicLink(
                atPath: settings.stateDirectory + "/bases",
                withDestinationPath: TestImage.stateDirectory + "/bases")
            let definition = try await TestImage.host()
                .image(TestImage.name, generation: nil).manifest.definition
            let lines = Lines()
            func build() async throws {
                let builder = ImageBuilder(settings: settings, definition: definition) {
                    lines.add($0)
                }
                _ = try await builder.build(force: false, refresh: false)
            }
            await #expect {
                try await build()
            } throws: { "\($0)".contains("did not come up under tcg") }
            let line = "kvm does not work: a stock guest did not come up under KVM"
            #expect(lines.all.filter { $0.contains(line) }.count == 1, "\(lines.all)")
            // Emulation failed as well, so KVM is not to blame, and nothing is held against it.
            let probe = try await HostProbe.run(settings)
            #expect(probe.profile.accelerator == .kvm)
            // What is held against it, every later start obeys, until somebody insists.
            try KVMRefusal("it hung", probe.profile).record(settings)
            let now = try await HostProbe.run(settings)
            #expect(now.profile.accelerator == .tcg)
            #expect(now.fallbacks.contains { $0.contains("it hung") })
            let again = try await HostProbe.run(settings, retryingKVM: true)
            #expect(again.profile.accelerator == .kvm)

            KVMRefusal.forget(settings)
            settings.accelerator = .kvm
            await #expect {
                try await build()
            } throws: {
                "\($0)".contains("machine.accelerator = kvm, but the guest did not come up")
                    && "\($0)".contains("machine.probe.timeout")
            }
        }
    }
}

/// What a builder said.
private final class Lines: Sendable {
    private let lines = Mutex<[String]>([])
    func add(_ line: String) { lines.withLock { $0.append(line) } }
    var all: [String] { lines.withLock { $0 } }
}

extension TemporaryDirectory {
    /// A shell script in it; its path.
    func program(_ name: String, _ script: String) throws -> String {
        let file = "\(path)/\(name)"
        try writeFile(file, Array("#!/bin/sh\n\(script)\n".utf8), mode: 0o755)
        return file
    }
}
