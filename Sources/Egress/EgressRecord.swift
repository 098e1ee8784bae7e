// What is told about a job's network: decisions, their reasons, and the limits it lives in.

/// Why a connection was not made, or ended early.
///
/// The raw values are stored and read by people.
package enum EgressReason: String, CaseIterable, Sendable {
    case notAllowed = "not_allowed"
    case aboveCeiling = "above_ceiling"
    case badHost = "bad_host"
    case addressNotPublic = "address_not_public"
    case nameNotFound = "name_not_found"
    case nameFailed = "name_failed"
    case connectFailed = "connect_failed"
    case connectionLost = "connection_lost"
    case sniMismatch = "sni_mismatch"
    case sniMissing = "sni_missing"
    case encryptedHello = "ech"
    case notTLS = "not_tls"
    /// A handshake failed: with the client, or with the server, for other than its certificate.
    case tlsFailed = "tls_failed"
    /// Whom this host has connected to is not whom it says, or is known to no authority.
    case certificateRefused = "certificate_refused"
    /// A capability that there is not, or not for this job.
    case notGranted = "not_granted"
    /// A capability of the job's whose operator has not set it up.
    case capabilityUnusable = "capability_unusable"
    case badRequest = "bad_request"
    case badResponse = "bad_response"
    case tooManyConnections = "too_many_connections"
    case byteLimit = "byte_limit"
    case timeLimit = "time_limit"
    case idleLimit = "idle_limit"
    /// The job was over while the connection was open.
    case jobEnded = "job_ended"
    /// Not a decision: so many more were made than are told.
    case moreRecords = "more_records"

    /// Whether that was a decision, rather than something that went wrong.
    var isDenial: Bool {
        switch self {
        case .nameNotFound, .nameFailed, .connectFailed, .connectionLost, .tlsFailed,
            .certificateRefused, .capabilityUnusable, .badResponse, .timeLimit, .idleLimit,
            .jobEnded, .moreRecords:
            false
        default: true
        }
    }
    /// The status that an HTTP client gets.
    var status: Int {
        switch self {
        case .badRequest, .badHost: 400
        case .nameNotFound, .nameFailed, .connectFailed, .connectionLost, .badResponse, .tlsFailed,
            .certificateRefused, .capabilityUnusable:
            502
        case .timeLimit, .idleLimit: 504
        default: 403
        }
    }
}

package enum EgressVerdict: String, Sendable { case allowed, denied, failed }

/// One decision, or several that are alike.
package struct EgressRecord: Hashable, Sendable {
    /// As asked, in printable ASCII of at most 255 characters; empty when nothing was.
    package var host = ""
    /// 0 when none was asked for: a query for a name, or no request.
    package var port: UInt16 = 0
    /// Of a request that this host has read; the path without its query, in printable ASCII.
    package var method = ""
    package var path = ""
    /// By which the request was made, or would have been.
    package var capability = ""
    /// The checked one that was connected to, or the one that was refused.
    package var address: String?
    package var verdict = EgressVerdict.allowed
    /// `nil` when the connection was allowed and came to its own end.
    package var reason: EgressReason?
    /// What to add to the allow-list, where that would help: pypi.org:443.
    package var rule: String?
    /// From the guest to the server, and back; of all that are counted here.
    package var bytesSent: UInt64 = 0
    package var bytesReceived: UInt64 = 0
    /// The first one's beginning: nanoseconds since 1970, by this host's clock.
    package var started: Int64 = 0
    /// Of all that are counted here.
    package var duration = Duration.zero
    package var count: UInt64 = 1
}

/// What one job's network may cost.
///
/// Rates and sums are of the whole job.
package struct EgressLimits: Sendable {
    /// Streams at once, of both services; one more is closed unread.
    package var connectionsAtOnce = 64
    /// Connections of a whole job; one more is refused.
    package var connections = 10_000
    /// Connections and queries for names a second; faster ones wait, after a burst of
    /// `connectionsAtOnce`.
    package var connectionsPerSecond = 50
    /// Bytes of a whole job from the guest, and to it.
    package var bytesSent: UInt64 = 1 << 30
    package var bytesReceived: UInt64 = 8 << 30
    /// Without a byte in either direction.
    package var idleTime = Duration.seconds(120)
    /// Of one connection.
    package var totalTime = Duration.seconds(3600)
    /// Until a request, and a ClientHello where one is expected, is complete.
    package var requestTime = Duration.seconds(10)
    /// For each address of a host.
    package var connectTime = Duration.seconds(10)
    /// Of a request's head, or a response's: browsers send 180 cookies of a host in one.
    package var headerBytes = 64 << 10
    /// Of a ClientHello.
    package var helloBytes = 16 << 10
    /// Distinct records kept between two calls of ``EgressGateway/takeRecords()``.
    package var records = 256

    package init() {}
}

/// A refusal: the reason, and a sentence for whoever sees it inside the guest.
struct EgressRefusal: Error, Equatable {
    let reason: EgressReason
    let sentence: String
    var address: IPAddress?
    /// What was asked for, where it could not be read as a host.
    var asked: String?

    init(
        _ reason: EgressReason, _ sentence: String, address: IPAddress? = nil, asked: String? = nil
    ) {
        self.reason = reason
        self.sentence = sentence
        self.address = address
        self.asked = asked
    }
}
