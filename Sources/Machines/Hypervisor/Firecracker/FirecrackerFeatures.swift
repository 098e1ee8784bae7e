// What the configured Firecracker is: its version, the version of its snapshots, and what that
// version cannot do.

import Events
import Processes

/// A version as Firecracker prints it: `Firecracker v1.12.1`.
struct FirecrackerVersion: Sendable, Hashable, Comparable, CustomStringConvertible {
    let major, minor, patch: Int

    init(_ major: Int, _ minor: Int, _ patch: Int) {
        (self.major, self.minor, self.patch) = (major, minor, patch)
    }
    /// `nil` for anything but three numbers, with or without a v before and a suffix behind.
    init?(_ text: Substring) {
        let numbers = text.drop { $0 == "v" }.prefix { $0.isNumber || $0 == "." }
            .split(separator: ".", omittingEmptySubsequences: false).map { Int($0) }
        guard numbers.count == 3, let major = numbers[0], let minor = numbers[1],
            let patch = numbers[2]
        else { return nil }
        self.init(major, minor, patch)
    }
    static func < (one: Self, other: Self) -> Bool {
        (one.major, one.minor, one.patch) < (other.major, other.minor, other.patch)
    }
    var description: String { "\(major).\(minor).\(patch)" }
}

/// The answers of `--version` and `--snapshot-version`.
struct FirecrackerFeatures: Sendable, Equatable {
    let version: FirecrackerVersion
    let snapshotVersion: String
    /// SHA-256 of the program: snapshots are bound to the very binary.
    let digest: String

    /// The oldest that was driven; older ones lack calls, newer major ones may change them.
    static let known = FirecrackerVersion(1, 12, 1)..<FirecrackerVersion(2, 0, 0)
    /// Their `Resumed` breaks vsock unless a snapshot was made since the pause: Firecracker's
    /// issues 6074 and 6100.
    static let cannotPause = [FirecrackerVersion(1, 16, 0), FirecrackerVersion(1, 16, 1)]
    static let remedy =
        "install Firecracker \(known.lowerBound) or newer and name it with "
        + "machine.firecracker.binary"

    /// - Throws: `hostUnfit` when the program does not answer, or is a version that is not known.
    @LoopActor
    static func of(_ file: borrowing ProgramFile) async throws(MachineError) -> FirecrackerFeatures
    {
        let (path, descriptor) = (file.path, file.descriptor)
        func ask(_ question: String) async throws(MachineError) -> String {
            var request = ProgramRequest([path, question])
            request.executable = descriptor
            request.kept = [descriptor]
            request.deadline = .now + .seconds(30)
            let result = try await runTool(request)
            let line = result.output.split(separator: "\n").first.map(String.init) ?? "nothing"
            guard result.status == 0 else {
                throw MachineError(
                    .hostUnfit, "\(path) \(question) failed (\(result.status)): \(line)")
            }
            return line
        }
        let line = try await ask("--version")
        let words = line.split(separator: " ")
        guard words.count >= 2, words[0] == "Firecracker",
            let version = FirecrackerVersion(words[1])
        else {
            throw MachineError(.hostUnfit, "\(path) --version is not Firecracker's: \(line)")
        }
        guard known.contains(version) else {
            throw MachineError(
                .hostUnfit,
                "\(path) is Firecracker \(version); known are \(known.lowerBound) and newer below "
                    + "\(known.upperBound)")
        }
        let digest = try await offload { () throws(MachineError) in
            try SHA256.hex(ofDescriptor: descriptor)
        }
        return FirecrackerFeatures(
            version: version, snapshotVersion: try await ask("--snapshot-version"), digest: digest)
    }

    /// What a snapshot is bound to.
    var summary: String {
        "Firecracker \(version), snapshot \(snapshotVersion), binary \(digest.prefix(16))"
    }
    var pauseObstacle: Obstacle? {
        Self.cannotPause.contains(version)
            ? Obstacle(
                found: "Firecracker \(version) loses its guests' connections when they are resumed",
                remedy: "machines are not kept warm with it; use another version")
            : nil
    }
}
