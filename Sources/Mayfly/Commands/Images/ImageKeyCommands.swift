// `mayfly image keygen`, `mayfly image floor`: whose images hosts restore, and how old they may be.

import ArgumentParser
import Machines
import StrictJSON

extension ImageCommand {
    struct Keygen: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Makes a key that signs images.",
            discussion: """
                Writes PATH.key, which `mayfly image build --key` signs with and which stays
                where images are built, and PATH.pub, which each host names in
                machine.image.keys. Overwrites nothing. To change keys, name both public
                keys on the hosts, build with the new one, and then drop the old one.

                Examples:
                  mayfly image keygen /root/images
                  mayfly image build code --key /root/images.key
                """)
        @Argument(help: "Where the two files go, without .key and .pub.") var path: String

        func run() throws {
            let files = try ImageKeyFiles.make(path)
            Console.data(files.publicKey)
            Console.say("\(files.privateKey) signs images: keep it where they are built")
        }
    }

    struct Floor: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Shows how old an image may be on this host, or sets it.",
            discussion: """
                Once a host has used a generation it restores none with a lower epoch: an
                old image may have old holes. The floor rises by itself. To go back to an
                older image lower it; that shows here and in `mayfly doctor` until a newer
                one is used.

                Examples:
                  mayfly image floor code
                  mayfly image floor code --to 1764000000
                """)
        @Argument(help: "The image's name.") var name = "code"
        @Option(help: ArgumentHelp("The new floor; 0: none.", valueName: "epoch")) var to: Int?
        @OptionGroup var options: ConfigurationOptions
        @OptionGroup var output: OutputOptions

        func validate() throws {
            if let to, to < 0 { throw ValidationError("--to must not be negative") }
        }
        func run() async throws {
            let configuration = try options.load()
            let probe = try await HostProbe.run(configuration.host)
            let (store, hypervisor) = (configuration.imageStore, probe.profile.hypervisor)
            let floor =
                if let to {
                    try store.setFloor(of: name, for: hypervisor, to: to)
                } else { try store.floor(of: name, for: hypervisor) }
            var table = Table("NAME", "HYPERVISOR", "EPOCH", "LOWERED FROM", "LOWERED AT")
            table.add(
                .string(name), .string(hypervisor.rawValue), .number(floor.epoch),
                floor.loweredFrom.map { .number($0) } ?? .null, .optional(floor.loweredAt))
            table.print(asJSON: output.isJSON, empty: "")
        }
    }
}

extension Configuration {
    /// The images of this host, and whose signatures it believes.
    var imageStore: ImageStore {
        ImageStore(stateDirectory: text(.stateDirectory), keys: host.imageKeys)
    }
}
