// What a `code` job leaves in `mayfly.job.result` and how its end is called. Pure: a machine's
// report goes in, JSON and words come out. Everything in a report may have been chosen by a guest.

import Jobs
import Machines
import StrictJSON

/// A finished program, as it is stored.
struct CodeResult: JobResult {
    let run: MachineRun
    /// Of the program that ended the job.
    let programName: String
    /// Which of several programs that was.
    private let place: String
    let timeout: Duration
    /// How long the job waited in the queue; `nil` where there was none.
    let queueDelay: Duration?
    let events: CodeEvents
    /// What it did on the network; `nil` where it had none.
    private let network: NetworkSummary?

    init(
        run: MachineRun, programName: String, timeout: Duration, queueDelay: Duration?,
        network: NetworkSummary? = nil
    ) {
        self.run = run
        let names = programName.split(separator: ", ").map(String.init)
        let count = run.report.steps.count
        self.programName = names[max(0, min(count, names.count) - 1)]
        place = names.count > 1 ? "step \(max(1, count)) of \(names.count): " : ""
        self.timeout = timeout
        self.queueDelay = queueDelay
        self.network = network
        events = CodeEvents(run.report.events, files: run.report.files.map(\.name))
    }

    var files: [OutputFile] { run.report.files }
    var identity: MachineIdentity { run.identity }

    /// `nil` when the program did what it should.
    var failure: Failure? {
        switch run.report.ending {
        case .exited(code: 0): nil
        case .exited(let code):
            Failure(
                .exitNonzero,
                "\(place)\(programName) ended with exit code \(code)\(lastWords)\(missingModule)"
                    + (network?.advice ?? ""))
        case .signalled(let signal):
            Failure(
                .signalled,
                "\(place)\(programName) was ended by signal \(signal)"
                    + "\(Self.signalNames[signal].map { " (\($0))" } ?? "")\(lastWords)")
        case .timedOut:
            Failure(
                .timeout,
                "\(place)\(programName) still ran after \(timeout.settingText) and was stopped")
        case .outOfMemory:
            Failure(
                .outOfMemory,
                "\(place)\(programName) used more memory than its machine has "
                    + "(files in the job's directory count, too)")
        case .outputLimit(let sentence):
            Failure(.outputLimit, place + sentence)
        }
    }

    private static let signalNames: [Int32: String] = [
        2: "SIGINT", 4: "SIGILL", 6: "SIGABRT", 7: "SIGBUS", 8: "SIGFPE", 9: "SIGKILL",
        11: "SIGSEGV", 13: "SIGPIPE", 15: "SIGTERM",
    ]

    /// The last line of stderr: for most programs, the reason.
    private var lastWords: String {
        let tail = run.report.stderr.bytes.suffix(4096)
        let line = tail.split { $0 == 0x0A || $0 == 0x0D }
            .last { $0.contains { $0 > 0x20 } }
        guard let line else { return "" }
        let text = String(decoding: line, as: UTF8.self)
        return ": " + Self.printable(text, atMost: 300)
    }

    /// What to do about a module that the image does not have.
    private var missingModule: String {
        let said = (events.exception["message"]?.string ?? lastWords).prefix(400)
        for beginning in ["No module named '", "Cannot find module '", "Cannot find package '"] {
            guard let range = said.firstRange(of: beginning) else { continue }
            let name = Self.printable(
                String(said[range.upperBound...].prefix { $0 != "'" }), atMost: 100)
            // A path is a file of the job's own.
            guard !name.isEmpty, !name.contains("/") || name.hasPrefix("@") else { return "" }
            let image = run.identity.image
            return "; the image \(image) has no module \(name): add its package to "
                + "image.\(image).packages or image.\(image).pip in worker.conf and build the image"
        }
        return ""
    }

    private static func printable(_ text: String, atMost limit: Int) -> String {
        var result = String.UnicodeScalarView()
        for scalar in text.unicodeScalars.prefix(limit) {
            let isControl = scalar.value < 0x20 || (0x7F..<0xA0).contains(scalar.value)
            result.append(isControl ? " " : scalar)
        }
        return String(result)
    }

    // MARK: JSON

    /// `result`, without the files' bytes; those are blobs.
    var json: JSON {
        let report = run.report
        var members = Self.ending(report)
        members += [
            .init(name: "truncated", value: truncated),
            .init(
                name: "warnings",
                value: .array(
                    warnings.map {
                        .object(["code": .string($0.code), "message": .string($0.message)])
                    })),
            .init(name: "value", value: events.value),
            .init(name: "displays", value: .array(events.displays)),
            .init(name: "exception", value: events.exception),
            .init(name: "files", value: .array(report.files.map(Self.file))),
            .init(
                name: "skipped_files",
                value: .array(
                    report.skippedFiles.map {
                        [
                            "name": .string($0.name), "size": .number("\($0.size)"),
                            "reason": .string($0.reason.rawValue),
                        ]
                    })),
            .init(name: "usage", value: usage),
            .init(name: "timings", value: timings),
            .init(name: "machine", value: machine),
        ]
        if let network = network?.json { members.append(.init(name: "network", value: network)) }
        if !report.steps.isEmpty {
            members.append(.init(name: "steps", value: .array(report.steps.map(step))))
        }
        return .object(members)
    }

    /// One of several programs.
    private func step(_ report: GuestReport) -> JSON {
        let events = CodeEvents(report.events, files: run.report.files.map(\.name))
        return .object(
            Self.ending(report) + [
                .init(name: "truncated", value: .object(Self.cuts(report))),
                .init(name: "value", value: events.value),
                .init(name: "displays", value: .array(events.displays)),
                .init(name: "exception", value: events.exception),
                .init(name: "usage", value: Self.usage(report)),
            ])
    }

    /// How a program ended and what it printed.
    private static func ending(_ report: GuestReport) -> [JSON.Member] {
        [.init(name: "exit_code", value: exitCode(report.ending))]
            + output("stdout", report.stdout) + output("stderr", report.stderr)
    }

    /// What was cut of what a program printed, with how much there had been.
    private static func cuts(_ report: GuestReport) -> [JSON.Member] {
        [("stdout", report.stdout), ("stderr", report.stderr)].filter { $1.isTruncated }
            .map { .init(name: $0, value: ["bytes": .number($1.total.bytes)]) }
    }

    /// What was cut, each with how much there had been; empty when all of it is here.
    private var truncated: JSON {
        let report = run.report
        var members = Self.cuts(report)
        let isListingCut = report.warnings.contains {
            $0 == .listingTruncated || $0 == .collectionUnfinished
        }
        if isListingCut {
            members.append(
                .init(name: "files", value: .object(["kept": .number(report.files.count)])))
        }
        return .object(members)
    }

    /// What is not as it should be although the program did its part; the codes are a closed list.
    var warnings: [(code: String, message: String)] {
        events.warnings + Self.warnings(of: run.report)
    }

    /// What is missing of a job's files although it did its part.
    static func warnings(of report: GuestReport) -> [(code: String, message: String)] {
        report.warnings.map { warning in
            switch warning {
            case .listingTruncated:
                (
                    "outputs_truncated",
                    "more files match the patterns in \"outputs\" than were listed; "
                        + "use narrower patterns, or leave one archive"
                )
            case .listingFailed(let words):
                ("outputs_unreadable", "the output files could not be listed: \(words)")
            case .fileUnreadable(let name, let words):
                ("outputs_unreadable", "the output file \(name) could not be read: \(words)")
            case .collectionUnfinished:
                (
                    "outputs_unfinished",
                    "collecting the output files took too long; "
                        + "those that came in time are here"
                )
            }
        }
    }

    /// As a shell would say it; null when the program was stopped by us.
    private static func exitCode(_ ending: GuestReport.Ending) -> JSON {
        switch ending {
        case .exited(let code): .number(Int(code))
        case .signalled(let signal): .number(128 + Int(signal))
        case .timedOut, .outOfMemory, .outputLimit: .null
        }
    }

    static func file(_ file: OutputFile) -> JSON {
        .object([
            "name": .string(file.name), "size": .number(file.byteCount),
            "sha256": .string(file.sha256), "status": .string(file.status.rawValue),
        ])
    }

    /// The text, and the exact bytes beside it where JSON or PostgreSQL cannot hold them.
    private static func output(_ name: String, _ output: CapturedOutput) -> [JSON.Member] {
        let text = lossyText(output.bytes)
        var members = [JSON.Member(name: name, value: .string(text.text))]
        if !text.isExact {
            members.append(
                .init(name: "\(name)_base64", value: .string(Base64.encode(output.bytes))))
        }
        return members
    }

    /// The end of what it wrote to stderr, for `mayfly.attempt`.
    var logTail: String? {
        let bytes = run.report.stderr.bytes
        return bytes.isEmpty ? nil : Self.lossyText(Array(bytes.suffix(8192))).text
    }

    /// UTF-8 with U+FFFD for what is none, and for zero, which jsonb refuses.
    static func lossyText(_ bytes: [UInt8]) -> (text: String, isExact: Bool) {
        let hasZero = bytes.contains(0)
        if !hasZero, let exact = String(validating: bytes, as: UTF8.self) { return (exact, true) }
        let text = String(decoding: bytes, as: UTF8.self)
        guard hasZero else { return (text, false) }
        var scalars = String.UnicodeScalarView()
        for scalar in text.unicodeScalars { scalars.append(scalar == "\0" ? "\u{FFFD}" : scalar) }
        return (String(scalars), false)
    }

    var usage: JSON { Self.usage(run.report) }
    private static func usage(_ report: GuestReport) -> JSON {
        .object([
            "cpu_ms": .number(report.cpu.milliseconds),
            "wall_ms": .number(report.wall.milliseconds),
            "peak_memory_bytes": .number(report.peakMemory.bytes),
            "stdout_bytes": .number(report.stdout.total.bytes),
            "stderr_bytes": .number(report.stderr.total.bytes),
        ])
    }

    var timings: JSON {
        let (report, timings) = (run.report, run.timings)
        var members: [JSON.Member] = []
        func add(_ name: String, _ duration: Duration?) {
            guard let duration else { return }
            members.append(.init(name: name, value: .number(duration.milliseconds)))
        }
        add("queue_ms", queueDelay)
        add("restore_ms", timings.restore)
        add("prepare_ms", timings.prepare)
        add("run_ms", report.timings.run)
        add("first_byte_ms", report.firstByte)
        add("collect_ms", report.timings.collect)
        members.append(.init(name: "started_from", value: .string(timings.startedFrom.rawValue)))
        members.append(
            .init(name: "interpreter", value: .string(report.isWarm ? "warm" : "cold")))
        return .object(members)
    }

    var machine: JSON {
        let machine = run.identity
        return .object([
            "image": .string(machine.image), "generation": .string(machine.generation),
            "hypervisor": .string(machine.hypervisor.rawValue),
            "accelerator": .string(machine.accelerator.rawValue),
            "transport": .string(machine.transport.rawValue),
        ])
    }
}
