// The way to the host: a vsock listener, a virtio-serial port, or both; whoever speaks first is the
// host. Moves bytes; knows nothing of frames. Never blocks, never gives up waiting.

import CLinux
import Glibc
import Wire

/// The agent's end of the one stream to the host.
struct Channel: ~Copyable {
    private enum Active { case none, port, socket }

    private static let vsockPort: UInt32 = 1024
    private static let hostContextID: UInt32 = 2
    private static let portName = "mayfly.agent"
    /// More than this waits unsent only while the host does not read: then nothing more is made.
    static let backlogLimit = 512 << 10

    private let listener: CInt
    private var port: CInt = -1
    /// Watches the port edge-triggered: a port without a host is always "hung up", and a plain
    /// poll would spin on that.
    private let portEvents: CInt
    private var socket: CInt = -1
    private var active = Active.none
    private var pending: [UInt8] = []
    private var pendingStart = 0
    private var buffer = [UInt8](repeating: 0, count: 64 << 10)
    private let searchUntil: Int64

    init() {
        listener = mayfly_vsock_listen(Self.vsockPort)
        portEvents = mayfly_epoll()
        searchUntil = monotonicMicroseconds() + 30_000_000
        findPort()
        if listener < 0, port < 0 { say("no vsock and no port yet") }
    }

    // MARK: Waiting

    /// The port's node may come late; then this is due every 20 ms until it or a host was found.
    var isSearching: Bool {
        port < 0 && active == .none && monotonicMicroseconds() < searchUntil
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
        if port >= 0 { set.add(portEvents, POLLIN) }
        let isWriting = pendingStart < pending.count
        if socket >= 0 { set.add(socket, isWriting ? POLLIN | POLLOUT : POLLIN) }
        if active == .port, isWriting { set.add(port, POLLOUT) }
    }

    // MARK: Reading

    enum Arrival { case nothing, bytes(Int), opened, lost }

    /// What `set` says has come; called until it answers `.nothing`.
    ///
    /// `.bytes(n)` waits for `feed`.
    mutating func arrival(_ set: inout PollSet, mayReplace: Bool) -> Arrival {
        if set.take(listener), accept(mayReplace: mayReplace) { return .opened }
        if socket >= 0, set.has(socket) {
            switch readSome(socket) {
            case .nothing: set.clear(socket)
            case let arrival: return arrival
            }
        }
        if port >= 0, set.has(portEvents) {
            // Taken before the port is read: what comes later wakes us again.
            var ready: UInt64 = 0
            _ = unsafe mayfly_epoll_wait(portEvents, 0, &ready, 1)
            switch readSome(port) {
            case .bytes(let count) where active == .socket && !mayReplace:
                // A second host while a job runs: not heard.
                _ = count
                return arrival(&set, mayReplace: mayReplace)
            case .bytes(let count):
                active = .port
                return .bytes(count)
            case let arrival:
                set.clear(portEvents)
                return active == .port ? arrival : .nothing
            }
        }
        return .nothing
    }
    /// Gives what arrived to `connection`.
    mutating func feed(_ count: Int, to connection: inout GuestConnection) {
        connection.receive(buffer.span.extracting(0..<count))
    }

    private mutating func readSome(_ file: CInt) -> Arrival {
        let count = unsafe read(file, &buffer, buffer.count)
        if count > 0 { return .bytes(count) }
        // 0 from a port: no host is connected.
        return count < 0 && (errno == EAGAIN || errno == EINTR) ? .nothing : .lost
    }

    /// One connection at a time.
    ///
    /// Before a job a new one takes the place of the old: after a restore the first may be dead
    /// without anybody having told us.
    private mutating func accept(mayReplace: Bool) -> Bool {
        var contextID: UInt32 = 0
        let file = unsafe mayfly_vsock_accept(listener, &contextID)
        guard file >= 0 else { return false }
        guard contextID == Self.hostContextID, active == .none || mayReplace else {
            close(file)
            return false
        }
        forget()
        socket = file
        active = .socket
        return true
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

/// The descriptors of one poll(2), rebuilt for each: there are few.
struct PollSet: ~Copyable {
    private var entries: [pollfd] = []

    mutating func removeAll() { entries.removeAll(keepingCapacity: true) }
    mutating func add(_ file: CInt, _ events: CInt) {
        if file >= 0 { entries.append(pollfd(fd: file, events: Int16(events), revents: 0)) }
    }
    mutating func wait(milliseconds: CInt) {
        _ = unsafe poll(&entries, nfds_t(entries.count), milliseconds)
    }
    func has(_ file: CInt) -> Bool {
        for entry in entries where entry.fd == file { return entry.revents != 0 }
        return false
    }
    mutating func clear(_ file: CInt) {
        for index in entries.indices where entries[index].fd == file {
            entries[index].revents = 0
        }
    }
    /// As `has`, once.
    mutating func take(_ file: CInt) -> Bool {
        guard has(file) else { return false }
        clear(file)
        return true
    }
}
