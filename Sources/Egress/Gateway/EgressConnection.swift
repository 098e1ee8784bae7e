// One stream of a guest, from its first byte to its record: read the request, decide, resolve,
// check, connect, relay.

import Events

/// A client in the guest, and the server it was let through to.
@LoopActor
final class EgressConnection {
    /// How the client is told of a refusal.
    enum Dialect {
        case http, socksGreeting, socksRequest
        /// The tunnel stands: all that can be said is a TLS alert.
        case tunnel
        /// Nothing can be said any more.
        case none
    }
    /// Addresses of one host that are tried.
    private static let addressCount = 4
    /// How long an answer may take to reach a client that has been refused.
    private static let answerTime = Duration.seconds(2)

    let gateway: EgressGateway
    let client: EgressSocket
    private var server: EgressSocket?
    var dialect = Dialect.http
    var record = EgressRecord()
    let start = ContinuousClock.now
    /// Of what the record is about.
    private var recordStart = ContinuousClock.now
    private var isRecorded = false
    /// What of the record was told while it was not yet whole.
    private var told: (isTold: Bool, sent: UInt64, received: UInt64) = (false, 0, 0)
    private var isCut = false

    var limits: EgressLimits { gateway.limits }

    init(of gateway: EgressGateway, client: EgressSocket) {
        self.gateway = gateway
        self.client = client
        record.started = wallClock()
    }

    func run(as service: EgressService) async {
        do throws(EgressRefusal) {
            switch service {
            case .proxy: try await serveProxy()
            case .names: try await serveNames()
            }
        } catch {
            // Who is cut off before it asked has asked for nothing.
            if !isCut || !record.host.isEmpty { finish(error) }
            await answer(error)
        }
        guard !isCut else { return }
        await client.endAndDrain(before: .now + Self.answerTime)
    }
    /// Ends the connection from outside, now.
    func cut() {
        isCut = true
        if !record.host.isEmpty { finish(EgressRefusal(.jobEnded, "the job is over")) }
        client.cut()
        server?.cut()
    }

    // MARK: Requests

    private func serveProxy() async throws(EgressRefusal) {
        try await gateway.takeTurn()
        let deadline = ContinuousClock.now + limits.requestTime
        var buffer: [UInt8] = []
        // Who comes and goes without a word has asked for nothing.
        guard try await more(&buffer, before: deadline) else { return }
        switch buffer[0] {
        case 5: try await serveSOCKS(&buffer, before: deadline)
        case 0x41...0x5A, 0x61...0x7A: try await serveHTTP(&buffer, before: deadline)
        default:
            throw EgressRefusal(
                .badRequest, "what came is neither an HTTP request to a proxy nor SOCKS5")
        }
    }
    private func more(
        _ buffer: inout [UInt8], before deadline: ContinuousClock.Instant
    ) async throws(EgressRefusal) -> Bool {
        try await client.more(&buffer, limit: limits.headerBytes, before: deadline)
    }
    private func serveHTTP(
        _ buffer: inout [UInt8], before deadline: ContinuousClock.Instant
    ) async throws(EgressRefusal) {
        var lines = HTTPHeadLines()
        var request = try HTTPRequest(buffer, &lines, limit: limits.headerBytes)
        while request == nil {
            guard try await more(&buffer, before: deadline) else {
                throw EgressRefusal(.badRequest, "the client ended before its request did")
            }
            request = try HTTPRequest(buffer, &lines, limit: limits.headerBytes)
        }
        guard let request else { return }
        let rest = Array(buffer.dropFirst(request.byteCount))
        buffer = []
        record(request.destination)
        switch request.kind {
        case .tunnel:
            let server = try await open(request.destination)
            try await client.writeAll(
                Array("HTTP/1.1 200 Connection established\r\n\r\n".utf8), before: deadline)
            try await tunnel(to: server, request.destination, first: rest)
        case .exchange(let exchange) where request.destination.host == Self.capabilityHost:
            try await serveCapability(exchange, at: request.destination, first: rest)
        case .exchange(let exchange):
            // What belongs to TLS is not sent in the clear, and not read as something else.
            guard request.destination.port != 443 else {
                throw EgressRefusal(
                    .notTLS,
                    "http:// on port 443 is not sent; use https://\(request.destination.host)")
            }
            try await serve(exchange, at: request.destination, first: rest)
        }
    }
    /// One exchange in plain text.
    private func serve(
        _ exchange: HTTPExchange, at destination: EgressDestination, first: [UInt8]
    ) async throws(EgressRefusal) {
        let asked = EgressRequest(
            method: exchange.method, isTLS: false, destination: destination, path: exchange.path)
        if gateway.policy.readsRequests(at: destination) {
            record(asked)
            try exchange.checkOverrides()
            try gateway.policy.check(asked)
        } else {
            try gateway.policy.check(destination)
        }
        let server = try await connect(
            to: destination, permitting: gateway.policy.permittedNetworks)
        try await self.exchange(
            with: server, head: exchange.head(for: destination, defaultPort: 80),
            body: exchange.body, first: first)
    }
    private func serveSOCKS(
        _ buffer: inout [UInt8], before deadline: ContinuousClock.Instant
    ) async throws(EgressRefusal) {
        dialect = .socksGreeting
        var greeting = try SOCKSRequest.Greeting(buffer)
        while greeting == nil {
            guard try await more(&buffer, before: deadline) else { throw Self.unfinished }
            greeting = try SOCKSRequest.Greeting(buffer)
        }
        buffer.removeFirst(greeting?.byteCount ?? 0)
        try await client.writeAll([5, 0], before: deadline)
        dialect = .socksRequest
        var request = try SOCKSRequest.Connect(buffer)
        while request == nil {
            guard try await more(&buffer, before: deadline) else { throw Self.unfinished }
            request = try SOCKSRequest.Connect(buffer)
        }
        guard let request else { return }
        record(request.destination)
        let server = try await open(request.destination)
        try await client.writeAll(SOCKSRequest.reply(0), before: deadline)
        try await tunnel(
            to: server, request.destination, first: Array(buffer.dropFirst(request.byteCount)))
    }
    private static let unfinished = EgressRefusal(
        .badRequest, "the client ended before its request did")

    // MARK: The way to a server

    /// Decides, and connects; `nil` where TLS is ended here: each request is decided by itself.
    private func open(
        _ destination: EgressDestination
    ) async throws(EgressRefusal) -> EgressSocket? {
        if destination.host == Self.capabilityHost {
            throw EgressRefusal(
                .badRequest,
                "capabilities are asked without TLS: http://\(EgressCapability.host)/NAME/")
        }
        guard !gateway.policy.endsTLS(at: destination) else {
            try gateway.policy.check(someRequestAt: destination)
            return nil
        }
        try gateway.policy.check(destination)
        return try await connect(
            to: destination, permitting: gateway.policy.permittedNetworks)
    }
    /// Resolves, checks every address and connects to one of them.
    func connect(
        to destination: EgressDestination, permitting networks: [IPNetwork]
    ) async throws(EgressRefusal) -> EgressSocket {
        try account(0, 0)
        try gateway.countConnection()
        let addresses = try await addresses(of: destination.host, permitting: networks)
        var refusal = EgressRefusal(.connectFailed, "\(destination) has no address")
        for address in addresses.prefix(Self.addressCount) {
            do throws(EgressRefusal) {
                let socket = try await EgressSocket.connect(
                    to: address, port: destination.port, before: .now + limits.connectTime)
                guard !isCut else { throw EgressRefusal(.jobEnded, "the job is over") }
                record.address = "\(address)"
                server = socket
                return socket
            } catch {
                guard error.reason == .connectFailed else { throw error }
                refusal = error
            }
        }
        throw refusal
    }
    /// The connection to a server is over; the client's goes on.
    func endServer() { server = nil }
    /// Every address of a host, all of them checked.
    private func addresses(
        of host: EgressHost, permitting networks: [IPNetwork]
    ) async throws(EgressRefusal) -> [IPAddress] {
        let addresses: [IPAddress]
        switch host {
        case .address(let address): addresses = [address]
        case .name(let name):
            switch await gateway.resolver.resolve(name) {
            case .addresses(let found): addresses = found
            case .notFound: throw EgressRefusal(.nameNotFound, "\(name) has no address in the DNS")
            case .failed:
                throw EgressRefusal(
                    .nameFailed, "no DNS server gave a proper answer for \(name)")
            }
        }
        guard !isCut else { throw EgressRefusal(.jobEnded, "the job is over") }
        try EgressPolicy.check(addresses, of: host, permitting: networks)
        return addresses
    }

    // MARK: Bytes

    private func tunnel(
        to server: EgressSocket?, _ destination: EgressDestination, first: [UInt8]
    ) async throws(EgressRefusal) {
        guard let server else { return try await serveEnded(destination, first: first) }
        dialect = .tunnel
        let filter = TLSFilter(destination, policy: gateway.policy, limit: limits.helloBytes)
        let up = Flow(from: client, to: server, filter: filter)
        let down = Flow(from: server, to: client, filter: nil)
        try account(first.count, 0)
        try up.accept(first)
        try await relay(up, down).run(untilServerEnds: false)
        finish(nil)
    }
    private func exchange(
        with server: EgressSocket, head: [UInt8], body: HTTPBody, first: [UInt8]
    ) async throws(EgressRefusal) {
        let up = Flow(from: client, to: server, filter: BodyFilter(body), sending: head)
        let down = Flow(
            from: server, to: client, filter: ResponseFilter(limit: limits.headerBytes))
        try await relayExchange(up, down, head.count, first)
        finish(nil)
    }
    /// One request, whose head `up` sends, and its response.
    func relayExchange(
        _ up: Flow, _ down: Flow, _ headByteCount: Int, _ first: [UInt8]
    ) async throws(EgressRefusal) {
        try account(headByteCount + first.count, 0)
        try up.accept(first)
        do throws(EgressRefusal) {
            try await relay(up, down).run(untilServerEnds: true)
        } catch {
            // Words of ours would stand in the middle of the server's.
            if down.hasSent { dialect = .none }
            throw error
        }
    }
    func relay(_ up: Flow, _ down: Flow) -> Relay {
        Relay(
            up: up, down: down, end: start + limits.totalTime, requestTime: limits.requestTime,
            idleTime: limits.idleTime,
            account: { [self] sent, received throws(EgressRefusal) in
                try account(sent, received)
            })
    }
    @discardableResult
    func account(
        _ sent: Int, _ received: Int
    ) throws(EgressRefusal) -> (sent: UInt64, received: UInt64) {
        record.bytesSent += UInt64(sent)
        record.bytesReceived += UInt64(received)
        return try gateway.count(sent: sent, received: received)
    }

    // MARK: Names

    private func serveNames() async throws(EgressRefusal) {
        dialect = .none
        var buffer: [UInt8] = []
        while true {
            let deadline = ContinuousClock.now + limits.idleTime
            while buffer.count < 2 || buffer.count < 2 + Self.length(buffer) {
                // The end of a stream of queries is no decision, nor is a long silence.
                do throws(EgressRefusal) {
                    guard try await more(&buffer, before: deadline) else { return }
                } catch { return }
            }
            let length = Self.length(buffer)
            guard length <= 1024 else {
                throw EgressRefusal(.badRequest, "a query for a name is longer than 1024 bytes")
            }
            let message = Array(buffer[2..<(2 + length)])
            buffer.removeFirst(2 + length)
            try await gateway.takeTurn()
            let answer: [UInt8]
            switch NameQuery.read(message) {
            case .nothing: throw EgressRefusal(.badRequest, "what came is no DNS query")
            case .answer(let bytes): answer = bytes
            case .query(let query): answer = await self.answer(to: query)
            }
            guard !isCut else { return }
            do throws(EgressRefusal) {
                try await client.writeAll(
                    [UInt8(answer.count >> 8), UInt8(answer.count & 0xFF)] + answer,
                    before: .now + limits.requestTime)
            } catch { return }
        }
    }
    private static func length(_ buffer: [UInt8]) -> Int { Int(buffer[0]) << 8 | Int(buffer[1]) }

    /// No name that is not allowed leaves this host, whatever is asked about it.
    private func answer(to query: NameQuery) async -> [UInt8] {
        var asked = EgressRecord()
        asked.host = shownText(query.name)
        asked.started = wallClock()
        do throws(EgressRefusal) {
            let host: EgressHost
            do throws(EgressRuleError) { host = try EgressHost(query.name) } catch {
                throw EgressRefusal(.badHost, error.description)
            }
            try gateway.policy.check(name: host)
            guard query.type == 1 || query.type == 28 else { return query.answer(.found) }
            return query.answer(
                .found,
                addresses: try await addresses(
                    of: host, permitting: gateway.policy.permittedNetworks))
        } catch {
            asked.set(error)
            gateway.add(asked)
            return query.answer(error.reason == .nameFailed ? .failed : .noSuchName)
        }
    }

    // MARK: The end

    private func record(_ destination: EgressDestination) {
        record.host =
            switch destination.host {
            case .name(let name): name
            case .address(let address): "\(address)"
            }
        record.port = destination.port
        record.rule = "\(destination)"
    }
    func record(_ request: EgressRequest) {
        record.method = request.method
        record.path = shownText(request.path)
        record.rule = "\(request)"
    }
    /// Another request on a connection that goes on.
    func begin(_ destination: EgressDestination) {
        record = EgressRecord()
        record.started = wallClock()
        recordStart = .now
        isRecorded = false
        told = (false, 0, 0)
        record(destination)
    }
    /// Writes the record, once.
    func finish(_ refusal: EgressRefusal?) {
        guard !isRecorded else { return }
        isRecorded = true
        record.duration = ContinuousClock.now - recordStart
        if let refusal { record.set(refusal) } else { record.rule = nil }
        var rest = record
        rest.bytesSent -= told.sent
        rest.bytesReceived -= told.received
        // It was counted when it was told of first.
        if told.isTold, refusal == nil { rest.count = 0 }
        gateway.add(rest)
    }
    /// What a connection that is open has done since it was last told of; `nil`: nothing.
    func takeProgress() -> EgressRecord? {
        guard !isRecorded, server != nil else { return nil }
        var part = record
        part.rule = nil
        part.count = told.isTold ? 0 : 1
        part.bytesSent -= told.sent
        part.bytesReceived -= told.received
        part.duration = .zero
        guard part.count + part.bytesSent + part.bytesReceived > 0 else { return nil }
        told = (true, record.bytesSent, record.bytesReceived)
        return part
    }
    /// Tells the client, in whatever it speaks.
    private func answer(_ refusal: EgressRefusal) async {
        guard !isCut, refusal.reason != .jobEnded else { return }
        let bytes: [UInt8]
        switch dialect {
        case .http: bytes = Self.response(refusal)
        case .socksGreeting: bytes = [5, 0xFF]
        case .socksRequest: bytes = SOCKSRequest.reply(SOCKSRequest.code(of: refusal.reason))
        // Fatal, access_denied (RFC 8446, 6): better than a connection that is gone.
        case .tunnel where record.bytesReceived == 0: bytes = [21, 3, 1, 0, 2, 2, 49]
        case .tunnel, .none: return
        }
        try? await client.writeAll(bytes, before: .now + Self.answerTime)
    }
    /// The sentence is in the status line as well: of a refused CONNECT, many clients show that.
    private static func response(_ refusal: EgressRefusal) -> [UInt8] {
        let sentence = "mayfly: \(refusal.sentence)"
        let line = String(
            decoding: sentence.utf8.map { (0x20...0x7E).contains($0) ? $0 : 0x3F }, as: UTF8.self)
        return Array(
            """
            HTTP/1.1 \(refusal.reason.status) \(line)\r
            content-type: text/plain; charset=utf-8\r
            content-length: \(line.utf8.count + 1)\r
            \(HTTPHead.reasonName): \(refusal.reason.rawValue)\r
            connection: close\r
            \r
            \(line)\n
            """.utf8)
    }
}

extension EgressRecord {
    fileprivate mutating func set(_ refusal: EgressRefusal) {
        verdict = refusal.reason.isDenial ? .denied : .failed
        reason = refusal.reason
        if let refused = refusal.address { address = "\(refused)" }
        if let asked = refusal.asked, host.isEmpty { host = asked }
        let helps = refusal.reason == .notAllowed || refusal.reason == .aboveCeiling
        rule = helps ? rule ?? host : nil
    }
}
