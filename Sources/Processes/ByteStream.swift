// A non-blocking byte stream to a child or into a guest: it knows no protocol.

import CLinux
import Events
import Glibc

/// Owns a connected, non-blocking descriptor on the loop.
@LoopActor
package final class ByteStream {
    private let descriptor: Descriptor
    /// One for all: they are read on one thread, one at a time.
    ///
    /// One for each would be made and zeroed for every machine, twice.
    private static var buffer = [UInt8](repeating: 0, count: 128 << 10)

    package init(_ descriptor: consuming Descriptor) { self.descriptor = descriptor }

    package var number: CInt { descriptor.number }

    package enum Received {
        case bytes([UInt8])
        case nothingYet
        case ended
    }
    /// What has arrived, without waiting.
    package func receive(atMost limit: Int = .max) -> Received {
        let count = unsafe read(
            descriptor.number, &Self.buffer, min(limit, Self.buffer.count))
        if count > 0 { return .bytes(Array(Self.buffer[..<count])) }
        if count < 0 && (errno == EAGAIN || errno == EINTR) { return .nothingYet }
        return .ended
    }
    /// Writes what comes from `start` on; returns how many bytes went, `nil` when the peer is gone.
    package func send(_ bytes: [UInt8], from start: Int) -> Int? {
        guard start < bytes.count else { return 0 }
        // MSG_NOSIGNAL: a guest that hangs up must not raise SIGPIPE here.
        let count = unsafe bytes.withUnsafeBytes { buffer in
            guard let base = buffer.baseAddress else { return 0 }
            return unsafe Glibc.send(
                descriptor.number, base.advanced(by: start), buffer.count - start,
                CInt(MSG_NOSIGNAL))
        }
        if count >= 0 { return count }
        return errno == EAGAIN || errno == EINTR ? 0 : nil
    }

    /// Sends bytes together with a descriptor (SCM_RIGHTS), all at once; false when it cannot.
    package func send(_ bytes: [UInt8], passing descriptor: CInt) -> Bool {
        var descriptors = [descriptor]
        return unsafe mayfly_send_fds(
            self.descriptor.number, bytes, bytes.count, &descriptors, 1) == bytes.count
    }

    /// Nothing more will be sent; the other way stays open.
    package func endSending() { shutdown(descriptor.number, CInt(SHUT_WR)) }
    /// Whether the peer is gone altogether, rather than only done with sending.
    package var hasHungUp: Bool {
        var entry = pollfd(fd: descriptor.number, events: 0, revents: 0)
        return unsafe poll(&entry, 1, 0) == 1 && entry.revents & Int16(POLLHUP) != 0
    }

    /// Ends the stream both ways; the descriptor stays until the owner drops it.
    package func cut() { shutdown(descriptor.number, CInt(SHUT_RDWR)) }
}
