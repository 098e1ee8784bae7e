// One job over one session: files in, program, output, files out. Every bound is the host's own;
// what the guest says decides nothing but the job's own result.

import Events
import Glibc
import Logging
import Processes
import Wire

/// Which output stream a chunk belongs to.
package enum OutputStream: String, Sendable {
    case stdout
    case stderr
}

extension AgentSession {
    /// How long after the job's own timeout the guest may take to report its end.
    private static let grace = Duration.milliseconds(1500)
    /// For each step around the program: files in, files out.
    private static let transferTimeout = Duration.seconds(120)

    /// Puts the job's files, runs its program, and collects what it left.
    ///
    /// - Throws: only for what is not the job's doing; its own failure is in the report.
    func run(
        _ job: GuestJob, onOutput: (@Sendable (OutputStream, [UInt8]) -> Void)? = nil
    ) async throws(MachineError) -> GuestReport {
        let begin = ContinuousClock.now
        if let source = job.sourceFile { try await put(source) }
        for file in job.files { try await put(file) }
        var run = ProgramRun(job: job, begin: .now, onOutput: onOutput)
        var report = try await runProgram(&run)
        report.timings.run = .now - begin
        if report.ending == .timedOut || run.isAbandoned { return report }
        let collecting = ContinuousClock.now
        try await collect(job, into: &report)
        report.timings.collect = .now - collecting
        return report
    }

    // MARK: Files in

    private func put(_ file: GuestFile) async throws(MachineError) {
        let deadline = ContinuousClock.now + Self.transferTimeout
        let stream = try open(
            .put(PutRequest(name: file.name, byteCount: UInt64(file.bytes.count))))
        var sent = 0
        var isFinished = false
        while true {
            while !isFinished, capacity(of: stream) > 0 || file.bytes.isEmpty {
                let end = min(file.bytes.count, sent + capacity(of: stream))
                isFinished = end == file.bytes.count
                try sendData(file.bytes[sent..<end], on: stream, isFinal: isFinished)
                sent = end
            }
            let answer: (stream: UInt32, GuestMessage)?
            if isFinished {
                answer = try await message(before: deadline)
            } else {
                answer = try await messageOrCredit(before: deadline, sendingOn: stream)
            }
            guard let (_, message) = answer else { continue }
            guard case .ack(let status, let words) = message else {
                throw MachineError(.protocolViolation, "a file was not answered with ACK")
            }
            guard status == .ok else {
                throw MachineError(
                    .machineLost, "the guest could not store \(file.name): \(words)")
            }
            return
        }
    }

    // MARK: The program

    private func runProgram(_ run: inout ProgramRun) async throws(MachineError) -> GuestReport {
        let job = run.job
        let stream = try open(.exec(job.request))
        let deadline = run.begin + job.timeout + Self.grace
        var input = job.standardInput[...]
        var isInputFinished = job.standardInput.isEmpty
        while true {
            while !isInputFinished, capacity(of: stream) > 0 {
                let count = min(capacity(of: stream), input.count)
                isInputFinished = count == input.count
                try sendData(input.prefix(count), on: stream, isFinal: isInputFinished)
                input = input.dropFirst(count)
            }
            let answer: (stream: UInt32, GuestMessage)?
            do throws(MachineError) {
                if isInputFinished {
                    answer = try await message(before: deadline)
                } else {
                    answer = try await messageOrCredit(before: deadline, sendingOn: stream)
                }
            } catch  where .now >= deadline && error.reason == .restoreFailed {
                // The guest's own clock should have ended it; ours does not depend on that.
                run.isAbandoned = true
                return run.report(.timedOut, nil)
            }
            guard let (_, message) = answer else { continue }
            if let report = try handle(message, on: stream, &run) { return report }
        }
    }

    /// Takes one message of a running program; the report when it was the last.
    private func handle(
        _ message: GuestMessage, on stream: UInt32, _ run: inout ProgramRun
    ) throws(MachineError) -> GuestReport? {
        switch message {
        case .started(let isParked, _):
            run.isWarm = isParked
            Logger.current.debug("program started")
        case .stdout(let bytes, _):
            run.take(bytes, .stdout)
            try release(bytes.count, of: stream)
        case .stderr(let bytes, _):
            run.take(bytes, .stderr)
            try release(bytes.count, of: stream)
        case .exit(let exit):
            return run.report(run.ending(exit), exit)
        case .ack(let status, let words):
            throw MachineError(
                .machineLost, "the guest could not start the program (\(status)): \(words)")
        default:
            throw MachineError(.protocolViolation, "\(message.type) while a program runs")
        }
        if run.overflow != nil, !run.isKilled {
            run.isKilled = true
            try send(.kill, on: stream)
        }
        return nil
    }

    // MARK: Files out

    private func collect(
        _ job: GuestJob, into report: inout GuestReport
    ) async throws(MachineError) {
        guard !job.outputs.isEmpty else { return }
        let deadline = ContinuousClock.now + Self.transferTimeout
        _ = try open(
            .list(
                ListRequest(
                    patterns: job.outputs, maximumEntries: UInt16(Limits.listedFiles))))
        let (_, message) = try await message(before: deadline)
        guard case .listed(let listed, _) = message else {
            throw MachineError(.protocolViolation, "LIST was not answered with LISTED")
        }
        // What the host put there itself is no output, unless the job asked for it by name.
        let given = Set(job.files.map(\.name) + [job.sourceFile?.name].compactMap(\.self))
        let wanted = listed.filter { !given.contains($0.name) || job.outputs.contains($0.name) }
        if wanted.count > job.limits.fileCount {
            report.limit("\(wanted.count) output files; at most \(job.limits.fileCount) are kept")
        }
        var total = 0
        for file in wanted.prefix(job.limits.fileCount) {
            let room = min(job.limits.file.bytes, job.limits.allFiles.bytes - total)
            if file.byteCount > UInt64(room) {
                report.limit(
                    "the output file \(file.name) has \(file.byteCount) bytes; at most "
                        + "\(job.limits.file) each and \(job.limits.allFiles) in all are kept")
                continue
            }
            guard let bytes = try await get(file.name, atMost: room, deadline) else { continue }
            total += bytes.count
            report.files.append(
                OutputFile(name: file.name, bytes: bytes, sha256: SHA256.hex(of: bytes)))
        }
    }

    private func get(
        _ name: String, atMost maximum: Int, _ deadline: ContinuousClock.Instant
    ) async throws(MachineError) -> [UInt8]? {
        let stream = try open(
            .get(GetRequest(name: name, maximumByteCount: UInt64(maximum))))
        var bytes: [UInt8] = []
        while true {
            let (_, message) = try await message(before: deadline)
            switch message {
            case .file(let chunk, let isFinal):
                bytes += chunk
                guard bytes.count <= maximum else {
                    throw MachineError(
                        .protocolViolation, "the guest sent more of a file than was asked for")
                }
                try release(chunk.count, of: stream)
                if isFinal { return bytes }
            // It may have vanished or grown since it was listed; that is the job's business.
            case .ack: return nil
            default:
                throw MachineError(.protocolViolation, "\(message.type) while a file is read")
            }
        }
    }
}

extension GuestJob {
    /// The file that the source becomes.
    var sourceFile: GuestFile? {
        switch program {
        case .python(let source): GuestFile(name: "main.py", bytes: Array(source.utf8))
        case .node(let source): GuestFile(name: "main.js", bytes: Array(source.utf8))
        case .bash(let source): GuestFile(name: "main.sh", bytes: Array(source.utf8))
        case .command: nil
        }
    }
    var request: ExecRequest {
        var request: ExecRequest
        switch program {
        case .python:
            request = ExecRequest(program: .python, arguments: arguments, sourceName: "main.py")
        case .node:
            request = ExecRequest(program: .node, arguments: arguments, sourceName: "main.js")
        case .bash:
            request = ExecRequest(
                program: .command, arguments: ["/bin/bash", "main.sh"] + arguments)
        case .command(let words):
            request = ExecRequest(program: .command, arguments: words + arguments)
        }
        request.environment = environment.map { EnvironmentVariable($0.name, $0.value) }
        request.timeoutMilliseconds = UInt32(clamping: timeout.nanoseconds / 1_000_000)
        request.memoryMaximum = UInt64(memory?.bytes ?? 0)
        request.hasStandardInput = !standardInput.isEmpty
        request.allowsParked = usesParkedInterpreter
        return request
    }
}

extension GuestReport {
    /// Notes a limit; the first one stands, and a failure of the program itself stands before it.
    mutating func limit(_ sentence: String) {
        if case .exited(code: 0) = ending { ending = .outputLimit(sentence) }
    }
}

/// The bookkeeping of one running program.
private struct ProgramRun {
    let job: GuestJob
    let begin: ContinuousClock.Instant
    let onOutput: (@Sendable (OutputStream, [UInt8]) -> Void)?
    var stdout: OutputCapture
    var stderr: OutputCapture
    var firstByte: Duration?
    var isWarm = false
    var isKilled = false
    /// The guest did not report the end in time; there is no point in asking it for files.
    var isAbandoned = false

    init(
        job: GuestJob, begin: ContinuousClock.Instant,
        onOutput: (@Sendable (OutputStream, [UInt8]) -> Void)?
    ) {
        self.job = job
        self.begin = begin
        self.onOutput = onOutput
        stdout = OutputCapture(kept: job.limits.kept)
        stderr = OutputCapture(kept: job.limits.kept)
    }

    /// Which stream printed more than is allowed.
    var overflow: String? {
        for (name, stream) in [("stdout", stdout), ("stderr", stderr)]
        where stream.total > job.limits.printed.bytes {
            return "\(name) went over \(job.limits.printed); print less or write a file"
        }
        return nil
    }
    mutating func take(_ bytes: [UInt8], _ stream: OutputStream) {
        guard !bytes.isEmpty else { return }
        if firstByte == nil { firstByte = .now - begin }
        switch stream {
        case .stdout: stdout.append(bytes)
        case .stderr: stderr.append(bytes)
        }
        if overflow == nil { onOutput?(stream, bytes) }
    }
    func ending(_ exit: ExitReport) -> GuestReport.Ending {
        if let overflow { return .outputLimit(overflow) }
        if exit.isTimeout { return .timedOut }
        if exit.isOutOfMemory { return .outOfMemory }
        switch exit.ending {
        case .code(let code): return .exited(code: code)
        case .signal(let signal): return .signalled(signal)
        }
    }
    func report(_ ending: GuestReport.Ending, _ exit: ExitReport?) -> GuestReport {
        GuestReport(
            ending: ending, stdout: stdout.captured, stderr: stderr.captured, files: [],
            cpu: .microseconds(Int64(clamping: exit?.cpuMicroseconds ?? 0)),
            peakMemory: ByteCount(bytes: Int(clamping: exit?.peakByteCount ?? 0)),
            wall: .now - begin, firstByte: firstByte, isWarm: isWarm)
    }
}
