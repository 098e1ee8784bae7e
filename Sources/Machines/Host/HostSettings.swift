// How machines are to be made on this host: what worker.conf says, before any probe has looked.

/// What runs a machine.
package enum HypervisorName: String, Sendable, Codable, CaseIterable, CustomStringConvertible {
    case qemu
    /// Only under KVM.
    case firecracker
    package var description: String { rawValue }
}

/// What runs a guest's instructions.
package enum Accelerator: String, Sendable, Codable, CaseIterable, CustomStringConvertible {
    /// The processor itself.
    case kvm
    /// QEMU's software emulation.
    case tcg
    package var description: String { rawValue }
}

/// What an emulated processor says it is; under KVM it is the host's.
///
/// Programs choose by it: BoringSSL, a browser's, mixes RDRAND into each draw on Intel only.
package enum EmulatedProcessor: String, Sendable, Codable, CaseIterable, CustomStringConvertible {
    /// All that QEMU can emulate, with the maker that it chooses.
    case max
    case amd
    case intel
    case amdWithoutRDRAND = "amd-without-rdrand"
    case intelWithoutRDRAND = "intel-without-rdrand"
    package var description: String { rawValue }
}

/// What carries the host's one connection to the guest agent.
package enum Transport: String, Sendable, Codable, CaseIterable, CustomStringConvertible {
    case vsock
    case virtioSerial = "virtio-serial"
    package var description: String { rawValue }
}

/// How machines are to be made; `nil` lets the probes decide.
package struct HostSettings: Sendable {
    package var stateDirectory: String
    package var runtimeDirectory: String
    package var hypervisor: HypervisorName?
    package var accelerator: Accelerator?
    package var transport: Transport?
    /// Under emulation.
    package var processorModel = EmulatedProcessor.max
    /// How long a stock guest may take under KVM until its agent answers; then KVM does not work.
    package var probeTimeout = Duration.seconds(60)
    /// Pre-spawned hypervisor processes kept waiting, per image.
    package var standbys = 1
    /// Machines kept ready beyond that; none unless it says so.
    package var warm = WarmSettings()
    /// How many times the host's processors machines may want at once; 0: no limit.
    package var overcommit = 2
    package var qemuBinary = "qemu-system-x86_64"
    package var firecrackerBinary = HostSettings.firecrackerInPath
    /// The second wall around each hypervisor; `nil`: where it can be built.
    package var jail: JailUse?
    package var profile = SecurityProfile.standard
    /// As `AcceptedRisks` reads it.
    package var acceptedRisks = ""
    /// The first of the user ids that machines have, one each.
    package var jailUsers: UInt32 = HostSettings.firstJailUser
    /// `nil`: beside this program.
    package var jailBinary: String?
    /// What a hypervisor and the kernel may take for a machine, beside its guest's memory.
    package var machineOverhead = ByteCount.mebibytes(256)
    /// Bytes a second that one machine may read from its disks, and write; 0: as many as it can.
    package var diskRate = ByteCount(bytes: 0)
    /// The socket of the launcher that starts machines; `nil`: this process does.
    package var launcher: String?
    /// Whose images are restored.
    package var imageKeys = ImageKeys()
    /// The guest agent to build into images; `nil`: beside this program.
    package var agentBinary: String?

    /// Beyond every range that login.defs, systemd and container tools hand out.
    static let firstJailUser: UInt32 = 1_900_000_000
    /// What `firecrackerBinary` is when nobody has named one.
    static let firecrackerInPath = "firecracker"

    package init(stateDirectory: String, runtimeDirectory: String) {
        self.stateDirectory = stateDirectory
        self.runtimeDirectory = runtimeDirectory
    }
}
