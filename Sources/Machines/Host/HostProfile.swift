// What this host is to a snapshot: hypervisor, processor, accelerator and transport. A generation
// made on another kind of host is refused.

import Foundation

/// The host as probed.
package struct HostProfile: Sendable {
    package var hypervisor: HypervisorName
    /// As `HypervisorProgram.version`.
    package var hypervisorVersion: String
    var processor: Processor
    package var accelerator: Accelerator
    package var transport: Transport
    /// What emulated processors are; `nil`: what QEMU chooses, or the host's own under KVM.
    var emulated: EmulatedProcessor?

    /// Whether a snapshot may be restored here.
    ///
    /// - Throws: `imageRefused` with what differs.
    func check(_ manifest: Manifest, directory: String) throws(MachineError) {
        let path = "\(directory)/manifest.json"
        func refuse(_ what: String, _ theirs: String, _ ours: String) -> MachineError {
            MachineError(
                .imageRefused,
                "\(path): the snapshot was made with \(what) \(theirs), this host has \(ours); "
                    + "rebuild it here with `mayfly image build \(manifest.definition.name)`")
        }
        if manifest.hypervisor != hypervisor || manifest.hypervisorVersion != hypervisorVersion {
            throw refuse(
                "the hypervisor", "\"\(manifest.hypervisorVersion)\"", "\"\(hypervisorVersion)\"")
        }
        if manifest.processor != processor {
            throw refuse(
                "a processor", manifest.processor.summary, processor.summary)
        }
        if manifest.hardware.accelerator != accelerator {
            throw refuse("accelerator", "\(manifest.hardware.accelerator)", "\(accelerator)")
        }
        if manifest.hardware.emulated != emulated {
            throw refuse(
                "machine.processor.model =",
                (manifest.hardware.emulated ?? .max).rawValue, (emulated ?? .max).rawValue)
        }
        if manifest.hardware.transport != transport {
            throw refuse("transport", "\(manifest.hardware.transport)", "\(transport)")
        }
        if manifest.deviceModel != hypervisor.deviceModel {
            throw refuse("device model", manifest.deviceModel, hypervisor.deviceModel)
        }
    }
}

extension HypervisorName {
    /// What a snapshot depends on beside its files.
    var deviceModel: String {
        switch self {
        case .qemu: QEMU.deviceModel
        case .firecracker: Firecracker.deviceModel
        }
    }
}

/// The processor a snapshot was made on; another one may lack what the guest has already found.
struct Processor: Hashable, Codable {
    var vendor: String
    var family: String
    var model: String
    var stepping: String
    /// SHA-256 of the sorted feature flags.
    var flags: String

    /// This host's.
    static func current() throws(MachineError) -> Processor {
        let fields = try readFields()
        let flags = (fields["flags"] ?? "").split(separator: " ").sorted().joined(separator: " ")
        return Processor(
            vendor: fields["vendor_id"] ?? "", family: fields["cpu family"] ?? "",
            model: fields["model"] ?? "", stepping: fields["stepping"] ?? "",
            flags: SHA256.hex(of: Array(flags.utf8)))
    }
    /// Whether this host's shows Intel's or AMD's virtualization.
    static var hasVirtualization: Bool {
        let flags = (try? readFields())?["flags"]?.split(separator: " ") ?? []
        return flags.contains("vmx") || flags.contains("svm")
    }
    /// Of the first processor in /proc/cpuinfo.
    private static func readFields() throws(MachineError) -> [String: String] {
        guard let text = kernelText("/proc/cpuinfo") else {
            throw MachineError(.hostUnfit, "cannot read /proc/cpuinfo")
        }
        var fields: [String: String] = [:]
        for line in text.split(separator: "\n") {
            let parts = line.split(separator: ":", maxSplits: 1)
            guard parts.count == 2 else { continue }
            let key = parts[0].trimmingCharacters(in: .whitespaces)
            if fields[key] == nil { fields[key] = parts[1].trimmingCharacters(in: .whitespaces) }
        }
        return fields
    }
}

extension Processor {
    var summary: String {
        "\(vendor) family \(family) model \(model) stepping \(stepping) flags \(flags.prefix(8))"
    }
}
