// How machines are to be made on this host: what worker.conf says, before any probe has looked.

/// How machines are to be made; `auto` lets the probes decide.
package struct HostSettings: Sendable {
    package var stateDirectory: String
    package var runtimeDirectory: String
    package var hypervisor = "auto"
    package var accelerator = "auto"
    package var transport = "auto"
    /// How long a stock guest may take under KVM until its agent answers; then KVM does not work.
    package var probeTimeout = Duration.seconds(60)
    /// Pre-spawned hypervisor processes kept waiting, per image.
    package var standbys = 1
    package var qemuBinary = "qemu-system-x86_64"
    /// The guest agent to build into images; `nil`: beside this program.
    package var agentBinary: String?

    package init(stateDirectory: String, runtimeDirectory: String) {
        self.stateDirectory = stateDirectory
        self.runtimeDirectory = runtimeDirectory
    }
}
