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
    nonisolated static let grace = Duration.milliseconds(1500)
    /// How long it may take to report the end of a program that it was told to kill.
    private static let killGrace = Duration.seconds(5)

    /// Puts the job's files, runs its program, and collects what it left.
    ///
    /// - Throws: only for what is not the job's doing; its own failure is in the report.
    func run(
        _ job: GuestJob, onOutput: (@Sendable (OutputStream, [UInt8]) -> Void)? = nil
    ) async throws(MachineError) -> GuestReport {
        network = job.network.map(NetworkRelay.init)
        defer { network = nil }
        let begin = ContinuousClock.now
        let deadline = transferDeadline(job.files.reduce(0) { $0 + $1.byteCount })
        for file in job.files {
            if let refusal = try await put(file, deadline) { throw refusal.error }
        }
        var (report, isAbandoned) = try await runPrograms(job, onOutput)
        report.timings.run = .now - begin
        if isAbandoned { return report }
        let collecting = ContinuousClock.now
        try await collect(job, into: &report)
        report.timings.collect = .now - collecting
        return report
    }

    /// Runs one program after the other, until one fails that may not.
    private func runPrograms(
        _ job: GuestJob, _ onOutput: (@Sendable (OutputStream, [UInt8]) -> Void)?
    ) async throws(MachineError) -> (GuestReport, isAbandoned: Bool) {
        let end = ContinuousClock.now + job.timeout
        var reports: [GuestReport] = []
        for one in job.programs {
            var one = one
            one.timeout = max(.milliseconds(1), end - .now)
            var run = ProgramRun(job: one, begin: .now, onOutput: onOutput)
            one.view?.show(run.output)
            var report: GuestReport?
            if let source = await one.sourceFile(),
                let refusal = try await put(source, .now + transferTimeout)
            {
                // The program before left something in its place.
                guard !reports.isEmpty else { throw refusal.error }
                run.take(
                    Array("\(source.name) cannot be written: \(refusal.words)\n".utf8), .stderr)
                report = await run.report(.exited(code: 126), nil)
            }
            if report == nil {
                run.restart()
                report = try await runProgram(&run)
            }
            guard let report else { break }
            reports.append(report)
            if run.isAbandoned || !report.ending.allowsNext(one.allowsFailure) {
                return (GuestReport(steps: reports), run.isAbandoned)
            }
        }
        return (GuestReport(steps: reports), false)
    }

    // MARK: The program

    private func runProgram(_ run: inout ProgramRun) async throws(MachineError) -> GuestReport {
        let job = run.job
        let stream = try open(.exec(job.request))
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
                answer = try await messageOrCredit(
                    before: run.deadline, sendingOn: isInputFinished ? nil : stream)
            } catch  where slowness == .deadline {
                // The guest should have ended it, by its own clock or by KILL; ours does not depend
                // on that.
                run.isAbandoned = true
                return await run.report(run.overflow.map { .outputLimit($0) } ?? .timedOut, nil)
            }
            guard let (_, message) = answer else { continue }
            if let report = try await handle(message, on: stream, &run) { return report }
        }
    }

    /// Takes one message of a running program; the report when it was the last.
    private func handle(
        _ message: GuestMessage, on stream: UInt32, _ run: inout ProgramRun
    ) async throws(MachineError) -> GuestReport? {
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
        case .events(let bytes, _):
            run.output.events.append(bytes)
            try release(bytes.count, of: stream)
        case .exit(let exit):
            return await run.report(run.ending(exit), exit)
        case .ack(let status, let words):
            throw MachineError(
                .machineLost, "the guest could not start the program (\(status)): \(words)")
        default:
            throw MachineError(.protocolViolation, "\(message.type) while a program runs")
        }
        if run.isOverflowing, !run.isKilled {
            run.isKilled = true
            run.deadline = min(run.deadline, .now + Self.killGrace)
            try send(.kill, on: stream)
        }
        return nil
    }
}

extension GuestJob {
    /// Bytes from which on copying and hashing is no longer the loop's business.
    static let smallByteCount = 256 << 10

    /// Each program with what belongs to it, in the order in which they run.
    package var programs: [GuestJob] {
        let share = ByteCount(bytes: limits.kept.bytes / (1 + nextSteps.count))
        return [self]
            + nextSteps.map { step in
                var job = self
                job.program = step.program
                job.arguments = step.arguments
                job.standardInput = step.standardInput
                job.environment = step.environment
                job.usesParkedInterpreter = step.usesParkedInterpreter
                job.reportsValues = step.reportsValues
                job.allowsFailure = step.allowsFailure
                job.limits.kept = share
                return job
            }
    }
    /// What the harness calls its own: a source, or what became of it.
    var sourceNames: [String] {
        var names = programs.compactMap(\.sourceName)
        if names.contains(where: { $0 == "main.js" || $0 == "main.ts" }) {
            names.append("main.mjs")
        }
        return names
    }
    /// What the source's file is called.
    package var sourceName: String? {
        switch program {
        case .python: "main.py"
        case .node: "main.js"
        case .typescript: "main.ts"
        case .bash: "main.sh"
        case .command: nil
        }
    }
    /// The file that the source becomes.
    func sourceFile() async -> GuestFile? {
        guard let name = sourceName else { return nil }
        switch program {
        case .python(let source), .node(let source), .typescript(let source),
            .bash(let source):
            let isSmall = source.utf8.count < Self.smallByteCount
            let bytes = isSmall ? Array(source.utf8) : await offload { Array(source.utf8) }
            return GuestFile(name: name, bytes: bytes)
        case .command: return nil
        }
    }
    var request: ExecRequest {
        var request: ExecRequest
        switch program {
        case .python:
            request = ExecRequest(program: .python, arguments: arguments, sourceName: "main.py")
        case .node:
            request = ExecRequest(program: .node, arguments: arguments, sourceName: "main.js")
        case .typescript:
            request = ExecRequest(program: .node, arguments: arguments, sourceName: "main.ts")
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
        request.hasEvents = hasEvents || reportsValues
        if request.program != .command { request.reportsValues = reportsValues }
        request.allowsNetwork = network != nil
        return request
    }
}

extension GuestReport {
    /// Notes a limit; the first one stands, and a failure of the program itself stands before it.
    mutating func limit(_ sentence: String) {
        if case .exited(code: 0) = ending { ending = .outputLimit(sentence) }
    }
}

extension GuestReport.Ending {
    /// Whether a program may follow one that ended so.
    fileprivate func allowsNext(_ allowsFailure: Bool) -> Bool {
        switch self {
        case .exited(code: 0): true
        case .exited, .signalled, .outOfMemory: allowsFailure
        case .timedOut, .outputLimit: false
        }
    }
}

/// The bookkeeping of one running program.
@LoopActor
private struct ProgramRun {
    let job: GuestJob
    private(set) var begin: ContinuousClock.Instant
    let onOutput: (@Sendable (OutputStream, [UInt8]) -> Void)?
    let output: ProgramOutput
    var firstByte: Duration?
    var isWarm = false
    var isKilled = false
    /// When the guest must have reported the end.
    var deadline: ContinuousClock.Instant
    /// The guest did not report the end in time; there is no point in asking it for files.
    var isAbandoned = false

    init(
        job: GuestJob, begin: ContinuousClock.Instant,
        onOutput: (@Sendable (OutputStream, [UInt8]) -> Void)?
    ) {
        self.job = job
        self.begin = begin
        self.onOutput = onOutput
        deadline = begin + job.timeout + AgentSession.grace
        output = ProgramOutput(job.limits)
    }

    /// The program starts now, and not when its files were sent.
    mutating func restart() {
        begin = .now
        deadline = begin + job.timeout + AgentSession.grace
    }

    /// Which stream printed more than is allowed.
    var overflow: String? {
        guard isOverflowing else { return nil }
        let printed = job.limits.printed.bytes
        if output.events.total > printed {
            return "the events went over \(job.limits.printed); write files instead"
        }
        let name = output.stdout.total > printed ? "stdout" : "stderr"
        return "\(name) went over \(job.limits.printed); print less or write a file"
    }
    var isOverflowing: Bool {
        max(output.stdout.total, output.stderr.total, output.events.total)
            > job.limits.printed.bytes
    }
    mutating func take(_ bytes: [UInt8], _ stream: OutputStream) {
        guard !bytes.isEmpty else { return }
        if firstByte == nil { firstByte = .now - begin }
        switch stream {
        case .stdout: output.stdout.append(bytes)
        case .stderr: output.stderr.append(bytes)
        }
        if !isOverflowing { onOutput?(stream, bytes) }
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
    func report(_ ending: GuestReport.Ending, _ exit: ExitReport?) async -> GuestReport {
        let wall = ContinuousClock.now - begin
        let (stdout, stderr, events) = await captured
        return GuestReport(
            ending: ending, stdout: stdout, stderr: stderr, events: events, files: [],
            cpu: .microseconds(Int64(clamping: exit?.cpuMicroseconds ?? 0)),
            peakMemory: ByteCount(bytes: Int(clamping: exit?.peakByteCount ?? 0)),
            wall: wall, firstByte: firstByte, isWarm: isWarm)
    }
    private var captured: (CapturedOutput, CapturedOutput, CapturedOutput) {
        get async {
            let (stdout, stderr, events) = (output.stdout, output.stderr, output.events)
            if stdout.total + stderr.total + events.total < GuestJob.smallByteCount {
                return (stdout.captured, stderr.captured, events.captured)
            }
            return await offload { (stdout.captured, stderr.captured, events.captured) }
        }
    }
}
