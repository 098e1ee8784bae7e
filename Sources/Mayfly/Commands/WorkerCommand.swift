// `mayfly worker`: runs jobs on this host until it is told to stop.

import ArgumentParser
import Glibc
import Jobs
import Logging
import Machines
import Postgres
import Processes

struct WorkerCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "worker",
        abstract: "Runs jobs, each in a machine of its own, until it is told to stop.",
        discussion: """
            SIGTERM or SIGINT: takes no new jobs and lets running ones finish, at most
            worker.drain.timeout; then, or at the second signal, running jobs are given
            back without consuming an attempt. Logs go to standard error.

            Examples:
              mayfly worker
              mayfly worker --slots 8 --queues 'default,mail'
              mayfly worker --config /etc/mayfly/worker.conf --set log.format=json
            """)

    @Option(help: "Short for --set worker.slots=…") var slots: String?
    @Option(help: "Short for --set worker.queues=…") var queues: String?
    @OptionGroup var options: ConfigurationOptions
    @OptionGroup var database: DatabaseOptions

    func run() async throws {
        let configuration = try options.load([
            database.assignment, (Setting.workerSlots.key, slots, "--slots"),
            (Setting.workerQueues.key, queues, "--queues"),
        ])
        let logger = configuration.makeLogger()
        try await withLogger(logger) { _ in
            try await StopSignals.watched { signals in
                try await Self.work(configuration, logger, signals)
            }
        }
    }

    private static func work(
        _ configuration: Configuration, _ logger: Logger, _ signals: AsyncStream<Int32>
    ) async throws {
        try checkOpenFileLimit(configuration)
        let user = configuration.text(.workerUser)
        guard !user.isEmpty else {
            return try await work(configuration, configuration.host, logger, signals)
        }
        let (settings, launcher) = try await giveUpRoot(
            to: user, configuration.host, ceilings: try configuration.launcherCeilings())
        try await work(configuration, settings, logger, signals)
        // Machines end with it.
        withExtendedLifetime(launcher) {}
    }

    private static func work(
        _ configuration: Configuration, _ host: HostSettings, _ logger: Logger,
        _ signals: AsyncStream<Int32>
    ) async throws {
        try await MachineHost.with(host) { host in
            let begin = ContinuousClock.now
            for fallback in host.fallbacks { logger.warning("\(fallback)") }
            let kinds = try await kinds(configuration, on: host)
            let images = kinds.images
            try Admission.check(configuration, images: images)
            try await host.prepare(images: images)
            var settings = configuration.queueSettings(kinds: kinds.names)
            let admission = Admission(host)
            settings.room = { await admission.room(held: $0) }
            if let shortage = Admission.shortage(configuration, images: images) {
                logger.warning("\(shortage)")
            }
            let supervisor = Supervisor(
                context: WorkerContext(
                    host: host, kinds: kinds, health: HostHealth(),
                    network: try await NetworkContext(configuration)),
                images: images,
                slotCount: configuration.count(.workerSlots),
                drainTimeout: configuration.duration(.drainTimeout))
            try await withQueue(settings, logger: logger) { queue in
                logger.notice(
                    "worker ready",
                    metadata: [
                        "worker": "\(settings.name)", "slots": "\(settings.slots)",
                        "accelerator": "\(host.probe.profile.accelerator)",
                        "transport": "\(host.probe.profile.transport)",
                        "took.ms": "\((ContinuousClock.now - begin).wholeMilliseconds)",
                    ])
                await supervisor.run(queue, signals: signals)
            }
            logger.notice("worker ended", metadata: ["worker": "\(settings.name)"])
        }
    }

    /// The kinds that this host can do: those of worker.kinds, or all whose image is here.
    private static func kinds(
        _ configuration: Configuration, on host: MachineHost
    ) async throws -> Kinds {
        let all = Kinds(configuration)
        let wanted = configuration.list(.workerKinds)
        guard wanted.isEmpty else { return all.filter { wanted.contains($0.name) } }
        var images: Set<String> = []
        for image in all.images where await host.hasImage(image) { images.insert(image) }
        let found = all.filter { images.contains($0.image) }
        guard !found.all.isEmpty else { return all }  // preparing them says what is missing
        for kind in all.all where !found.names.contains(kind.name) {
            Logger.current.warning(
                "no jobs of this kind: its image is not on this host; mayfly image build makes it",
                metadata: ["kind": "\(kind.name)", "image": "\(kind.image)"])
        }
        return found
    }

    /// Refuses a start that would end in losses: every machine holds descriptors of this process.
    private static func checkOpenFileLimit(
        _ configuration: Configuration
    ) throws(ConfigurationError) {
        let slots = configuration.count(.workerSlots)
        let machines =
            slots + configuration.count(.standbys) + configuration.host.warm.countMax
        let needed = MachineHost.descriptorsNeeded(machines: machines)
        let limit = OpenFileLimit.current.soft
        guard limit < needed else { return }
        throw ConfigurationError(
            "worker.slots is \(slots): with its standbys and warm machines that takes \(needed) "
                + "open files, and this process may have \(limit); raise the hard limit "
                + "(LimitNOFILE=, ulimit -Hn) or lower worker.slots or machine.warm.memory")
    }
}

extension Configuration {
    func queueSettings(kinds: [String]) -> QueueSettings {
        let name = text(.workerName)
        var settings = QueueSettings(
            connection: connection, name: name.isEmpty ? "\(Self.hostName)-\(getpid())" : name,
            version: Mayfly.version, kinds: kinds, slots: count(.workerSlots))
        settings.host = Self.hostName
        settings.queues = list(.workerQueues)
        settings.lease = duration(.workerLease)
        return settings
    }

    /// Where the database is; an empty `database.url` leaves it to libpq.
    var connection: ConnectionSettings {
        let url = text(.databaseURL)
        return ConnectionSettings(url.isEmpty ? nil : url)
    }

    static var hostName: String {
        var name = utsname()
        guard unsafe uname(&name) == 0 else { return "host" }
        return unsafe withUnsafeBytes(of: &name.nodename) {
            unsafe String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self)
        }
    }
}
