// `mayfly image …`: golden images on this host. Machines builds and checks them; this only asks.

import ArgumentParser
import Machines
import StrictJSON

struct ImageCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "image",
        abstract: "Builds, lists, shows, verifies and prunes golden images.",
        discussion: """
            Examples:
              mayfly image build
              mayfly image list --json
              mayfly image show code
              mayfly image verify code
              mayfly image prune --keep 1 --dry-run
              mayfly image keygen /root/images
              mayfly image floor code
            """,
        subcommands: [
            Build.self, List.self, Show.self, Verify.self, Prune.self, Keygen.self, Floor.self,
        ])

    struct Build: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Builds an image: packages, kernel, agent, one boot, a snapshot.",
            discussion: """
                For each hypervisor that this host has, or for machine.hypervisor, from the
                same root disk. If nothing changed, it says so and ends. The definition is
                image.NAME.… of worker.conf. Needs root (or sudo) for mmdebstrap.

                Examples:
                  mayfly image build
                  mayfly image build code
                  mayfly image build code --force
                  mayfly image build code --refresh --set image.code.memory=1GiB
                  mayfly image build code --base-only
                  mayfly image build code --key /root/images.key

                --base-only is for a host without a network: run it where there is one,
                copy state.directory/bases over, and build there.
                """)
        @Argument(help: "The images' names. (default: those that the kinds of jobs use)")
        var names: [String] = []
        @Flag(help: "Builds a new generation even if nothing changed.") var force = false
        @Flag(help: "Installs the packages again, to get Debian's updates.") var refresh = false
        @Flag(help: "Stops after the packages, the only part that needs a network.")
        var baseOnly = false
        @Option(
            help: ArgumentHelp(
                "Signs with this key of `image keygen`. (default: this host's own)",
                valueName: "file"))
        var key: String?
        @Option(help: "How new it is, for the hosts' floors. (default: the time, in seconds)")
        var epoch: Int?
        @OptionGroup var options: ConfigurationOptions
        @OptionGroup var output: OutputOptions

        func validate() throws {
            if let epoch, epoch < 1 { throw ValidationError("--epoch must be at least 1") }
        }
        func run() async throws {
            let configuration = try options.load()
            let builders = try builders(configuration)
            if baseOnly {
                var table = Table("NAME", "DIRECTORY")
                table.cellLimit = 1000
                for (name, builder) in builders {
                    let directory = try await builder.buildBase(refresh: refresh)
                    table.add(.string(name), .string(directory))
                }
                return table.print(asJSON: output.isJSON, empty: "")
            }
            var built: [BuiltImage] = []
            for (_, builder) in builders {
                built += try await builder.build(force: force, refresh: refresh)
            }
            var table = Table("NAME", "HYPERVISOR", "GENERATION", "NEW", "SECONDS", "DIRECTORY")
            table.cellLimit = 1000
            for image in built {
                if !image.isNew {
                    Console.say("nothing changed: \(image.generation) was built before")
                }
                table.add(
                    .string(image.name), .string(image.hypervisor.rawValue),
                    .string(image.generation), .bool(image.isNew),
                    .number(Format.rounded(image.seconds)), .string(image.directory))
            }
            table.print(asJSON: output.isJSON, empty: "")
        }

        private func builders(
            _ configuration: Configuration
        ) throws(ConfigurationError) -> [(name: String, ImageBuilder)] {
            let names = names.isEmpty ? Kinds(configuration).images : names
            var builders: [(name: String, ImageBuilder)] = []
            for name in names {
                let definition = try configuration.image(named: name)
                let prefix = names.count > 1 ? "\(name): " : ""
                builders.append(
                    (
                        name,
                        ImageBuilder(
                            settings: configuration.host, definition: definition,
                            tools: configuration.tools(for: name),
                            signing: ImageSigning(keyFile: key, epoch: epoch)
                        ) { Console.say(prefix + $0) }
                    ))
            }
            return builders
        }
    }

    struct List: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Lists the generations on this host and whether they can be restored here.",
            discussion: """
                Examples:
                  mayfly image list
                  mayfly image list --json | jq '.[] | select(.current)'
                """)
        @OptionGroup var options: ConfigurationOptions
        @OptionGroup var output: OutputOptions

        func run() async throws {
            let configuration = try options.load()
            let probe = try await HostProbe.run(configuration.host)
            let store = configuration.imageStore
            var table = Table(
                "NAME", "GENERATION", "CURRENT", "CREATED", "HYPERVISOR", "VERSION",
                "ACCELERATOR", "TRANSPORT", "BYTES", "PROBLEM")
            table.cellLimit = 120
            for image in try store.list(on: probe.profile) {
                table.add(
                    .string(image.name), .string(image.generation), .bool(image.isCurrent),
                    .string(image.createdAt), .string(image.hypervisor?.rawValue ?? ""),
                    .string(image.hypervisorVersion),
                    .string(image.accelerator?.rawValue ?? ""),
                    .string(image.transport?.rawValue ?? ""),
                    .number(image.byteCount), .optional(image.problem))
            }
            table.print(
                asJSON: output.isJSON, empty: "no image here yet; run: mayfly image build")
        }
    }

    struct Verify: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Checks the signature and every digest of an image.",
            discussion: """
                Ends with exit code 1 and names the file when something does not match.

                Examples:
                  mayfly image verify code
                  mayfly image verify code --generation 0123456789abcdef
                """)
        @Argument(help: "The image's name.") var name = "code"
        @Option(help: "A generation other than the current one.") var generation: String?
        @OptionGroup var options: ConfigurationOptions

        func run() async throws {
            let configuration = try options.load()
            let probe = try await HostProbe.run(configuration.host)
            try configuration.imageStore
                .verify(name, generation: generation, on: probe.profile)
            Console.say("\(name): signature and every digest match, and it fits this host")
        }
    }

    struct Prune: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Removes old generations and what only they used.",
            discussion: """
                The current generation always stays. Pinned replays need the old ones.

                Examples:
                  mayfly image prune --dry-run
                  mayfly image prune --keep 1
                """)
        @Option(help: "How many generations of each image stay.") var keep = 2
        @Flag(help: "Only prints what would go.") var dryRun = false
        @OptionGroup var options: ConfigurationOptions
        @OptionGroup var output: OutputOptions

        func validate() throws {
            if keep < 1 { throw ValidationError("--keep must be at least 1") }
        }
        func run() async throws {
            let configuration = try options.load()
            let store = configuration.imageStore
            var table = Table("REMOVED")
            table.cellLimit = 1000
            let report = try store.prune(keeping: keep, dryRun: dryRun)
            for path in report.removed { table.add(.string(path)) }
            table.print(asJSON: output.isJSON, empty: "nothing to remove")
            for path in report.inUse {
                Console.say("\(path) stays: a worker or a build uses it")
            }
        }
    }
}
