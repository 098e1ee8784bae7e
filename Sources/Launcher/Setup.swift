// How the launcher is set up: by whoever starts it as root, with numbers and open descriptors only.
// What a worker may ask for lies within these bounds.

import CLinux
import Glibc
import Launch

struct Setup {
    /// Listens for workers.
    let listener: CInt
    /// The hypervisor, mayfly-jail, and the directory that has the root of each hypervisor.
    let program: CInt
    let jail: CInt
    let directory: CInt
    /// A file with one byte for each user id: whoever has locked it has the user.
    let slots: CInt
    /// The only user that is served, beside root.
    let worker: uid_t
    let firstUser: uid_t
    let userCount: uid_t
    let usesKVM: Bool
    /// Of /dev/kvm, where only a group may open it.
    let deviceGroup: gid_t?
    let fileSizeMax: UInt64
    let addressSpaceMax: UInt64
    let memoryMax: UInt64
    let processorPercentMax: UInt64
    let machinesMax: Int
    /// A directory of control groups, in which each machine gets one; `nil`: there are none here.
    let groups: CInt?
    /// What they can bound.
    let bounds: LaunchBounds
    /// The disk, and bytes a second from and to it that one machine may have.
    let disk: (major: UInt64, minor: UInt64, rate: UInt64)?

    init(_ arguments: [String]) {
        var values: [String: UInt64] = [:]
        for argument in arguments.dropFirst() {
            let parts = argument.split(
                separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
            guard parts.count == 2, Self.names.contains(String(parts[0])),
                let number = UInt64(parts[1]),
                values.updateValue(number, forKey: String(parts[0])) == nil
            else { end("\(argument) is not one of \(Self.names.joined(separator: ", "))") }
        }
        func number(_ name: String, _ range: ClosedRange<UInt64>) -> UInt64 {
            guard let value = values[name] else { end("\(name) is missing") }
            guard range.contains(value) else { end("\(name)=\(value) is out of bounds") }
            return value
        }
        func descriptor(_ name: String) -> CInt { CInt(number(name, 3...1_048_575)) }
        listener = descriptor("listen")
        program = descriptor("program")
        jail = descriptor("jail")
        directory = descriptor("directory")
        slots = descriptor("slots")
        worker = uid_t(number("worker", 0...4_294_967_294))
        // Never a user that a person, a service or root could be.
        firstUser = uid_t(number("first-user", 65_536...2_147_479_552))
        userCount = uid_t(number("users", 1...65_536))
        usesKVM = number("kvm", 0...1) == 1
        deviceGroup =
            values["device-group"] == nil ? nil : gid_t(number("device-group", 1...65_533))
        fileSizeMax = number("file-size", 0...(1 << 50))
        addressSpaceMax = number("address-space", 0...(1 << 50))
        memoryMax = number("memory", 1...(1 << 50))
        processorPercentMax = number("processors", 1...1_000_000)
        machinesMax = Int(number("machines", 1...65_536))
        groups = values["groups"] == nil ? nil : descriptor("groups")
        bounds = LaunchBounds(rawValue: UInt8(number("bounds", 0...15)))
        disk =
            !bounds.contains(.disk)
            ? nil
            : (
                number("disk-major", 0...4095), number("disk-minor", 0...1_048_575),
                number("disk-rate", 1...(1 << 50))
            )
    }
    private static let names = [
        "listen", "program", "jail", "directory", "slots", "worker", "first-user", "users", "kvm",
        "device-group", "file-size", "address-space", "memory", "processors", "machines", "groups",
        "bounds", "disk-major", "disk-minor", "disk-rate",
    ]

    /// What of the two programs and the directory others than root could change; `nil`: nothing.
    var weakness: String? {
        for (name, file, kind) in [
            ("the hypervisor", program, S_IFREG), ("mayfly-jail", jail, S_IFREG),
            ("the directory of the roots", directory, S_IFDIR),
        ] {
            var facts = stat()
            guard unsafe fstat(file, &facts) == 0 else { return "\(name) is not open" }
            guard facts.st_mode & S_IFMT == kind else { return "\(name) is something else" }
            guard facts.st_uid == 0, facts.st_mode & 0o022 == 0 else {
                return "\(name) can be written by others than root"
            }
        }
        return nil
    }
}

/// The end of this process, with a sentence.
func end(_ words: String) -> Never {
    let line = Array("mayfly-launcher: \(words)\n".utf8)
    _ = unsafe write(2, line, line.count)
    _exit(125)
}

/// As `strerror` has it.
func reason(_ code: CInt) -> String { unsafe String(cString: strerror(code)) }
