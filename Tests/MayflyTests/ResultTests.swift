// What a machine's report becomes in `mayfly.job`: result, error, outcome. Reports are made by
// hand.

import Jobs
import StrictJSON
import TestSupport
import Testing

@testable import Machines
@testable import Mayfly

@Suite("A result")
struct ResultTests {
    private func run(
        _ ending: GuestReport.Ending, stdout: [UInt8] = [], stderr: [UInt8] = [],
        files: [OutputFile] = [], isTruncated: Bool = false
    ) -> MachineRun {
        func output(_ bytes: [UInt8]) -> CapturedOutput {
            CapturedOutput(
                bytes: bytes, total: ByteCount(bytes: bytes.count), isTruncated: isTruncated)
        }
        return MachineRun(
            report: GuestReport(
                ending: ending, stdout: output(stdout), stderr: output(stderr), events: output([]),
                files: files,
                cpu: .milliseconds(12), peakMemory: .mebibytes(3), wall: .milliseconds(34),
                firstByte: .microseconds(1500), isWarm: true,
                timings: JobTimings(run: .milliseconds(3), collect: .milliseconds(4))),
            identity: MachineIdentity(
                id: "m-1", image: "code", generation: "g1", hypervisor: .qemu,
                accelerator: .tcg, transport: .virtioSerial, entropySeed: [1, 2], clock: 7),
            timings: MachineTimings(
                restore: .milliseconds(1), prepare: .milliseconds(2),
                destroy: .milliseconds(5), startedFrom: .standby))
    }
    private func result(_ run: MachineRun) -> CodeResult {
        CodeResult(
            run: run, programName: "python", timeout: .seconds(5), queueDelay: .milliseconds(9))
    }

    @Test func `has exactly the members of the contract`() throws {
        let file = OutputFile(name: "a.png", bytes: [1, 2, 3], sha256: "ab")
        let json = result(run(.exited(code: 0), stdout: Array("42\n".utf8), files: [file])).json
        guard case .object(let members) = json else {
            Issue.record("no object")
            return
        }
        #expect(
            members.map(\.name) == [
                "exit_code", "stdout", "stderr", "truncated", "warnings", "value", "displays",
                "exception", "files", "skipped_files", "usage",
                "timings", "machine",
            ])
        #expect(json["exit_code"] == .number(0))
        #expect(json["stdout"] == .string("42\n"))
        #expect(json["truncated"]?.text == "{}")
        #expect(json["warnings"]?.text == "[]")
        #expect(json["files"]?.text == #"[{"name":"a.png","size":3,"sha256":"ab","status":"new"}]"#)
        #expect(
            json["machine"]?.text
                == #"{"image":"code","generation":"g1","hypervisor":"qemu","accelerator":"tcg","transport":"virtio-serial"}"#
        )
        let timings = json["timings"]
        #expect(timings?["queue_ms"] == .number(9.0))
        #expect(timings?["restore_ms"] == .number(1.0))
        #expect(timings?["first_byte_ms"] == .number(1.5))
        #expect(timings?["interpreter"] == .string("warm"))
        #expect(timings?["started_from"] == .string("standby"))
        #expect(json["usage"]?["peak_memory_bytes"] == .number(3 << 20))
        #expect(try JSON(parsing: json.text) == json)
    }

    private static let endings: [(GuestReport.Ending, Reason?, String)] = [
        (.exited(code: 0), nil, "0"), (.exited(code: 3), .exitNonzero, "3"),
        (.signalled(9), .signalled, "137"), (.timedOut, .timeout, "null"),
        (.outOfMemory, .outOfMemory, "null"), (.outputLimit("too much"), .outputLimit, "null"),
    ]
    @Test("is called by how the program ended", arguments: endings)
    func isCalled(_ ending: GuestReport.Ending, _ reason: Reason?, _ code: String) {
        let result = result(run(ending, stderr: Array("Traceback\nValueError: no\n\n".utf8)))
        #expect(result.failure?.reason == reason)
        #expect(result.json["exit_code"]?.text == code)
        if case .exited(code: 3) = ending {
            #expect(result.failure?.message == "python ended with exit code 3: ValueError: no")
        }
        if case .timedOut = ending {
            #expect(result.failure?.message == "python still ran after 5s and was stopped")
        }
    }

    @Test func `keeps the exact bytes of output that is no text`() {
        let bytes: [UInt8] = [0x41, 0xFF, 0x00, 0x42]
        let json = result(run(.exited(code: 0), stdout: bytes)).json
        #expect(json["stdout"] == .string("A\u{FFFD}\u{FFFD}B"))
        #expect(json["stdout_base64"] == .string("Qf8AQg=="))
        #expect(json["stderr_base64"] == nil)
        #expect(!json.text.contains("\\u0000"))
    }

    @Test func `holds nothing that PostgreSQL or a terminal chokes on, whatever was printed`()
        throws
    {
        var random = SeededGenerator(for: "result fuzz")
        for _ in 0..<2000 {
            let bytes = (0..<Int.random(in: 0...64, using: &random)).map { _ in
                UInt8.random(in: 0...255, using: &random)
            }
            let result = result(run(.exited(code: 1), stdout: bytes, stderr: bytes))
            #expect(try JSON(parsing: result.json.text) == result.json)
            #expect(result.json["stdout"]?.string?.utf8.contains(0) == false)
            #expect(result.logTail?.utf8.contains(0) != true)
            let message = result.failure?.message ?? ""
            #expect(message.unicodeScalars.allSatisfy { $0.value >= 0x20 && $0.value != 0x7F })
            if let exact = result.json["stdout_base64"]?.string {
                #expect(Base64.decode(exact) == bytes)
            } else {
                #expect(result.json["stdout"]?.string.map { Array($0.utf8) } == bytes)
            }
        }
    }

    @Test func `every cut is named, with how much there had been`() {
        let json = result(run(.exited(code: 0), stderr: [0x41], isTruncated: true)).json
        #expect(json["truncated"]?.text == #"{"stdout":{"bytes":0},"stderr":{"bytes":1}}"#)
    }

    @Test func `output files that are missing are named beside a success`() {
        let warnings: [(GuestReport.Warning, code: String, truncated: String)] = [
            (.listingTruncated, "outputs_truncated", #"{"files":{"kept":0}}"#),
            (.listingFailed("EMFILE"), "outputs_unreadable", "{}"),
            (.fileUnreadable("a.png", "EMFILE"), "outputs_unreadable", "{}"),
            (.collectionUnfinished, "outputs_unfinished", #"{"files":{"kept":0}}"#),
        ]
        for (warning, code, truncated) in warnings {
            var run = run(.exited(code: 0))
            run.report.warnings = [warning]
            let result = result(run)
            #expect(result.failure == nil)
            #expect(result.warnings.map(\.code) == [code])
            #expect(result.json["warnings"]?.text.contains(code) == true)
            #expect(result.json["truncated"]?.text == truncated)
        }
    }

    @Test(
        "every machine error has a reason that SQL knows and that is not the job's fault",
        arguments: [
            MachineError.Reason.machineLost, .restoreFailed, .imageMissing, .imageRefused,
            .hostUnfit,
            .buildFailed, .cancelled,
        ])
    func machineErrors(_ reason: MachineError.Reason) {
        #expect(Reason(MachineError(reason, "x")).isOurs)
    }
}
