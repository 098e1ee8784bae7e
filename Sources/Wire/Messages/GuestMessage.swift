// What the guest says. The host decodes it as data of a hostile machine: strict, bounded, and never
// more than a statement of the guest about itself.

/// The answer to PREPARE.
package struct ReadyReport: Equatable, Sendable {
    package struct Step: Equatable, Sendable {
        package var name: String
        package var isDone: Bool
        package var message: String
        package init(name: String, isDone: Bool, message: String = "") {
            self.name = name
            self.isDone = isDone
            self.message = message
        }
    }
    /// What must have been done before a machine may run a job.
    package static let requiredSteps = [
        "entropy", "clock", "hostname", "machine-id", "boot-id", "interpreters", "workdir",
    ]
    package var steps: [Step]
    /// The guest's clock after it was set: nanoseconds since 1970.
    package var realtime: Int64
    /// 32 bytes of /dev/urandom after the generator was rekeyed.
    package var sample: [UInt8]
    package init(steps: [Step], realtime: Int64, sample: [UInt8]) {
        self.steps = steps
        self.realtime = realtime
        self.sample = sample
    }
    /// Why this machine may not be used: a required step that is missing or failed; `nil` when all
    /// are proven.
    package var unproven: String? {
        for name in Self.requiredSteps {
            guard let step = steps.first(where: { $0.name == name }) else {
                return "\(name): not reported"
            }
            if !step.isDone { return "\(name): \(step.message)" }
        }
        return nil
    }
}

/// How a program ended.
package struct ExitReport: Equatable, Sendable {
    package enum Ending: Equatable, Sendable {
        case code(Int32)
        case signal(Int32)
    }
    package var ending: Ending
    /// The kernel killed something of it for lack of memory.
    package var isOutOfMemory: Bool
    /// The guest's own clock ended it.
    package var isTimeout: Bool
    package var cpuMicroseconds: UInt64
    package var peakByteCount: UInt64
    package var wallMicroseconds: UInt64
    package init(
        ending: Ending, isOutOfMemory: Bool = false, isTimeout: Bool = false,
        cpuMicroseconds: UInt64 = 0, peakByteCount: UInt64 = 0, wallMicroseconds: UInt64 = 0
    ) {
        self.ending = ending
        self.isOutOfMemory = isOutOfMemory
        self.isTimeout = isTimeout
        self.cpuMicroseconds = cpuMicroseconds
        self.peakByteCount = peakByteCount
        self.wallMicroseconds = wallMicroseconds
    }
}

package struct ListedFile: Equatable, Sendable {
    package var name: String
    package var byteCount: UInt64
    package init(name: String, byteCount: UInt64) {
        self.name = name
        self.byteCount = byteCount
    }
}

/// The outcome of one request.
package enum AckStatus: UInt8, Sendable, CaseIterable {
    case ok = 0, notFound, notRegular, tooLarge, noSpace, invalid, failed
}

package enum GuestMessage: Equatable, Sendable {
    case ready(ReadyReport)
    case started(isParked: Bool, startMicroseconds: UInt32)
    case stdout([UInt8], isFinal: Bool)
    case stderr([UInt8], isFinal: Bool)
    case events([UInt8], isFinal: Bool)
    case exit(ExitReport)
    case listed([ListedFile], isTruncated: Bool)
    case file([UInt8], isFinal: Bool)
    case ack(AckStatus, message: String)
    case pong(UInt64, realtime: Int64)
    case credit(stream: UInt32, UInt32)
    case parked
    case error(message: String)
    case open(NetworkService)
    case data([UInt8], isFinal: Bool)
    case close
}

extension GuestMessage {
    /// Whether it is on a stream that the guest has opened.
    package var isOfNetwork: Bool {
        switch self {
        case .open, .data, .close: true
        default: false
        }
    }
    package var type: FrameType {
        switch self {
        case .ready: .ready
        case .started: .started
        case .stdout: .stdout
        case .stderr: .stderr
        case .events: .events
        case .exit: .exit
        case .listed: .listed
        case .file: .file
        case .ack: .ack
        case .pong: .pong
        case .credit: .credit
        case .parked: .parked
        case .error: .error
        case .open: .open
        case .data: .data
        case .close: .close
        }
    }

    package init(decoding frame: Frame) throws(WireError) {
        switch frame.type {
        case .stdout: self = .stdout(frame.payload, isFinal: frame.isFinal)
        case .stderr: self = .stderr(frame.payload, isFinal: frame.isFinal)
        case .events: self = .events(frame.payload, isFinal: frame.isFinal)
        case .file: self = .file(frame.payload, isFinal: frame.isFinal)
        case .data: self = .data(frame.payload, isFinal: frame.isFinal)
        default:
            var reader = ByteReader(frame.payload)
            self = try Self.control(frame.type, &reader)
            try reader.end()
        }
    }

    private static func control(
        _ type: FrameType, _ reader: inout ByteReader
    ) throws(WireError) -> GuestMessage {
        switch type {
        case .ready: return .ready(try ReadyReport(&reader))
        case .started:
            let isParked = try reader.flag("parked")
            return .started(isParked: isParked, startMicroseconds: try reader.u32())
        case .exit: return .exit(try ExitReport(&reader))
        case .listed: return try listed(&reader)
        case .ack:
            guard let status = AckStatus(rawValue: try reader.u8()) else {
                throw .invalidValue("status")
            }
            let message = try reader.text("message", atMost: Limits.messageByteCount)
            return .ack(status, message: message)
        case .pong:
            let value = try reader.u64()
            return .pong(value, realtime: try reader.clock())
        case .credit:
            let stream = try reader.u32()
            return .credit(stream: stream, try reader.u32())
        case .parked: return .parked
        case .error:
            return .error(message: try reader.text("message", atMost: Limits.messageByteCount))
        case .open:
            guard let service = NetworkService(rawValue: try reader.u8()) else {
                throw .invalidValue("service")
            }
            return .open(service)
        case .close: return .close
        default: throw .unknownType(type.rawValue)
        }
    }

    private static func listed(_ reader: inout ByteReader) throws(WireError) -> GuestMessage {
        let isTruncated = try reader.flag("truncated")
        var files: [ListedFile] = []
        for _ in 0..<(try reader.count("files", atMost: Limits.listedFiles)) {
            let name = try reader.text("name", atMost: Limits.pathByteCount)
            try GuestPath.validate(name)
            let byteCount = try reader.u64()
            guard byteCount <= UInt64(Int64.max) else { throw .invalidValue("size") }
            files.append(ListedFile(name: name, byteCount: byteCount))
        }
        return .listed(files, isTruncated: isTruncated)
    }

    /// Appends the whole frame, or throws and appends nothing.
    package func encode(stream: UInt32, into output: inout [UInt8]) throws(WireError) {
        var body: [UInt8] = []
        var isFinal = false
        switch self {
        case .ready(let report): try report.encode(into: &body)
        case .started(let isParked, let microseconds):
            body.append(flag: isParked)
            body.append(u32: microseconds)
        case .stdout(let bytes, let final), .stderr(let bytes, let final),
            .events(let bytes, let final), .file(let bytes, let final),
            .data(let bytes, let final):
            (body, isFinal) = (bytes, final)
        case .exit(let report): report.encode(into: &body)
        case .listed(let files, let isTruncated):
            body.append(flag: isTruncated)
            try body.append(count: files.count, "files", atMost: Limits.listedFiles)
            for file in files {
                try GuestPath.validate(file.name)
                try body.append(text: file.name, "name", atMost: Limits.pathByteCount)
                body.append(u64: file.byteCount)
            }
        case .ack(let status, let message):
            body.append(status.rawValue)
            try body.append(text: message, "message", atMost: Limits.messageByteCount)
        case .pong(let value, let realtime):
            body.append(u64: value)
            body.append(i64: realtime)
        case .credit(let stream, let count):
            body.append(u32: stream)
            body.append(u32: count)
        case .open(let service): body.append(service.rawValue)
        case .parked, .close: break
        case .error(let message):
            try body.append(text: message, "message", atMost: Limits.messageByteCount)
        }
        try Frame(stream: stream, type: type, isFinal: isFinal, payload: body)
            .encode(into: &output)
    }
}

extension ReadyReport {
    init(_ reader: inout ByteReader) throws(WireError) {
        var steps: [Step] = []
        for _ in 0..<(try reader.count("steps", atMost: Limits.readySteps)) {
            let name = try reader.text("step", atMost: Limits.nameByteCount)
            let isDone = try reader.flag("done")
            let message = try reader.text("message", atMost: Limits.messageByteCount)
            guard !steps.contains(where: { $0.name == name }) else {
                throw .invalidValue("step")
            }
            steps.append(Step(name: name, isDone: isDone, message: message))
        }
        self.steps = steps
        realtime = try reader.clock()
        sample = try reader.fixed(Limits.sampleByteCount)
    }
    func encode(into body: inout [UInt8]) throws(WireError) {
        try body.append(count: steps.count, "steps", atMost: Limits.readySteps)
        for step in steps {
            try body.append(text: step.name, "step", atMost: Limits.nameByteCount)
            body.append(flag: step.isDone)
            try body.append(text: step.message, "message", atMost: Limits.messageByteCount)
        }
        body.append(i64: realtime)
        try body.append(fixed: sample, Limits.sampleByteCount, "sample")
    }
}

extension ExitReport {
    init(_ reader: inout ByteReader) throws(WireError) {
        let kind = try reader.u8()
        let value = try reader.i32()
        switch kind {
        case 1:
            guard (0...255).contains(value) else { throw .invalidValue("exit code") }
            ending = .code(value)
        case 2:
            guard (1...64).contains(value) else { throw .invalidValue("signal") }
            ending = .signal(value)
        default: throw .invalidValue("ending")
        }
        isOutOfMemory = try reader.flag("out of memory")
        isTimeout = try reader.flag("timeout")
        cpuMicroseconds = try reader.u64()
        peakByteCount = try reader.u64()
        wallMicroseconds = try reader.u64()
        // The host turns them into its own signed types.
        guard max(cpuMicroseconds, peakByteCount, wallMicroseconds) <= UInt64(Int64.max) else {
            throw .invalidValue("usage")
        }
    }
    func encode(into body: inout [UInt8]) {
        switch ending {
        case .code(let value):
            body.append(1)
            body.append(i32: value)
        case .signal(let value):
            body.append(2)
            body.append(i32: value)
        }
        body.append(flag: isOutOfMemory)
        body.append(flag: isTimeout)
        body.append(u64: cpuMicroseconds)
        body.append(u64: peakByteCount)
        body.append(u64: wallMicroseconds)
    }
}
