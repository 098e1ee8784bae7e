// `mayfly restore`: one machine restored from an image, proven fresh, and destroyed. An operator's
// smoke test: when this works, jobs can run on this host.

import ArgumentParser
import Logging
import Machines

struct RestoreCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "restore",
        abstract: "Restores one machine, proves it READY, prints timings and facts, destroys it.",
        discussion: """
            READY means that the machine's entropy, clock and identity were proven
            fresh.

            Examples:
              mayfly restore code
              mayfly restore code --json
              mayfly restore code --set machine.accelerator=tcg
            """)

    @Argument(help: "The image to restore: code.") var image = "code"
    @OptionGroup var options: ConfigurationOptions
    @OptionGroup var output: OutputOptions

    func run() async throws {
        let configuration = try options.load()
        try await withLogger(configuration.makeLogger(isQuiet: true)) { _ in
            let run = try await MachineHost.with(configuration, shells: 0) { host in
                try await host.restoreOnce(image: image)
            }
            let facts: JSON = .object([
                "machine": .string(run.facts.id), "image": .string(run.facts.image),
                "generation": .string(run.facts.generation),
                "hypervisor": .string(run.facts.hypervisor),
                "accelerator": .string(run.facts.accelerator),
                "transport": .string(run.facts.transport),
                "restore_ms": Format.milliseconds(run.timings.restore),
                "prepare_ms": Format.milliseconds(run.timings.prepare),
                "destroy_ms": Format.milliseconds(run.timings.destroy),
            ])
            if output.isJSON { return Console.data(facts.text) }
            guard case .object(let members) = facts else { return }
            var table = Table("WHAT", "VALUE")
            for member in members { table.add(.string(member.name), member.value) }
            table.print(asJSON: false, empty: "")
        }
    }
}

extension MachineHost {
    /// The scope of a host: closed after `body`, whatever happens in it.
    static func with<Value: Sendable>(
        _ configuration: Configuration, shells: Int? = nil,
        _ body: (MachineHost) async throws -> Value
    ) async throws -> Value {
        var settings = configuration.host
        if let shells { settings.shells = shells }
        let host = try await MachineHost.start(settings)
        do {
            let value = try await body(host)
            await host.close()
            return value
        } catch {
            await host.close()
            throw error
        }
    }
}
