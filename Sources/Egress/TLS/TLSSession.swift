// One TLS connection over a socket of ours, and what it may be: a client that verifies whom it
// speaks to, or a server with a certificate for one host.

import CTLS

/// OpenSSL's side of a connection; bytes go through it instead of through the descriptor.
@safe
final class TLSSession {
    private let tls: OpaquePointer

    init?(client trust: TLSContext, _ descriptor: CInt, host: EgressHost) {
        guard
            let tls = unsafe mayfly_tls_client(
                trust.context, descriptor, host.text, host.isAddress ? 1 : 0)
        else { return nil }
        unsafe self.tls = tls
    }
    /// - Parameter first: what was read from the descriptor before.
    init?(server context: TLSContext, _ descriptor: CInt, first: [UInt8]) {
        guard
            let tls = unsafe mayfly_tls_server(context.context, descriptor, first, first.count)
        else { return nil }
        unsafe self.tls = tls
    }
    deinit { unsafe mayfly_tls_free(tls) }

    enum Step {
        case done, wantsRead, wantsWrite
        case failed
    }
    func handshake() -> Step {
        switch unsafe mayfly_tls_handshake(tls) {
        case 1: .done
        case CInt(MAYFLY_TLS_WANTS_READ): .wantsRead
        case CInt(MAYFLY_TLS_WANTS_WRITE): .wantsWrite
        default: .failed
        }
    }
    /// Why the peer's certificate is not accepted; `nil`: it is, or none came.
    var certificateProblem: String? {
        unsafe mayfly_tls_certificate_problem(tls).map { unsafe String(cString: $0) }
    }
    func read(into bytes: inout [UInt8], atMost limit: Int) -> EgressSocket.Received {
        guard limit > 0 else { return .nothingYet }
        let count = unsafe mayfly_tls_read(tls, &bytes, min(limit, bytes.count))
        if count > 0 { return .bytes(count) }
        if count == 0 { return .ended }
        return count == Int(MAYFLY_TLS_FAILED) ? .lost : .nothingYet
    }
    /// What goes without waiting; `nil` when the peer is gone.
    func write(_ bytes: UnsafeRawBufferPointer) -> Int? {
        guard let base = bytes.baseAddress, bytes.count > 0 else { return 0 }
        let count = unsafe mayfly_tls_write(tls, base, bytes.count)
        if count >= 0 { return count }
        return count == Int(MAYFLY_TLS_FAILED) ? nil : 0
    }
    func end() { unsafe mayfly_tls_end(tls) }
}

/// What connections of one kind have in common.
@safe
final class TLSContext: @unchecked Sendable {
    let context: OpaquePointer
    init(_ context: OpaquePointer) { unsafe self.context = unsafe context }
    deinit { unsafe mayfly_tls_context_free(context) }
}

extension EgressHost {
    /// As it stands in a certificate: an IPv6 address without brackets.
    var text: String {
        switch self {
        case .name(let name): name
        case .address(let address): "\(address)"
        }
    }
    var isAddress: Bool {
        if case .address = self { true } else { false }
    }
}
