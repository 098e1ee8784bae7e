// `mayfly restore`: one machine restored from an image, proven fresh, and destroyed. An operator's
// smoke test: when this works, jobs can run on this host.

import ArgumentParser
import Logging
import Machines
import StrictJSON

struct RestoreCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "restore",
        abstract: "Restores one machine, proves it READY, prints its timings, destroys it.",
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
            let run = try await MachineHost.with(configuration.host, standbys: 0) { host in
                try await host.restoreOnce(image: image)
            }
            let machine: JSON = .object([
                "machine": .string(run.identity.id), "image": .string(run.identity.image),
                "generation": .string(run.identity.generation),
                "hypervisor": .string(run.identity.hypervisor.rawValue),
                "accelerator": .string(run.identity.accelerator.rawValue),
                "transport": .string(run.identity.transport.rawValue),
                "restore_ms": Format.milliseconds(run.timings.restore),
                "prepare_ms": Format.milliseconds(run.timings.prepare),
                "destroy_ms": Format.milliseconds(run.timings.destroy),
            ])
            if output.isJSON { return Console.data(machine.text) }
            guard case .object(let members) = machine else { return }
            var table = Table("WHAT", "VALUE")
            for member in members { table.add(.string(member.name), member.value) }
            table.print(asJSON: false, empty: "")
        }
    }
}
