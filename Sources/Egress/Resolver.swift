// Names become addresses here and nowhere else: c-ares on the shared loop. Who may ask for which
// name is not decided here.

import CAres
import Events
import Processes

/// A DNS client for all jobs of a worker.
///
/// Asks for each name as it is, each time anew.
@LoopActor
@safe package final class Resolver {
    /// What became of a name.
    package enum Answer: Sendable, Equatable {
        /// All of its addresses, IPv4 and IPv6, unchecked; at least one.
        case addresses([IPAddress])
        case notFound
        /// No server answered, or what came made no sense.
        case failed
    }

    // SAFETY: used on the loop, and by `deinit`, when nobody else can.
    private nonisolated(unsafe) let channel: UnsafeMutableRawPointer
    private var watched: Set<CInt> = []
    private var timer: Int?

    /// - Parameter servers: addresses with their ports, such as 192.0.2.53:53 or [2001:db8::53]:53;
    ///   empty for those of /etc/resolv.conf.
    /// - Throws: ``EgressRuleError`` with a sentence when one of them is no such address.
    package init(
        servers: [String] = [], timeout: Duration = .seconds(2), tries: Int = 2
    ) throws(EgressRuleError) {
        for server in servers {
            guard case .address = try EgressDestination(authority: server).host else {
                throw EgressRuleError(
                    "\"\(shownText(server))\" is no DNS server: write its address and port")
            }
        }
        // The owner is told below, when there is one: nothing is asked before.
        let owner = Owner()
        let pointer = unsafe Unmanaged.passRetained(owner).toOpaque()
        let milliseconds = CInt(clamping: timeout.components.seconds * 1000)
        let list = servers.isEmpty ? nil : servers.joined(separator: ",")
        // SAFETY: c-ares calls back only within calls of this class, while the owner is retained.
        let opened = unsafe list.withOptionalCString { servers in
            unsafe mayfly_ares_open(
                servers, max(100, milliseconds), CInt(clamping: tries),
                { owner, descriptor, readable, writable in
                    guard let owner = unsafe owner else { return }
                    let resolver = unsafe Unmanaged<Owner>.fromOpaque(owner)
                        .takeUnretainedValue().resolver
                    LoopActor.assumeIsolated {
                        resolver?.watch(descriptor, read: readable != 0, write: writable != 0)
                    }
                }, pointer)
        }
        guard let opened = unsafe opened else {
            unsafe Unmanaged<Owner>.fromOpaque(pointer).release()
            throw EgressRuleError(
                "the DNS servers cannot be used: \(list ?? "/etc/resolv.conf cannot be read")")
        }
        unsafe channel = unsafe opened
        self.owner = owner
        owner.resolver = self
    }
    /// Whom c-ares calls back: kept as long as its channel.
    private final class Owner: @unchecked Sendable {
        // SAFETY: written once on the loop before anything is asked, read on the loop only.
        weak var resolver: Resolver?
    }
    private let owner: Owner

    // No descriptor is open here: while a query runs, its caller and the watches keep this alive.
    deinit {
        unsafe mayfly_ares_close(channel)
        // SAFETY: retained once in init; nothing calls back after the channel's end.
        unsafe Unmanaged.passUnretained(owner).release()
    }

    /// Asks for the addresses of a name of ASCII labels.
    ///
    /// Ends by itself within a few times the timeout, whatever the servers do.
    package func resolve(_ name: String) async -> Answer {
        let answer: Answer = await EventLoop.shared.resumedHere { continuation in
            let query = unsafe Unmanaged.passRetained(Query(continuation)).toOpaque()
            // SAFETY: c-ares calls `done` exactly once for each query; it takes over the reference.
            unsafe mayfly_ares_resolve(
                channel, name,
                { query, status, addresses, count in
                    guard let query = unsafe query else { return }
                    let bytes = unsafe UnsafeBufferPointer(
                        start: addresses, count: count * Int(MAYFLY_ARES_SIZE))
                    unsafe Unmanaged<Query>.fromOpaque(query).takeRetainedValue()
                        .continuation.resume(
                            returning: Resolver.answer(status, unsafe Array(bytes)))
                }, query)
            schedule()
        }
        schedule()
        return answer
    }
    private final class Query {
        let continuation: CheckedContinuation<Answer, Never>
        init(_ continuation: CheckedContinuation<Answer, Never>) {
            self.continuation = continuation
        }
    }
    private nonisolated static func answer(_ status: CInt, _ bytes: [UInt8]) -> Answer {
        switch Int(status) {
        case Int(MAYFLY_ARES_FOUND): break
        case Int(MAYFLY_ARES_NO_SUCH_NAME): return .notFound
        default: return .failed
        }
        let size = Int(MAYFLY_ARES_SIZE)
        let addresses = stride(from: 0, to: bytes.count, by: size).compactMap { start in
            IPAddress(bytes: bytes[(start + 1)...].prefix(Int(bytes[start])))
        }
        return addresses.isEmpty ? .notFound : .addresses(addresses)
    }

    // MARK: The loop's readiness and time, for c-ares

    private func watch(_ descriptor: CInt, read: Bool, write: Bool) {
        if watched.remove(descriptor) != nil { EventLoop.shared.unwatch(descriptor) }
        guard read || write else { return }
        watched.insert(descriptor)
        var interest: EventLoop.Interest = []
        if read { interest.insert(.read) }
        if write { interest.insert(.write) }
        EventLoop.shared.watch(descriptor, interest) { [self] seen in
            LoopActor.assumeIsolated {
                // An error or hang-up is found by whoever reads.
                let isWritable = seen.contains(.write)
                let isReadable = seen.contains(.read) || !isWritable
                unsafe mayfly_ares_process(
                    channel, isReadable ? descriptor : -1, isWritable ? descriptor : -1)
                schedule()
            }
        }
    }
    private func schedule() {
        if let timer { EventLoop.shared.cancelTimer(timer) }
        timer = nil
        let patience = unsafe mayfly_ares_patience(channel)
        guard patience >= 0 else { return }
        timer = EventLoop.shared.schedule(at: .now + .milliseconds(patience)) { [self] in
            LoopActor.assumeIsolated {
                timer = nil
                unsafe mayfly_ares_process(channel, -1, -1)
                schedule()
            }
        }
    }
}

extension String? {
    fileprivate func withOptionalCString<Value>(
        _ body: (UnsafePointer<CChar>?) -> Value
    ) -> Value {
        guard let self else { return body(nil) }
        return unsafe self.withCString { unsafe body($0) }
    }
}
