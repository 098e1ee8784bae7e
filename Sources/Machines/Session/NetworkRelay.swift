// The host's end of the streams that a guest opens: for each a socket pair, of which one end goes
// to whoever serves the network. Bytes are moved and never looked at. Owned by a session for the
// time of one job; what it holds ends with it.

import CLinux
import Events
import Glibc
import Logging
import Processes
import Wire

/// Serves the other end of a stream that a guest has opened: non-blocking, connected, hostile.
///
/// Called on the loop, and returns at once.
package typealias NetworkHandler =
    @LoopActor @Sendable (consuming Descriptor, NetworkService) -> Void

/// All streams of one job.
@LoopActor
final class NetworkRelay {
    /// What waits to be written to a guest before nothing more is read for it: so a question of
    /// ours, and what it is told, never wait behind more than this.
    static let backlogLimit = 256 << 10
    /// Of each end of a pair: with the streams' credit this bounds what a stream can pile up.
    private static let socketByteCount = 64 << 10

    private let serve: NetworkHandler
    private var ways: [Way] = []
    /// Who is first at the next pass.
    private var first = 0

    init(_ serve: @escaping NetworkHandler) { self.serve = serve }

    /// One stream and its socket.
    private final class Way {
        let stream: UInt32
        let socket: ByteStream
        /// What the guest has sent and the other end has not taken: its credit at most.
        var unwritten: [UInt8] = []
        var unwrittenStart = 0
        /// The guest sends no more; the other end sends no more.
        var isGuestFinal = false
        var isSocketFinal = false
        /// The other end reads no more, though it may still have said something.
        var isDeaf = false
        var isOver = false

        init(_ stream: UInt32, _ socket: ByteStream) {
            self.stream = stream
            self.socket = socket
        }
        var hasUnwritten: Bool { unwrittenStart < unwritten.count }
    }

    // MARK: From the guest

    /// Takes a message on one of the guest's streams; any other is not for here.
    func take(
        _ message: GuestMessage, on stream: UInt32, _ connection: inout HostConnection
    ) throws(WireError) {
        switch message {
        case .open(let service): try open(stream, service, &connection)
        case .data(let bytes, let isFinal):
            guard let way = ways.first(where: { $0.stream == stream }) else { return }
            if !way.hasUnwritten { (way.unwritten, way.unwrittenStart) = ([], 0) }
            way.unwritten.append(contentsOf: bytes)
            way.isGuestFinal = isFinal
            try write(way, &connection)
            try endIfOver(way, &connection)
        case .close:
            guard let way = ways.first(where: { $0.stream == stream }) else { return }
            // What it said before it closed still goes on, when it was all.
            if way.isGuestFinal, way.hasUnwritten {
                way.isSocketFinal = true
            } else {
                way.isOver = true
            }
            try endIfOver(way, &connection)
        default: break
        }
    }

    private func open(
        _ stream: UInt32, _ service: NetworkService, _ connection: inout HostConnection
    ) throws(WireError) {
        var pair: [CInt] = [-1, -1]
        let status = unsafe mayfly_socketpair(&pair)
        guard status == 0 else {
            Logger.current.warning(
                "a connection of a job was closed for want of descriptors",
                metadata: ["errno": "\(-status)"])
            return try connection.closeNetwork(stream)
        }
        let ours = Descriptor(pair[0])
        let theirs = Descriptor(pair[1])
        _ = fcntl(theirs.number, F_SETFL, fcntl(theirs.number, F_GETFL) | O_NONBLOCK)
        for end in pair {
            var count = CInt(Self.socketByteCount)
            _ = unsafe setsockopt(
                end, SOL_SOCKET, SO_SNDBUF, &count, socklen_t(MemoryLayout<CInt>.size))
        }
        ways.append(Way(stream, ByteStream(ours)))
        serve(theirs, service)
    }

    // MARK: The sockets

    /// Moves what can be moved now, without waiting; `backlog`: what already waits for the guest.
    func pump(_ connection: inout HostConnection, backlog: Int) throws(WireError) {
        guard !ways.isEmpty else { return }
        let count = ways.count
        first = (first + 1) % count
        for offset in 0..<count {
            let way = ways[(first + offset) % count]
            try write(way, &connection)
            if backlog + connection.output.count < Self.backlogLimit {
                try read(way, &connection)
            }
            try finish(way, &connection)
        }
        ways.removeAll(where: \.isOver)
    }
    /// What to wait for; a socket without a wish is left out, as its end would be told again and
    /// again.
    func interests(
        _ connection: HostConnection, backlog: Int
    ) -> [(CInt, EventLoop.Interest)] {
        let hasRoom = backlog + connection.output.count < Self.backlogLimit
        return ways.compactMap { way in
            var interest: EventLoop.Interest = []
            if hasRoom, !way.isSocketFinal, connection.networkCapacity(of: way.stream) > 0 {
                interest.insert(.read)
            }
            if way.hasUnwritten { interest.insert(.write) }
            return interest.isEmpty ? nil : (way.socket.number, interest)
        }
    }

    private func read(_ way: Way, _ connection: inout HostConnection) throws(WireError) {
        let capacity = connection.networkCapacity(of: way.stream)
        guard capacity > 0, !way.isSocketFinal, !way.isOver else { return }
        switch way.socket.receive(atMost: capacity) {
        case .bytes(let bytes):
            try connection.sendNetwork(bytes[...], on: way.stream, isFinal: false)
        case .nothingYet: break
        case .ended:
            way.isSocketFinal = true
            try connection.sendNetwork([], on: way.stream, isFinal: true)
            // Nobody is there to hear what a guest might still say.
            if way.socket.hasHungUp { way.isDeaf = true }
        }
    }
    private func write(_ way: Way, _ connection: inout HostConnection) throws(WireError) {
        guard !way.isOver else { return }
        while way.hasUnwritten {
            var count = way.unwritten.count - way.unwrittenStart
            if !way.isDeaf {
                guard let written = way.socket.send(way.unwritten, from: way.unwrittenStart) else {
                    // It may have answered before it closed: that is still read.
                    way.isDeaf = true
                    continue
                }
                if written == 0 { return }
                count = written
            }
            way.unwrittenStart += count
            try connection.releaseNetwork(count, of: way.stream)
        }
        if way.isGuestFinal { way.socket.endSending() }
    }
    private func finish(_ way: Way, _ connection: inout HostConnection) throws(WireError) {
        if way.isSocketFinal, !way.hasUnwritten, way.isGuestFinal || way.isDeaf {
            way.isOver = true
        }
        if way.isOver { try connection.closeNetwork(way.stream) }
    }
    private func endIfOver(_ way: Way, _ connection: inout HostConnection) throws(WireError) {
        try finish(way, &connection)
        if way.isOver { ways.removeAll { $0 === way } }
    }
}
