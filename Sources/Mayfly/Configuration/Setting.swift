// The settings there are: key, form, default and reason of each. Configuration resolves them,
// worker.conf explains them, `mayfly config` prints them. A key that is not here does not exist.

import Jobs
import Machines

/// One key of worker.conf.
struct Setting: Sendable {
    /// What a value must look like, and its bounds.
    enum Form: Sendable {
        case text
        /// A text that is never printed.
        case secret
        /// Texts separated by blanks or commas, in one pair of quotes.
        case list
        /// One of these words, written bare.
        case word([String])
        /// `auto`, or one of these forced.
        static func choice<Option: CaseIterable & RawRepresentable<String>>(
            _: Option.Type
        ) -> Form { .word(["auto"] + Option.allCases.map(\.rawValue)) }
        case count(ClosedRange<Int>)
        case duration(ClosedRange<Duration>)
        case size(ClosedRange<ByteCount>)
    }

    let key: String
    let form: Form
    /// As it would be written in the file.
    let standard: String
    let reason: String

    init(_ key: String, _ form: Form, _ standard: String, _ reason: String) {
        self.key = key
        self.form = form
        self.standard = standard
        self.reason = reason
    }

    /// `MAYFLY_` and the key in capitals with underscores.
    var environmentName: String {
        "MAYFLY_" + String(key.map { $0 == "." || $0 == "-" ? "_" : $0 }).uppercased()
    }

    /// What the numbers of this setting count.
    var unit: String {
        switch form {
        case .text, .secret: "text"
        case .list: "texts"
        case .word(let words): words.joined(separator: "|")
        case .count: "number"
        case .duration: "duration"
        case .size: "size"
        }
    }
}

extension Setting {
    static let databaseURL = Setting(
        "database.url", .secret, "\"\"",
        "empty: libpq's own rules (DATABASE_URL, PG*, service files)")
    static let stateDirectory = Setting(
        "state.directory", .text, "\"/var/lib/mayfly\"",
        "images, keys, scratch; without root: ~/.local/state/mayfly")
    static let runtimeDirectory = Setting(
        "runtime.directory", .text, "\"/run/mayfly\"",
        "marks of live workers and the demo's socket; without root: $XDG_RUNTIME_DIR/mayfly")

    static let secretKeys = Setting(
        "secrets.keys", .text, "\"\"",
        "the directory of the private keys for secrets; empty: keys/secrets in state.directory")

    static let workerName = Setting(
        "worker.name", .text, "\"\"", "empty: the host's name and the process id")
    static let workerSlots = Setting(
        "worker.slots", .count(1...1024), "4", "jobs at the same time, one machine each")
    static let workerOvercommit = Setting(
        "worker.processor.overcommit", .count(0...64), "2",
        "how many times the host's processors its machines may want at once; 0: no limit")
    static let workerQueues = Setting(
        "worker.queues", .list, "\"\"", "empty: jobs of every queue")
    static let workerKinds = Setting(
        "worker.kinds", .list, "\"\"", "empty: every kind whose image is on this host")
    static let workerLease = Setting(
        "worker.lease", .duration(.seconds(5) ... .seconds(3600)),
        QueueSettings.defaultLease.settingText,
        "how long a dead worker's jobs wait for another one")
    static let drainTimeout = Setting(
        "worker.drain.timeout", .duration(.zero ... .seconds(86_400)), "60s",
        "after the first signal: how long running jobs may finish")

    static let hypervisor = Setting(
        "machine.hypervisor", .choice(HypervisorName.self), "auto",
        "auto takes Firecracker where it is and KVM works")
    static let accelerator = Setting(
        "machine.accelerator", .choice(Accelerator.self), "auto",
        "auto boots a probe guest and takes KVM where it works")
    static let transport = Setting(
        "machine.transport", .choice(Transport.self), "auto",
        "the host's one connection to the guest agent")
    static let processorModel = Setting(
        "machine.processor.model", .word(EmulatedProcessor.allCases.map(\.rawValue)), "max",
        "what an emulated processor says it is; under KVM it is the host's")
    static let probeTimeout = Setting(
        "machine.probe.timeout", .duration(.seconds(1) ... .seconds(3600)), "60s",
        "how long a stock guest may take under KVM until its agent answers")
    static let standbys = Setting(
        "machine.standby", .count(0...256), "2", "hypervisors started ahead of jobs")
    static let warmMemory = Setting(
        "machine.warm.memory", .size(ByteCount(bytes: 0) ... .gibibytes(1024)), "1GiB",
        "what machines kept ready for jobs may take; 0B: none are")
    static let warmAge = Setting(
        "machine.warm.age", .duration(.seconds(1) ... .seconds(86_400)), "10min",
        "a machine that has waited for so long is replaced")
    static let qemuBinary = Setting(
        "machine.qemu.binary", .text, "\"qemu-system-x86_64\"", "found in PATH, or absolute")
    static let firecrackerBinary = Setting(
        "machine.firecracker.binary", .text, "\"firecracker\"", "found in PATH, or absolute")

    static let jail = Setting(
        "machine.jail", .choice(JailUse.self), "auto",
        "the second wall around each hypervisor; auto builds it where it can")
    static let launcher = Setting(
        "machine.launcher", .text, "\"auto\"",
        "the socket of the launcher; auto: its unit's, where that is there and we are not root")
    static let imageKeys = Setting(
        "machine.image.keys", .list, "\"\"",
        "files of public keys whose images are restored, beside those of this host's own key")
    static let securityProfile = Setting(
        "security.profile", .word(SecurityProfile.allCases.map(\.rawValue)), "standard",
        "production refuses to start while a layer around machines is off")
    static let securityAccept = Setting(
        "security.accept", .text, "\"\"",
        "layers that may be off in production: `layer: reason; layer: reason`")
    static let jailUsers = Setting(
        "machine.jail.users", .count(65_536...2_147_479_552), "1900000000",
        "the first of the 4096 user ids that machines have, one each")
    static let jailBinary = Setting(
        "machine.jail.binary", .text, "\"\"", "empty: mayfly-jail beside this program")
    static let machineOverhead = Setting(
        "machine.overhead", .size(.mebibytes(64) ... .gibibytes(16)), "256MiB",
        "what a machine may take of the host beside its guest's memory (control groups v2)")
    static let diskRate = Setting(
        "machine.disk.rate", .size(ByteCount(bytes: 0) ... .gibibytes(64)), "0B",
        "read and written by one machine a second (control groups v2); 0B: no limit")
    static let agentBinary = Setting(
        "machine.agent.binary", .text, "\"\"",
        "empty: mayfly-agent beside this program; only image build needs it")

    static let codeImage = Setting(
        "code.image", .text, "\"code\"", "what the machines of code jobs are restored from")
    static let codeTimeout = Setting(
        "code.timeout", .duration(.milliseconds(100) ... .seconds(604_800)), "60s",
        "wall clock of an attempt that names no timeout itself")
    static let codeTimeoutMax = Setting(
        "code.timeout.max", .duration(.seconds(1) ... .seconds(604_800)), "1h",
        "a job that asks for more is refused")
    static let documentImage = Setting(
        "document.image", .text, "\"document\"",
        "what the machines of document jobs are restored from")
    static let documentTimeout = Setting(
        "document.timeout", .duration(.milliseconds(100) ... .seconds(604_800)), "2min",
        "wall clock of an attempt that names no timeout itself")
    static let documentTimeoutMax = Setting(
        "document.timeout.max", .duration(.seconds(1) ... .seconds(604_800)), "1h",
        "a job that asks for more is refused")
    static let documentInputFile = Setting(
        "document.input.file", .size(.kibibytes(1) ... .gibibytes(1)), "100MiB",
        "of one document")
    static let documentInputTotal = Setting(
        "document.input.total", .size(.kibibytes(1) ... .gibibytes(4)), "200MiB",
        "of all documents of one job")
    static let browseImage = Setting(
        "browse.image", .text, "\"browse\"",
        "what the machines of browse jobs are restored from")
    static let browseTimeout = Setting(
        "browse.timeout", .duration(.seconds(5) ... .seconds(604_800)), "60s",
        "wall clock of an attempt that names no timeout itself")
    static let browseTimeoutMax = Setting(
        "browse.timeout.max", .duration(.seconds(5) ... .seconds(604_800)), "1h",
        "a job that asks for more is refused")
    static let browseInputFile = Setting(
        "browse.input.file", .size(.kibibytes(1) ... .gibibytes(1)), "50MiB",
        "of one file that a page is given")
    static let browseInputTotal = Setting(
        "browse.input.total", .size(.kibibytes(1) ... .gibibytes(4)), "50MiB",
        "of all files of one job")
    static let inputFile = Setting(
        "code.input.file", .size(.kibibytes(1) ... .gibibytes(1)), "100MiB",
        "of one input file; blobs are read while they are sent")
    static let inputTotal = Setting(
        "code.input.total", .size(.kibibytes(1) ... .gibibytes(4)), "200MiB",
        "of source, stdin and all input files of one job")
    static let outputKept = Setting(
        "code.output.kept", .size(.kibibytes(1) ... .mebibytes(16)), "1MiB",
        "of stdout and of stderr: two fifths from the start, the rest from the end")
    static let outputPrinted = Setting(
        "code.output.printed", .size(.kibibytes(1) ... .gibibytes(1)), "16MiB",
        "printed to one stream before the job is stopped with output_limit")
    static let outputFiles = Setting(
        "code.output.files", .count(0...1000), "100", "files taken from one job")
    static let outputFile = Setting(
        "code.output.file", .size(.kibibytes(1) ... .gibibytes(1)), "100MiB",
        "of one output file; the database takes no larger blob than 1 GiB")
    static let outputTotal = Setting(
        "code.output.total", .size(.kibibytes(1) ... .gibibytes(4)), "500MiB",
        "of all output files of one job")

    static let networkDNS = Setting(
        "network.dns", .list, "\"\"",
        "DNS servers with their ports; empty: those of /etc/resolv.conf")
    static let networkAuthorities = Setting(
        "network.authorities", .text, "\"\"",
        "whom this host trusts as a TLS client for jobs, in PEM; empty: the system's")
    static let networkConnections = Setting(
        "network.connections", .count(1...1_000_000), "10000", "connections of one job")
    static let networkSent = Setting(
        "network.sent", .size(.kibibytes(1) ... .gibibytes(1024)), "1GiB",
        "from one job to all servers")
    static let networkReceived = Setting(
        "network.received", .size(.kibibytes(1) ... .gibibytes(1024)), "8GiB",
        "from all servers to one job")
    static let networkTime = Setting(
        "network.time", .duration(.seconds(1) ... .seconds(86_400)), "1h", "of one connection")
    static let networkIdle = Setting(
        "network.idle", .duration(.seconds(1) ... .seconds(86_400)), "2min",
        "of one connection without a byte either way")

    static let logLevel = Setting(
        "log.level", .word(["trace", "debug", "info", "notice", "warning", "error"]), "info",
        "the least important line that is still written")
    static let logFormat = Setting(
        "log.format", .word(["text", "json"]), "text", "json: one object a line")

    /// Every setting, in the order of worker.conf, with those of the images that Mayfly ships.
    static let all: [Setting] =
        [
            databaseURL, stateDirectory, runtimeDirectory, secretKeys, workerName, workerSlots,
            workerOvercommit, workerQueues, workerKinds, workerLease, drainTimeout, hypervisor,
            accelerator, transport, processorModel, probeTimeout, standbys, warmMemory, warmAge,
            qemuBinary, firecrackerBinary, jail, jailUsers, jailBinary, machineOverhead, diskRate,
            launcher, imageKeys, securityProfile, securityAccept,
            agentBinary, codeImage, codeTimeout, codeTimeoutMax, inputFile, inputTotal,
            outputKept, outputPrinted, outputFiles, outputFile, outputTotal, documentImage,
            documentTimeout, documentTimeoutMax, documentInputFile, documentInputTotal,
            browseImage, browseTimeout, browseTimeoutMax, browseInputFile, browseInputTotal,
            networkDNS, networkAuthorities, networkConnections, networkSent, networkReceived,
            networkTime,
            networkIdle,
        ] + ImageDefinition.shipped.flatMap { image($0.name) } + [logLevel, logFormat]

    /// The setting of that key, also of an image that is named here for the first time.
    static func named(_ key: String) -> Setting? {
        if let known = all.first(where: { $0.key == key }) { return known }
        if let name = imageName(in: key) { return image(name).first { $0.key == key } }
        guard let name = capabilityName(in: key) else { return nil }
        return capability(name).first { $0.key == key }
    }

    /// The known key that is spelt most like `key`, when one is near enough to be meant.
    static func nearest(to key: String) -> String? {
        let candidates =
            all + (imageName(in: key).map { image($0) } ?? [])
            + (capabilityName(in: key).map { capability($0) } ?? [])
        let best = candidates.map { ($0.key, editDistance(key, $0.key)) }.min { $0.1 < $1.1 }
        guard let (name, distance) = best, distance <= max(3, key.count / 2) else { return nil }
        return name
    }
}

/// Insertions, deletions and replacements between two short words (Levenshtein).
func editDistance(_ left: String, _ right: String) -> Int {
    let (a, b) = (Array(left.prefix(128)), Array(right.prefix(128)))
    var row = Array(0...b.count)
    for (i, x) in a.enumerated() {
        var diagonal = row[0]
        row[0] = i + 1
        for (j, y) in b.enumerated() {
            let cost = min(row[j] + 1, row[j + 1] + 1, diagonal + (x == y ? 0 : 1))
            diagonal = row[j + 1]
            row[j + 1] = cost
        }
    }
    return row[b.count]
}
