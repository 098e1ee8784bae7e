// `mayfly egress show|list|allow|deny`: what jobs did on the network, and how far they may reach.

import ArgumentParser
import Egress
import Jobs
import StrictJSON

struct EgressCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "egress",
        abstract: "What jobs did on the network, and how far they may reach.",
        discussion: """
            A job reaches what its payload allows (network.allow), below the ceiling of
            its queue and tenant. Without a ceiling that is nothing.

            Examples:
              mayfly egress 64466213
              mayfly egress allow pypi.org:443 files.pythonhosted.org:443
              mayfly egress allow 'db.internal:5432' --queue reports --network 10.1.0.0/16
              mayfly egress list
              mayfly egress deny --queue reports
            """,
        subcommands: [EgressShow.self, EgressList.self, EgressAllow.self, EgressDeny.self],
        defaultSubcommand: EgressShow.self)
}

struct EgressShow: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "show",
        abstract: "What a job's attempts reached, and what they were denied.",
        discussion: """
            RULE is what network.allow, or the ceiling, would need.

            Examples:
              mayfly egress 64466213
              mayfly egress show 64466213 --json | jq -r '.[].rule'
            """)

    @Argument(help: "The job's id.") var id: Int64
    @OptionGroup var options: ConfigurationOptions
    @OptionGroup var database: DatabaseOptions
    @OptionGroup var output: OutputOptions

    func run() async throws {
        let configuration = try options.load([database.assignment])
        let rows = try await Database(configuration).with { client throws(JobsError) in
            try await client.egress(id)
        }
        var table = Table(
            "ATTEMPT", "HOST", "PORT", "METHOD", "PATH", "CAPABILITY", "ADDRESS", "VERDICT",
            "REASON", "RULE", "COUNT", "BYTES_SENT", "BYTES_RECEIVED", "AT")
        for row in rows {
            table.add(
                .number(row.attempt), .string(row.host), .number(row.port), .string(row.method),
                .string(row.path), .string(row.capability), .string(row.address),
                .string(row.verdict), .string(row.reason), .string(row.rule),
                .number(Int(row.count)), .number(Int(row.bytesSent)),
                .number(Int(row.bytesReceived)), .string(row.at))
        }
        table.print(asJSON: output.isJSON, empty: "the job did nothing on the network")
    }
}

struct EgressList: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "list",
        abstract: "Every ceiling that there is.",
        discussion: """
            Of those that fit a job the most particular counts, and it alone: of its queue
            and tenant, else of its queue, else of its tenant, else of all (*).

            Examples:
              mayfly egress list
              mayfly egress list --json
            """)

    @OptionGroup var options: ConfigurationOptions
    @OptionGroup var database: DatabaseOptions
    @OptionGroup var output: OutputOptions

    func run() async throws {
        let configuration = try options.load([database.assignment])
        let ceilings = try await Database(configuration).with { client throws(JobsError) in
            try await client.ceilings()
        }
        var table = Table("QUEUE", "TENANT", "ALLOW", "NETWORKS")
        for ceiling in ceilings {
            table.add(
                .string(ceiling.queue), .string(ceiling.tenant),
                .string(ceiling.allow.joined(separator: ", ")),
                .string(ceiling.networks.joined(separator: " ")))
        }
        table.print(asJSON: output.isJSON, empty: "no ceiling: no job reaches anything")
    }
}

/// Whose ceiling, and which entries of it.
struct CeilingOptions: ParsableArguments {
    @Option(help: "The queue; '*' for every one without a ceiling of its own.")
    var queue = "default"
    @Option(help: "The tenant; '*' for every one without a ceiling of its own.") var tenant = ""
    @Option(
        name: .customLong("network"), parsing: .singleValue,
        help: ArgumentHelp(
            "A network that is not globally routable. Repeatable.", valueName: "cidr"))
    var networks: [String] = []

    func change(_ destinations: [String]) throws -> EgressCeiling {
        do throws(EgressRuleError) {
            for text in destinations { _ = try EgressRule(text) }
            for text in networks { _ = try IPNetwork(text) }
        } catch { throw ValidationError("\(error)") }
        return EgressCeiling(
            queue: queue, tenant: tenant, allow: destinations, networks: networks)
    }
}

struct EgressAllow: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "allow",
        abstract: "Raises the ceiling of a queue and tenant.",
        discussion: """
            Jobs that ask for these destinations get them, from the next attempt on. A
            host whose address is of a private network needs that --network, too.

            Examples:
              mayfly egress allow pypi.org:443 files.pythonhosted.org:443
              mayfly egress allow '*.example.com:443' --queue mail --tenant acme
              mayfly egress allow 'db.internal:5432' --network 10.1.0.0/16
              mayfly egress allow 'GET,HEAD https://api.example.com/v1/*'

            The last form ends TLS with that host on the worker: it reads each request,
            and lets through what a rule has. Jobs see a certificate of their worker's.
            """)

    @Argument(help: "host:port, *.host:port; without a port it is 443 and 80.")
    var destinations: [String] = []
    @OptionGroup var which: CeilingOptions
    @OptionGroup var options: ConfigurationOptions
    @OptionGroup var database: DatabaseOptions

    func validate() throws {
        if destinations.isEmpty && which.networks.isEmpty {
            throw ValidationError("name what to allow: host:port, or --network")
        }
    }
    func run() async throws {
        let change = try which.change(destinations)
        let configuration = try options.load([database.assignment])
        try await Database(configuration).with { client throws(JobsError) in
            try await client.allowEgress(change)
        }
    }
}

struct EgressDeny: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "deny",
        abstract: "Takes destinations out of a ceiling, or the whole ceiling away.",
        discussion: """
            Holds for attempts that start from now on.

            Examples:
              mayfly egress deny pypi.org:443
              mayfly egress deny --queue mail --tenant acme
            """)

    @Argument(help: "As they stand in the ceiling; none: all of it.")
    var destinations: [String] = []
    @OptionGroup var which: CeilingOptions
    @OptionGroup var options: ConfigurationOptions
    @OptionGroup var database: DatabaseOptions

    func run() async throws {
        let change = try which.change(destinations)
        let configuration = try options.load([database.assignment])
        let wasThere = try await Database(configuration).with { client throws(JobsError) in
            try await client.denyEgress(change)
        }
        if !wasThere { throw FileError("there is no ceiling of that queue and tenant") }
    }
}
