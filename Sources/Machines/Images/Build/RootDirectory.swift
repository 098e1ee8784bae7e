// A root file system that is being made: what every image gets beside its packages. Whoever made it
// may have put links anywhere in it, so nothing is written over one.

import Foundation
import Glibc

struct RootDirectory {
    let path: String

    /// Where an absolute path of the guest stands here.
    ///
    /// - Throws: `buildFailed` when a directory of it is a link, which could lead out of the root.
    private func place(_ guest: String) throws(MachineError) -> String {
        var directory = path
        for part in guest.split(separator: "/").dropLast() {
            directory += "/\(part)"
            if isLink(directory) {
                throw MachineError(
                    .buildFailed,
                    "\(guest) leads over \(directory.dropFirst(path.count)), a link of the image; "
                        + "name the place that it leads to")
            }
        }
        try makeDirectory(directory)
        return path + guest
    }
    private func isLink(_ place: String) -> Bool {
        (try? FileManager.default.destinationOfSymbolicLink(atPath: place)) != nil
    }

    /// Takes the place of what was there, be it a link.
    func write(_ file: AddedFile) throws(MachineError) {
        try writeFile(try place(file.path), file.bytes, mode: file.mode)
    }
    private func write(
        _ guest: String, _ text: String, mode: mode_t = 0o644
    ) throws(MachineError) {
        try writeFile(try place(guest), Array(text.utf8), mode: mode)
    }
    private func append(_ guest: String, _ line: String) throws(MachineError) {
        let place = try place(guest)
        let old = isLink(place) ? nil : FileManager.default.contents(atPath: place)
        try writeFile(place, [UInt8](old ?? Data()) + Array((line + "\n").utf8), mode: 0o644)
    }

    /// The user that jobs run as, the job's directory, names that are the host's business.
    func customize(_ process: ImageProcess) throws(MachineError) {
        if process.user == 0 {
            try append("/etc/passwd", "task:x:1000:1000:job:/work:/bin/bash")
            try append("/etc/group", "task:x:1000:")
        }
        try write("/etc/hostname", "mayfly\n")
        try write("/etc/hosts", "127.0.0.1 localhost\n")
        // No resolver.
        try write("/etc/resolv.conf", "")
        try write("/etc/machine-id", "", mode: 0o444)
        try makeDirectory(try place("/work"))
        if let script = process.entryPointScript {
            try write(ImageProcess.entryPointPath, script, mode: 0o755)
        }
    }

    /// Nothing is left of the installation of packages.
    func removeTraces() throws(MachineError) {
        for directory in ["/var/cache/apt", "/var/lib/apt/lists", "/var/log", "/tmp"] {
            let place = try place(directory)
            for name in children(of: place) {
                try? FileManager.default.removeItem(atPath: "\(place)/\(name)")
            }
        }
    }
}
