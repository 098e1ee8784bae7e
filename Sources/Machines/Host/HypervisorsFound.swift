// Which hypervisors this host has, in which version, and what each cannot do.

import Events
import Processes

/// What looking for each of them found, or why it cannot be used.
struct HypervisorsFound: Sendable {
    struct QEMUFound: Sendable {
        let program: HypervisorProgram
        let features: QEMUFeatures
    }
    let qemu: Result<QEMUFound, MachineError>
    let firecracker: Result<HypervisorProgram, MachineError>
    /// Somebody named a binary, or one is in PATH.
    let isFirecrackerWanted: Bool

    @LoopActor
    static func look(
        _ settings: HostSettings, _ facts: FileFacts?
    ) async -> HypervisorsFound {
        let qemu: Result<QEMUFound, MachineError>
        do throws(MachineError) {
            let file = try ProgramFile(settings.qemuBinary, remedy: QEMUFeatures.remedy)
            let features = try await QEMUFeatures.of(file, named: settings.qemuBinary, facts)
            qemu = .success(
                QEMUFound(
                    program: HypervisorProgram(.qemu, file, version: features.version),
                    features: features))
        } catch { qemu = .failure(error) }
        let firecracker: Result<HypervisorProgram, MachineError>
        do throws(MachineError) {
            let file = try ProgramFile(
                settings.firecrackerBinary, remedy: FirecrackerFeatures.remedy)
            let features = try await FirecrackerFeatures.of(file)
            try checkInPlace(file)
            firecracker = .success(
                HypervisorProgram(
                    .firecracker, file, version: features.summary,
                    pauseObstacle: features.pauseObstacle))
        } catch { firecracker = .failure(error) }
        let isNamed = settings.firecrackerBinary != HostSettings.firecrackerInPath
        return HypervisorsFound(
            qemu: qemu, firecracker: firecracker,
            isFirecrackerWanted: isNamed || findProgram(settings.firecrackerBinary) != nil)
    }
    private static func checkInPlace(_ file: borrowing ProgramFile) throws(MachineError) {
        guard file.isInPlace else {
            throw MachineError(
                .hostUnfit, "\(file.path) was replaced while it was probed; start again")
        }
    }

    func program(_ name: HypervisorName) -> HypervisorProgram? {
        switch name {
        case .qemu: (try? qemu.get())?.program
        case .firecracker: try? firecracker.get()
        }
    }

    /// Why software emulation cannot be had.
    func emulationObstacle(_ settings: HostSettings) -> Obstacle? {
        if settings.hypervisor == .firecracker {
            return Obstacle(
                found: "Firecracker cannot emulate", remedy: "set machine.hypervisor = auto or qemu"
            )
        }
        switch qemu {
        case .success(let found): return found.features.tcgObstacle
        case .failure(let error):
            return Obstacle(found: error.description, remedy: QEMUFeatures.remedy)
        }
    }

    /// Firecracker where it is and KVM works, else QEMU.
    func choice(
        _ settings: HostSettings, _ accelerator: Choice<Accelerator>
    ) -> Choice<HypervisorName> {
        var obstacle: Obstacle?
        switch firecracker {
        case .failure(let error):
            obstacle = Obstacle(found: error.description, remedy: FirecrackerFeatures.remedy)
        case .success where accelerator.chosen == .tcg || accelerator.chosen == nil:
            obstacle = Obstacle(
                found: "it needs KVM: \(accelerator.preferred.obstacle?.found ?? "not used here")",
                remedy: accelerator.preferred.obstacle?.remedy ?? "set machine.accelerator = auto")
        default: break
        }
        var qemuObstacle: Obstacle?
        if case .failure(let error) = qemu {
            qemuObstacle = Obstacle(found: error.description, remedy: QEMUFeatures.remedy)
        }
        var choice = Choice<HypervisorName>(
            key: "machine.hypervisor", setting: settings.hypervisor,
            preferred: .init(
                .firecracker, found: program(.firecracker)?.version ?? "", obstacle: obstacle),
            fallback: .init(
                .qemu, found: program(.qemu)?.version ?? "", obstacle: qemuObstacle))
        // Without KVM nobody expects it; with it and a binary that is no use, somebody does.
        choice.isFallbackFine = !isFirecrackerWanted || accelerator.chosen == .tcg
        return choice
    }

    /// Facts for `doctor`: one line a hypervisor.
    var findings: [DoctorFinding] {
        HypervisorName.allCases.map { name in
            let label = "hypervisor.\(name)"
            guard let program = program(name) else {
                var found = ""
                if name == .qemu, case .failure(let error) = qemu { found = error.description }
                if name == .firecracker, case .failure(let error) = firecracker {
                    found = error.description
                }
                return DoctorFinding(name: label, state: .off, found: found, remedy: "")
            }
            return DoctorFinding(
                name: label, state: program.pauseObstacle == nil ? .active : .degraded,
                found: ["\(program.version) (\(program.path))", program.pauseObstacle?.found]
                    .compactMap(\.self).joined(separator: "; "),
                remedy: program.pauseObstacle?.remedy ?? "")
        }
    }
}
