// `mayfly launcher`: starts the small program that has the privileges which a worker has not.

import ArgumentParser
import Machines

struct LauncherCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "launcher",
        abstract: "Starts machines for a worker that is not root.",
        discussion: """
            Prepares what the jail shows to hypervisors and becomes mayfly-launcher, a
            small program without anything else in it. It makes a machine's process for
            each connection, as a user of its own behind the jail, and ends it with the
            connection. Under systemd it takes the socket of mayfly-launcher.socket.

            Needs root. What it may be asked for is bounded by worker.conf: the memory
            and disks of images, machine.jail.users, machine.qemu.binary.

            Examples:
              mayfly launcher --worker mayfly
              mayfly launcher --worker mayfly --socket /run/mayfly-launcher.sock
            """)

    @Option(help: "The worker's user: nobody else but root is served.") var worker = "mayfly"
    @Option(help: ArgumentHelp("Where to listen, unless systemd does.", valueName: "path"))
    var socket = HostSettings.launcherSocket
    @OptionGroup var options: ConfigurationOptions

    func run() async throws {
        let configuration = try options.load()
        let user = try userNumber(worker)
        let listener = try launcherListener(socket, worker: user)
        let start = try await LauncherStart(
            configuration.host, worker: user, ceilings: try configuration.launcherCeilings(),
            listener: listener)
        try start.become()
    }
}

extension Configuration {
    /// What machines of any image that is defined here may need.
    func launcherCeilings() throws(ConfigurationError) -> LauncherCeilings {
        var images: [ImageDefinition] = []
        for name in imageNames { images.append(try image(named: name)) }
        return LauncherCeilings(images, overhead: host.machineOverhead)
    }
}
