// `mayfly doctor`: every prerequisite of this host, whether it is active, degraded or off, and what
// to do about it. Exit code 1 when no machine could run here, or worker.conf lets no worker start.

import ArgumentParser
import Glibc
import Jobs
import Machines
import Processes
import Secrets
import StrictJSON

struct DoctorCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "doctor",
        abstract: "Checks this host: hypervisor, acceleration, images, database, tools.",
        discussion: """
            Every line is active, degraded or off, with what was found, what machines
            will use and why, and what would make it better. Nothing is changed.
            Ends with exit code 1 when no machine can run here, or worker.conf lets
            no worker start. A database that does not answer does not count, nor does
            a layer that is off: security.profile = production is strict about those.

            Examples:
              mayfly doctor
              mayfly doctor --json | jq '.[] | select(.state != "active")'
            """)

    @OptionGroup var options: ConfigurationOptions
    @OptionGroup var database: DatabaseOptions
    @OptionGroup var output: OutputOptions

    func run() async throws {
        let configuration = try options.load([database.assignment])
        var findings: [Check] = []
        let examined = await HostProbe.examine(configuration.host)
        findings += examined.findings.map(Check.init)
        var images: [ImageSummary] = []
        if let probe = examined.probe {
            let store = configuration.imageStore
            images = ((try? store.list(on: probe.profile)) ?? []).filter {
                $0.isCurrent && $0.hypervisor == probe.profile.hypervisor
            }
            findings += Self.images(configuration, images)
            findings += Self.floors(store, images, probe.profile.hypervisor)
        }
        let used = Kinds(configuration).images.filter { name in
            images.contains { $0.name == name }
        }
        findings.append(Self.memory(configuration, used))
        findings.append(Self.directory(configuration, .stateDirectory))
        findings.append(Self.directory(configuration, .runtimeDirectory))
        findings += Self.tools()
        findings += await Self.database(configuration)
        findings.append(await Self.secrets(configuration))
        findings.append(await Self.network(configuration))
        Console.data(output.isJSON ? Self.json(findings).text : Self.text(findings))
        // What a layer or one of two hypervisors lacks does not keep a worker from running.
        let isFit = !findings.contains {
            $0.state == .off && !$0.name.hasPrefix("hardening.")
                && !$0.name.hasPrefix("hypervisor.")
        }
        if !isFit { throw ExitCode(1) }
    }

    private static func json(_ findings: [Check]) -> JSON {
        var table = Table("NAME", "STATE", "CHOSEN", "FOUND", "REMEDY")
        for finding in findings {
            table.add(
                .string(finding.name), .string(finding.state.rawValue), .optional(finding.chosen),
                .string(finding.found), .string(finding.remedy))
        }
        return table.json
    }

    /// Whole sentences, the remedy on a line of its own: this is read on a bad night.
    private static func text(_ findings: [Check]) -> String {
        let width = findings.map(\.name.count).max() ?? 0
        var lines: [String] = []
        for finding in findings {
            let name = finding.name + String(repeating: " ", count: width - finding.name.count)
            let word = finding.state.rawValue
            let state = word + String(repeating: " ", count: 8 - word.count)
            lines.append("\(name)  \(state)  \(oneLine(finding.found))")
            if !finding.remedy.isEmpty {
                let indent = String(repeating: " ", count: width + 12)
                lines.append("\(indent)→ \(oneLine(finding.remedy))")
            }
        }
        return lines.joined(separator: "\n")
    }
    private static func oneLine(_ text: String) -> String {
        Console.harmless(text).split(whereSeparator: \.isNewline).joined(separator: " ")
    }

    /// One line for each image that a kind of job uses.
    private static func images(
        _ configuration: Configuration, _ found: [ImageSummary]
    ) -> [Check] {
        let wanted = configuration.list(.workerKinds)
        return Kinds(configuration).all.map { kind in
            let name = "image \(kind.image)"
            let remedy = "mayfly image build \(kind.image)"
            guard let image = found.first(where: { $0.name == kind.image }) else {
                // A worker does the kinds that it has images for, unless it is told which.
                let isNeeded = found.isEmpty || wanted.contains(kind.name)
                return Check(
                    name: name, state: isNeeded ? .off : .degraded,
                    found: "not built: no jobs of the kind \(kind.name) here", remedy: remedy)
            }
            let words = "generation \(image.generation), \(image.createdAt)"
            return Check(
                name: name, state: image.problem == nil ? .active : .off,
                found: image.problem ?? words, remedy: image.problem == nil ? "" : remedy)
        }
    }

    /// Images that somebody let become older than they were.
    private static func floors(
        _ store: ImageStore, _ images: [ImageSummary], _ hypervisor: HypervisorName
    ) -> [Check] {
        images.compactMap { image in
            guard let floor = try? store.floor(of: image.name, for: hypervisor),
                let before = floor.loweredFrom
            else { return nil }
            return Check(
                name: "image \(image.name)", state: .degraded,
                found: "its floor was lowered from \(before) to \(floor.epoch) at "
                    + (floor.loweredAt ?? "a time unknown"),
                remedy: "build it anew; the floor rises when that is in use")
        }
    }

    private static func memory(_ configuration: Configuration, _ images: [String]) -> Check {
        let shortage = Admission.shortage(configuration, images: images)
        let (total, available) = (HostMemory.total.mebibytes, HostMemory.available.mebibytes)
        let enough = "\(Int(available)) of \(Int(total)) MiB are available, enough for all slots"
        let isHopeless = (try? Admission.check(configuration, images: images)) == nil
        return Check(
            name: "memory", state: shortage == nil ? .active : isHopeless ? .off : .degraded,
            found: shortage ?? enough,
            remedy: shortage == nil ? "" : "lower worker.slots or the memory of the images")
    }

    private static func directory(
        _ configuration: Configuration, _ setting: Setting
    ) -> Check {
        let path = configuration.text(setting)
        let isThere = unsafe access(path, F_OK) == 0
        let isOurs = unsafe access(path, W_OK | X_OK) == 0
        let above = path.split(separator: "/").dropLast().reduce("") { "\($0)/\($1)" }
        let canBeMade = unsafe access(above.isEmpty ? "/" : above, W_OK | X_OK) == 0
        if isThere ? isOurs : canBeMade {
            return Check(
                name: setting.key, state: .active,
                found: isThere ? path : "\(path) (will be created)", remedy: "")
        }
        return Check(
            name: setting.key, state: .off, found: "\(path) cannot be written",
            remedy: "run as root, or set \(setting.key)")
    }

    /// What `mayfly image build` and `mayfly demo` call; a worker with images needs none of it.
    private static func tools() -> [Check] {
        [
            ("mmdebstrap", "mmdebstrap"), ("mke2fs", "e2fsprogs"), ("psql", "postgresql-client"),
        ].map { program, package in
            let path = findProgram(program)
            return Check(
                name: program, state: path == nil ? .degraded : .active,
                found: path ?? "not installed",
                remedy: path == nil ? "apt-get install \(package)" : "")
        }
    }

    /// The keys for secrets that this host has, and whether producers seal with one of them.
    private static func secrets(_ configuration: Configuration) async -> Check {
        let held = configuration.secretKeys.list()
        let published = try? await Database(configuration).with { client throws(JobsError) in
            try await client.secretKeys()
        }
        let here = held.isEmpty ? "no key here" : "here: \(held.map(\.id).joined(separator: ", "))"
        func degraded(_ found: String, _ remedy: String) -> Check {
            Check(name: "secrets", state: .degraded, found: found, remedy: remedy)
        }
        if let problem = held.lazy.compactMap(\.problem).first {
            return degraded(problem, "jobs with a secret for that key wait for another host")
        }
        guard let published else {
            return degraded("\(here); the database does not say what producers seal with", "")
        }
        guard let current = published.first(where: \.isCurrent) else {
            return degraded(
                "\(here); none is published: no producer can seal", "mayfly secret keygen")
        }
        guard held.contains(where: { $0.id == current.id }) else {
            return degraded(
                "\(here); producers seal with \(current.id): such jobs wait for another host",
                "copy \(current.id).jwk from a host that has it into "
                    + configuration.secretKeys.directory)
        }
        return Check(
            name: "secrets", state: .active, found: "\(here); producers seal with \(current.id)",
            remedy: "")
    }

    /// Who resolves names for jobs here, and whether operators let any job reach anything.
    private static func network(_ configuration: Configuration) async -> Check {
        let servers = configuration.list(.networkDNS)
        let place = servers.isEmpty ? "/etc/resolv.conf" : servers.joined(separator: ", ")
        do throws(ConfigurationError) {
            let context = try await NetworkContext(configuration)
            if let problem = context.capabilities.problems.first {
                return Check(
                    name: "network", state: .degraded, found: problem,
                    remedy: "jobs that ask for it are told so")
            }
        } catch {
            return Check(
                name: "network", state: .off, found: "\(error)",
                remedy: "mend worker.conf; until then no worker starts")
        }
        let ceilings = try? await Database(configuration).with { client throws(JobsError) in
            try await client.ceilings()
        }
        let words =
            switch ceilings?.count {
            case nil: "the database does not say how far jobs may reach"
            case 0: "no ceiling: no job reaches anything"
            case .some(let count): "ceilings: \(count)"
            }
        return Check(
            name: "network", state: .active, found: "names by \(place); \(words)", remedy: "")
    }

    /// Whether the queue answers, and what `mayfly.health` says of it: ill hosts among others.
    private static func database(_ configuration: Configuration) async -> [Check] {
        let database = Database(configuration)
        do throws(JobsError) {
            let words = try await database.describe()
            let answered = Check(name: "database", state: .active, found: words, remedy: "")
            return [answered] + (await queue(database))
        } catch {
            return [
                Check(
                    name: "database", state: .degraded, found: "\(error)",
                    remedy: "set database.url, DATABASE_URL or PG*, then mayfly migrate")
            ]
        }
    }
    private static func queue(_ database: Database) async -> [Check] {
        do throws(JobsError) {
            return try await database.health().map { health in
                Check(
                    name: "queue.\(health.name)", state: health.isOK ? .active : .degraded,
                    found: health.found, remedy: health.isOK ? "" : health.remedy)
            }
        } catch {
            return [
                Check(
                    name: "queue", state: .degraded, found: "cannot be looked at: \(error)",
                    remedy: "connect as a role that has mayfly_operator")
            ]
        }
    }
}

/// One line of the table.
private struct Check {
    var name: String
    var state: DoctorFinding.State
    /// What machines will use, where there was a choice.
    var chosen: String?
    var found: String
    var remedy: String
}

extension Check {
    init(_ finding: DoctorFinding) {
        self.init(
            name: finding.name, state: finding.state, chosen: finding.chosen,
            found: finding.found, remedy: finding.remedy)
    }
}
