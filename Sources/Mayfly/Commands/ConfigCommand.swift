// `mayfly config`: every setting, its value and where it came from.

import ArgumentParser
import StrictJSON

struct ConfigCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "config",
        abstract: "Prints every setting with its value and where it came from.",
        discussion: """
            A value comes from a flag, else from the environment (MAYFLY_ and the key in
            capitals), else from worker.conf, else it is the default. Secrets are not
            printed.

            Examples:
              mayfly config
              mayfly config --config ./worker.conf --json
              MAYFLY_WORKER_SLOTS=8 mayfly config | grep slots
            """)

    @OptionGroup var options: ConfigurationOptions
    @OptionGroup var output: OutputOptions

    func run() throws {
        let configuration = try options.load()
        var table = Table("KEY", "VALUE", "UNIT", "ORIGIN")
        table.cellLimit = 1000
        for item in configuration.resolved {
            table.add(
                .string(item.setting.key), .string(item.shownValue), .string(item.setting.unit),
                .string("\(item.origin)"))
        }
        table.print(asJSON: output.isJSON, empty: "")
    }
}

extension Configuration.Resolved {
    /// As in worker.conf; a secret shows only whether it is set.
    var shownValue: String {
        if case .secret = setting.form {
            return value == .text("") ? "\"\"" : "(set, not shown)"
        }
        return value.written(as: setting.form)
    }
}
