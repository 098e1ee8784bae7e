// Runs another program to its end and keeps what it says: mmdebstrap, mke2fs, qemu --version.

import Events
import Glibc

/// What a finished program said.
struct ProgramResult: Sendable {
    var status: Int32
    /// Standard output and standard error, as they came; at most the last 256 KiB.
    var output: String
}

/// Runs `arguments` (the first is found in PATH) and waits; `onLine` sees each line as it comes.
@LoopActor
func runProgram(
    _ arguments: [String], environment: [String: String] = [:], user: HypervisorUser? = nil,
    kept: [CInt] = [], fileSizeLimit: UInt64 = .max,
    before deadline: ContinuousClock.Instant? = nil,
    onLine: (@Sendable (String) -> Void)? = nil
) async throws(MachineError) -> ProgramResult {
    guard let name = arguments.first, let path = findProgram(name) else {
        throw MachineError(
            .hostUnfit, "\(arguments.first ?? "a program") is not installed; install its package")
    }
    let pair = try SocketPair()
    var request = SpawnRequest(arguments: [path] + arguments.dropFirst())
    // Ours may hold a database's password; who is not us shall not find it in /proc.
    request.environment = user == nil ? inheritedEnvironment(environment) : []
    request.kept = kept
    request.fileSizeLimit = fileSizeLimit
    request.standardOutput = pair.theirs.number
    request.standardError = pair.theirs.number
    request.fileLimit = UInt64.max
    request.user = user
    let child = try Child.spawn(request)
    let channel = Channel(pair.take())
    var output: [UInt8] = []
    var lineStart = 0
    reading: while true {
        switch channel.receive() {
        case .bytes(let bytes):
            output += bytes
            while let end = output[lineStart...].firstIndex(of: 0x0A) {
                onLine?(String(decoding: output[lineStart..<end], as: UTF8.self))
                lineStart = end + 1
            }
            if output.count > 512 << 10 {
                let dropped = output.count - (256 << 10)
                output.removeFirst(dropped)
                lineStart = max(0, lineStart - dropped)
            }
        case .ended: break reading
        case .nothingYet:
            switch await EventLoop.shared.ready([(channel.number, .read)], before: deadline) {
            case .ready: continue
            case .timedOut:
                _ = await child.end()
                throw MachineError(.hostUnfit, "\(name) did not finish in time")
            case .cancelled:
                _ = await child.end()
                throw MachineError(.cancelled, "stopped while \(name) ran")
            }
        }
    }
    let usage = await child.wait()
    return ProgramResult(status: usage.status, output: String(decoding: output, as: UTF8.self))
}

/// The absolute path of a program, searched in PATH and in the usual system directories.
func findProgram(_ name: String) -> String? {
    if name.contains("/") { return unsafe access(name, X_OK) == 0 ? name : nil }
    let path = unsafe getenv("PATH").map { unsafe String(cString: $0) } ?? ""
    let directories =
        path.split(separator: ":").map(String.init) + ["/usr/local/sbin", "/usr/sbin", "/sbin"]
    return directories.map { "\($0)/\(name)" }.first { unsafe access($0, X_OK) == 0 }
}

private func inheritedEnvironment(_ extra: [String: String]) -> [String] {
    var result: [String] = []
    var place = unsafe environ
    while let entry = unsafe place.pointee {
        let text = unsafe String(cString: entry)
        let name = text.prefix { $0 != "=" }
        if extra[String(name)] == nil { result.append(text) }
        unsafe place += 1
    }
    return result + extra.map { "\($0.key)=\($0.value)" }
}
