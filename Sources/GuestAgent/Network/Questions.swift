// Questions of DNS that come in datagrams, all over one stream: a number of our own tells whose an
// answer is. Nothing else of a message is looked at.

import CGuest
import Glibc
import Wire

struct Questions: ~Copyable {
    /// Who waits for an answer; of more than these the one that waits longest is forgotten.
    private static let places = 64
    /// A header; anything shorter is no question.
    private static let leastByteCount = 12
    private static let mostByteCount = 4096

    let socket: CInt
    /// 0: none is open.
    private(set) var stream: UInt32 = 0
    /// By the last bits of the number that a question goes out with.
    private var waiting = [(number: UInt16, theirs: (UInt8, UInt8), asker: UInt64)?](
        repeating: nil, count: places)
    private var count: UInt16 = 0
    /// What has come of the next answer.
    private var answer: [UInt8] = []

    init(_ socket: CInt) { self.socket = socket }

    /// Takes a few questions and sends them on.
    mutating func read(
        _ buffer: inout [UInt8], _ connection: inout GuestConnection
    ) throws(WireError) {
        for _ in 0..<8 {
            var asker: UInt64 = 0
            let count = unsafe mayfly_guest_receive(
                socket, &buffer, Self.mostByteCount, &asker)
            guard count >= 0 else { return }
            guard count >= Self.leastByteCount else { continue }
            let question = Array(buffer[..<count])
            if connection.allowsNetwork {
                try ask(question, asker, &connection)
            } else {
                refuse(question, asker)
            }
        }
    }
    private mutating func ask(
        _ question: [UInt8], _ asker: UInt64, _ connection: inout GuestConnection
    ) throws(WireError) {
        if stream == 0 {
            // Without a free stream the asker asks again, as after any lost datagram.
            guard let opened = try connection.open(.names) else { return }
            stream = opened
        }
        guard connection.networkCapacity(of: stream) >= question.count + 2 else { return }
        count &+= 1
        waiting[Int(count) % Self.places] = (count, (question[0], question[1]), asker)
        let length = UInt16(truncatingIfNeeded: question.count)
        let message = [length.high, length.low, count.high, count.low] + question[2...]
        try connection.sendNetwork(message.span, on: stream, isFinal: false)
    }
    /// A program that may not reach the network need not wait to hear it: code 5, refused.
    private func refuse(_ question: [UInt8], _ asker: UInt64) {
        var answer = question
        answer[2] |= 0x80
        answer[3] = answer[3] & 0xF0 | 5
        _ = unsafe mayfly_guest_answer(socket, answer, answer.count, asker)
    }

    /// What the host has answered.
    mutating func take(
        _ bytes: [UInt8], isFinal: Bool, _ connection: inout GuestConnection
    ) throws(WireError) {
        answer.append(contentsOf: bytes)
        try connection.releaseNetwork(bytes.count, of: stream)
        var start = 0
        while answer.count - start >= 2 {
            let length = Int(answer[start]) << 8 | Int(answer[start + 1])
            guard answer.count - start - 2 >= length else { break }
            give(Array(answer[start + 2..<start + 2 + length]))
            start += 2 + length
        }
        answer.removeFirst(start)
        if isFinal { try close(&connection) }
    }
    private mutating func give(_ message: [UInt8]) {
        guard message.count >= Self.leastByteCount else { return }
        let number = UInt16(message[0]) << 8 | UInt16(message[1])
        let place = Int(number) % Self.places
        guard let waited = waiting[place], waited.number == number else { return }
        waiting[place] = nil
        var message = message
        (message[0], message[1]) = waited.theirs
        _ = unsafe mayfly_guest_answer(socket, message, message.count, waited.asker)
    }

    /// Nobody waits any more; the next question opens another stream.
    mutating func close(_ connection: inout GuestConnection) throws(WireError) {
        guard stream != 0 else { return }
        try connection.closeNetwork(stream)
        stream = 0
        answer = []
        for place in waiting.indices { waiting[place] = nil }
    }
    /// Forgets what a program that has ended still asked.
    func drain(_ buffer: inout [UInt8]) {
        var asker: UInt64 = 0
        for _ in 0..<1024 {
            guard unsafe mayfly_guest_receive(socket, &buffer, buffer.count, &asker) >= 0 else {
                return
            }
        }
    }
}

extension UInt16 {
    fileprivate var high: UInt8 { UInt8(truncatingIfNeeded: self >> 8) }
    fileprivate var low: UInt8 { UInt8(truncatingIfNeeded: self) }
}
