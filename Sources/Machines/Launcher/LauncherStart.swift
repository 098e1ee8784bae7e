// How mayfly-launcher is started, by root: everything that it works with is opened here, so that it
// is told numbers only, and finds nothing on the host by itself.

import CLinux
import Events
import Foundation
import Glibc
import Launch
import Processes

extension HostSettings {
    /// Where the launcher of the systemd units listens.
    package static let launcherSocket = Launcher.standardPath

    /// What `machine.launcher` means to this process.
    package static func launcher(_ setting: String) -> String? {
        switch setting {
        case "none", "": nil
        case "auto":
            geteuid() != 0 && FileManager.default.fileExists(atPath: Launcher.standardPath)
                ? Launcher.standardPath : nil
        default: setting
        }
    }
}

/// The most that a worker may ask for.
package struct LauncherCeilings: Sendable {
    package var machines = 4096
    package var fileSize: ByteCount
    package var addressSpace: ByteCount
    /// Of a control group.
    package var memory: ByteCount
    package var processorPercent: Int

    /// - Parameters:
    ///   - images: all that machines are made from.
    ///   - overhead: of a hypervisor, beside its guest's memory.
    package init(_ images: [ImageDefinition], overhead: ByteCount) {
        let memory = images.map(\.memory).max() ?? .gibibytes(1)
        let scratch = images.map(\.scratch).max() ?? ByteCount(bytes: 0)
        fileSize = max(memory, scratch)
        // QEMU's own beside its guest's.
        addressSpace = ByteCount(bytes: memory.bytes + ByteCount.gibibytes(3).bytes)
        // At least what a look at a hypervisor may have.
        self.memory = ByteCount(
            bytes: max(memory.bytes, ByteCount.mebibytes(512).bytes) + overhead.bytes)
        // Its guest's, and one for disks and ports.
        processorPercent = 100 * ((images.map(\.vCPUCount).max() ?? 1) + 1)
    }
}

extension ControlGroups {
    /// As mayfly-launcher takes them: what it can bound, and the disk.
    fileprivate func words(_ rate: ByteCount) -> [String] {
        var bounds: LaunchBounds = []
        if active.contains("memory") { bounds.insert(.memory) }
        if active.contains("cpu") { bounds.insert(.processors) }
        if active.contains("pids") { bounds.insert(.threads) }
        var words: [String] = []
        if rate.bytes > 0, let numbers = device?.split(separator: ":"), numbers.count == 2 {
            bounds.insert(.disk)
            words = [
                "disk-major=\(numbers[0])", "disk-minor=\(numbers[1])",
                "disk-rate=\(rate.bytes)",
            ]
        }
        return ["bounds=\(bounds.rawValue)"] + words
    }
}

/// A launcher that is ready to be started.
package struct LauncherStart: ~Copyable {
    /// Root's alone: what the jail shows to hypervisors stands in it.
    private static let place = (JailUsers.lockFile as NSString).deletingLastPathComponent

    private let path: String
    private let program: Descriptor
    private let mark: HostMark
    /// Removes them when it is dropped: not before this process is the launcher.
    private let groups: ControlGroups?
    private let kept: [Descriptor.Shared]
    private let arguments: [String]

    /// - Parameters:
    ///   - worker: the only user that it serves, beside root.
    ///   - listener: a socket of messages.
    @LoopActor
    package init(
        _ settings: HostSettings, worker: uid_t, ceilings: LauncherCeilings,
        listener: consuming Descriptor
    ) async throws(MachineError) {
        guard geteuid() == 0 else {
            throw MachineError(.hostUnfit, "only root can start the launcher; run it as root")
        }
        try makeDirectory(Self.place)
        let probe = try await HostProbe.run(settings)
        guard probe.hypervisor.name == .qemu else {
            throw MachineError(
                .hostUnfit, "the launcher runs QEMU only; set machine.hypervisor = qemu")
        }
        let place = Self.place
        _ = await offload { sweepDeadHosts(runtimeDirectory: place, users: settings.jailUsers) }
        let mark = try HostMark(runtimeDirectory: place)
        let jail = try Jail(settings, probe, in: mark.directory)
        try await jail.makeRoot(of: probe.hypervisor)
        let path = try Self.beside("mayfly-launcher")
        let program = try attempting(Descriptor.open(path, O_RDONLY))
        guard try FileIdentity(of: program.number).isOurs else {
            throw MachineError(.hostUnfit, "\(path) can be written by others than root")
        }
        func opened(_ path: String, _ flags: CInt) throws(MachineError) -> Descriptor.Shared {
            Descriptor.Shared(try attempting(Descriptor.open(path, flags)))
        }
        let hypervisor = try opened("/proc/self/fd/\(probe.hypervisor.descriptor)", O_RDONLY)
        let jailProgram = try opened("/proc/self/fd/\(jail.programDescriptor)", O_RDONLY)
        let directory = try opened(mark.directory, O_RDONLY | O_DIRECTORY)
        let slots = try opened(JailUsers.lockFile, O_RDWR | O_NOFOLLOW)
        let socket = Descriptor.Shared(listener)
        var words = [
            "mayfly-launcher", "listen=\(socket.number)", "program=\(hypervisor.number)",
            "jail=\(jailProgram.number)", "directory=\(directory.number)",
            "slots=\(slots.number)", "worker=\(worker)", "first-user=\(settings.jailUsers)",
            "users=\(JailUsers.count)", "kvm=\(probe.profile.accelerator == .kvm ? 1 : 0)",
            "file-size=\(ceilings.fileSize.bytes)",
            "address-space=\(ceilings.addressSpace.bytes)", "machines=\(ceilings.machines)",
        ]
        if probe.profile.accelerator == .kvm, let group = HypervisorUser.deviceGroup {
            words.append("device-group=\(group)")
        }
        words += ["memory=\(ceilings.memory.bytes)", "processors=\(ceilings.processorPercent)"]
        var kept = [hypervisor, jailProgram, directory, slots, socket]
        let made: ControlGroups? = try? jail.groups.get()
        if let made {
            // A worker that was taken over asks for as many machines as there are users.
            try made.boundAll(to: ByteCount(bytes: HostMemory.total.bytes / 8 * 7))
            let file = try opened(made.directory, O_RDONLY | O_DIRECTORY)
            words += ["groups=\(file.number)"] + made.words(settings.diskRate)
            kept.append(file)
        } else {
            words.append("bounds=0")
        }
        groups = made
        arguments = words
        self.kept = kept
        self.path = path
        self.program = program
        self.mark = mark
    }

    /// A program that was built beside this one.
    private static func beside(_ name: String) throws(MachineError) -> String {
        let own = (try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe"))
        let path = ((own ?? "") as NSString).deletingLastPathComponent + "/\(name)"
        guard FileManager.default.fileExists(atPath: path) else {
            throw MachineError(
                .hostUnfit, "there is no \(path); build it with `swift build -c release`")
        }
        return path
    }

    private var numbers: [CInt] { kept.map(\.number) + [mark.inherited] }

    /// This process becomes the launcher.
    package consuming func become() throws(MachineError) -> Never {
        for number in numbers { _ = fcntl(number, F_SETFD, 0) }
        let status = unsafe withCStrings(arguments) { arguments in
            unsafe withCStrings([]) { environment in
                unsafe mayfly_execute(program.number, arguments, environment)
            }
        }
        throw MachineError(SystemError("become", path, -status))
    }
}
