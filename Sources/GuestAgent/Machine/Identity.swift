// What makes a restored machine itself: entropy, clock, names. Every step of PREPARE reports what
// really happened. The files are open since boot, so that a restored machine only writes.

import CGuest
import Glibc
import Wire

/// A small file of this machine, open since boot: in RAM, and shown where programs look for it.
struct IdentityFile {
    private let file: CInt
    private let name: String
    private var byteCount = 0

    init(_ name: String, shownAt path: String? = nil) throws(SystemError) {
        self.name = name
        let source = "\(Boot.run)/\(name)"
        file = try openFile(source, O_RDWR | O_CREAT | O_TRUNC, mode: 0o444)
        fchmod(file, 0o444)
        guard let path else { return }
        if unsafe access(path, F_OK) != 0 { try writeFile(path, "") }
        try check(
            "mount \(path)", unsafe mayfly_guest_mount(source, path, "", mayfly_mount_bind, nil))
    }
    mutating func set(_ text: String) throws(SystemError) {
        let bytes = Array((text + "\n").utf8)
        let count = unsafe pwrite(file, bytes, bytes.count, 0)
        guard count == bytes.count else {
            throw SystemError(what: "write \(name)", code: count < 0 ? errno : EIO)
        }
        if byteCount > bytes.count { try checkErrno("cut \(name)", ftruncate(file, count)) }
        byteCount = count
    }
}

/// The open files that hold this machine's identity.
struct Identity {
    let random: CInt
    var machineID: IdentityFile
    /// The kernel makes its own once and keeps it: every clone would show the same.
    var bootID: IdentityFile
    var hostName: IdentityFile
    var hosts: IdentityFile
    var generation: IdentityFile

    init() throws(SystemError) {
        random = try openFile("/dev/urandom", O_RDWR)
        machineID = try IdentityFile("machine-id", shownAt: "/etc/machine-id")
        hostName = try IdentityFile("hostname", shownAt: "/etc/hostname")
        hosts = try IdentityFile("hosts", shownAt: "/etc/hosts")
        bootID = try IdentityFile("boot-id", shownAt: "/proc/sys/kernel/random/boot_id")
        generation = try IdentityFile("generation")
        try hosts.set("127.0.0.1 localhost")
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
            try forkMarks.clear()
        }
        step("clock") { () throws(SystemError) in
            try check("set the clock", mayfly_guest_set_clock(preparation.realtime))
        }
        step("hostname") { () throws(SystemError) in
            let name = preparation.hostname
            try check("name", unsafe mayfly_guest_set_hostname(name, name.utf8.count))
            try identity.hostName.set(name)
            try identity.hosts.set("127.0.0.1 localhost \(name)\n::1 localhost")
        }
        step("machine-id") { () throws(SystemError) in
            try identity.machineID.set(preparation.machineID)
            try identity.generation.set(preparation.generation)
        }
        step("boot-id") { () throws(SystemError) in
            try identity.bootID.set(Self.uuid())
        }
        step("workdir") { () throws(SystemError) in
            if options.hasScratch, scratch == nil { scratch = try ScratchDisk() }
            try JobDirectory.clear()
        }
        step("interpreters") { () throws(SystemError) in
            try interpreters.seed(preparation.interpreterSeed)
        }
        return ReadyReport(
            steps: steps, realtime: realtimeNanoseconds(),
            sample: randomBytes(Limits.sampleByteCount))
    }

    /// A random UUID, version 4.
    static func uuid() -> String {
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
