// The way to the host: a virtio-serial port, which is the worker's alone, and an AF_VSOCK listener
// from the moment when the worker has named it over the port; or one since boot, where AF_VSOCK
// itself is the worker's alone. Moves bytes; knows nothing of frames.
// Never blocks, never gives up waiting.

import CLinux
import Glibc
import Wire

/// The agent's end of the one stream to the host.
struct HostLink: ~Copyable {
    private enum Active { case none, port, socket }

    private static let hostContextID: UInt32 = 2
    private static let portName = "mayfly.agent"
    /// More than this waits unsent only while the host does not read: then nothing more is made.
    static let backlogLimit = 512 << 10

    private var port: CInt = -1
    /// Watches the port edge-triggered: a port without a host is always "hung up", and a plain
    /// poll would spin on that.
    private let portEvents: CInt
    /// AF_VSOCK is nobody's but the worker's, as it is under Firecracker: no port, no invitation.
    let isVsockPrivate: Bool
    /// Where the worker was told to come; -1 before an invitation and once a job is here.
    private var listener: CInt = -1
    private var admission: HostAdmission?
    private var socket: CInt = -1
    private var active = Active.none
    private var pending: [UInt8] = []
    private var pendingStart = 0
    private var buffer = [UInt8](repeating: 0, count: 64 << 10)
    private let searchUntil: Int64

    /// - Parameter vsock: the port to listen on from now on.
    init(vsock: UInt32?) throws(SystemError) {
        portEvents = mayfly_epoll()
        searchUntil = monotonicMicroseconds() + 30_000_000
        isVsockPrivate = vsock != nil
        guard let vsock else {
            findPort()
            return
        }
        listener = try check("listen on vsock", mayfly_vsock_listen(vsock))
        admission = HostAdmission(token: nil)
    }

    // MARK: Waiting

    /// The port's node may come late; then this is due every 20 ms until it was found.
    var isSearching: Bool {
        port < 0 && !isVsockPrivate && monotonicMicroseconds() < searchUntil
    }
    mutating func findPort() {
        guard port < 0, let directory = unsafe opendir("/sys/class/virtio-ports") else { return }
        defer { unsafe closedir(directory) }
        while let entry = unsafe readdir(directory) {
            let name = unsafe withUnsafePointer(to: entry.pointee.d_name) {
                unsafe String(cString: UnsafeRawPointer($0).assumingMemoryBound(to: CChar.self))
            }
            guard name.hasPrefix("vport"),
                readFile("/sys/class/virtio-ports/\(name)/name").hasPrefix(Self.portName)
            else { continue }
            let file = unsafe open("/dev/\(name)", O_RDWR | O_NONBLOCK | O_CLOEXEC)
            guard file >= 0 else { return }
            _ = unsafe chmod("/dev/\(name)", 0o600)
            port = file
            _ = mayfly_epoll_add(portEvents, file, UInt32(MAYFLY_READ) | 1 << 31)
            return
        }
    }

    func addInterest(to set: inout PollSet) {
        set.add(listener, POLLIN)
        for candidate in admission?.undecided ?? [] { set.add(candidate, POLLIN) }
        if port >= 0 { set.add(portEvents, POLLIN) }
        let isWriting = pendingStart < pending.count
        if socket >= 0 { set.add(socket, isWriting ? POLLIN | POLLOUT : POLLIN) }
        if active == .port, isWriting { set.add(port, POLLOUT) }
    }

    // MARK: Reading

    enum Arrival {
        case nothing
        /// So many bytes of the session wait for `feed`.
        case bytes(Int)
        /// The worker has come over AF_VSOCK, with this preamble.
        case admitted([UInt8])
        case lost
    }

    /// What `set` says has come; called until it answers `.nothing`.
    mutating func arrival(_ set: inout PollSet, isBound: Bool) -> Arrival {
        if set.take(listener) { accept() }
        for candidate in admission?.undecided ?? [] where set.take(candidate) {
            if let preamble = read(candidate: candidate) { return .admitted(preamble) }
        }
        if socket >= 0, set.has(socket) {
            switch readSome(socket) {
            case .nothing: set.clear(socket)
            case let arrival: return arrival
            }
        }
        guard port >= 0, set.has(portEvents) else { return .nothing }
        // Taken before the port is read: what comes later wakes us again.
        var ready: UInt64 = 0
        _ = unsafe mayfly_epoll_wait(portEvents, 0, &ready, 1)
        while true {
            switch readSome(port) {
            // A second host while a job runs is ignored.
            case .bytes where active == .socket && isBound: continue
            case .bytes(let count):
                if active == .socket { forget() }
                active = .port
                return .bytes(count)
            case let arrival:
                set.clear(portEvents)
                return active == .port ? arrival : .nothing
            }
        }
    }
    /// Gives what arrived to `connection`.
    mutating func feed(_ count: Int, to connection: inout GuestConnection) {
        connection.receive(buffer.span.extracting(0..<count))
    }
    /// Over which way the session that speaks now has come.
    var isOverPort: Bool { active == .port }

    private mutating func readSome(_ file: CInt) -> Arrival {
        let count = unsafe Glibc.read(file, &buffer, buffer.count)
        if count > 0 { return .bytes(count) }
        // 0 from a port: no host is connected.
        return count < 0 && (errno == EAGAIN || errno == EINTR) ? .nothing : .lost
    }

    // MARK: AF_VSOCK

    /// Listens where the worker will come; whatever was connected before is nothing any more.
    mutating func expect(_ invitation: Invitation) throws(SystemError) {
        stopListening()
        forget()
        listener = try check("listen on vsock", mayfly_vsock_listen(invitation.port))
        admission = HostAdmission(token: invitation.token)
    }
    /// A snapshot is about to be made: nobody can come in its name, but where nobody else could.
    mutating func forgetInvitation() {
        if !isVsockPrivate { stopListening() }
    }
    /// The worker is here, or nobody shall come.
    mutating func stopListening() {
        if listener >= 0 { close(listener) }
        for candidate in admission?.undecided ?? [] { close(candidate) }
        listener = -1
        admission = nil
    }

    private mutating func accept() {
        var contextID: UInt32 = 0
        let file = unsafe mayfly_vsock_accept(listener, &contextID)
        guard file >= 0 else { return }
        guard contextID == Self.hostContextID else {
            close(file)
            return
        }
        if let surplus = admission?.open(file) { close(surplus) }
    }
    /// The preamble, when it is whole and the worker's: from then on this is the session's socket.
    private mutating func read(candidate: CInt) -> [UInt8]? {
        let wanted = admission?.missing(candidate) ?? 0
        let count = unsafe Glibc.read(candidate, &buffer, wanted)
        if count < 0, errno == EAGAIN || errno == EINTR { return nil }
        let bytes = Array(buffer[..<max(0, count)])
        switch admission?.receive(bytes, from: candidate) ?? .refused {
        case .undecided: return nil
        case .refused:
            close(candidate)
            return nil
        case .admitted(let preamble):
            forget()
            socket = candidate
            active = .socket
            return preamble
        }
    }

    // MARK: Writing

    var backlog: Int { pending.count - pendingStart }

    mutating func send(_ bytes: [UInt8]) {
        if pendingStart == pending.count {
            (pending, pendingStart) = (bytes, 0)
        } else {
            pending.append(contentsOf: bytes)
        }
        flush()
    }
    /// Writes what can be written now; `false` when the other side is gone.
    @discardableResult
    mutating func flush() -> Bool {
        let file = active == .socket ? socket : active == .port ? port : -1
        guard file >= 0 else {
            (pending, pendingStart) = ([], 0)
            return true
        }
        while pendingStart < pending.count {
            let count = unsafe pending.withUnsafeBytes {
                unsafe write(file, $0.baseAddress?.advanced(by: pendingStart), backlog)
            }
            if count < 0, errno == EINTR { continue }
            guard count > 0 else { return count < 0 && errno == EAGAIN }
            pendingStart += count
        }
        return true
    }
    /// Waits until everything is written: the last words before parking or powering off.
    mutating func drain() {
        for _ in 0..<1000 where backlog > 0 && flush() && backlog > 0 { usleep(1000) }
    }

    /// Back to waiting for a host.
    mutating func forget() {
        if socket >= 0 { close(socket) }
        socket = -1
        active = .none
        dropBacklog()
    }
    mutating func dropBacklog() { (pending, pendingStart) = ([], 0) }
}
