// What the configured QEMU was built with: its version and the parts that a machine may need. A
// distribution's binaries differ; Debian's qemu-system-x86_64-microvm has KVM only and no vsock.

import Events
import Foundation
import Processes

/// The answers of `-version`, `-accel help` and `-device help`.
struct QEMUFeatures: Sendable, Equatable, Codable {
    var binary: String
    /// The first line of `--version`.
    var version: String
    var accelerators: Set<String>
    var hasVsockDevice: Bool

    /// What this very file said of itself, now or at an earlier start since the host booted.
    ///
    /// - Throws: `hostUnfit` when it does not answer, or is replaced meanwhile.
    @LoopActor
    static func of(
        _ binary: borrowing ProgramFile, named name: String, _ facts: FileFacts?
    ) async throws(MachineError) -> QEMUFeatures {
        let identity = try FileIdentity(of: binary.descriptor)
        // A script's answers depend on more than its file.
        let isRememberable = binary.isELF && facts?.mayRemember(identity) == true
        if isRememberable, let fact = facts?.recall(.qemuFeatures, of: identity),
            let features = try? JSONDecoder().decode(QEMUFeatures.self, from: Data(fact.utf8)),
            features.binary == name
        {
            return features
        }
        let features = try await of(name)
        guard binary.isInPlace, try FileIdentity(of: binary.descriptor) == identity else {
            throw MachineError(
                .hostUnfit, "\(binary.path) was replaced while it was probed; start again")
        }
        if isRememberable, let fact = try? JSONEncoder().encode(features) {
            facts?.remember(String(decoding: fact, as: UTF8.self), as: .qemuFeatures, of: identity)
        }
        return features
    }

    /// - Throws: `hostUnfit` when the program is missing or does not answer.
    @LoopActor
    static func of(_ binary: String) async throws(MachineError) -> QEMUFeatures {
        let deadline = ContinuousClock.now + .seconds(60)
        let version = try await runTool([binary, "--version"], before: deadline)
        guard version.status == 0, let line = version.output.split(separator: "\n").first,
            line.contains("QEMU")
        else {
            let words = version.output.split(separator: "\n").first.map(String.init) ?? "nothing"
            throw MachineError(.hostUnfit, "\(binary) --version is not QEMU's: \(words)")
        }
        let accelerators = try await runTool([binary, "-accel", "help"], before: deadline)
        let devices = try await runTool([binary, "-device", "help"], before: deadline)
        return QEMUFeatures(
            binary: binary, version: String(line),
            // A heading, then a name a line.
            accelerators: Set(accelerators.output.split(separator: "\n").map(\.trimmedText)),
            hasVsockDevice: devices.output.contains("name \"vhost-vsock-device\""))
    }

    static let remedy = "install qemu-system-x86 or set machine.qemu.binary"

    var kvmObstacle: Obstacle? {
        accelerators.contains(Accelerator.kvm.rawValue) ? nil : missing("support for KVM")
    }
    var tcgObstacle: Obstacle? {
        accelerators.contains(Accelerator.tcg.rawValue) ? nil : missing("software emulation (tcg)")
    }
    var vsockObstacle: Obstacle? { hasVsockDevice ? nil : missing("the device vhost-vsock-device") }

    private func missing(_ part: String) -> Obstacle {
        Obstacle(
            found: "\(binary) was built without \(part)",
            remedy: "set machine.qemu.binary to a full QEMU (Debian: qemu-system-x86_64 of "
                + "qemu-system-x86)")
    }
}

extension Substring {
    fileprivate var trimmedText: String { String(self).trimmed }
}
