// What is fuzzed: decoders and parsers that strangers write to. Each target takes any bytes and must
// neither trap nor break what it promises. Driven by libFuzzer (scripts/fuzz) and, with the inputs
// that were worth keeping, by CorpusTests.

/// One thing that is fuzzed.
enum FuzzTarget: String, CaseIterable, Sendable {
    /// What a hostile guest sends to its worker.
    case guestBytes = "guest-bytes"
    /// What somebody on the host sends to a guest's agent.
    case hostBytes = "host-bytes"
    /// Names of files, and the patterns that look for them.
    case names
    /// The payload of a job of the kind `code`.
    case payload
    /// worker.conf.
    case configuration
    /// What a guest's programs say to the proxy: HTTP and SOCKS.
    case proxyRequests = "proxy-requests"
    /// What is said within TLS that the host ends, and what servers answer to it.
    case exchanges
    /// What they begin a TLS connection with.
    case handshakes
    /// Their queries for names.
    case nameQueries = "name-queries"
    /// Rules of the network, and networks.
    case rules
    /// What a worker asks of its launcher, and what that answers.
    case launchRequests = "launch-requests"

    /// - Throws: ``BrokenPromise`` with a sentence.
    func run(_ bytes: [UInt8]) throws(BrokenPromise) {
        switch self {
        case .guestBytes: try fuzzGuestBytes(bytes)
        case .hostBytes: try fuzzHostBytes(bytes)
        case .names: try fuzzNames(bytes)
        case .payload: try fuzzPayload(bytes)
        case .configuration: try fuzzConfiguration(bytes)
        case .proxyRequests: try fuzzProxyRequests(bytes)
        case .exchanges: try fuzzExchanges(bytes)
        case .handshakes: try fuzzHandshakes(bytes)
        case .nameQueries: try fuzzNameQueries(bytes)
        case .rules: try fuzzRules(bytes)
        case .launchRequests: try fuzzLaunchRequests(bytes)
        }
    }
}

/// A finding: what is promised and does not hold for these bytes.
struct BrokenPromise: Error, CustomStringConvertible {
    let description: String
    init(_ description: String) { self.description = description }
}

func promise(_ holds: Bool, _ sentence: @autoclosure () -> String) throws(BrokenPromise) {
    guard holds else { throw BrokenPromise(sentence()) }
}
