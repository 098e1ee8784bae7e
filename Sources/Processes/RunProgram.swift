// Runs another program to its end and keeps what it says: mmdebstrap, mke2fs, qemu --version.

import Events
import Glibc

/// What a finished program said.
package struct ProgramResult: Sendable {
    package var status: Int32
    /// Standard output and standard error, as they came; at most the last 256 KiB.
    package var output: String
}

/// Why a program did not run to its end.
package enum ProgramError: Error, Sendable, CustomStringConvertible {
    case notInstalled(String)
    case system(SystemError)
    case timedOut(String)
    case cancelled(String)

    package var description: String {
        switch self {
        case .notInstalled(let name): "\(name) is not installed; install its package"
        case .system(let error): error.description
        case .timedOut(let name): "\(name) did not finish in time"
        case .cancelled(let name): "stopped while \(name) ran"
        }
    }
}

/// A program to run, and what it may use.
package struct ProgramRequest: Sendable {
    /// The first is found in PATH.
    package var arguments: [String]
    /// Added to what this process has, or replacing it.
    package var environment: [String: String] = [:]
    /// Run as somebody else, with nothing of our environment: it may hold a database's password.
    package var user: Credentials?
    package var kept: [CInt] = []
    package var executable: CInt = -1
    package var fileSizeLimit = UInt64.max
    /// Written to its standard input; empty: /dev/null.
    package var input: [UInt8] = []
    package var deadline: ContinuousClock.Instant?
    /// Runs to its end although the caller was cancelled.
    package var ignoresCancellation = false

    package init(_ arguments: [String]) { self.arguments = arguments }
}

/// Runs a program and waits; `onLine` sees each line as it comes.
@LoopActor
package func runProgram(
    _ program: ProgramRequest, onLine: (@Sendable (String) -> Void)? = nil
) async throws(ProgramError) -> ProgramResult {
    guard let name = program.arguments.first, let path = findProgram(name) else {
        throw .notInstalled(program.arguments.first ?? "a program")
    }
    let child: Child
    let stream: ByteStream
    do throws(SystemError) {
        let pair = try SocketPair()
        var request = SpawnRequest(arguments: [path] + program.arguments.dropFirst())
        request.executable = program.executable
        request.environment = program.user == nil ? inheritedEnvironment(program.environment) : []
        request.kept = program.kept
        request.fileSizeLimit = program.fileSizeLimit
        request.standardOutput = pair.theirs.number
        request.standardError = pair.theirs.number
        request.fileLimit = .max
        request.user = program.user
        // Open until the child has it: an optional owner that is unwrapped is closed at once.
        let input = try inputFile(program.input)
        if !program.input.isEmpty { request.standardInput = input.number }
        child = try Child.spawn(request)
        stream = ByteStream(pair.take())
        _ = consume input
    } catch { throw .system(error) }
    var lines = LastLines()
    reading: while true {
        switch stream.receive() {
        case .bytes(let bytes): lines.append(bytes, onLine)
        case .ended: break reading
        case .nothingYet:
            let readiness = await EventLoop.shared.ready(
                [(stream.number, .read)], before: program.deadline,
                ignoringCancellation: program.ignoresCancellation)
            if case .ready = readiness { continue }
            _ = await child.end()
            throw readiness == .timedOut ? .timedOut(name) : .cancelled(name)
        }
    }
    let usage = await child.wait()
    return ProgramResult(
        status: usage.status, output: String(decoding: lines.bytes, as: UTF8.self))
}

/// A memory file to be read from its beginning.
private func inputFile(_ bytes: [UInt8]) throws(SystemError) -> Descriptor {
    let file = try Descriptor.memory("mayfly-input")
    guard unsafe write(file.number, bytes, bytes.count) == bytes.count,
        lseek(file.number, 0, SEEK_SET) == 0
    else { throw SystemError("write", "a memory file") }
    return file
}

/// The end of what a program says, in bounded memory.
private struct LastLines {
    private(set) var bytes: [UInt8] = []
    private var lineStart = 0

    mutating func append(_ more: [UInt8], _ onLine: (@Sendable (String) -> Void)?) {
        bytes += more
        while let end = bytes[lineStart...].firstIndex(of: 0x0A) {
            onLine?(String(decoding: bytes[lineStart..<end], as: UTF8.self))
            lineStart = end + 1
        }
        if bytes.count > 512 << 10 {
            let dropped = bytes.count - (256 << 10)
            bytes.removeFirst(dropped)
            lineStart = max(0, lineStart - dropped)
        }
    }
}

/// The absolute path of a program, searched in PATH and in the usual system directories.
package func findProgram(_ name: String) -> String? {
    if name.contains("/") { return unsafe access(name, X_OK) == 0 ? name : nil }
    let path = unsafe getenv("PATH").map { unsafe String(cString: $0) } ?? ""
    let directories =
        path.split(separator: ":").map(String.init) + ["/usr/local/sbin", "/usr/sbin", "/sbin"]
    return directories.map { "\($0)/\(name)" }.first { unsafe access($0, X_OK) == 0 }
}

/// This process's environment, with what is added or replaced.
package func inheritedEnvironment(_ extra: [String: String]) -> [String] {
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
