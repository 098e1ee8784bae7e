// Flow control as arithmetic: what is granted, spent and given back always adds up, and nothing can
// make a window larger than its ceiling or smaller than nothing.

import Testing

@testable import Wire

@Suite("Credit")
struct CreditTests {
    @Test func `is never spent beyond what was granted`() throws {
        var window = SendWindow(100)
        try window.spend(100, stream: 1)
        #expect(throws: WireError.creditExceeded(stream: 1)) { try window.spend(1, stream: 1) }
        try window.grant(25, stream: 1)
        try window.spend(25, stream: 1)
        #expect(window.available == 0)
    }

    @Test func `credit of less than a quarter, or of more than was sent, is refused`() throws {
        var window = SendWindow(100)
        #expect(throws: WireError.badCredit(stream: 3)) { try window.grant(25, stream: 3) }
        try window.spend(60, stream: 3)
        for count: UInt32 in [0, 1, 24, 61, .max] {
            #expect(throws: WireError.badCredit(stream: 3)) { try window.grant(count, stream: 3) }
        }
        try window.grant(25, stream: 3)
        try window.grant(35, stream: 3)
        #expect(window.available == 100)
    }

    @Test func `adds up at both ends, whatever the order`() throws {
        var random = Fuzzing.generator("credit", 2)
        for _ in 0..<200 {
            let initial = 1 + random.below(1 << 18)
            var (sender, receiver) = (SendWindow(initial), ReceiveWindow(initial))
            var (inFlight, held): (Int, Int) = (0, 0)
            for _ in 0..<200 {
                switch random.below(3) {
                case 0:
                    let count = random.below(sender.available + 1)
                    try sender.spend(count, stream: 1)
                    inFlight += count
                case 1:
                    let count = random.below(inFlight + 1)
                    try receiver.receive(count, stream: 1)
                    inFlight -= count
                    held += count
                default:
                    let count = random.below(held + 1)
                    held -= count
                    if let grant = receiver.release(count) { try sender.grant(grant, stream: 1) }
                }
                #expect(sender.available + inFlight == receiver.allowed)
                #expect(receiver.allowed + held + receiver.released == initial)
            }
        }
    }

    @Test func `is given back before the sender must wait`() throws {
        var (sender, receiver) = (
            SendWindow(Limits.streamCredit), ReceiveWindow(Limits.streamCredit)
        )
        var total = 0
        while total < 8 << 20 {
            let count = min(sender.available, 4096)
            #expect(count > 0)
            try sender.spend(count, stream: 1)
            try receiver.receive(count, stream: 1)
            if let grant = receiver.release(count) { try sender.grant(grant, stream: 1) }
            total += count
        }
    }

    @Test func `credit sent in excess by a guest is noticed at once`() throws {
        var (host, guest) = try prepared()
        let stream = try host.open(.exec(Samples.exec))
        try deliver(&host, &guest)
        try guest.send(.started(isParked: false, startMicroseconds: 1), on: stream)
        for _ in 0..<4 {
            try guest.sendData(.stdout, Samples.bytes(65_536).span, on: stream, isFinal: false)
        }
        #expect(guest.sendCapacity(of: stream) == 0)
        #expect(throws: WireError.creditExceeded(stream: stream)) {
            try guest.sendData(.stderr, Samples.bytes(1).span, on: stream, isFinal: false)
        }
        host.receive(guest.takeOutput())
        while try host.next() != nil {}
        // The same frame, written by somebody who does not count.
        var frame: [UInt8] = []
        try GuestMessage.stderr([1], isFinal: false).encode(stream: stream, into: &frame)
        host.receive(frame)
        #expect(throws: WireError.creditExceeded(stream: stream)) { _ = try host.next() }
    }
}
