// The network of one attempt: by which rules its streams are served, and what is told of what it
// did. Made by attempt() and `mayfly run`; costs nothing until a program connects to something.

import Egress
import Events
import Jobs
import Logging
import Machines
import Processes
import Secrets
import StrictJSON
import Wire

/// What all jobs of a worker share.
struct NetworkContext: Sendable {
    let resolver: Resolver
    let limits: EgressLimits
    let tls: EgressTLS
    let capabilities: CapabilityBook

    @LoopActor
    init(_ configuration: Configuration) throws(ConfigurationError) {
        do throws(EgressRuleError) {
            resolver = try Resolver(servers: configuration.list(.networkDNS))
        } catch { throw ConfigurationError("network.dns: \(error)") }
        do throws(EgressRuleError) {
            tls = try EgressTLS(authorities: configuration.text(.networkAuthorities))
        } catch { throw ConfigurationError("network.authorities: \(error)") }
        capabilities = try CapabilityBook(configuration)
        var limits = EgressLimits()
        limits.connections = configuration.count(.networkConnections)
        limits.bytesSent = UInt64(clamping: configuration.size(.networkSent).bytes)
        limits.bytesReceived = UInt64(clamping: configuration.size(.networkReceived).bytes)
        limits.totalTime = configuration.duration(.networkTime)
        limits.idleTime = configuration.duration(.networkIdle)
        self.limits = limits
    }
}

@LoopActor
final class JobNetwork {
    private enum Bounds {
        /// Rows that wait for a database that does not answer.
        static let unreported = 2000
    }
    /// Between two reports of a running job.
    nonisolated static let reportInterval = Duration.seconds(5)

    private let context: NetworkContext
    private var mask = SecretMask()
    /// Nothing, until it is opened.
    private var policy = EgressPolicy(rules: [], ceiling: [])
    /// Made for the first connection.
    private var gateway: EgressGateway?
    private var isEnded = false
    private var unreported: [EgressRow] = []
    private var summary = NetworkSummary(ceiling: nil, isAsked: false)

    init(_ context: NetworkContext) { self.context = context }

    /// Gives a recipe's job its network, where its kind has one.
    ///
    /// The database is asked only when the job wants something.
    func open(
        for recipe: inout Recipe, of job: Job, _ reports: JobReports
    ) async throws(AttemptError) {
        var ceiling: EgressCeiling?
        if recipe.network?.rules.isEmpty == false {
            do throws(JobsError) { ceiling = try await reports.ceiling() } catch {
                throw .ceilingUnavailable("how far the job may reach could not be read: \(error)")
            }
        }
        open(for: &recipe, below: ceiling)
        guard recipe.network?.hasCapabilities == true else { return }
        policy.capabilities = context.capabilities.granted(to: job.queue, tenant: job.tenant)
    }
    func open(for recipe: inout Recipe, below ceiling: EgressCeiling?) {
        guard let request = recipe.network else { return }
        mask = recipe.mask
        policy = EgressPolicy(request, below: ceiling) { sentence in
            Logger.current.warning(
                "an entry of a ceiling cannot be read and allows nothing",
                metadata: ["error": "\(sentence)"])
        }
        summary = NetworkSummary(ceiling: ceiling, isAsked: !request.rules.isEmpty)
        recipe.job.network = handler
        // Its programs are to know the authority by which TLS is ended for them.
        if policy.endsTLS { recipe.job.trust(context.tls.certificate) }
    }

    /// For the job's machine.
    nonisolated var handler: NetworkHandler {
        { [weak self] descriptor, service in
            self?.serve(descriptor, as: service == .names ? .names : .proxy)
        }
    }
    private func serve(_ descriptor: consuming Descriptor, as service: EgressService) {
        guard !isEnded else { return }
        let gateway =
            gateway
            ?? EgressGateway(
                policy: policy, resolver: context.resolver, limits: context.limits,
                tls: context.tls)
        self.gateway = gateway
        gateway.serve(descriptor, as: service)
    }

    /// What the job did since the last call and nobody was told yet, without its secrets.
    func takeRows() -> [EgressRow] {
        let records = gateway?.takeRecords(withOpen: true) ?? []
        summary.add(records, mask)
        let rows = unreported + records.map { EgressRow($0, mask) }
        unreported = []
        return rows
    }
    /// They could not be stored; they go with the outcome.
    func giveBack(_ rows: [EgressRow]) {
        unreported = Array((rows + unreported).prefix(Bounds.unreported))
    }

    /// Ends every connection that is left; what became of them is told, too.
    func end() -> NetworkSummary {
        if !isEnded {
            isEnded = true
            gateway?.close()
            giveBack(takeRows())
        }
        return summary
    }
    /// What is left to be stored with the outcome.
    func ended() -> [EgressRow] {
        _ = end()
        return takeRows()
    }
}

/// What a job did on the network, for its result.
struct NetworkSummary: Sendable {
    struct Denial: Sendable, Equatable {
        var host: String
        var port: Int
        var reason: EgressReason
        var rule: String
        var count: Int
    }
    /// Different ones; those beyond are in `mayfly.egress`.
    private static let denialsMax = 50

    private let ceiling: EgressCeiling?
    private let isAsked: Bool
    private(set) var connections = 0
    private(set) var bytesSent = 0
    private(set) var bytesReceived = 0
    private(set) var denied: [Denial] = []

    init(ceiling: EgressCeiling?, isAsked: Bool) {
        self.ceiling = ceiling
        self.isAsked = isAsked
    }

    mutating func add(_ records: [EgressRecord], _ mask: SecretMask) {
        for record in records {
            bytesSent += Int(clamping: record.bytesSent)
            bytesReceived += Int(clamping: record.bytesReceived)
            let count = Int(clamping: record.count)
            if record.verdict == .allowed, record.port != 0 { connections += count }
            guard record.verdict == .denied, let reason = record.reason else { continue }
            let denial = Denial(
                host: mask.masked(record.host), port: Int(record.port), reason: reason,
                rule: mask.masked(record.rule ?? ""), count: count)
            let same = denied.firstIndex {
                $0.host == denial.host && $0.port == denial.port && $0.reason == denial.reason
                    && $0.rule == denial.rule
            }
            if let same {
                denied[same].count += count
            } else if denied.count < Self.denialsMax {
                denied.append(denial)
            }
        }
    }

    /// `result.network`; `nil` for a job that asked for nothing and did nothing.
    var json: JSON? {
        guard isAsked || connections > 0 || !denied.isEmpty else { return nil }
        return .object([
            "connections": .number(connections), "bytes_sent": .number(bytesSent),
            "bytes_received": .number(bytesReceived),
            "denied": .array(
                denied.map {
                    .object([
                        "host": .string($0.host), "port": .number($0.port),
                        "reason": .string($0.reason.rawValue), "rule": .string($0.rule),
                        "count": .number($0.count),
                    ])
                }),
        ])
    }

    /// For SQL that an operator may copy: a path in it is the guest's words.
    private static func quoted(_ text: String) -> String {
        "'" + text.flatMap { $0 == "'" ? "''" : String($0) } + "'"
    }

    /// What to do about it, for the message of a job that failed; empty when nothing was denied.
    ///
    /// That it failed for that is likely, and not known: so the reason stays its own.
    var advice: String {
        let missing = denied.filter { $0.reason == .notAllowed && !$0.rule.isEmpty }
        if !missing.isEmpty {
            let rules = missing.prefix(5).map { "\"\($0.rule)\"" }.joined(separator: ", ")
            return "; the network was denied: add \(rules) to network.allow"
        }
        let above = denied.filter { $0.reason == .aboveCeiling && !$0.rule.isEmpty }
        if !above.isEmpty {
            let rules = above.prefix(5).map { Self.quoted($0.rule) }.joined(separator: ", ")
            let place =
                ceiling.map { "\(Self.quoted($0.queue)), \(Self.quoted($0.tenant))" }
                ?? "QUEUE, TENANT"
            return "; the network was denied by the operator's ceiling, who can raise it: "
                + "select mayfly.allow_egress(\(place), array[\(rules)])"
        }
        guard let first = denied.first else { return "" }
        return "; the network was denied: \(first.host) (\(first.reason.rawValue))"
    }
}

extension EgressRow {
    /// A job may have put a secret into a name.
    fileprivate init(_ record: EgressRecord, _ mask: SecretMask) {
        self.init(
            host: mask.masked(record.host), port: Int(record.port), address: record.address ?? "",
            verdict: record.verdict.rawValue, reason: record.reason?.rawValue ?? "",
            rule: mask.masked(record.rule ?? ""), count: Int64(clamping: record.count),
            bytesSent: Int64(clamping: record.bytesSent),
            bytesReceived: Int64(clamping: record.bytesReceived))
        method = mask.masked(record.method)
        path = mask.masked(record.path)
        capability = mask.masked(record.capability)
    }
}
