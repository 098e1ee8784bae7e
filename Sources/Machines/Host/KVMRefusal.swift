// The memory of a stock guest that did not come up under KVM although the probe program ran:
// written by an image build that fell back to emulation, read by every later start.

import Foundation
import Glibc

/// Stands until the hypervisor or the processor change, or until a build succeeds under KVM.
///
/// A new kernel alone does not end it: the image built for emulation is still the one to restore.
struct KVMRefusal: Codable, Equatable {
    /// `uname -r` of this host.
    var kernel: String
    var hypervisorVersion: String
    var processor: Processor
    /// ISO 8601.
    var seenAt: String
    /// What happened.
    var words: String

    init(_ words: String, _ host: HostProfile) {
        kernel = Self.kernelRelease
        hypervisorVersion = host.hypervisorVersion
        processor = host.processor
        seenAt = ISO8601DateFormatter().string(from: Date())
        self.words = words
    }

    var obstacle: Obstacle {
        Obstacle(
            found: "a stock guest did not come up under KVM on \(seenAt) (kernel \(kernel)): "
                + words,
            remedy: "see `dmesg | grep kvm`; `mayfly image build code --force` tries KVM again")
    }

    static func path(_ settings: HostSettings) -> String {
        "\(settings.stateDirectory)/kvm-refused.json"
    }
    /// The refusal that holds for this host as it is now.
    static func standing(
        _ settings: HostSettings, _ versions: [String], _ processor: Processor
    ) -> KVMRefusal? {
        guard let data = FileManager.default.contents(atPath: path(settings)),
            let refusal = try? JSONDecoder().decode(KVMRefusal.self, from: data),
            versions.contains(refusal.hypervisorVersion),
            refusal.processor == processor
        else { return nil }
        return refusal
    }
    func record(_ settings: HostSettings) throws(MachineError) {
        guard let data = try? JSONEncoder().encode(self) else { return }
        try makeDirectory(settings.stateDirectory)
        try writeFile(Self.path(settings), [UInt8](data) + [0x0A], mode: 0o644)
    }
    static func forget(_ settings: HostSettings) { unsafe unlink(path(settings)) }

    private static var kernelRelease: String {
        (try? String(contentsOfFile: "/proc/sys/kernel/osrelease", encoding: .utf8))?.trimmed ?? ""
    }
}
