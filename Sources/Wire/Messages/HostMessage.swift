// What the host says: one case per message, its strict decoder (used by the guest) and its encoder
// (used by the host). Bodies are fixed binary, described byte by byte in README.md.

/// Fresh entropy, clock and identity for a restored machine.
package struct Preparation: Equatable, Sendable {
    /// Credited to the kernel's generator: 64 bytes.
    package var entropy: [UInt8]
    /// For generators that live in parked interpreters: 32 bytes.
    package var interpreterSeed: [UInt8]
    /// Nanoseconds since 1970.
    package var realtime: Int64
    /// One label: letters, digits, hyphens.
    package var hostname: String
    /// 32 lower-case hexadecimal digits.
    package var machineID: String
    /// The image generation, shown to the job as /run/mayfly/generation.
    package var generation: String
    package init(
        entropy: [UInt8], interpreterSeed: [UInt8], realtime: Int64, hostname: String,
        machineID: String, generation: String
    ) {
        self.entropy = entropy
        self.interpreterSeed = interpreterSeed
        self.realtime = realtime
        self.hostname = hostname
        self.machineID = machineID
        self.generation = generation
    }
}

/// A file for the job's directory; its bytes follow as FILE frames.
package struct PutRequest: Equatable, Sendable {
    package var name: String
    package var byteCount: UInt64
    package var isExecutable: Bool
    package init(name: String, byteCount: UInt64, isExecutable: Bool = false) {
        self.name = name
        self.byteCount = byteCount
        self.isExecutable = isExecutable
    }
}

/// What to run, and its limits.
package struct ExecRequest: Equatable, Sendable {
    package enum Program: UInt8, Sendable { case command = 1, python, node }
    package var program: Program
    /// For a command all of argv (argv[0] is looked up in PATH unless it has a slash); for python
    /// and node what follows the script's name.
    package var arguments: [String]
    /// The script, already PUT; empty for a command.
    package var sourceName: String
    /// Added to, or replacing, the agent's small default environment.
    package var environment: [EnvironmentVariable]
    /// Wall clock inside the guest; 0: none.
    ///
    /// The host keeps its own.
    package var timeoutMilliseconds: UInt32
    /// Bytes; 0: what the machine has to give.
    package var memoryMaximum: UInt64
    /// Processes and threads; 0: the agent's default.
    package var processMaximum: UInt32
    /// Without it the program reads an empty stdin.
    package var hasStandardInput: Bool
    /// May use the interpreter parked in the snapshot.
    package var allowsParked: Bool
    /// The program gets a third way out, for what is neither text for people nor a file: the
    /// descriptor whose number is in `MAYFLY_EVENTS`.
    package var hasEvents: Bool
    /// The interpreter itself writes there: the last value, what is shown, the exception.
    ///
    /// Python and Node only, with events only.
    package var reportsValues: Bool
    /// While it runs the guest may open streams of its own.
    package var allowsNetwork: Bool
    package init(
        program: Program, arguments: [String], sourceName: String = "",
        environment: [EnvironmentVariable] = [], timeoutMilliseconds: UInt32 = 0,
        memoryMaximum: UInt64 = 0, processMaximum: UInt32 = 0, hasStandardInput: Bool = false,
        allowsParked: Bool = true, hasEvents: Bool = false,
        reportsValues: Bool = false, allowsNetwork: Bool = false
    ) {
        self.program = program
        self.arguments = arguments
        self.sourceName = sourceName
        self.environment = environment
        self.timeoutMilliseconds = timeoutMilliseconds
        self.memoryMaximum = memoryMaximum
        self.processMaximum = processMaximum
        self.hasStandardInput = hasStandardInput
        self.allowsParked = allowsParked
        self.hasEvents = hasEvents
        self.reportsValues = reportsValues
        self.allowsNetwork = allowsNetwork
    }
}

package struct EnvironmentVariable: Equatable, Sendable {
    package var name: String
    package var value: String
    package init(_ name: String, _ value: String) {
        self.name = name
        self.value = value
    }
}

package struct ListRequest: Equatable, Sendable {
    /// `GuestGlob` patterns; a file is listed when one matches.
    package var patterns: [String]
    package var maximumEntries: UInt16
    /// Without files that are as PUT left them, and without directories of which
    /// `GuestPath.isSetAside` is true.
    package var changesOnly: Bool
    package init(patterns: [String], maximumEntries: UInt16, changesOnly: Bool = false) {
        self.patterns = patterns
        self.maximumEntries = maximumEntries
        self.changesOnly = changesOnly
    }
}

package struct GetRequest: Equatable, Sendable {
    package var name: String
    /// A larger file is refused with `tooLarge` before a byte of it is sent.
    package var maximumByteCount: UInt64
    package init(name: String, maximumByteCount: UInt64) {
        self.name = name
        self.maximumByteCount = maximumByteCount
    }
}

package enum HostMessage: Equatable, Sendable {
    case prepare(Preparation)
    case put(PutRequest)
    case exec(ExecRequest)
    case stdin([UInt8], isFinal: Bool)
    case file([UInt8], isFinal: Bool)
    case signal(UInt8)
    case kill
    case list(ListRequest)
    case get(GetRequest)
    case ping(UInt64)
    case credit(stream: UInt32, UInt32)
    case warm
    case park
    case shutdown
    case rehearse
    case data([UInt8], isFinal: Bool)
    case close
}

extension HostMessage {
    package var type: FrameType {
        switch self {
        case .prepare: .prepare
        case .put: .put
        case .exec: .exec
        case .stdin: .stdin
        case .file: .file
        case .signal: .signal
        case .kill: .kill
        case .list: .list
        case .get: .get
        case .ping: .ping
        case .credit: .credit
        case .warm: .warm
        case .park: .park
        case .shutdown: .shutdown
        case .rehearse: .rehearse
        case .data: .data
        case .close: .close
        }
    }

    package init(decoding frame: Frame) throws(WireError) {
        switch frame.type {
        case .stdin: self = .stdin(frame.payload, isFinal: frame.isFinal)
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
    ) throws(WireError) -> HostMessage {
        switch type {
        case .prepare: return .prepare(try Preparation(&reader))
        case .put: return .put(try PutRequest(&reader))
        case .exec: return .exec(try ExecRequest(&reader))
        case .list: return .list(try ListRequest(&reader))
        case .get: return .get(try GetRequest(&reader))
        case .signal:
            let number = try reader.u8()
            guard (1...64).contains(number) else { throw .invalidValue("signal") }
            return .signal(number)
        case .kill: return .kill
        case .ping: return .ping(try reader.u64())
        case .credit:
            let stream = try reader.u32()
            let count = try reader.u32()
            return .credit(stream: stream, count)
        case .warm: return .warm
        case .park: return .park
        case .shutdown: return .shutdown
        case .rehearse: return .rehearse
        case .close: return .close
        default: throw .unknownType(type.rawValue)
        }
    }

    /// Appends the whole frame, or throws and appends nothing.
    package func encode(stream: UInt32, into output: inout [UInt8]) throws(WireError) {
        var body: [UInt8] = []
        var isFinal = false
        switch self {
        case .prepare(let preparation): try preparation.encode(into: &body)
        case .put(let request): try request.encode(into: &body)
        case .exec(let request): try request.encode(into: &body)
        case .list(let request): try request.encode(into: &body)
        case .get(let request): try request.encode(into: &body)
        case .stdin(let bytes, let final), .file(let bytes, let final),
            .data(let bytes, let final):
            (body, isFinal) = (bytes, final)
        case .signal(let number): body.append(number)
        case .ping(let value): body.append(u64: value)
        case .credit(let stream, let count):
            body.append(u32: stream)
            body.append(u32: count)
        case .kill, .warm, .park, .shutdown, .rehearse, .close: break
        }
        try Frame(stream: stream, type: type, isFinal: isFinal, payload: body)
            .encode(into: &output)
    }
}
