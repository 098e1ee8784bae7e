// Both ends of a connection against each other, and each against a peer that breaks the rules.

import Testing

@testable import Wire

/// A host and a guest that have exchanged preambles.
func greeted() throws -> (HostConnection, GuestConnection) {
    var host = try HostConnection(nonce: Samples.nonce, token: Samples.token)
    var guest = GuestConnection(agent: Samples.bytes(32), trust: .theWay)
    try deliver(&host, &guest)
    host.receive(guest.takeOutput())
    guard case .greeted? = try host.next() else { throw WireError.unexpected("no greeting") }
    return (host, guest)
}
/// The same, and the machine is proven fresh.
func prepared() throws -> (HostConnection, GuestConnection) {
    var (host, guest) = try greeted()
    try host.send(.prepare(Samples.preparation))
    try deliver(&host, &guest)
    try guest.send(.ready(Samples.ready()))
    host.receive(guest.takeOutput())
    guard case .message? = try host.next() else { throw WireError.unexpected("no READY") }
    return (host, guest)
}
/// Everything that the host has to say, to the guest; what the guest made of it.
@discardableResult
func deliver(
    _ host: inout HostConnection, _ guest: inout GuestConnection
) throws -> [HostMessage] {
    guest.receive(host.takeOutput())
    var messages: [HostMessage] = []
    while let event = try guest.next() {
        if case .message(_, let message) = event { messages.append(message) }
    }
    return messages
}

@Suite("A connection")
struct ConnectionTests {
    private func answers(
        _ guest: inout GuestConnection, _ host: inout HostConnection
    ) throws -> [GuestMessage] {
        host.receive(guest.takeOutput())
        var messages: [GuestMessage] = []
        while let event = try host.next() {
            if case .message(_, let message) = event { messages.append(message) }
        }
        return messages
    }

    @Test func `carries one job from its files to its results`() throws {
        var (host, guest) = try greeted()
        try host.send(.prepare(Samples.preparation))
        #expect(try deliver(&host, &guest) == [.prepare(Samples.preparation)])
        let report = Samples.ready()
        #expect(report.unproven == nil)
        try guest.send(.ready(report))
        #expect(try answers(&guest, &host) == [.ready(report)])

        let put = try host.open(.put(PutRequest(name: "main.py", byteCount: 3)))
        try host.sendData([1, 2, 3], on: put, isFinal: true)
        #expect(try deliver(&host, &guest).count == 2)
        try guest.send(.ack(.ok, message: ""), on: put)
        #expect(try answers(&guest, &host) == [.ack(.ok, message: "")])

        let exec = try host.open(.exec(Samples.exec))
        try host.sendData([9], on: exec, isFinal: true)
        #expect(try deliver(&host, &guest).count == 2)
        try guest.send(.started(isParked: true, startMicroseconds: 7), on: exec)
        try guest.sendData(.stdout, [UInt8(52), 50].span, on: exec, isFinal: true)
        try guest.sendData(.stderr, [UInt8]().span, on: exec, isFinal: true)
        try guest.sendData(.events, [UInt8(123), 125, 10].span, on: exec, isFinal: true)
        try guest.send(.exit(ExitReport(ending: .code(0))), on: exec)
        #expect(try answers(&guest, &host).count == 5)

        let get = try host.open(.get(GetRequest(name: "out", maximumByteCount: 10)))
        try deliver(&host, &guest)
        try guest.sendData(.file, [UInt8(1)].span, on: get, isFinal: true)
        #expect(try answers(&guest, &host) == [.file([1], isFinal: true)])
        #expect([put, exec, get] == [1, 3, 5])
    }

    @Test func `keeps going for as long as credit is given back`() throws {
        var (host, guest) = try prepared()
        let stream = try host.open(.exec(ExecRequest(program: .command, arguments: ["yes"])))
        try deliver(&host, &guest)
        try guest.send(.started(isParked: false, startMicroseconds: 1), on: stream)
        var total = 0
        while total < 8 << 20 {
            let count = guest.sendCapacity(of: stream)
            #expect(count > 0)
            try guest.sendData(.stdout, Samples.bytes(count).span, on: stream, isFinal: false)
            for case .stdout(let bytes, _) in try answers(&guest, &host) {
                total += bytes.count
                try host.release(bytes.count, of: stream)
            }
            try deliver(&host, &guest)
        }
    }

    @Test func `lets late input for an ended program pass, and counts it`() throws {
        var (host, guest) = try prepared()
        let stream = try host.open(.exec(Samples.exec))
        try deliver(&host, &guest)
        try guest.send(.ack(.notFound, message: "no such program"), on: stream)
        // Sent before the refusal arrived.
        try host.sendData(Samples.bytes(60_000)[...], on: stream, isFinal: false)
        try host.send(.signal(15), on: stream)
        try host.send(.kill, on: stream)
        #expect(try deliver(&host, &guest) == [])
        #expect(try answers(&guest, &host).count == 1)
        // Now the host knows, and says nothing more on that stream.
        try host.send(.kill, on: stream)
        #expect(host.output.isEmpty)
    }

    @Test func `refuses what a host must not do`() throws {
        func refused(_ name: String, _ frames: [(UInt32, HostMessage)]) throws {
            var (_, guest) = try prepared()
            var bytes: [UInt8] = []
            for (stream, message) in frames { try message.encode(stream: stream, into: &bytes) }
            guest.receive(bytes)
            #expect(
                isViolation { () throws(WireError) in while try guest.next() != nil {} }, "\(name)")
        }
        let put = HostMessage.put(PutRequest(name: "a", byteCount: 1))
        let exec = HostMessage.exec(Samples.exec)
        let noInput = HostMessage.exec(ExecRequest(program: .command, arguments: ["a"]))
        try refused("an even stream", [(2, put)])
        try refused("stream 0 for a file", [(0, put)])
        try refused("a stream twice", [(1, put), (1, put)])
        try refused("a smaller stream", [(3, put), (1, put)])
        try refused("two programs at once", [(1, exec), (3, exec)])
        try refused("file data for a program", [(1, exec), (1, .file([1], isFinal: true))])
        try refused("input for a file", [(1, put), (1, .stdin([1], isFinal: true))])
        try refused(
            "data after the last",
            [(1, put), (1, .file([1], isFinal: true)), (1, .file([1], isFinal: true))])
        try refused(
            "input that was not announced", [(1, noInput), (1, .stdin([1], isFinal: true))])
        try refused("a signal to nobody", [(1, .signal(9))])
        try refused("killing a file", [(1, put), (1, .kill)])
        try refused("prepare on a stream", [(1, .prepare(Samples.preparation))])
        try refused("credit for a stream never opened", [(0, .credit(stream: 1, 5))])
        try refused("credit of nothing", [(1, exec), (0, .credit(stream: 1, 0))])
        try refused("credit for what was not sent", [(1, exec), (0, .credit(stream: 1, 65_536))])
        try refused("credit on a stream", [(1, exec), (1, .credit(stream: 1, 1))])
        try refused("credit beyond the ceiling", [(1, exec), (0, .credit(stream: 1, .max))])
        let chunk = HostMessage.file([UInt8](repeating: 0, count: 65_536), isFinal: false)
        try refused("more than its credit", [(1, put)] + Array(repeating: (1, chunk), count: 5))
        try refused("65 open streams", (0...64).map { (UInt32($0 * 2 + 1), put) })
    }

    /// A guest that says this breaks the protocol.
    private func refused(
        _ name: String, _ opening: [HostMessage], _ frames: [(UInt32, GuestMessage)]
    ) throws {
        var (host, guest) = try prepared()
        for message in opening {
            if case .prepare = message {
                try host.send(message)
            } else {
                _ = try host.open(message)
            }
        }
        try deliver(&host, &guest)
        var bytes: [UInt8] = []
        for (stream, message) in frames { try message.encode(stream: stream, into: &bytes) }
        host.receive(bytes)
        #expect(
            isViolation { () throws(WireError) in while try host.next() != nil {} }, "\(name)")
    }

    @Test func `refuses what a guest must not do`() throws {
        let exec = HostMessage.exec(ExecRequest(program: .command, arguments: ["a"]))
        let put = HostMessage.put(PutRequest(name: "a", byteCount: 1))
        let get = HostMessage.get(GetRequest(name: "a", maximumByteCount: 1))
        let list = HostMessage.list(ListRequest(patterns: ["*"], maximumEntries: 1))
        let started = GuestMessage.started(isParked: false, startMicroseconds: 0)
        let exit = GuestMessage.exit(ExitReport(ending: .code(0)))
        let ready = GuestMessage.ready(
            ReadyReport(steps: [], realtime: 0, sample: Samples.bytes(32)))
        let out = GuestMessage.stdout([], isFinal: true)
        let errors = GuestMessage.stderr([], isFinal: true)
        try refused("ready unasked", [], [(0, ready)])
        try refused("ready twice", [.prepare(Samples.preparation)], [(0, ready), (0, ready)])
        try refused("pong unasked", [], [(0, .pong(1, realtime: 0))])
        try refused("parked unasked", [], [(0, .parked)])
        try refused("ack on stream 0 unasked", [], [(0, .ack(.ok, message: ""))])
        try refused("a stream of its own", [], [(2, started)])
        try refused("a stream never opened", [], [(1, out)])
        try refused("output before the start", [exec], [(1, out)])
        try refused("two starts", [exec], [(1, started), (1, started)])
        try refused("an end before the output's", [exec], [(1, started), (1, exit)])
        try refused("output after its end", [exec], [(1, started), (1, out), (1, out)])
        try refused(
            "two ends", [exec], [(1, started), (1, out), (1, errors), (1, exit), (1, exit)])
        try refused("success instead of a start", [exec], [(1, .ack(.ok, message: ""))])
        try refused(
            "a refusal after the start", [exec], [(1, started), (1, .ack(.failed, message: ""))])
        try refused("a file's answer before its end", [put], [(1, .ack(.ok, message: ""))])
        try refused("output for a file", [put], [(1, out)])
        try refused("a program's end for a file", [get], [(1, exit)])
        try refused(
            "data after the file's end", [get],
            [(1, .file([], isFinal: true)), (1, .file([], isFinal: true))])
        try refused("success of a get without data", [get], [(1, .ack(.ok, message: ""))])
        try refused("a list for a file", [get], [(1, .listed([], isTruncated: false))])
        try refused("a file for a list", [list], [(1, .file([], isFinal: true))])
        try refused(
            "two lists", [list],
            [(1, .listed([], isTruncated: false)), (1, .listed([], isTruncated: false))])
        try refused("credit for nothing", [], [(0, .credit(stream: 1, 1))])
        try refused("credit beyond what was sent", [], [(0, .credit(stream: 0, 524_288))])
        try refused(
            "credit for a stream that it has closed", [list],
            [(1, .listed([], isTruncated: false)), (0, .credit(stream: 1, 65_536))])
        try refused(
            "an empty frame of output", [exec], [(1, started), (1, .stdout([], isFinal: false))])
        try refused("an empty frame of a file", [get], [(1, .file([], isFinal: false))])
        try refused("ready on a stream", [exec], [(1, ready)])
        let chunk = GuestMessage.file([UInt8](repeating: 0, count: 65_536), isFinal: false)
        try refused("more than its credit", [get], Array(repeating: (1, chunk), count: 5))
    }

    @Test func `refuses events that break their rules`() throws {
        let exec = HostMessage.exec(ExecRequest(program: .command, arguments: ["a"]))
        let started = GuestMessage.started(isParked: false, startMicroseconds: 0)
        let exit = GuestMessage.exit(ExitReport(ending: .code(0)))
        let out = GuestMessage.stdout([], isFinal: true)
        let errors = GuestMessage.stderr([], isFinal: true)
        let events = GuestMessage.events([], isFinal: true)
        var request = ExecRequest(program: .command, arguments: ["a"])
        request.hasEvents = true
        let execWithEvents = HostMessage.exec(request)
        try refused("events that nobody asked for", [exec], [(1, started), (1, events)])
        try refused("events before the start", [execWithEvents], [(1, events)])
        try refused(
            "events after their end", [execWithEvents], [(1, started), (1, events), (1, events)])
        try refused(
            "an end before the events'", [execWithEvents],
            [(1, started), (1, out), (1, errors), (1, exit)])
    }

    @Test func `begins anew when another host greets on the same bytes`() throws {
        var (first, guest) = try prepared()
        _ = try first.open(.put(PutRequest(name: "half", byteCount: 9)))
        try deliver(&first, &guest)
        for size in [1, 7, 96, 200] {
            var second = try HostConnection(
                nonce: Samples.bytes(32, from: UInt8(size)), token: Samples.token)
            try second.send(.ping(5))
            let bytes = second.takeOutput()
            var messages: [GuestConnection.Event] = []
            for start in stride(from: 0, to: bytes.count, by: size) {
                guest.receive(Array(bytes[start..<min(start + size, bytes.count)]))
                while let event = try guest.next() { messages.append(event) }
            }
            #expect(messages.count == 2)
            second.receive(guest.takeOutput())
            guard case .greeted = try second.next() else {
                Issue.record("no greeting")
                continue
            }
        }
        // It must prove itself fresh anew, and its streams begin anew as well.
        #expect(guest.state == .greeted)
        var third = try HostConnection(nonce: Samples.nonce, token: Samples.token)
        try third.send(.prepare(Samples.preparation))
        try deliver(&third, &guest)
        try guest.send(.ready(Samples.ready()))
        #expect(try third.open(.exec(Samples.exec)) == 1)
        #expect(try deliver(&third, &guest) == [.exec(Samples.exec)])
        // With a program here it is too late for another host.
        var fourth = try HostConnection(nonce: Samples.nonce, token: Samples.token)
        #expect(throws: WireError.self) { try deliver(&fourth, &guest) }
    }

    /// There is nothing to read and nowhere to write before a machine is its job's own.
    @Test func `hears nothing of a job before a proven PREPARE`() throws {
        let requests: [HostMessage] = [
            .put(PutRequest(name: "a", byteCount: 1)), .exec(Samples.exec),
            .list(ListRequest(patterns: ["**"], maximumEntries: 9)),
            .get(GetRequest(name: "main.py", maximumByteCount: 9)),
        ]
        for request in requests {
            for isPrepared in [false, true] {
                var (host, guest) = try greeted()
                if isPrepared {
                    try host.send(.prepare(Samples.preparation))
                    try deliver(&host, &guest)
                    var report = Samples.ready()
                    report.steps.removeLast()
                    try guest.send(.ready(report))
                }
                _ = try host.open(request)
                #expect(throws: WireError.self, "\(request.type)") { try deliver(&host, &guest) }
            }
            var (host, guest) = try prepared()
            _ = try host.open(request)
            #expect(try deliver(&host, &guest) == [request])
        }
    }

    @Test func `prepares and warms nothing once a job may be here`() throws {
        for message in [HostMessage.warm, .park] {
            var (_, guest) = try prepared()
            var bytes: [UInt8] = []
            try message.encode(stream: 0, into: &bytes)
            guest.receive(bytes)
            #expect(throws: WireError.self) { _ = try guest.next() }
        }
        var (host, guest) = try prepared()
        _ = try host.open(.exec(Samples.exec))
        try host.send(.prepare(Samples.preparation))
        #expect(throws: WireError.self) { try deliver(&host, &guest) }
    }

    @Test func `rehearses once it is prepared, and then needs another PREPARE`() throws {
        var (host, guest) = try greeted()
        try host.send(.rehearse)
        #expect(throws: WireError.self) { try deliver(&host, &guest) }
        (host, guest) = try prepared()
        try host.send(.rehearse)
        #expect(try deliver(&host, &guest) == [.rehearse])
        try guest.send(.ack(.ok, message: ""))
        host.receive(guest.takeOutput())
        #expect(try host.next() == .message(stream: 0, .ack(.ok, message: "")))
        // No job before the machine is proven fresh once more.
        var unprepared = guest
        var bytes: [UInt8] = []
        try HostMessage.exec(Samples.exec).encode(stream: 1, into: &bytes)
        unprepared.receive(bytes)
        #expect(throws: WireError.self) { _ = try unprepared.next() }
        try host.send(.prepare(Samples.preparation))
        try deliver(&host, &guest)
        try guest.send(.ready(Samples.ready()))
        _ = try host.open(.exec(Samples.exec))
        #expect(try deliver(&host, &guest) == [.exec(Samples.exec)])
        // A job is here.
        try host.send(.rehearse)
        #expect(throws: WireError.self) { try deliver(&host, &guest) }
    }

    @Test func `does not rehearse while something else is under way`() throws {
        var (host, guest) = try prepared()
        _ = try host.open(.put(PutRequest(name: "half", byteCount: 9)))
        try host.send(.rehearse)
        #expect(throws: WireError.self) { try deliver(&host, &guest) }
    }

    @Test func `ends with parked, and nothing comes after it`() throws {
        var (host, guest) = try greeted()
        try host.send(.park)
        try deliver(&host, &guest)
        try guest.send(.parked)
        try guest.send(.error(message: "still here"))
        host.receive(guest.takeOutput())
        #expect(try host.next() == .message(stream: 0, .parked))
        #expect(throws: WireError.self) { _ = try host.next() }
    }

    @Test func `refuses to send what the other side must refuse`() throws {
        var (host, _) = try prepared()
        let long = String(repeating: "x", count: 65_000)
        #expect(throws: WireError.self) {
            _ = try host.open(.exec(ExecRequest(program: .command, arguments: [long, long])))
        }
        #expect(throws: WireError.self) {
            _ = try host.open(.put(PutRequest(name: "../x", byteCount: 0)))
        }
        #expect(throws: WireError.self) { _ = try host.open(.kill) }
        #expect(throws: WireError.self) { try host.send(.signal(9), on: 1) }
        #expect(host.output.isEmpty)
        // What failed left no trace: the next stream is the first.
        #expect(try host.open(.put(PutRequest(name: "x", byteCount: 0))) == 1)
    }

    @Test func `is refused by a machine of which one step was not done`() {
        var steps = ReadyReport.requiredSteps.map { ReadyReport.Step(name: $0, isDone: true) }
        steps[1] = .init(name: "clock", isDone: false, message: "not permitted")
        #expect(
            ReadyReport(steps: steps, realtime: 0, sample: []).unproven == "clock: not permitted")
        steps.removeFirst()
        #expect(
            ReadyReport(steps: steps, realtime: 0, sample: []).unproven == "entropy: not reported")
    }
}
