// The bodies of the host's larger messages. Every initializer reads exactly what its `encode`
// writes; ranges are checked on both sides, so that neither can send what the other must refuse.

extension Preparation {
    init(_ reader: inout ByteReader) throws(WireError) {
        entropy = try reader.fixed(Limits.entropyByteCount)
        interpreterSeed = try reader.fixed(Limits.seedByteCount)
        realtime = try reader.clock()
        hostname = try reader.text("hostname", atMost: Limits.hostNameByteCount)
        machineID = try reader.text("machine-id", atMost: 32)
        generation = try reader.text("generation", atMost: Limits.generationByteCount)
        try check()
    }
    func encode(into body: inout [UInt8]) throws(WireError) {
        try check()
        try body.append(fixed: entropy, Limits.entropyByteCount, "entropy")
        try body.append(fixed: interpreterSeed, Limits.seedByteCount, "seed")
        body.append(i64: realtime)
        try body.append(text: hostname, "hostname", atMost: Limits.hostNameByteCount)
        try body.append(text: machineID, "machine-id", atMost: 32)
        try body.append(text: generation, "generation", atMost: Limits.generationByteCount)
    }
    private func check() throws(WireError) {
        guard realtime >= 0 else { throw .invalidValue("realtime") }
        guard !hostname.isEmpty, hostname.utf8.allSatisfy(isLabel) else {
            throw .invalidValue("hostname")
        }
        guard machineID.utf8.count == 32, machineID.utf8.allSatisfy(isHexadecimal) else {
            throw .invalidValue("machine-id")
        }
        guard !generation.isEmpty, generation.utf8.allSatisfy({ $0 > 0x20 && $0 < 0x7F }) else {
            throw .invalidValue("generation")
        }
    }
}

extension PutRequest {
    init(_ reader: inout ByteReader) throws(WireError) {
        name = try reader.text("name", atMost: Limits.pathByteCount)
        byteCount = try reader.u64()
        isExecutable = try reader.flag("executable")
        try check()
    }
    func encode(into body: inout [UInt8]) throws(WireError) {
        try check()
        try body.append(text: name, "name", atMost: Limits.pathByteCount)
        body.append(u64: byteCount)
        body.append(flag: isExecutable)
    }
    private func check() throws(WireError) {
        try GuestPath.validate(name)
        guard byteCount <= UInt64(Int64.max) else { throw .invalidValue("byte count") }
    }
}

extension ExecRequest {
    init(_ reader: inout ByteReader) throws(WireError) {
        guard let program = Program(rawValue: try reader.u8()) else {
            throw .invalidValue("program")
        }
        self.program = program
        var arguments: [String] = []
        for _ in 0..<(try reader.count("arguments", atMost: Limits.arguments)) {
            arguments.append(try reader.text("argument"))
        }
        self.arguments = arguments
        sourceName = try reader.text("source", atMost: Limits.pathByteCount)
        var environment: [EnvironmentVariable] = []
        let count = try reader.count("variables", atMost: Limits.environmentVariables)
        for _ in 0..<count {
            let name = try reader.text("variable", atMost: Limits.nameByteCount)
            environment.append(EnvironmentVariable(name, try reader.text("value")))
        }
        self.environment = environment
        timeoutMilliseconds = try reader.u32()
        memoryMaximum = try reader.u64()
        processMaximum = try reader.u32()
        hasStandardInput = try reader.flag("stdin")
        allowsParked = try reader.flag("parked")
        hasEvents = try reader.flag("events")
        reportsValues = try reader.flag("values")
        allowsNetwork = try reader.flag("network")
        try check()
    }
    func encode(into body: inout [UInt8]) throws(WireError) {
        try check()
        body.append(program.rawValue)
        try body.append(count: arguments.count, "arguments", atMost: Limits.arguments)
        for argument in arguments { try body.append(text: argument, "argument") }
        try body.append(text: sourceName, "source", atMost: Limits.pathByteCount)
        try body.append(
            count: environment.count, "variables", atMost: Limits.environmentVariables)
        for variable in environment {
            try body.append(text: variable.name, "variable", atMost: Limits.nameByteCount)
            try body.append(text: variable.value, "value")
        }
        body.append(u32: timeoutMilliseconds)
        body.append(u64: memoryMaximum)
        body.append(u32: processMaximum)
        body.append(flag: hasStandardInput)
        body.append(flag: allowsParked)
        body.append(flag: hasEvents)
        body.append(flag: reportsValues)
        body.append(flag: allowsNetwork)
    }
    private func check() throws(WireError) {
        if program == .command {
            guard let first = arguments.first, !first.isEmpty else {
                throw .invalidValue("arguments")
            }
            guard sourceName.isEmpty else { throw .invalidValue("source") }
            guard !reportsValues else { throw .invalidValue("values") }
        } else {
            try GuestPath.validate(sourceName)
        }
        for variable in environment {
            guard !variable.name.isEmpty, !variable.name.utf8.contains(UInt8(ascii: "=")) else {
                throw .invalidValue("variable")
            }
        }
        guard memoryMaximum <= UInt64(Int64.max) else { throw .invalidValue("memory") }
        guard hasEvents || !reportsValues else { throw .invalidValue("values") }
    }
}

extension ListRequest {
    init(_ reader: inout ByteReader) throws(WireError) {
        var patterns: [String] = []
        for _ in 0..<(try reader.count("patterns", atMost: Limits.patterns)) {
            patterns.append(try reader.text("pattern", atMost: Limits.pathByteCount))
        }
        self.patterns = patterns
        maximumEntries = try reader.u16()
        changesOnly = try reader.flag("changes only")
        try check()
    }
    func encode(into body: inout [UInt8]) throws(WireError) {
        try check()
        try body.append(count: patterns.count, "patterns", atMost: Limits.patterns)
        for pattern in patterns {
            try body.append(text: pattern, "pattern", atMost: Limits.pathByteCount)
        }
        body.append(u16: maximumEntries)
        body.append(flag: changesOnly)
    }
    private func check() throws(WireError) {
        for pattern in patterns { _ = try GuestGlob(pattern) }
        guard maximumEntries <= Limits.listedFiles else { throw .tooMany("entries") }
    }
}

extension GetRequest {
    init(_ reader: inout ByteReader) throws(WireError) {
        name = try reader.text("name", atMost: Limits.pathByteCount)
        maximumByteCount = try reader.u64()
        try GuestPath.validate(name)
    }
    func encode(into body: inout [UInt8]) throws(WireError) {
        try GuestPath.validate(name)
        try body.append(text: name, "name", atMost: Limits.pathByteCount)
        body.append(u64: maximumByteCount)
    }
}

private func isLabel(_ byte: UInt8) -> Bool {
    switch byte {
    case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
        UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "-"):
        true
    default: false
    }
}
private func isHexadecimal(_ byte: UInt8) -> Bool {
    switch byte {
    case UInt8(ascii: "a")...UInt8(ascii: "f"), UInt8(ascii: "0")...UInt8(ascii: "9"): true
    default: false
    }
}
