// TLS of this host's own, for all jobs of a worker: whom it trusts as a client, and the authority
// by which it is, towards a guest, a host whose TLS the operator has it end.

import CTLS
import Events

/// Made once; its authority's key is in this process's memory, and nowhere else.
@LoopActor
package final class EgressTLS {
    private enum Bounds {
        /// Of the authority and what it signs, before and after now: a pinned replay runs in the
        /// past.
        static let days: CInt = 400
        static let pemByteCount = 4096
        /// Hosts whose certificates are kept.
        static let hosts = 256
    }
    let trust: TLSContext
    private let authority: TLSAuthority
    private var servers: [EgressHost: TLSContext] = [:]
    /// The authority's certificate, for the machines of jobs that may meet it.
    package nonisolated let certificate: String

    /// - Parameter authorities: a PEM file of those whom this host trusts; empty: the system's.
    /// - Throws: ``EgressRuleError`` when they cannot be read.
    package init(authorities: String = "") throws(EgressRuleError) {
        let context =
            authorities.isEmpty
            ? unsafe mayfly_tls_client_context(nil)
            : unsafe mayfly_tls_client_context(authorities)
        guard let context = unsafe context else {
            throw EgressRuleError(
                "\(authorities.isEmpty ? "the system's certificates" : authorities): no "
                    + "certificates of authorities can be read there (PEM)")
        }
        trust = unsafe TLSContext(context)
        guard let authority = TLSAuthority(days: Bounds.days) else {
            throw EgressRuleError("no authority for TLS can be made")
        }
        self.authority = authority
        certificate = authority.certificate(atMost: Bounds.pemByteCount)
    }

    /// What shows itself as that host, and as no other.
    func server(for host: EgressHost) -> TLSContext? {
        if let known = servers[host] { return known }
        guard let made = authority.server(for: host) else { return nil }
        if servers.count >= Bounds.hosts { servers = [:] }
        servers[host] = made
        return made
    }
}

/// Signs certificates; its key is nowhere else.
@safe
private final class TLSAuthority: @unchecked Sendable {
    private let authority: OpaquePointer

    init?(days: CInt) {
        guard let made = unsafe mayfly_tls_authority_make("Mayfly: the worker of this job", days)
        else { return nil }
        unsafe authority = made
    }
    deinit { unsafe mayfly_tls_authority_free(authority) }

    func certificate(atMost limit: Int) -> String {
        var bytes = [UInt8](repeating: 0, count: limit)
        let count = unsafe mayfly_tls_authority_pem(authority, &bytes, bytes.count)
        return String(decoding: bytes.prefix(count), as: UTF8.self)
    }
    func server(for host: EgressHost) -> TLSContext? {
        let context = unsafe mayfly_tls_server_context(
            authority, host.text, host.isAddress ? 1 : 0)
        return unsafe context.map { unsafe TLSContext($0) }
    }
}
