// Who jobs are and what they find in their environment where the image says so: one that was made
// of an OCI image. The builder has put it into the initramfs.

import Glibc

/// How the image wants its programs to be run.
struct ImageProcess {
    var user: uid_t = 1000
    var group: gid_t = 1000
    /// `NAME=value`.
    var environment: [String] = []

    /// Read at its first use, which is before the initramfs is given back.
    static let own = ImageProcess(fields: readWhole("/process"))

    private init(fields: [UInt8]) {
        for field in fields.split(separator: 0) {
            guard let equals = field.firstIndex(of: UInt8(ascii: "=")) else { continue }
            let value = field[(equals + 1)...]
            switch String(decoding: field[..<equals], as: UTF8.self) {
            case "env": environment.append(String(decoding: value, as: UTF8.self))
            case "user":
                let numbers = value.split(separator: UInt8(ascii: ":")).map { decimal($0) }
                if numbers.count == 2 {
                    (user, group) = (uid_t(clamping: numbers[0]), gid_t(clamping: numbers[1]))
                }
            default: say("unknown field of the image's process")
            }
        }
    }
}
