// What an image is made of, and the manifest that vouches for one built generation of it.

import Foundation

/// What `mayfly image build` is told; comes from worker.conf (`image.<name>.…`).
package struct ImageDefinition: Sendable, Hashable, Codable {
    package var name: String
    /// A Debian release, for mmdebstrap.
    package var suite: String
    package var packages: [String]
    package var memory: ByteCount
    package var vCPUCount: Int
    /// Interpreters parked in the snapshot: `python`, `node`.
    package var interpreters: [String]
    /// Imported by the parked Python.
    package var pythonModules: [String]

    package init(
        name: String, suite: String = "bookworm", packages: [String],
        memory: ByteCount = .mebibytes(512), vCPUCount: Int = 1, interpreters: [String] = [],
        pythonModules: [String] = []
    ) {
        self.name = name
        self.suite = suite
        self.packages = packages
        self.memory = memory
        self.vCPUCount = vCPUCount
        self.interpreters = interpreters
        self.pythonModules = pythonModules
    }

    /// The definition of the `code` image that worker.conf's defaults describe.
    package static let code = ImageDefinition(
        name: "code",
        packages: [
            "python3", "python3-numpy", "python3-pandas", "python3-matplotlib", "python3-requests",
            "python3-yaml", "nodejs", "bash", "git", "jq", "sqlite3", "zip", "unzip", "curl",
            "ca-certificates", "procps",
        ],
        interpreters: ["python", "node"],
        pythonModules: ["numpy", "pandas", "matplotlib.pyplot"])

    /// Why the definition cannot be built, or `nil`.
    package var problem: String? {
        let letters = Set("abcdefghijklmnopqrstuvwxyz0123456789-")
        if name.isEmpty || name.count > 32 || !name.allSatisfy(letters.contains) {
            return "image name \"\(name)\": use at most 32 of a-z, 0-9 and -"
        }
        if memory < .mebibytes(128) || memory > .gibibytes(64) || memory.bytes % (2 << 20) != 0 {
            return "image.\(name).memory is \(memory): use 128MiB to 64GiB in steps of 2MiB"
        }
        if !(1...32).contains(vCPUCount) { return "image.\(name).vcpus: use 1 to 32" }
        let allowed = Set("abcdefghijklmnopqrstuvwxyz0123456789+-.")
        for package in packages where package.isEmpty || !package.allSatisfy(allowed.contains) {
            return "image.\(name).packages: \"\(package)\" is not a Debian package name"
        }
        for interpreter in interpreters where !["python", "node"].contains(interpreter) {
            return "image.\(name).interpreters: \"\(interpreter)\" is not python or node"
        }
        let module = allowed.union("ABCDEFGHIJKLMNOPQRSTUVWXYZ_")
        for name in pythonModules where name.isEmpty || !name.allSatisfy(module.contains) {
            return "image.\(self.name).python.modules: \"\(name)\" is not a module name"
        }
        return nil
    }
}

/// One file of a generation.
struct ImageFile: Hashable, Codable {
    /// Relative to the generation's directory.
    var path: String
    var byteCount: Int
    var sha256: String
}

/// What a snapshot is and what it may be restored on; signed.
struct Manifest: Codable {
    static let currentFormat = 2

    var format = Manifest.currentFormat
    var definition: ImageDefinition
    var generation: String
    /// ISO 8601.
    var createdAt: String
    var hardware: VirtualHardware
    var deviceModel: String
    var hypervisor: HypervisorName
    /// As `HypervisorProgram.version`.
    var hypervisorVersion: String
    var processor: Processor
    /// SHA-256 of the agent in the initramfs.
    var agent: String
    var guestKernel: String
    var memory: ImageFile
    var state: ImageFile
    var rootDisk: ImageFile
    var kernel: ImageFile
    var initramfs: ImageFile
    var commandLine: String
    /// Wall time from the hypervisor's start to READY with every interpreter parked, in ms.
    var buildBootMilliseconds: Int

    /// What decides the generation: the same inputs give the same id.
    static func generation(
        definition: ImageDefinition, base: String, packages: String, agent: String,
        host: HostProfile, hardware: VirtualHardware
    ) -> String {
        let encoder = JSONEncoder()
        encoder.outputFormatting = .sortedKeys
        let hash = SHA256()
        for part: any Encodable in [definition, hardware, host.processor] {
            hash.update([UInt8]((try? encoder.encode(part)) ?? Data()))
        }
        for part in [
            base, packages, agent, host.hypervisorVersion, host.hypervisor.deviceModel,
            "\(currentFormat)",
        ] {
            hash.update("\(part.utf8.count):\(part)")
        }
        return String(hexText(hash.finish()).prefix(16))
    }
    /// The bytes that are signed.
    func encoded() throws(MachineError) -> [UInt8] {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .prettyPrinted, .withoutEscapingSlashes]
        do { return [UInt8](try encoder.encode(self)) + [0x0A] } catch {
            throw MachineError(.buildFailed, "the manifest cannot be written: \(error)")
        }
    }
}
