// What was found out about large files since this host booted, so that a second start need not find
// it out again: their digests, a program's answers. A fact belongs to one state of one file, and
// whatever is not as it should be about it means that it is found out anew.

import Foundation
import Glibc
import Logging
import Processes

/// What identifies a file that must not change under us: a change of its bytes changes this.
struct FileIdentity: Equatable, Sendable {
    let byteCount: Int
    private let numbers: [Int]
    private let changedAt: Int64
    private let owner: uid_t
    private let mode: mode_t

    init(of descriptor: CInt) throws(MachineError) {
        var status = stat()
        guard unsafe fstat(descriptor, &status) == 0 else {
            throw MachineError(.hostUnfit, "cannot inspect an image file: \(errnoText(errno))")
        }
        byteCount = Int(status.st_size)
        owner = status.st_uid
        mode = status.st_mode
        changedAt = Int64(status.st_ctim.tv_sec) * 1_000_000_000 + Int64(status.st_ctim.tv_nsec)
        numbers = [
            Int(status.st_dev), Int(status.st_ino), byteCount,
            status.st_mtim.tv_sec, status.st_mtim.tv_nsec, status.st_ctim.tv_sec,
            status.st_ctim.tv_nsec, Int(owner), Int(mode),
        ]
    }

    /// Whether nobody but root and this process's user can write it.
    var isOurs: Bool {
        mode & S_IFMT == S_IFREG && mode & 0o022 == 0 && (owner == 0 || owner == geteuid())
    }
    /// How long it has been as it is, in nanoseconds.
    fileprivate var age: Int64 { realtimeNow() - changedAt }

    fileprivate var text: String { numbers.map(String.init).joined(separator: " ") }
    fileprivate var name: String { "\(numbers[0])-\(numbers[1])" }
}

/// Facts about files, in a directory that only this process's user can enter.
struct FileFacts: Sendable {
    /// What a fact says.
    enum Subject: String {
        case sha256
        case qemuFeatures = "qemu-features"
    }
    /// Far more than any fact has.
    private static let byteCountMax = 16 << 10
    private static let format = "mayfly facts 1"

    private let directory: String
    /// Facts end with the boot, even where the runtime directory survives it.
    private let boot: String
    /// A change within the clock tick of the one before leaves a file's times as they were: a file
    /// is known only when it had not been changed for so long before it was read.
    private let settling: Duration

    /// `nil` when there is no place for them that others cannot write: then nothing is remembered.
    init?(runtimeDirectory: String, settling: Duration = .seconds(2)) {
        let directory = "\(runtimeDirectory)/facts"
        let boot = (try? String(contentsOfFile: "/proc/sys/kernel/random/boot_id", encoding: .utf8))
        guard let boot = boot?.trimmed, !boot.isEmpty else { return nil }
        if (try? makeDirectory(runtimeDirectory)) != nil { _ = unsafe mkdir(directory, 0o700) }
        guard Self.isClosed(runtimeDirectory, to: 0o022), Self.isClosed(directory, to: 0o077) else {
            Logger.current.warning(
                "images are hashed at every start: others can write \(directory)",
                metadata: ["remedy": "rm -r \(directory); chmod go-w \(runtimeDirectory)"])
            return nil
        }
        self.directory = directory
        self.boot = boot
        self.settling = settling
    }

    /// What was remembered of exactly this state of the file.
    func recall(_ subject: Subject, of file: FileIdentity) -> String? {
        guard file.isOurs, let text = read(path(subject, file)) else { return nil }
        let head = head(subject, file)
        guard text.hasPrefix(head) else { return nil }
        let fact = String(text.dropFirst(head.count).dropLast(Self.seal(of: "").count))
        return head + fact + Self.seal(of: head + fact) == text ? fact : nil
    }

    /// Whether any change of the file from now on would show, and nobody else can write it: to be
    /// asked before it is read.
    func mayRemember(_ file: FileIdentity) -> Bool {
        file.isOurs && file.age >= settling.nanoseconds
    }
    /// Remembers what was found out by reading the file.
    ///
    /// - Parameter file: its identity before it was read, when it might be remembered, and after.
    func remember(_ fact: String, as subject: Subject, of file: FileIdentity) {
        let text = head(subject, file) + fact
        guard text.utf8.count < Self.byteCountMax / 2 else { return }
        do throws(MachineError) {
            try writeFile(
                path(subject, file), Array((text + Self.seal(of: text)).utf8), mode: 0o600)
        } catch {
            Logger.current.warning("the next start will be slow", metadata: ["error": "\(error)"])
        }
    }

    private func path(_ subject: Subject, _ file: FileIdentity) -> String {
        "\(directory)/\(file.name).\(subject.rawValue)"
    }
    private func head(_ subject: Subject, _ file: FileIdentity) -> String {
        "\(Self.format)\n\(boot)\n\(subject.rawValue)\n\(file.text)\n"
    }
    private static func seal(of text: String) -> String {
        "\n\(SHA256.hex(of: Array(text.utf8)))\n"
    }

    private func read(_ path: String) -> String? {
        guard let file = try? Descriptor.open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK),
            let identity = try? FileIdentity(of: file.number),
            identity.isOurs, identity.isPrivate, identity.byteCount < Self.byteCountMax
        else { return nil }
        var bytes = [UInt8](repeating: 0, count: identity.byteCount)
        guard unsafe pread(file.number, &bytes, bytes.count, 0) == bytes.count else { return nil }
        return String(validating: bytes, as: UTF8.self)
    }

    /// Whether a directory is ours or root's, and gives others none of these rights.
    private static func isClosed(_ path: String, to rights: mode_t) -> Bool {
        var status = stat()
        return unsafe lstat(path, &status) == 0 && status.st_mode & S_IFMT == S_IFDIR
            && (status.st_uid == 0 || status.st_uid == geteuid()) && status.st_mode & rights == 0
    }
}

extension FileIdentity {
    /// Whether others can neither read nor write it.
    fileprivate var isPrivate: Bool { mode & 0o077 == 0 }
}
