// `mayfly image show`: what a golden image holds, what its machines have, and what it costs.

import ArgumentParser
import Machines
import StrictJSON

extension ImageCommand {
    struct Show: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Shows what an image holds: packages, memory, warm-up, kinds, sizes.",
            discussion: """
                Of the current generation, or of the one named. Packages are Debian's (for
                Python: python3-NAME), PyPI's, and npm's where Node brought them.

                Examples:
                  mayfly image show code
                  mayfly image show document --json | jq '.packages[] | select(.from=="pypi")'
                """)
        @Argument(help: "The image's name.") var name: String
        @Option(help: "A generation other than the current one.") var generation: String?
        @OptionGroup var options: ConfigurationOptions
        @OptionGroup var output: OutputOptions

        func run() async throws {
            let configuration = try options.load()
            let probe = try await HostProbe.run(configuration.host)
            let details = try configuration.imageStore
                .details(of: name, for: probe.profile.hypervisor, generation: generation)
            let kinds = Kinds(configuration).all.filter { $0.image == name }.map(\.name)
            let facts = details.facts(kinds: kinds)
            var packages = Table("PACKAGE", "VERSION", "FROM")
            // What authors look for first.
            for source in [ImageDetails.Package.Source.npm, .pypi, .debian] {
                for package in details.packages where package.source == source {
                    packages.add(
                        .string(package.name), .string(package.version), .string(source.rawValue))
                }
            }
            if output.isJSON {
                let members = facts + [JSON.Member(name: "packages", value: packages.json)]
                return Console.data(JSON.object(members).text)
            }
            var table = Table("WHAT", "VALUE")
            table.cellLimit = 1000
            for fact in facts {
                // As words: numbers would stand at the right of a column of sentences.
                let words =
                    if case .number(let text) = fact.value { text } else { fact.value.string }
                table.add(.string(fact.name), .optional(words))
            }
            table.print(asJSON: false, empty: "")
            Console.data("")
            packages.print(asJSON: false, empty: "no list of packages")
        }
    }
}

extension ImageDetails {
    /// Everything but the packages, in the words of worker.conf where it comes from there.
    func facts(kinds: [String]) -> [JSON.Member] {
        func words(_ list: [String]) -> JSON { .string(list.joined(separator: " ")) }
        func size(_ size: ByteCount) -> JSON { .number(size.bytes) }
        return [
            ("image", .string(definition.name)), ("generation", .string(generation)),
            ("created", .string(createdAt)), ("kinds", words(kinds)),
            ("hypervisor", .string("\(hypervisor) \(hypervisorVersion)")),
            ("accelerator", .string(accelerator.rawValue)), ("kernel", .string(guestKernel)),
            ("suite", .string(definition.suite)), ("memory", .string("\(definition.memory)")),
            ("vcpus", .number(definition.vCPUCount)),
            ("interpreters", words(definition.interpreters)),
            ("python.modules", words(definition.pythonModules)),
            ("files", words(definition.files)), ("warmup", .string(definition.warmUp)),
            ("boot_ms", .number(Format.rounded(boot.milliseconds))),
            ("root_disk_bytes", size(rootDisk)), ("snapshot_bytes", size(snapshot)),
        ].map { JSON.Member(name: $0.0, value: $0.1) }
    }
}
