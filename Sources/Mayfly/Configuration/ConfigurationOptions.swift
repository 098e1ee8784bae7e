// The options that every command shares: where the configuration comes from. Absent flags stay nil,
// so that environment, file and default keep their turn.

import ArgumentParser
import Glibc
import Machines

struct ConfigurationOptions: ParsableArguments {
    @Option(
        name: .customLong("config"),
        help: ArgumentHelp(
            "The worker.conf to read. (default: /etc/mayfly/worker.conf, if there)",
            valueName: "file"))
    var file: String?

    @Option(
        name: .customLong("set"), parsing: .singleValue,
        help: ArgumentHelp(
            "Sets any key of worker.conf, e.g. --set worker.slots=8. Repeatable.",
            valueName: "key=value"))
    var assignments: [String] = []

    @Option(help: ArgumentHelp("Short for --set state.directory=…", valueName: "directory"))
    var stateDirectory: String?

    /// Resolves every setting; warnings go to standard error.
    func load(
        _ more: [(key: String, value: String?, flag: String)] = []
    ) throws(ConfigurationError) -> Configuration {
        var flags: [(key: String, value: String, flag: String)] = []
        for assignment in assignments {
            guard let place = assignment.firstIndex(of: "=") else {
                throw ConfigurationError("--set \(assignment): expected key=value")
            }
            flags.append(
                (
                    String(assignment[..<place]),
                    String(assignment[assignment.index(after: place)...]),
                    "--set \(assignment[..<place])"
                ))
        }
        let own = [(Setting.stateDirectory.key, stateDirectory, "--state-directory")]
        for (key, value, flag) in own + more {
            if let value { flags.append((key, value, flag)) }
        }
        let environment = Self.environment()
        let configuration = try Configuration(
            flags: flags, file: try readFile(environment), environment: environment)
        for warning in configuration.warnings { Console.say("mayfly: warning: \(warning)") }
        return configuration
    }

    private func readFile(
        _ environment: [String: String]
    ) throws(ConfigurationError) -> ConfFile? {
        let named = file ?? environment["MAYFLY_CONFIG"]
        let path = named ?? Configuration.standardPath
        if named == nil, unsafe access(path, F_OK) != 0 { return nil }
        let text: String
        do throws(FileError) { text = try Files.text(path, atMost: .mebibytes(1)) } catch {
            throw ConfigurationError("\(error); name another file with --config")
        }
        return try ConfFile(text, name: path)
    }

    static func environment() -> [String: String] {
        var result: [String: String] = [:]
        var place = unsafe environ
        while let entry = unsafe place.pointee {
            let text = unsafe String(cString: entry)
            if let end = text.firstIndex(of: "=") {
                result[String(text[..<end])] = String(text[text.index(after: end)...])
            }
            unsafe place += 1
        }
        return result
    }
}

/// For the commands that talk to the database.
struct DatabaseOptions: ParsableArguments {
    @Option(
        name: .customLong("database"),
        help: ArgumentHelp(
            "Connection string or URL. (default: DATABASE_URL, then libpq's PG* rules)",
            valueName: "url"))
    var url: String?

    var assignment: (key: String, value: String?, flag: String) {
        (Setting.databaseURL.key, url, "--database")
    }
}

struct OutputOptions: ParsableArguments {
    @Flag(name: .customLong("json"), help: "Prints JSON instead of a table.")
    var isJSON = false
}
