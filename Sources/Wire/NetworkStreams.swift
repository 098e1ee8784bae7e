// The streams that a guest opens to reach the network: alike at both ends, which differ only in who
// may open. Their flow control is their own, so that no download takes the credit of output and
// files. Who may say what besides is in HostConnection and GuestConnection.

/// What a guest asks for with OPEN; the guest only names it, the host decides.
package enum NetworkService: UInt8, Sendable, CaseIterable {
    /// The bytes that a program has sent to its proxy.
    case proxy = 1
    /// Questions of DNS, each behind its length in two bytes, as over TCP.
    case names
}

/// One of them, until both ends have closed it.
struct NetworkStream: Sendable {
    let number: UInt32
    var sending = SendWindow(Limits.networkCredit)
    var receiving = ReceiveWindow(Limits.networkCredit)
    /// FIN has gone out, or has come.
    var isSendingFinal = false
    var isReceivingFinal = false
    /// CLOSE has gone out, or has come.
    var isClosedHere = false
    var isClosedThere = false

    init(number: UInt32) { self.number = number }
}

/// All of them: even numbers, each larger than the last.
///
/// A guest is on both sides of every answer: it closes a stream once, and the number of those open
/// falls only when the host has closed it too. So opening again and again costs it the host's time.
struct NetworkStreams: Sendable {
    private(set) var open: [NetworkStream] = []
    private var last: UInt32 = 0

    /// The next number; `nil` when as many as are allowed are open.
    var nextNumber: UInt32? {
        guard open.count < Limits.networkStreams, last < 1 << 31 - 2 else { return nil }
        return last + 2
    }
    static func isNumber(_ number: UInt32) -> Bool { number != 0 && number % 2 == 0 }

    mutating func add(_ number: UInt32) throws(WireError) {
        guard Self.isNumber(number), number > last, number < 1 << 31 else {
            throw .badStream(number)
        }
        guard open.count < Limits.networkStreams else { throw .tooMany("open streams") }
        open.append(NetworkStream(number: number))
        last = number
    }
    /// One that both have closed is none; whoever names it is wrong.
    private func index(of number: UInt32) throws(WireError) -> Int {
        for index in open.indices where open[index].number == number { return index }
        throw .badStream(number)
    }
    /// Whether the peer has closed every one: nothing of a program's is left.
    var areAllClosedThere: Bool { open.allSatisfy(\.isClosedThere) }
    var areAllClosedHere: Bool { open.allSatisfy(\.isClosedHere) }

    // MARK: Receiving

    /// Data of the peer; `false` when it comes too late to matter.
    mutating func receive(
        _ count: Int, isFinal: Bool, on number: UInt32
    ) throws(WireError) -> Bool {
        let index = try index(of: number)
        guard !open[index].isClosedThere, !open[index].isReceivingFinal else {
            throw .unexpected("data after the last")
        }
        try open[index].receiving.receive(count, stream: number)
        open[index].isReceivingFinal = isFinal
        return !open[index].isClosedHere
    }
    mutating func grant(_ number: UInt32, _ count: UInt32) throws(WireError) {
        let index = try index(of: number)
        guard !open[index].isClosedThere else { throw .badStream(number) }
        try open[index].sending.grant(count, stream: number)
    }
    /// The peer's CLOSE; `false` when this end had closed before: then nobody need hear of it.
    mutating func closedThere(_ number: UInt32) throws(WireError) -> Bool {
        let index = try index(of: number)
        guard !open[index].isClosedThere else { throw .unexpected("a second 'close'") }
        open[index].isClosedThere = true
        guard open[index].isClosedHere else { return true }
        open.remove(at: index)
        return false
    }

    // MARK: Sending

    /// How much may go out now; 0 when there is no such stream, or it takes no more.
    func sendCapacity(_ number: UInt32) -> Int {
        guard let stream = open.first(where: { $0.number == number }),
            !stream.isClosedHere, !stream.isClosedThere, !stream.isSendingFinal
        else { return 0 }
        return min(stream.sending.available, Limits.payloadByteCount)
    }
    /// `false` when nobody reads it any more, and nothing is to be sent.
    mutating func send(
        _ count: Int, isFinal: Bool, on number: UInt32
    ) throws(WireError) -> Bool {
        let index = try index(of: number)
        guard !open[index].isClosedHere, !open[index].isSendingFinal else {
            throw .unexpected("data after the last")
        }
        guard count <= Limits.payloadByteCount else { throw .payloadTooLong(count) }
        guard isFinal || count > 0 else { throw .emptyData }
        if open[index].isClosedThere { return false }
        try open[index].sending.spend(count, stream: number)
        open[index].isSendingFinal = isFinal
        return true
    }
    /// What to grant the peer after `count` bytes were used up; nothing when it sends no more.
    mutating func release(_ count: Int, of number: UInt32) throws(WireError) -> UInt32? {
        let index = try index(of: number)
        guard !open[index].isClosedHere, !open[index].isReceivingFinal,
            !open[index].isClosedThere
        else { return nil }
        return open[index].receiving.release(count)
    }
    /// `false` when this end has closed it before.
    mutating func closeHere(_ number: UInt32) throws(WireError) -> Bool {
        let index = try index(of: number)
        guard !open[index].isClosedHere else { return false }
        open[index].isClosedHere = true
        if open[index].isClosedThere { open.remove(at: index) }
        return true
    }
}
