// Where a job may go: what it asked for, within what its operator allows.

/// Everything that decides about one job's connections.
///
/// Nothing is allowed that is not said.
package struct EgressPolicy: Sendable {
    /// What becomes of a TLS handshake that carries an encrypted second hello (ECH).
    package enum EncryptedHello: Sendable {
        /// Refused: the name that counts cannot be seen. The default.
        case refused
        /// Allowed when the visible name is the right one.
        ///
        /// For browsers that send a meaningless one to every server (GREASE) and cannot be told not
        /// to: by design nobody can tell it from a real one. A server that serves several
        /// names could then be asked for another of them, as it can within TLS anyway.
        case behindTheRightName
    }
    /// What the job asks for.
    package var rules: [EgressRule]
    /// What the operator allows at most: a destination must match here as well.
    package var ceiling: [EgressRule]
    /// Networks that may be reached although they are not globally routable.
    package var permittedNetworks: [IPNetwork]
    package var encryptedHello: EncryptedHello
    /// What the job may ask for at `cap.internal`.
    package var capabilities: [EgressCapability] = []

    package init(
        rules: [EgressRule], ceiling: [EgressRule], permittedNetworks: [IPNetwork] = [],
        encryptedHello: EncryptedHello = .refused
    ) {
        self.rules = rules
        self.ceiling = ceiling
        self.permittedNetworks = permittedNetworks
        self.encryptedHello = encryptedHello
    }

    /// Whether TLS is ended there, so that each request is read and checked by itself.
    func endsTLS(at destination: EgressDestination) -> Bool {
        ceiling.contains { $0.endsTLS && $0.concerns(destination) }
    }
    /// Whether requests there are told of by method and path.
    func readsRequests(at destination: EgressDestination) -> Bool {
        (rules + ceiling).contains { $0.request != nil && $0.concerns(destination) }
    }
    /// Whether TLS is ended anywhere that the job asks for.
    package var endsTLS: Bool { !rules.isEmpty && ceiling.contains(where: \.endsTLS) }

    /// Whether whatever is said there may be said.
    ///
    /// - Throws: ``EgressRefusal`` that names the rule to add, and whose it is.
    func check(_ destination: EgressDestination) throws(EgressRefusal) {
        try check(destination, "\(destination)") { $0.matches(destination) }
    }
    /// Whether this request may be made.
    func check(_ request: EgressRequest) throws(EgressRefusal) {
        try check(request.destination, "\(request)") { $0.matches(request) }
    }
    /// Whether some request may be made there.
    func check(someRequestAt destination: EgressDestination) throws(EgressRefusal) {
        try check(destination, "\(destination)") { $0.concerns(destination) }
    }
    private func check(
        _ destination: EgressDestination, _ what: String, _ fits: (EgressRule) -> Bool
    ) throws(EgressRefusal) {
        guard rules.contains(where: fits) else {
            if rules.contains(where: { $0.endsTLS && $0.concerns(destination) }),
                !endsTLS(at: destination)
            {
                throw EgressRefusal(
                    .aboveCeiling,
                    "this job's allow-list has methods and paths at \(destination), and its "
                        + "operator does not end TLS there; ask the operator to allow them so")
            }
            throw EgressRefusal(
                .notAllowed,
                "\(what) is not on this job's allow-list; add \"\(what)\" to network.allow")
        }
        guard ceiling.contains(where: fits) else {
            throw EgressRefusal(
                .aboveCeiling,
                "\(what) is on this job's allow-list, but not on its operator's; ask the operator "
                    + "to allow \"\(what)\"")
        }
    }
    /// Whether a name may be asked for: on some port it may be reached.
    func check(name host: EgressHost) throws(EgressRefusal) {
        guard rules.contains(where: { $0.matches(host) }) else {
            throw EgressRefusal(
                .notAllowed,
                "\(host) is not on this job's allow-list; add \"\(host)\" to network.allow")
        }
        guard ceiling.contains(where: { $0.matches(host) }) else {
            throw EgressRefusal(
                .aboveCeiling,
                "\(host) is on this job's allow-list, but not on its operator's; ask the operator "
                    + "to allow \"\(host)\"")
        }
    }
    /// Refuses all when one is not globally routable: a name that leads to both is a trap, or a
    /// mistake.
    static func check(
        _ addresses: [IPAddress], of host: EgressHost, permitting networks: [IPNetwork]
    ) throws(EgressRefusal) {
        for address in addresses {
            guard let purpose = SpecialAddresses.purpose(of: address),
                !networks.contains(where: { $0.contains(address) })
            else { continue }
            throw EgressRefusal(
                .addressNotPublic,
                "\(host) leads to \(address) (\(purpose)), which is not on the public Internet; "
                    + "the operator can permit that network", address: address)
        }
    }
}
