// The open streams of one connection and the flow control of its data: what both ends have in
// common. Who may say what, and when, is in HostConnection and GuestConnection.

/// What a stream was opened for: by PUT, EXEC, LIST or GET.
package enum StreamKind: Sendable { case put, exec, list, get }

/// One open stream, as either end sees it.
struct OpenStream: Sendable {
    let number: UInt32
    let kind: StreamKind
    var sending = SendWindow(Limits.streamCredit)
    var receiving = ReceiveWindow(Limits.streamCredit)
    /// FIN of FILE or STDIN has passed (host to guest), or none will come.
    var isInputFinal: Bool
    var isStarted = false
    var isStdoutFinal = false
    var isStderrFinal = false
    /// FIN of EVENTS has passed, or none will come.
    var isEventsFinal = true
    /// While this program runs the guest may open streams of its own.
    var allowsNetwork = false

    init(number: UInt32, kind: StreamKind, isInputFinal: Bool) {
        self.number = number
        self.kind = kind
        self.isInputFinal = isInputFinal
    }
}

/// All of them, and both windows of the connection.
struct StreamTable: Sendable {
    private(set) var open: [OpenStream] = []
    /// The largest number used so far; numbers are odd and only grow.
    private(set) var last: UInt32 = 0
    private var openedCount = 0
    var sending = SendWindow(Limits.connectionCredit)
    var receiving = ReceiveWindow(Limits.connectionCredit)

    var nextNumber: UInt32 { last == 0 ? 1 : last &+ 2 }

    /// Few are ever open: a scan is shorter than a hash.
    func index(of number: UInt32) -> Int? {
        for index in open.indices where open[index].number == number { return index }
        return nil
    }
    subscript(_ index: Int) -> OpenStream {
        get { open[index] }
        set { open[index] = newValue }
    }
    func wasUsed(_ number: UInt32) -> Bool { number % 2 == 1 && number <= last }

    mutating func add(_ stream: OpenStream) throws(WireError) {
        guard stream.number % 2 == 1, stream.number > last, stream.number < 1 << 31 else {
            throw .badStream(stream.number)
        }
        guard open.count < Limits.openStreams else { throw .tooMany("open streams") }
        guard openedCount < Limits.streamsPerConnection else { throw .tooMany("streams") }
        open.append(stream)
        last = stream.number
        openedCount += 1
    }
    mutating func close(_ index: Int) { open.remove(at: index) }

    /// How much data may go out on a stream now; 0 when it is closed.
    func sendCapacity(_ number: UInt32) -> Int {
        guard let index = index(of: number) else { return 0 }
        return min(
            open[index].sending.available, sending.available, Limits.payloadByteCount)
    }
    mutating func spend(_ count: Int, at index: Int) throws(WireError) {
        let number = open[index].number
        try open[index].sending.spend(count, stream: number)
        try sending.spend(count, stream: 0)
    }
    mutating func receive(_ count: Int, at index: Int) throws(WireError) {
        let number = open[index].number
        try open[index].receiving.receive(count, stream: number)
        try receiving.receive(count, stream: 0)
    }
    /// `false` when the stream is closed.
    mutating func grant(_ number: UInt32, _ count: UInt32) throws(WireError) -> Bool {
        if number == 0 {
            try sending.grant(count, stream: 0)
        } else if let index = index(of: number) {
            try open[index].sending.grant(count, stream: number)
        } else if wasUsed(number) {
            return false
        } else {
            throw .badStream(number)
        }
        return true
    }
    /// What to grant the peer after `count` bytes of a stream were used up.
    mutating func release(_ count: Int, of number: UInt32) -> (stream: UInt32?, all: UInt32?) {
        let all = receiving.release(count)
        guard number != 0, let index = index(of: number) else { return (nil, all) }
        return (open[index].receiving.release(count), all)
    }
}
