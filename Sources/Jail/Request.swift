// What the worker asks for: numbers, descriptors that it inherits, and the hypervisor's own
// arguments, which are passed on unread. Nothing in it names a place on the host.

import Glibc

/// Which filter and which root.
enum Hypervisor: String {
    case qemu
    case firecracker
}

/// A layer of the wall, for the tests that show that each of them holds by itself.
///
/// The worker leaves out none: no setting leads here.
enum Layer: String {
    case root, descriptors, limits, user, capabilities, privileges, landlock, filter
}

/// Which system calls are shown to a test that watches, and judged there instead.
enum Recording: UInt64 {
    case all = 1
    /// But for those that every machine makes all of the time, if they are listed: shown, too, they
    /// would make it so slow that it works no longer as it does.
    case seldom = 2
}

/// One machine's jail: names with values, two dashes, the hypervisor's name and arguments.
struct Request {
    let hypervisor: Hypervisor
    /// The hypervisor itself, open.
    let program: CInt
    /// Stay open beside 0, 1 and 2.
    let kept: [CInt]
    /// `nil`: the user that started this.
    let user: uid_t?
    /// Of /dev/kvm, where only a group may open it.
    let deviceGroup: gid_t?
    let usesKVM: Bool
    /// The name of its directory, as a number; `nil`: it has none.
    let work: UInt64?
    let fileSize: UInt64
    let addressSpace: UInt64
    let processes: UInt64
    /// `nil`: each system call is judged here.
    let recording: Recording?
    let without: Set<Layer>
    /// Where the hypervisor's own arguments begin.
    let argumentsBegin: Int

    init(_ arguments: [String]) {
        guard let end = arguments.firstIndex(of: "--"), end + 1 < arguments.count else {
            refuse("there is no -- with the hypervisor's name behind it")
        }
        var values: [String: [String]] = [:]
        for argument in arguments[1..<end] {
            let parts = argument.split(
                separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
            guard parts.count == 2, Self.names.contains(String(parts[0])) else {
                refuse("\(argument) is not one of \(Self.names.joined(separator: ", "))")
            }
            values[String(parts[0]), default: []].append(String(parts[1]))
        }
        func numbers(_ name: String) -> [UInt64] {
            (values[name] ?? []).map { text in
                guard let number = UInt64(text) else { refuse("\(name)=\(text) is no number") }
                return number
            }
        }
        func number(_ name: String) -> UInt64? {
            let all = numbers(name)
            guard all.count < 2 else { refuse("\(name) is there twice") }
            return all.first
        }
        func required(_ name: String) -> UInt64 {
            guard let value = number(name) else { refuse("\(name) is missing") }
            return value
        }
        func descriptor(_ value: UInt64) -> CInt {
            guard value > 2, value < 1 << 20 else { refuse("\(value) is no descriptor") }
            return CInt(value)
        }
        func identity(_ name: String) -> UInt32? {
            guard let value = number(name) else { return nil }
            guard value > 0, value < UInt64(UInt32.max) else { refuse("\(name)=\(value)") }
            return UInt32(value)
        }
        guard let name = values["hypervisor"]?.first, let hypervisor = Hypervisor(rawValue: name)
        else { refuse("hypervisor is qemu or firecracker") }
        self.hypervisor = hypervisor
        program = descriptor(required("program"))
        kept = numbers("keep").map(descriptor)
        user = identity("user")
        deviceGroup = identity("device-group")
        usesKVM = required("kvm") == 1
        work = number("work")
        fileSize = required("file-size")
        addressSpace = required("address-space")
        processes = required("processes")
        recording = number("record").map { value in
            guard let recording = Recording(rawValue: value) else { refuse("record=\(value)") }
            return recording
        }
        without = Set(
            (values["without"] ?? []).map { name in
                guard let layer = Layer(rawValue: name) else { refuse("without=\(name)") }
                return layer
            })
        argumentsBegin = end + 1
    }
    private static let names = [
        "hypervisor", "program", "keep", "user", "device-group", "kvm", "work", "file-size",
        "address-space", "processes", "record", "without",
    ]
}

/// One step of the wall.
///
/// - Parameter layer: may be left out by a test; `nil`: never is.
func step(_ layer: Layer?, _ words: String, _ body: () -> CInt) {
    if let layer, request.without.contains(layer) { return }
    let status = body()
    if status != 0 { fail(words, -status) }
}

func fail(_ words: String, _ code: CInt) -> Never {
    say("cannot \(words): \(unsafe String(cString: strerror(code)))")
}
private func refuse(_ words: String) -> Never { say("this request is not understood: \(words)") }

private func say(_ words: String) -> Never {
    let line = Array("mayfly-jail: \(words)\n".utf8)
    _ = unsafe write(2, line, line.count)
    // The status of a program that could not be started, as env(1) and timeout(1) have it.
    _exit(125)
}
