// Requests to http://cap.internal/NAME/…: the host adds what the guest must not have, and speaks
// TLS with a server that it verifies. No rule is needed, only a grant.

extension EgressConnection {
    static let capabilityHost = EgressHost.name(EgressCapability.host)

    func serveCapability(
        _ exchange: HTTPExchange, at asked: EgressDestination, first: [UInt8]
    ) async throws(EgressRefusal) {
        record.rule = nil
        guard asked.port == 80 else {
            throw EgressRefusal(
                .badRequest, "capabilities are asked at http://\(EgressCapability.host)/NAME/")
        }
        let (name, rest) = Self.parts(of: exchange.target)
        let path = String(rest.prefix { $0 != "?" })
        record.capability = shownText(name, atMost: 63)
        record.method = exchange.method
        record.path = shownText(path)
        // The same for what there is not and for what others have.
        guard let capability = gateway.policy.capabilities.first(where: { $0.name == name }) else {
            throw EgressRefusal(
                .notGranted,
                (record.capability.isEmpty ? "that" : record.capability)
                    + " is no capability of this job's; ask the operator to grant it to the job's "
                    + "queue and tenant")
        }
        try Self.check(exchange, path, capability)
        guard let value = capability.value else {
            throw EgressRefusal(
                .capabilityUnusable,
                "the operator's secret for \(capability.name) cannot be read now; the worker's log "
                    + "says why")
        }
        record.host = capability.destination.host.text
        record.port = capability.destination.port
        let server = try await connect(
            to: capability.destination, permitting: capability.permittedNetworks)
        try await verify(server, as: capability.destination)
        var exchange = exchange
        // One that the client sends by that name, in whatever spelling, does not reach the server;
        // nor one that asks for what cannot be looked through.
        let own = capability.field.dashed
        exchange.fields.removeAll { $0.name.dashed == own || $0.name == "accept-encoding" }
        exchange.fields += [
            .init(name: capability.field, value: value),
            .init(name: "accept-encoding", value: "identity"),
        ]
        let head = exchange.head(
            for: capability.destination, defaultPort: 443, target: capability.prefix + rest)
        _ = try await run(
            exchange, sending: head, first: first, with: server,
            ExchangeResponse(
                to: exchange, keepsAlive: false, limit: limits.headerBytes,
                mask: EchoMask(capability.secret)))
        finish(nil)
    }
    /// `/NAME/rest?query` as its name and `/rest?query`.
    private static func parts(of target: String) -> (name: String, rest: String) {
        let name = target.dropFirst().prefix { $0 != "/" && $0 != "?" }
        let rest = target.dropFirst(1 + name.count)
        return (String(name), rest.hasPrefix("/") ? String(rest) : "/" + rest)
    }
    private static func check(
        _ exchange: HTTPExchange, _ path: String, _ capability: EgressCapability
    ) throws(EgressRefusal) {
        // A server that answers TRACE would send the secret back.
        guard !["TRACE", "TRACK", "CONNECT"].contains(exchange.method.uppercased()) else {
            throw EgressRefusal(.badRequest, "\(exchange.method) is not made by a capability")
        }
        guard RequestRule.isPlain(path) else {
            throw EgressRefusal(
                .badRequest,
                "a path of a capability has no empty or dotted segments and no encoded slashes")
        }
        try exchange.checkOverrides()
        let asked = EgressRequest(
            method: exchange.method, isTLS: true, destination: capability.destination, path: path)
        guard capability.rules.isEmpty || capability.rules.contains(where: { $0.matches(asked) })
        else {
            throw EgressRefusal(
                .notGranted,
                "\(asked.method) \(shownText(path)) is not what the capability \(capability.name) "
                    + "allows; ask the operator to add it")
        }
    }
}
