// TLS that is ended on this host by the operator's wish: towards the guest we are the server that
// it asked for, by a certificate of this worker's authority; each of its requests is read, checked,
// and made anew on a connection of its own, with a server whose certificate is verified here.

extension EgressConnection {
    /// Serves requests within TLS until the client ends or one is refused.
    func serveEnded(
        _ destination: EgressDestination, first: [UInt8]
    ) async throws(EgressRefusal) {
        dialect = .tunnel
        guard let tls = gateway.tls, let server = tls.server(for: destination.host) else {
            throw EgressRefusal(.tlsFailed, "this host can end no TLS")
        }
        let deadline = ContinuousClock.now + limits.requestTime
        let hello = try await hello(first, destination, before: deadline)
        dialect = .none
        try await client.start(
            TLSSession(server: server, client.number, first: hello), before: deadline)
        var buffer: [UInt8] = []
        var requestCount = 0
        repeat {
            guard try await hasRequest(&buffer, isFirst: requestCount == 0) else { return }
            requestCount += 1
            try await gateway.takeTurn()
        } while try await serveRequest(&buffer, destination)
    }
    /// The client's first message, read and not consumed: it must mean this host.
    private func hello(
        _ first: [UInt8], _ destination: EgressDestination, before deadline: ContinuousClock.Instant
    ) async throws(EgressRefusal) -> [UInt8] {
        var held = first
        while true {
            if let hello = try ClientHello(held, limit: limits.helloBytes) {
                try hello.check(host: destination.host, policy: gateway.policy)
                return held
            }
            guard try await client.more(&held, limit: limits.helloBytes, before: deadline) else {
                throw EgressRefusal(
                    .notTLS,
                    "the connection with \(destination) ended before its TLS handshake began")
            }
        }
    }
    /// Waits for the beginning of a request; `false` when the client has no more of them.
    private func hasRequest(
        _ buffer: inout [UInt8], isFirst: Bool
    ) async throws(EgressRefusal) -> Bool {
        guard buffer.isEmpty else { return true }
        do throws(EgressRefusal) {
            return try await client.more(
                &buffer, limit: limits.headerBytes, before: .now + limits.idleTime)
        } catch {
            // That a client goes between two requests, or says nothing, is no decision.
            guard isFirst || error.reason == .jobEnded else { return false }
            guard error.reason == .connectionLost else { throw error }
            throw EgressRefusal(
                .tlsFailed,
                "the client broke off TLS: it may not know the authority of this worker, which is "
                    + "in the file that SSL_CERT_FILE names")
        }
    }

    /// - Returns: whether another request may follow; then `buffer` has what came of it.
    private func serveRequest(
        _ buffer: inout [UInt8], _ destination: EgressDestination
    ) async throws(EgressRefusal) -> Bool {
        begin(destination)
        dialect = .http
        let deadline = ContinuousClock.now + limits.requestTime
        var lines = HTTPHeadLines()
        let limit = limits.headerBytes
        var read = try HTTPRequest.within(destination, buffer, &lines, limit: limit)
        while read == nil {
            guard try await client.more(&buffer, limit: limit, before: deadline) else {
                throw EgressRefusal(.badRequest, "the client ended before its request did")
            }
            read = try HTTPRequest.within(destination, buffer, &lines, limit: limit)
        }
        guard let (exchange, byteCount) = read else { return false }
        let first = Array(buffer.dropFirst(byteCount))
        let asked = EgressRequest(
            method: exchange.method, isTLS: true, destination: destination, path: exchange.path)
        record(asked)
        try exchange.checkOverrides()
        try gateway.policy.check(asked)
        let server = try await connect(
            to: destination, permitting: gateway.policy.permittedNetworks)
        try await verify(server, as: destination)
        let left = try await run(
            exchange, sending: exchange.head(for: destination, defaultPort: 443), first: first,
            with: server,
            ExchangeResponse(to: exchange, keepsAlive: true, limit: limit))
        finish(nil)
        endServer()
        buffer = left ?? []
        return left != nil && ContinuousClock.now < start + limits.totalTime
    }

    /// TLS with a server that proves to be the one.
    func verify(
        _ server: EgressSocket, as destination: EgressDestination
    ) async throws(EgressRefusal) {
        guard let tls = gateway.tls else {
            throw EgressRefusal(.tlsFailed, "this host can begin no TLS")
        }
        do throws(EgressRefusal) {
            try await server.start(
                TLSSession(client: tls.trust, server.number, host: destination.host),
                before: .now + limits.connectTime)
        } catch {
            switch error.reason {
            case .certificateRefused:
                throw EgressRefusal(
                    .certificateRefused,
                    "the certificate of \(destination) is not accepted: \(error.sentence)")
            case .tlsFailed, .connectionLost:
                throw EgressRefusal(.tlsFailed, "the TLS handshake with \(destination) failed")
            default: throw error
            }
        }
    }

    /// One request and its response.
    ///
    /// - Returns: what the client has sent behind its request; `nil` when none may follow.
    func run(
        _ exchange: HTTPExchange, sending head: [UInt8], first: [UInt8], with server: EgressSocket,
        _ response: ExchangeResponse
    ) async throws(EgressRefusal) -> [UInt8]? {
        let up = Flow(from: client, to: server, filter: BodyFilter(exchange.body), sending: head)
        let down = Flow(from: server, to: client, filter: response)
        try await relayExchange(up, down, head.count, first)
        guard up.isDoneWithMore, down.isDoneWithMore,
            (down.filter as? ExchangeResponse)?.keepsAlive == true,
            let rest = (up.filter as? BodyFilter)?.rest
        else { return nil }
        return rest
    }
}
