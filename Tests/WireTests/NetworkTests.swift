// The streams that a guest opens, at both ends: what a host holds a guest to, and that neither end can
// be made to keep, send or answer more than its due.

import Testing

@testable import Wire

@Suite("A guest's own streams")
struct NetworkTests {
    private static let networked = ExecRequest(
        program: .command, arguments: ["curl"], allowsNetwork: true)

    /// Both ends while a program runs that may reach the network.
    private func running(
        _ request: ExecRequest = networked
    ) throws -> (HostConnection, GuestConnection, exec: UInt32) {
        var (host, guest) = try prepared()
        let exec = try host.open(.exec(request))
        try deliver(&host, &guest)
        try guest.send(.started(isParked: false, startMicroseconds: 1), on: exec)
        try hear(&guest, &host)
        return (host, guest, exec)
    }
    @discardableResult
    private func hear(
        _ guest: inout GuestConnection, _ host: inout HostConnection
    ) throws -> [GuestMessage] {
        try hear(guest.takeOutput(), &host)
    }
    @discardableResult
    private func hear(
        _ bytes: [UInt8], _ host: inout HostConnection
    ) throws -> [GuestMessage] {
        host.receive(bytes)
        var messages: [GuestMessage] = []
        while let event = try host.next() {
            if case .message(_, let message) = event { messages.append(message) }
        }
        return messages
    }
    private func frame(_ message: GuestMessage, _ stream: UInt32) throws -> [UInt8] {
        var bytes: [UInt8] = []
        try message.encode(stream: stream, into: &bytes)
        return bytes
    }
    private func end(_ guest: inout GuestConnection, _ exec: UInt32) throws {
        for type in [FrameType.stdout, .stderr] {
            try guest.sendData(type, [UInt8]().span, on: exec, isFinal: true)
        }
        try guest.send(.exit(ExitReport(ending: .code(0))), on: exec)
    }

    @Test func `carry data both ways, half closed, and are over when both have closed`() throws {
        var (host, guest, exec) = try running()
        let stream = try #require(try guest.open(.proxy))
        #expect(stream == 2)
        try guest.sendNetwork([UInt8(1), 2].span, on: stream, isFinal: true)
        #expect(try hear(&guest, &host) == [.open(.proxy), .data([1, 2], isFinal: true)])
        try host.sendNetwork([3], on: stream, isFinal: false)
        try host.sendNetwork([], on: stream, isFinal: true)
        try host.closeNetwork(stream)
        #expect(
            try deliver(&host, &guest)
                == [.data([3], isFinal: false), .data([], isFinal: true), .close])
        try guest.closeNetwork(stream)
        #expect(try hear(&guest, &host) == [])
        #expect(try guest.open(.names) == 4)
        try guest.closeNetwork(4)
        try end(&guest, exec)
        #expect(try hear(&guest, &host).contains(.open(.names)))
        #expect(!guest.mayOpen)
    }

    @Test func `are opened only while a program runs that may`() throws {
        var (host, guest) = try prepared()
        #expect(try guest.open(.proxy) == nil)
        #expect(throws: WireError.self) { try hear(try frame(.open(.proxy), 2), &host) }
        var other = try running(ExecRequest(program: .command, arguments: ["ls"]))
        #expect(!other.1.mayOpen)
        #expect(throws: WireError.self) { try hear(try frame(.open(.proxy), 2), &other.0) }
        var over = try running()
        try end(&over.1, over.exec)
        try hear(&over.1, &over.0)
        #expect(!over.1.mayOpen)
        #expect(throws: WireError.self) { try hear(try frame(.open(.proxy), 2), &over.0) }
    }

    @Test func `are at most 32, and one counts until the host has closed it`() throws {
        var (host, guest, _) = try running()
        for _ in 0..<Limits.networkStreams {
            let stream = try #require(try guest.open(.proxy))
            try guest.closeNetwork(stream)
        }
        #expect(!guest.mayOpen && guest.allowsNetwork)
        #expect(try guest.open(.proxy) == nil)
        try hear(&guest, &host)
        var greedy = host
        #expect(throws: WireError.tooMany("open streams")) {
            try hear(try frame(.open(.proxy), 66), &greedy)
        }
        try host.closeNetwork(2)
        try deliver(&host, &guest)
        #expect(try guest.open(.proxy) == 66)
        #expect(try hear(&guest, &host) == [.open(.proxy)])
    }

    @Test func `take no credit from output, and none from each other`() throws {
        var (host, guest, exec) = try running()
        let full = Samples.bytes(Limits.networkCredit)
        for _ in 0..<Limits.networkStreams {
            let stream = try #require(try guest.open(.proxy))
            #expect(guest.networkCapacity(of: stream) == Limits.networkCredit)
            try guest.sendNetwork(full.span, on: stream, isFinal: false)
            #expect(guest.networkCapacity(of: stream) == 0)
        }
        try hear(&guest, &host)
        #expect(guest.sendCapacity(of: exec) == Limits.payloadByteCount)
        for number in 1...UInt32(Limits.networkStreams) {
            try host.sendNetwork(full[...], on: number * 2, isFinal: false)
            #expect(host.networkCapacity(of: number * 2) == 0)
        }
        try deliver(&host, &guest)
        #expect(throws: WireError.creditExceeded(stream: 2)) {
            try hear(try frame(.data([0], isFinal: false), 2), &host)
        }
    }

    @Test func `go on for as long as credit is given back`() throws {
        var (host, guest, _) = try running()
        let stream = try #require(try guest.open(.proxy))
        try hear(&guest, &host)
        var (up, down) = (0, 0)
        while up < 4 << 20 || down < 4 << 20 {
            let bytes = Samples.bytes(guest.networkCapacity(of: stream))
            try guest.sendNetwork(bytes.span, on: stream, isFinal: false)
            for case .data(let bytes, _) in try hear(&guest, &host) {
                up += bytes.count
                try host.releaseNetwork(bytes.count, of: stream)
            }
            let answer = Samples.bytes(host.networkCapacity(of: stream))
            if !answer.isEmpty { try host.sendNetwork(answer[...], on: stream, isFinal: false) }
            for case .data(let bytes, _) in try deliver(&host, &guest) {
                down += bytes.count
                try guest.releaseNetwork(bytes.count, of: stream)
            }
        }
    }

    @Test func `forgive what crossed the other side's end, and nothing else`() throws {
        var (host, guest, _) = try running()
        let stream = try #require(try guest.open(.proxy))
        try hear(&guest, &host)
        // Each says something while the other's CLOSE is on its way.
        try host.sendNetwork([1], on: stream, isFinal: false)
        try guest.sendNetwork([UInt8(2)].span, on: stream, isFinal: false)
        try guest.closeNetwork(stream)
        try host.closeNetwork(stream)
        #expect(try deliver(&host, &guest) == [])
        #expect(try hear(&guest, &host) == [])
        for late: GuestMessage in [.data([1], isFinal: false), .close, .open(.proxy)] {
            var copy = host
            #expect(throws: WireError.self) { try hear(try frame(late, stream), &copy) }
        }
    }

    @Test func `that break a rule end the machine`() throws {
        let violations: [(String, [(GuestMessage, UInt32)])] = [
            ("number 0", [(.open(.proxy), 0)]), ("an odd number", [(.open(.proxy), 3)]),
            ("a number over 2³¹", [(.open(.proxy), 1 << 31)]),
            ("opened twice", [(.open(.proxy), 2), (.open(.proxy), 2)]),
            ("a smaller number", [(.open(.proxy), 4), (.open(.proxy), 2)]),
            ("data on none", [(.data([1], isFinal: false), 2)]), ("close of none", [(.close, 2)]),
            ("closed twice", [(.open(.proxy), 2), (.close, 2), (.close, 2)]),
            (
                "data after its end",
                [
                    (.open(.proxy), 2), (.data([], isFinal: true), 2),
                    (.data([1], isFinal: false), 2),
                ]
            ),
            (
                "data after close",
                [(.open(.proxy), 2), (.close, 2), (.data([1], isFinal: false), 2)]
            ),
            ("credit that was not spent", [(.open(.proxy), 2), (.credit(stream: 2, 16_384), 0)]),
            ("credit on none", [(.credit(stream: 2, 16_384), 0)]),
            (
                "credit after close",
                [(.open(.proxy), 2), (.close, 2), (.credit(stream: 2, 16_384), 0)]
            ),
            ("data on a program's stream", [(.data([1], isFinal: false), 1)]),
            (
                "output on a stream of its own",
                [(.open(.proxy), 2), (.stdout([1], isFinal: false), 2)]
            ),
            (
                "an end of the program before its streams'",
                [
                    (.open(.proxy), 2), (.stdout([], isFinal: true), 1),
                    (.stderr([], isFinal: true), 1),
                    (.exit(ExitReport(ending: .code(0))), 1),
                ]
            ),
        ]
        for (name, messages) in violations {
            var (host, _, _) = try running()
            let isRefused = isViolation { () throws(WireError) in
                for (message, stream) in messages {
                    var bytes: [UInt8] = []
                    try message.encode(stream: stream, into: &bytes)
                    host.receive(bytes)
                    while try host.next() != nil {}
                }
            }
            #expect(isRefused, "\(name)")
        }
    }
}
