// What a worker asks of the launcher: one message on a connection of its own, with descriptors
// beside it. Numbers, limits, and words that nobody but the jailed hypervisor reads. Nothing in it
// names a place on the host, a user, or a program that the launcher does not have open itself.

/// Why a message was not understood, or not granted: a sentence for an operator.
package struct LaunchRefusal: Error, Equatable, Sendable, CustomStringConvertible {
    package let description: String
    package init(_ description: String) { self.description = description }
}

/// Which file a program is, in which state: what a worker proved must be what runs.
package struct ProgramIdentity: Equatable, Sendable {
    package var device: UInt64
    package var inode: UInt64
    package var changedSeconds: UInt64
    package var changedNanoseconds: UInt64

    package init(
        device: UInt64, inode: UInt64, changedSeconds: UInt64, changedNanoseconds: UInt64
    ) {
        self.device = device
        self.inode = inode
        self.changedSeconds = changedSeconds
        self.changedNanoseconds = changedNanoseconds
    }
}

/// One machine.
package struct LaunchRequest: Equatable, Sendable {
    package static let byteCountMax = 64 << 10
    package static let argumentsMax = 256
    package static let argumentByteCountMax = 8 << 10
    package static let keptMax = 24
    /// The numbers that descriptors may have in the hypervisor.
    package static let keptNumbers: ClosedRange<UInt32> = 3...65_535

    package var program: ProgramIdentity
    package var fileSize: UInt64
    package var addressSpace: UInt64
    /// What its control group lets it have, the hypervisor's own included.
    package var memory: UInt64
    /// Of processors' time: 100 is one of them, all of the time.
    package var processorPercent: UInt32
    package var hugePages = true
    /// Which of standard input, output and error come as descriptors, in this order and first.
    package var standard: [Bool] = [false, false, false]
    /// The numbers that the descriptors after those have in the hypervisor.
    package var kept: [UInt32]
    /// The hypervisor's name and arguments.
    package var arguments: [[UInt8]]

    package init(
        program: ProgramIdentity, fileSize: UInt64, addressSpace: UInt64, memory: UInt64,
        processorPercent: UInt32, kept: [UInt32], arguments: [[UInt8]]
    ) {
        self.program = program
        self.fileSize = fileSize
        self.addressSpace = addressSpace
        self.memory = memory
        self.processorPercent = processorPercent
        self.kept = kept
        self.arguments = arguments
    }

    /// How many descriptors come with it.
    package var descriptorCount: Int { standard.count { $0 } + kept.count }

    private static let magic = Array("mfl2".utf8)

    package func encoded() -> [UInt8] {
        var bytes = Self.magic
        for number in [
            program.device, program.inode, program.changedSeconds, program.changedNanoseconds,
            fileSize, addressSpace, memory,
        ] { bytes.append(number: number) }
        bytes.append(number: processorPercent)
        var flags: UInt8 = hugePages ? 8 : 0
        for (place, comes) in standard.enumerated() where comes { flags |= 1 << UInt8(place) }
        bytes.append(flags)
        bytes.append(number: UInt16(clamping: kept.count))
        for number in kept { bytes.append(number: number) }
        bytes.append(number: UInt16(clamping: arguments.count))
        for argument in arguments {
            bytes.append(number: UInt16(clamping: argument.count))
            bytes += argument
        }
        return bytes
    }

    /// - Throws: what about the bytes is not as it must be; they may come from anybody.
    package init(_ message: [UInt8]) throws(LaunchRefusal) {
        guard message.count <= Self.byteCountMax else {
            throw LaunchRefusal("the request has more than \(Self.byteCountMax) bytes")
        }
        var bytes = Bytes(message)
        guard let magic = bytes.take(4), Array(magic) == Self.magic else {
            throw LaunchRefusal("the request is none of this version; restart worker and launcher")
        }
        func cut() -> LaunchRefusal { LaunchRefusal("the request ends too early") }
        guard let device = bytes.number(UInt64.self), let inode = bytes.number(UInt64.self),
            let seconds = bytes.number(UInt64.self), let nanoseconds = bytes.number(UInt64.self),
            let fileSize = bytes.number(UInt64.self),
            let addressSpace = bytes.number(UInt64.self), let memory = bytes.number(UInt64.self),
            let percent = bytes.number(UInt32.self), let flags = bytes.number(UInt8.self),
            let keptCount = bytes.number(UInt16.self)
        else { throw cut() }
        guard memory > 0, percent > 0 else {
            throw LaunchRefusal("the request leaves its machine no memory or no processor")
        }
        guard flags < 16 else { throw LaunchRefusal("the request has the flags \(flags)") }
        guard keptCount <= Self.keptMax else {
            throw LaunchRefusal("the request keeps \(keptCount) descriptors")
        }
        var kept: [UInt32] = []
        for _ in 0..<keptCount {
            guard let number = bytes.number(UInt32.self) else { throw cut() }
            guard Self.keptNumbers.contains(number), !kept.contains(number) else {
                throw LaunchRefusal("\(number) is no number for a descriptor, or is there twice")
            }
            kept.append(number)
        }
        self.init(
            program: ProgramIdentity(
                device: device, inode: inode, changedSeconds: seconds,
                changedNanoseconds: nanoseconds),
            fileSize: fileSize, addressSpace: addressSpace, memory: memory,
            processorPercent: percent, kept: kept, arguments: try Self.arguments(&bytes))
        hugePages = flags & 8 != 0
        standard = (0..<3).map { flags & 1 << UInt8($0) != 0 }
    }

    private static func arguments(_ bytes: inout Bytes) throws(LaunchRefusal) -> [[UInt8]] {
        guard let count = bytes.number(UInt16.self), (1...argumentsMax).contains(Int(count)) else {
            throw LaunchRefusal("the request has no arguments, or too many")
        }
        var arguments: [[UInt8]] = []
        for _ in 0..<count {
            guard let length = bytes.number(UInt16.self), length <= argumentByteCountMax,
                let argument = bytes.take(Int(length)), !argument.contains(0)
            else { throw LaunchRefusal("an argument is cut, too long, or has a zero byte") }
            arguments.append(Array(argument))
        }
        guard bytes.isAtEnd else { throw LaunchRefusal("the request goes on after its end") }
        return arguments
    }
}
