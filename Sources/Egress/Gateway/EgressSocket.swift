// A connected stream socket on the loop: bounded reads and writes, each wait with its deadline.

import CLinux
import Events
import Glibc
import Processes

/// Owns one end of a connection: the guest's stream, or the way to a server.
@LoopActor
final class EgressSocket {
    private let descriptor: Descriptor
    var number: CInt { descriptor.number }
    /// What bytes go through on their way, once there is TLS.
    private var tls: TLSSession?

    /// How much is read at once.
    ///
    /// Read and written in some 0.1 ms: within a turn on the loop.
    static let sliceByteCount = 128 << 10
    /// One for all: it is used between two suspensions only.
    private static var slice = [UInt8](repeating: 0, count: sliceByteCount)

    init(_ descriptor: consuming Descriptor) {
        let flags = fcntl(descriptor.number, F_GETFL)
        _ = fcntl(descriptor.number, F_SETFL, flags | O_NONBLOCK)
        self.descriptor = descriptor
    }

    enum Received {
        /// So many bytes, at the beginning of the shared slice.
        case bytes(Int)
        case nothingYet
        case ended
        case lost
    }
    /// Reads what has arrived into the shared slice.
    private func receive(atMost limit: Int) -> Received {
        let wanted = min(limit, Self.sliceByteCount)
        if let tls { return tls.read(into: &Self.slice, atMost: wanted) }
        let count = unsafe recv(number, &Self.slice, wanted, 0)
        if count > 0 { return .bytes(count) }
        if count == 0 { return wanted == 0 ? .nothingYet : .ended }
        return errno == EAGAIN || errno == EINTR ? .nothingYet : .lost
    }
    /// Reads what has arrived, as a value.
    func read(atMost limit: Int) -> (received: Received, bytes: [UInt8]) {
        let received = receive(atMost: limit)
        guard case .bytes(let count) = received else { return (received, []) }
        return (received, Array(Self.slice[..<count]))
    }
    enum Moved {
        /// So many bytes; `isBlocked`: the receiver would not take more.
        case bytes(Int, isBlocked: Bool)
        case nothingYet
        case ended
        case lost
    }
    /// Moves what has arrived to `other`, as far as that takes it.
    ///
    /// It is looked at first, and taken when it is written: what a slow receiver does not take
    /// stays with the sender, in the kernel's buffers, however many connections there are. Not
    /// for TLS, whose flows have filters to their end.
    func move(to other: EgressSocket, atMost limit: Int) -> Moved {
        let wanted = min(limit, Self.sliceByteCount)
        guard wanted > 0 else { return .nothingYet }
        let count = unsafe recv(number, &Self.slice, wanted, CInt(MSG_PEEK))
        guard count > 0 else {
            if count == 0 { return .ended }
            return errno == EAGAIN || errno == EINTR ? .nothingYet : .lost
        }
        let written = unsafe Self.slice.withUnsafeBytes { buffer in
            unsafe other.send(UnsafeRawBufferPointer(rebasing: buffer[..<count]))
        }
        guard let written else { return .lost }
        var taken = 0
        while taken < written {
            // TCP drops them without a copy (tcp(7), MSG_TRUNC).
            let more = unsafe recv(
                number, &Self.slice, written - taken, CInt(MSG_TRUNC))
            guard more > 0 else { return .lost }
            taken += more
        }
        return .bytes(written, isBlocked: written < count)
    }
    /// Writes what goes without waiting; `nil` when the peer is gone.
    func write(_ bytes: ArraySlice<UInt8>) -> Int? {
        unsafe bytes.withUnsafeBytes { unsafe send($0) }
    }
    private func send(_ bytes: UnsafeRawBufferPointer) -> Int? {
        guard let base = bytes.baseAddress, bytes.count > 0 else { return 0 }
        if let tls { return unsafe tls.write(bytes) }
        // MSG_NOSIGNAL: whoever hangs up must not raise SIGPIPE here.
        let count = unsafe Glibc.send(number, base, bytes.count, CInt(MSG_NOSIGNAL))
        if count >= 0 { return count }
        return errno == EAGAIN || errno == EINTR ? 0 : nil
    }
    func endWriting() {
        tls?.end()
        shutdown(number, CInt(SHUT_WR))
    }
    /// Ends both ways; the descriptor stays until its owner drops it.
    func cut() { shutdown(number, CInt(SHUT_RDWR)) }

    /// Does a TLS handshake; from then on all bytes go through it.
    func start(
        _ session: TLSSession?, before deadline: ContinuousClock.Instant
    ) async throws(EgressRefusal) {
        guard let session else {
            throw EgressRefusal(.connectionLost, "there is no memory for a TLS connection")
        }
        tls = session
        while true {
            switch session.handshake() {
            case .done: return
            case .wantsRead: try await wait(.read, before: deadline)
            case .wantsWrite: try await wait(.write, before: deadline)
            case .failed:
                guard let problem = session.certificateProblem else {
                    throw EgressRefusal(.tlsFailed, "the TLS handshake failed")
                }
                throw EgressRefusal(.certificateRefused, problem)
            }
        }
    }

    /// Waits for more bytes behind those in `buffer`.
    ///
    /// - Returns: `false` when the peer has ended its way.
    func more(
        _ buffer: inout [UInt8], limit: Int, before deadline: ContinuousClock.Instant
    ) async throws(EgressRefusal) -> Bool {
        while true {
            let (received, bytes) = read(atMost: limit)
            switch received {
            case .bytes:
                buffer += bytes
                return true
            case .ended: return false
            case .lost: throw EgressRefusal(.connectionLost, "the connection was lost")
            case .nothingYet: try await wait(.read, before: deadline)
            }
        }
    }
    /// Writes everything.
    func writeAll(
        _ bytes: [UInt8], before deadline: ContinuousClock.Instant
    ) async throws(EgressRefusal) {
        var rest = bytes[...]
        while !rest.isEmpty {
            guard let count = write(rest) else {
                throw EgressRefusal(.connectionLost, "the connection was lost")
            }
            rest = rest.dropFirst(count)
            if count == 0 { try await wait(.write, before: deadline) }
        }
    }
    func wait(
        _ interest: EventLoop.Interest, before deadline: ContinuousClock.Instant
    ) async throws(EgressRefusal) {
        switch await EventLoop.shared.ready([(number, interest)], before: deadline) {
        case .ready: return
        case .timedOut:
            throw EgressRefusal(.timeLimit, "what was waited for did not come in time")
        case .cancelled: throw EgressRefusal(.jobEnded, "the job is over")
        }
    }
    /// Ends our way and waits for the peer's end, so that what was written arrives.
    ///
    /// What a socket has not read when it is closed makes its end look like a failure.
    func endAndDrain(before deadline: ContinuousClock.Instant) async {
        endWriting()
        var left = 1 << 20
        while left > 0 {
            switch receive(atMost: left) {
            case .bytes(let count): left -= count
            case .ended, .lost: return
            case .nothingYet:
                do throws(EgressRefusal) { try await wait(.read, before: deadline) } catch {
                    return
                }
            }
        }
    }

    /// Connects to an address that was checked, and makes sure that it is the one.
    static func connect(
        to address: IPAddress, port: UInt16, before deadline: ContinuousClock.Instant
    ) async throws(EgressRefusal) -> EgressSocket {
        func refusal(_ error: CInt) -> EgressRefusal {
            EgressRefusal(
                .connectFailed,
                "\(address.inAuthority):\(port) cannot be reached: "
                    + errnoText(error), address: address)
        }
        let number = unsafe mayfly_tcp_connect(address.bytes, address.bytes.count, port)
        guard number >= 0 else { throw refusal(-number) }
        let socket = EgressSocket(Descriptor(number))
        do throws(EgressRefusal) { try await socket.wait(.write, before: deadline) } catch {
            throw error.reason == .timeLimit ? refusal(ETIMEDOUT) : error
        }
        let error = mayfly_socket_error(number)
        guard error == 0 else { throw refusal(error) }
        guard
            unsafe mayfly_tcp_peer_is(number, address.bytes, address.bytes.count, port) == 1
        else { throw refusal(ENOTCONN) }
        return socket
    }
}
