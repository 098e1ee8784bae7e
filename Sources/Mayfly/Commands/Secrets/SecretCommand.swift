// `mayfly secret keygen|publish|list|retire|seal`: the keys for secrets in payloads, and secrets.

import ArgumentParser
import Jobs
import Machines
import Processes
import Secrets
import StrictJSON

struct SecretCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "secret",
        abstract: "Secrets in payloads: their keys, and how to seal one.",
        discussion: """
            A secret stands in a payload sealed (a JWE), for a key that only hosts with
            workers have. The public half of the key is in the database, for producers.

            Examples:
              mayfly secret keygen
              mayfly secret seal < token.txt
              mayfly secret list
            """,
        subcommands: [
            SecretKeygen.self, SecretPublish.self, SecretList.self, SecretRetire.self,
            SecretSeal.self,
        ])
}

struct SecretKeygen: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "keygen",
        abstract: "Makes a key on this host and publishes its public half; prints its id.",
        discussion: """
            The private half is a file in secrets.keys. Copy it to every host with a
            worker: jobs with secrets wait for a host that has it. To replace a key
            without that wait, make it with --unpublished, copy it, then publish it.

            Examples:
              mayfly secret keygen
              mayfly secret keygen --unpublished
            """)

    @Flag(help: "Only makes it; no database is used.") var unpublished = false
    @OptionGroup var options: ConfigurationOptions
    @OptionGroup var database: DatabaseOptions

    func run() async throws {
        let configuration = try options.load([database.assignment])
        let base = Database(configuration)
        // Nothing is made that could then not be published.
        if !unpublished {
            _ = try await base.with { client throws(JobsError) in try await client.secretKeys() }
        }
        let keys = configuration.secretKeys
        let key: PrivateKey
        do throws(SystemError) { key = try keys.make() } catch { throw FileError("\(error)") }
        let id = key.publicKey.id
        Console.say("\(keys.directory)/\(id).jwk: copy it to every host with a worker")
        if !unpublished { try await SecretPublish.publish(key.publicKey, in: base) }
        Console.data(id)
    }
}

struct SecretPublish: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "publish",
        abstract: "Makes a key of this host the one that producers seal with.",
        discussion: """
            Examples:
              mayfly secret publish 3f1c5a0be29d7744
            """)

    @Argument(help: "Its id, as keygen printed it.") var kid: String
    @OptionGroup var options: ConfigurationOptions
    @OptionGroup var database: DatabaseOptions

    func run() async throws {
        let configuration = try options.load([database.assignment])
        let key: PrivateKey
        do throws(SecretError) { key = try configuration.secretKeys.key(kid) } catch {
            throw FileError("\(error)")
        }
        try await Self.publish(key.publicKey, in: Database(configuration))
    }

    static func publish(_ key: PublicKey, in base: Database) async throws {
        try await base.with { client throws(JobsError) in
            try await client.publishSecretKey(key.jwk.text)
        }
        Console.say("producers seal with \(key.id) from now on")
    }
}

struct SecretList: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "list",
        abstract: "Lists the keys that were published, and which of them this host has.",
        discussion: """
            current: producers seal with it. older: they did before. retired: nobody
            does; workers that have it still open what was sealed. unpublished: only
            this host knows it.

            Examples:
              mayfly secret list
              mayfly secret list --json
            """)

    @OptionGroup var options: ConfigurationOptions
    @OptionGroup var database: DatabaseOptions
    @OptionGroup var output: OutputOptions

    func run() async throws {
        let configuration = try options.load([database.assignment])
        let published = try await Database(configuration).with { client throws(JobsError) in
            try await client.secretKeys()
        }
        let held = configuration.secretKeys.list()
        var table = Table("KID", "STATE", "HERE", "PUBLISHED AT", "RETIRED AT")
        for key in published {
            let state = key.retiredAt != nil ? "retired" : key.isCurrent ? "current" : "older"
            table.add(
                .string(key.id), .string(state), .bool(held.contains { $0.id == key.id }),
                .string(key.createdAt), .optional(key.retiredAt))
        }
        for key in held where !published.contains(where: { $0.id == key.id }) {
            table.add(.string(key.id), "unpublished", true, .null, .null)
        }
        table.print(asJSON: output.isJSON, empty: "no keys; mayfly secret keygen makes one")
        for key in held {
            if let problem = key.problem { Console.say("mayfly: \(problem)") }
        }
    }
}

struct SecretRetire: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "retire",
        abstract: "Takes a key out of use: producers seal with the newest that is left.",
        discussion: """
            What was sealed with it can still be opened where its file is. Remove the
            file from every host when no job needs it any more, replays included.

            Examples:
              mayfly secret retire 3f1c5a0be29d7744
            """)

    @Argument(help: "Its id.") var kid: String
    @OptionGroup var options: ConfigurationOptions
    @OptionGroup var database: DatabaseOptions

    func run() async throws {
        try await Database(try options.load([database.assignment])).with {
            client throws(JobsError) in
            try await client.retireSecretKey(kid)
        }
    }
}

struct SecretSeal: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "seal",
        abstract: "Reads a secret from standard input and prints it sealed, for a payload.",
        discussion: """
            One line's end behind it is left out. The key is the database's current one,
            or a public JSON Web Key from a file.

            Examples:
              mayfly secret seal < token.txt
              mayfly secret seal --tenant acme < token.txt
              mayfly secret seal --key key.json < token.txt
            """)

    @Option(help: "Only jobs of this tenant may use it.") var tenant: String?
    @Option(help: ArgumentHelp("A public key instead of the database's.", valueName: "file"))
    var key: String?
    @OptionGroup var options: ConfigurationOptions
    @OptionGroup var database: DatabaseOptions

    func run() async throws {
        let configuration = try options.load([database.assignment])
        let text =
            if let key {
                try Files.text(key, atMost: .kibibytes(4))
            } else {
                try await Database(configuration).secretKey()
            }
        let secret = try SecretOptions.read("-")
        let key = try PublicKey(sealing: text)
        do throws(SecretError) {
            Console.data(try SealedSecret.seal(secret, for: key, tenant: tenant))
        } catch { throw FileError("\(error)") }
    }
}

extension Database {
    func secretKey() async throws(JobsError) -> String {
        try await with { client throws(JobsError) in try await client.secretKey() }
    }
}

extension PublicKey {
    /// From the text of a JSON Web Key.
    init(sealing text: String) throws(FileError) {
        do { self = try PublicKey(try JSON(parsing: text)) } catch {
            throw FileError(
                "this is no public key to seal with; use what mayfly.secret_key() answers")
        }
    }
}
