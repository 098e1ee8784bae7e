// One or more honest samples of every message, and the frozen bytes of version 6. The golden file is
// never written by a test: a change of it is a change of the protocol.

import Foundation
import Testing
import Wire

/// A message of either side with the stream that it travels on.
struct Sample: Sendable {
    enum Message: Equatable, Sendable {
        case host(HostMessage)
        case guest(GuestMessage)
    }
    let name: String
    let stream: UInt32
    let message: Message

    var side: Side {
        if case .host = message { return .host } else { return .guest }
    }
    func encoded() throws(WireError) -> [UInt8] {
        var bytes: [UInt8] = []
        switch message {
        case .host(let message): try message.encode(stream: stream, into: &bytes)
        case .guest(let message): try message.encode(stream: stream, into: &bytes)
        }
        return bytes
    }
    static func host(_ name: String, _ stream: UInt32, _ message: HostMessage) -> Sample {
        Sample(name: name, stream: stream, message: .host(message))
    }
    static func guest(_ name: String, _ stream: UInt32, _ message: GuestMessage) -> Sample {
        Sample(name: name, stream: stream, message: .guest(message))
    }
}

enum Samples {
    static func bytes(_ count: Int, from first: UInt8 = 0) -> [UInt8] {
        (0..<count).map { first &+ UInt8(truncatingIfNeeded: $0) }
    }
    static let nonce = bytes(32, from: 0xC0)
    static let token = bytes(32, from: 0x20)
    /// Every step done.
    static func ready() -> ReadyReport {
        ReadyReport(
            steps: ReadyReport.requiredSteps.map { .init(name: $0, isDone: true) }, realtime: 5,
            sample: bytes(32))
    }
    static let preparation = Preparation(
        entropy: bytes(64), interpreterSeed: bytes(32, from: 0x80),
        realtime: 1_700_000_000_123_456_789, hostname: "job-7f",
        machineID: "0123456789abcdef0123456789abcdef",
        generation: "code-91c58718df53")
    static let exec = ExecRequest(
        program: .python, arguments: ["--level", "ä€😀", ""], sourceName: "src/main.py",
        environment: [EnvironmentVariable("A", "1"), EnvironmentVariable("EMPTY", "")],
        timeoutMilliseconds: 60_000, memoryMaximum: 256 << 20, processMaximum: 64,
        hasStandardInput: true, allowsParked: true, hasEvents: true, reportsValues: true,
        allowsNetwork: true)

    static let all: [Sample] = [
        .host("prepare", 0, .prepare(preparation)),
        .host("put", 1, .put(PutRequest(name: "data/in put-1.csv", byteCount: 70_000))),
        .host(
            "put executable", 3, .put(PutRequest(name: "run.sh", byteCount: 0, isExecutable: true))),
        .host("exec python", 5, .exec(exec)),
        .host(
            "exec command", 7,
            .exec(
                ExecRequest(
                    program: .command, arguments: ["/bin/bash", "main.sh"], allowsParked: false))),
        .host(
            "exec node", 9, .exec(ExecRequest(program: .node, arguments: [], sourceName: "main.js"))
        ),
        .host("stdin", 5, .stdin(Array("hello\n".utf8), isFinal: false)),
        .host("stdin end", 5, .stdin([], isFinal: true)),
        .host("file", 1, .file([0, 1, 2, 0xFF], isFinal: true)),
        .host("signal", 5, .signal(15)),
        .host("kill", 5, .kill),
        .host(
            "list", 11,
            .list(
                ListRequest(
                    patterns: ["**/*.csv", "out/[a-z]?.png"], maximumEntries: 100, changesOnly: true
                ))),
        .host("get", 13, .get(GetRequest(name: "out/a.png", maximumByteCount: 64 << 20))),
        .host("ping", 0, .ping(0x0102_0304_0506_0708)),
        .host("credit", 0, .credit(stream: 5, 65_536)),
        .host("warm", 0, .warm),
        .host("park", 0, .park),
        .host("shutdown", 0, .shutdown),
        .host("rehearse", 0, .rehearse),
        .host("data", 2, .data(Array("HTTP/1.1 200".utf8), isFinal: false)),
        .host("data end", 2, .data([], isFinal: true)),
        .host("close", 2, .close),
        .guest(
            "ready", 0,
            .ready(
                ReadyReport(
                    steps: [
                        .init(name: "entropy", isDone: true),
                        .init(
                            name: "clock", isDone: false,
                            message: "set the clock: Operation not permitted"),
                    ], realtime: 1_700_000_000_123_456_789, sample: bytes(32, from: 0x40)))),
        .guest("started", 5, .started(isParked: true, startMicroseconds: 1234)),
        .guest("stdout", 5, .stdout(Array("42\n".utf8), isFinal: false)),
        .guest("stderr end", 5, .stderr([], isFinal: true)),
        .guest("events", 5, .events(Array("{\"value\": 42}\n".utf8), isFinal: false)),
        .guest(
            "exit code", 5,
            .exit(
                ExitReport(
                    ending: .code(3), cpuMicroseconds: 1500, peakByteCount: 12 << 20,
                    wallMicroseconds: 2000))),
        .guest(
            "exit signal", 5,
            .exit(ExitReport(ending: .signal(9), isOutOfMemory: true, isTimeout: true))),
        .guest(
            "listed", 11,
            .listed(
                [
                    ListedFile(name: "a.csv", byteCount: 1),
                    ListedFile(name: "b/ü.txt", byteCount: 1 << 40),
                ],
                isTruncated: true)),
        .guest("file", 13, .file([9, 8, 7], isFinal: false)),
        .guest("ack", 1, .ack(.ok, message: "")),
        .guest("ack refused", 13, .ack(.tooLarge, message: "it has 5 bytes")),
        .guest("pong", 0, .pong(0x0102_0304_0506_0708, realtime: 1_700_000_000_000_000_000)),
        .guest("credit", 0, .credit(stream: 0, 524_288)),
        .guest("parked", 0, .parked),
        .guest("error", 0, .error(message: "stream 4 cannot be used so")),
        .guest("open proxy", 2, .open(.proxy)),
        .guest("open names", 4, .open(.names)),
        .guest("data", 2, .data(Array("CONNECT ".utf8), isFinal: true)),
        .guest("close", 4, .close),
    ]
}

/// The frozen bytes: name and hexadecimal digits on each line.
enum Golden {
    static func version6() throws -> [(name: String, bytes: [UInt8])] {
        let file = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
            .appendingPathComponent("Golden/v6.txt")
        let text = try String(contentsOf: file, encoding: .utf8)
        return try text.split(separator: "\n").map { line in
            let parts = line.split(separator: "\t")
            let bytes = try #require(parts.count == 2 ? bytes(ofHex: parts[1]) : nil, "\(line)")
            return (String(parts[0]), bytes)
        }
    }
    private static func bytes(ofHex text: Substring) -> [UInt8]? {
        let digits = Array(text.utf8)
        guard digits.count % 2 == 0 else { return nil }
        return stride(from: 0, to: digits.count, by: 2).reduce(into: [UInt8]?([])) { bytes, index in
            let pair = String(decoding: digits[index...index + 1], as: UTF8.self)
            if let byte = UInt8(pair, radix: 16) { bytes?.append(byte) } else { bytes = nil }
        }
    }
    static func hex(_ bytes: [UInt8]) -> String {
        bytes.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
    }
}

/// SplitMix64: the same numbers for the same seed, everywhere.
struct SeededGenerator: RandomNumberGenerator {
    private var state: UInt64
    init(seed: UInt64) { state = seed }
    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var z = state
        z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
        return z ^ (z >> 31)
    }
    /// Below `limit`, from one draw.
    mutating func below(_ limit: Int) -> Int {
        Int(truncatingIfNeeded: next().multipliedFullWidth(by: UInt64(limit)).high)
    }
}

/// How much to fuzz, and from which seed; both can be set from outside.
enum Fuzzing {
    static let cases = number("MAYFLY_FUZZ_CASES") ?? 1_000_000
    static let seed =
        number("MAYFLY_FUZZ_SEED").map(UInt64.init) ?? UInt64.random(in: 0...UInt64(Int.max))
    static func number(_ name: String) -> Int? {
        ProcessInfo.processInfo.environment[name].flatMap(Int.init)
    }
    static func generator(_ test: String, _ salt: UInt64) -> SeededGenerator {
        print("\(test): MAYFLY_FUZZ_SEED=\(seed)")
        return SeededGenerator(seed: seed &+ salt)
    }
}

/// Whether `body` throws a `WireError`; anything else it throws does not compile.
func isViolation(_ body: () throws(WireError) -> Void) -> Bool {
    do throws(WireError) {
        try body()
        return false
    } catch { return true }
}
