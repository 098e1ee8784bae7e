// The configuration of one run: every setting resolved once, in the order flag, environment,
// worker.conf, default. Called at the start of each command; nothing reads the environment later.

import Glibc
import Machines

/// Every setting with its value and where it came from.
struct Configuration: Sendable {
    /// Where a value came from, as `mayfly config` prints it.
    enum Origin: Sendable, Equatable {
        case flag(String)
        case environment(String)
        /// `file:line:column`.
        case file(String)
        case standard
    }
    struct Resolved: Sendable {
        var setting: Setting
        var value: SettingValue
        var origin: Origin
    }

    /// In the order of worker.conf.
    let resolved: [Resolved]
    /// Things that do not stop the start but that the operator should hear.
    let warnings: [String]
    private let places: [String: Int]

    /// Where the file is looked for when neither `--config` nor `MAYFLY_CONFIG` names one.
    static let standardPath = "/etc/mayfly/worker.conf"

    /// - Parameters:
    ///   - flags: key and value of each `--set` and of each flag that stands for a key.
    ///   - file: the parsed worker.conf, if there is one.
    ///   - environment: the process's variables.
    init(
        flags: [(key: String, value: String, flag: String)], file: ConfFile?,
        environment: [String: String], user: UserPlaces = .current()
    ) throws(ConfigurationError) {
        var found: [String: (SettingValue, Origin)] = [:]
        var problems: [String] = []
        /// Takes one value, or notes what is wrong with it.
        func take(
            _ key: String, _ origin: Origin, _ keyPlace: String,
            _ read: (Setting) throws(ValueProblem) -> SettingValue
        ) -> String? {
            guard let setting = Setting.named(key) else {
                return "\(keyPlace): \(Self.unknown(key))"
            }
            do throws(ValueProblem) {
                found[setting.key] = (try read(setting), origin)
                return nil
            } catch { return "\(origin.prefix)\(setting.key) \(error.sentence)" }
        }
        var inFile = file?.problems ?? []
        for entry in file?.entries ?? [] {
            let problem = take(entry.key, .file(entry.valuePlace), entry.keyPlace) {
                setting throws(ValueProblem) in try setting.read(entry.value)
            }
            if let problem { inFile.append((entry.line, problem)) }
        }
        problems += inFile.sorted { $0.line < $1.line }.map(\.sentence)
        for setting in Setting.all {
            let name = setting.environmentName
            guard let text = environment[name] else { continue }
            let problem = take(setting.key, .environment(name), name) {
                setting throws(ValueProblem) in try setting.read(text)
            }
            if let problem { problems.append(problem) }
        }
        for flag in flags {
            let problem = take(flag.key, .flag(flag.flag), flag.flag) {
                setting throws(ValueProblem) in try setting.read(flag.value)
            }
            if let problem { problems.append(problem) }
        }
        guard problems.isEmpty else { throw ConfigurationError(problems) }
        // An operator's own images, each with all of its settings.
        let own = Set(found.keys.compactMap { Setting.imageName(in: $0) })
            .subtracting(ImageDefinition.shipped.map(\.name)).sorted()
        let capabilities = Set(found.keys.compactMap { Setting.capabilityName(in: $0) }).sorted()
        var resolved: [Resolved] = []
        for setting in Setting.all + own.flatMap({ Setting.image($0) })
            + capabilities.flatMap({ Setting.capability($0) })
        {
            let (value, origin) = found[setting.key] ?? (user.standard(of: setting), .standard)
            resolved.append(Resolved(setting: setting, value: value, origin: origin))
        }
        self.resolved = resolved
        places = Dictionary(
            uniqueKeysWithValues: resolved.enumerated().map { ($1.setting.key, $0) })
        warnings = Self.strangers(in: environment)
        try check()
    }

    private static func unknown(_ key: String) -> String {
        let hint = Setting.nearest(to: key).map { "; did you mean \($0)?" } ?? ""
        return "unknown key \(key)\(hint) (`mayfly config` lists every key)"
    }

    /// Variables that look like settings and are none: almost always a misspelling.
    private static func strangers(in environment: [String: String]) -> [String] {
        let known = Set(Setting.all.map(\.environmentName)).union(["MAYFLY_CONFIG"])
        return environment.keys.sorted().compactMap { name in
            let isForScripts = name.hasPrefix("MAYFLY_TEST_") || name.hasPrefix("MAYFLY_LAB_")
            guard name.hasPrefix("MAYFLY_"), !known.contains(name), !isForScripts else {
                return nil
            }
            let key = name.dropFirst("MAYFLY_".count).lowercased().split(separator: "_")
                .joined(separator: ".")
            let hint =
                Setting.nearest(to: key)
                .flatMap { Setting.named($0)?.environmentName }
                .map { "; did you mean \($0)?" } ?? ""
            return "environment variable \(name) sets nothing\(hint)"
        }
    }

    /// Rules between settings.
    private func check() throws(ConfigurationError) {
        func place(_ setting: Setting) -> String { self[setting].origin.prefix }
        for (standard, most) in [
            (Setting.codeTimeout, Setting.codeTimeoutMax),
            (.documentTimeout, .documentTimeoutMax), (.browseTimeout, .browseTimeoutMax),
        ] where self.duration(standard) > self.duration(most) {
            throw ConfigurationError(
                "\(place(standard))\(standard.key) is longer than \(most.key) "
                    + "(\(self.duration(most).settingText)); raise the one or lower the other")
        }
        for setting in [Setting.stateDirectory, .runtimeDirectory]
        where !self.text(setting).hasPrefix("/") {
            throw ConfigurationError(
                "\(place(setting))\(setting.key) is \"\(self.text(setting))\"; "
                    + "use an absolute path")
        }
        for name in imageNames {
            if let problem = try image(named: name).problem { throw ConfigurationError(problem) }
        }
        for setting in [Setting.codeImage, .documentImage, .browseImage]
        where !imageNames.contains(self.text(setting)) {
            throw ConfigurationError(
                "\(place(setting))\(setting.key) is \"\(self.text(setting))\", and no image has "
                    + "that name; there are \(imageNames.joined(separator: ", "))")
        }
        for kind in self.list(.workerKinds) where !Kinds.names.contains(kind) {
            throw ConfigurationError(
                "\(place(.workerKinds))worker.kinds: \"\(kind)\" is no kind of job; there are "
                    + Kinds.names.joined(separator: ", "))
        }
    }
}

// MARK: Typed access

extension Configuration {
    subscript(setting: Setting) -> Resolved {
        guard let place = places[setting.key] else {
            preconditionFailure("\(setting.key) is missing in Setting.all")
        }
        return resolved[place]
    }
    func text(_ setting: Setting) -> String {
        guard case .text(let text) = self[setting].value else {
            preconditionFailure("\(setting.key) is no text")
        }
        return text
    }
    func list(_ setting: Setting) -> [String] {
        guard case .list(let parts) = self[setting].value else {
            preconditionFailure("\(setting.key) is no list")
        }
        return parts
    }
    func count(_ setting: Setting) -> Int {
        guard case .count(let number) = self[setting].value else {
            preconditionFailure("\(setting.key) is no number")
        }
        return number
    }
    func duration(_ setting: Setting) -> Duration {
        guard case .duration(let duration) = self[setting].value else {
            preconditionFailure("\(setting.key) is no duration")
        }
        return duration
    }
    func size(_ setting: Setting) -> ByteCount {
        guard case .size(let size) = self[setting].value else {
            preconditionFailure("\(setting.key) is no size")
        }
        return size
    }

    var host: HostSettings {
        var settings = HostSettings(
            stateDirectory: text(.stateDirectory), runtimeDirectory: text(.runtimeDirectory))
        settings.hypervisor = HypervisorName(rawValue: text(.hypervisor))
        settings.accelerator = Accelerator(rawValue: text(.accelerator))
        settings.transport = Transport(rawValue: text(.transport))
        settings.processorModel = EmulatedProcessor(rawValue: text(.processorModel)) ?? .max
        settings.probeTimeout = duration(.probeTimeout)
        settings.standbys = count(.standbys)
        settings.overcommit = count(.workerOvercommit)
        settings.warm.memory = size(.warmMemory)
        settings.warm.age = duration(.warmAge)
        settings.qemuBinary = text(.qemuBinary)
        settings.firecrackerBinary = text(.firecrackerBinary)
        settings.jail = JailUse(rawValue: text(.jail))
        settings.profile = SecurityProfile(rawValue: text(.securityProfile)) ?? .production
        settings.acceptedRisks = text(.securityAccept)
        settings.jailUsers = UInt32(count(.jailUsers))
        settings.machineOverhead = size(.machineOverhead)
        settings.diskRate = size(.diskRate)
        let jail = text(.jailBinary)
        settings.jailBinary = jail.isEmpty ? nil : jail
        settings.imageKeys = ImageKeys(
            paths: list(.imageKeys), isExclusive: settings.profile == .production)
        settings.launcher = HostSettings.launcher(text(.launcher))
        let agent = text(.agentBinary)
        settings.agentBinary = agent.isEmpty ? nil : agent
        return settings
    }

    var outputLimits: OutputLimits {
        var limits = OutputLimits()
        limits.kept = size(.outputKept)
        limits.printed = size(.outputPrinted)
        limits.fileCount = count(.outputFiles)
        limits.file = size(.outputFile)
        limits.allFiles = size(.outputTotal)
        return limits
    }
}

extension Configuration.Origin: CustomStringConvertible {
    var description: String {
        switch self {
        case .flag(let name): "flag \(name)"
        case .environment(let name): "environment \(name)"
        case .file(let place): "file \(place)"
        case .standard: "default"
        }
    }
    /// To put before an error about the value.
    var prefix: String {
        switch self {
        case .flag(let text), .environment(let text), .file(let text): "\(text): "
        case .standard: ""
        }
    }
}

/// Where this user's files stand; root's places are those of the shipped worker.conf.
struct UserPlaces: Sendable {
    var isRoot: Bool
    var home: String
    var runtimeDirectory: String?

    static func current() -> UserPlaces {
        func variable(_ name: String) -> String? {
            unsafe getenv(name).map { unsafe String(cString: $0) }
        }
        return UserPlaces(
            isRoot: geteuid() == 0, home: variable("HOME") ?? "/tmp",
            runtimeDirectory: variable("XDG_RUNTIME_DIR"))
    }

    /// The default of `setting` for this user.
    func standard(of setting: Setting) -> SettingValue {
        if !isRoot {
            switch setting.key {
            case Setting.stateDirectory.key: return .text("\(home)/.local/state/mayfly")
            case Setting.runtimeDirectory.key:
                // Not under /tmp, where anybody could make the directory first.
                let directory = runtimeDirectory.map { "\($0)/mayfly" }
                return .text(directory ?? "\(home)/.local/state/mayfly/run")
            default: break
            }
        }
        let standard = setting.standard
        let text = standard.hasPrefix("\"") ? String(standard.dropFirst().dropLast()) : standard
        guard let value = try? setting.read(text) else {
            preconditionFailure("the default of \(setting.key) is no value of it: \(standard)")
        }
        return value
    }
}
