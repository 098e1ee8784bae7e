// What makes a restored machine itself: entropy, clock, names. Every step of PREPARE reports what
// really happened. The files are open since boot, so that a restored machine only writes.

import CLinux
import Glibc
import Wire

/// The open files that hold this machine's identity.
struct Identity {
    let random: CInt
    let machineID: CInt
    let bootID: CInt
    let hostName: CInt
    let hosts: CInt
    let generation: CInt

    init() throws(SystemError) {
        let flags = O_RDWR | O_CREAT | O_TRUNC
        random = try openFile("/dev/urandom", O_RDWR)
        machineID = try openFile("/etc/machine-id", flags, mode: 0o444)
        hostName = try openFile("/etc/hostname", flags)
        hosts = try openFile("/etc/hosts", flags)
        generation = try openFile(Boot.run + "/generation", flags, mode: 0o444)
        bootID = try openFile(Boot.run + "/boot-id", flags, mode: 0o444)
        // The kernel makes its own once and keeps it: every clone would show the same.
        let shown = "/proc/sys/kernel/random/boot_id"
        try check(
            "mount a fresh \(shown)",
            unsafe mayfly_guest_mount(Boot.run + "/boot-id", shown, "", mayfly_mount_bind, nil))
    }
}

extension Agent {
    mutating func prepare(_ preparation: Preparation) -> ReadyReport {
        var steps: [ReadyReport.Step] = []
        func step(_ name: String, _ body: () throws(SystemError) -> Void) {
            do throws(SystemError) {
                try body()
                steps.append(.init(name: name, isDone: true))
            } catch {
                steps.append(.init(name: name, isDone: false, message: error.description))
            }
        }
        // First of all: everything after it may need random bytes.
        step("entropy") { () throws(SystemError) in
            try check(
                "credit entropy",
                unsafe mayfly_guest_add_entropy(
                    identity.random, preparation.entropy, preparation.entropy.count))
        }
        step("clock") { () throws(SystemError) in
            try check("set the clock", mayfly_guest_set_clock(preparation.realtime))
        }
        step("hostname") { () throws(SystemError) in
            let name = preparation.hostname
            try check("name", unsafe mayfly_guest_set_hostname(name, name.utf8.count))
            try rewrite(identity.hostName, name + "\n", "/etc/hostname")
            try rewrite(
                identity.hosts, "127.0.0.1 localhost \(name)\n::1 localhost\n", "/etc/hosts")
        }
        step("machine-id") { () throws(SystemError) in
            try rewrite(identity.machineID, preparation.machineID + "\n", "/etc/machine-id")
            try rewrite(identity.generation, preparation.generation + "\n", "generation")
        }
        step("boot-id") { () throws(SystemError) in
            try rewrite(identity.bootID, Self.uuid() + "\n", "boot-id")
        }
        step("workdir") { () throws(SystemError) in try JobDirectory.clear() }
        step("interpreters") { () throws(SystemError) in
            try interpreters.seed(preparation.interpreterSeed)
        }
        return ReadyReport(
            steps: steps, realtime: realtimeNanoseconds(),
            sample: randomBytes(Limits.sampleByteCount))
    }

    /// A random UUID, version 4.
    private static func uuid() -> String {
        var bytes = randomBytes(16)
        bytes[6] = bytes[6] & 0x0F | 0x40
        bytes[8] = bytes[8] & 0x3F | 0x80
        let digits = Array("0123456789abcdef".utf8)
        var text: [UInt8] = []
        for (index, byte) in bytes.enumerated() {
            if index == 4 || index == 6 || index == 8 || index == 10 {
                text.append(UInt8(ascii: "-"))
            }
            text.append(digits[Int(byte >> 4)])
            text.append(digits[Int(byte & 15)])
        }
        return String(decoding: text, as: UTF8.self)
    }
}
