// The agent's loop: waits, hears the host, lets programs and transfers go on, says what there is to
// say. States: parked (no host), greeted, prepared, and, after the first EXEC, bound to that host:
// from then on a lost host or a violation ends the machine.

import CGuest
import Glibc
import Wire

struct Agent: ~Copyable {
    let options: Options
    /// Readable when a child has ended; also orphans of tasks become our children.
    private let childSignal: CInt
    private var channel = Channel()
    private var set = PollSet()
    var connection: GuestConnection
    /// Counts connections, so that an answer never goes to another than the one that asked.
    var session = 0
    var identity: Identity
    var interpreters = Interpreters()
    var program: Program?
    var transfers = Transfers()
    var warming: Warming?
    /// The next program's cgroup, made ahead.
    var group: ControlGroup
    var groupCount = 1
    /// What a program may use when the host names no limit.
    var memory: Int64 = 0
    var isPrepared = false
    var hasExecuted = false
    private var isParking = false

    static func main() {
        let options = Boot.start()
        do throws(SystemError) {
            let children = try check("wait for children", mayfly_guest_child_signal())
            let group = try ControlGroup.make(number: 1)
            var agent = Agent(options, children, try Identity(), group)
            agent.run()
        } catch { powerOff("cannot start: \(error.description)") }
    }

    private init(
        _ options: Options, _ childSignal: CInt, _ identity: Identity,
        _ group: consuming ControlGroup
    ) {
        self.options = options
        self.childSignal = childSignal
        self.identity = identity
        self.group = group
        connection = GuestConnection(agent: options.agent)
        measureMemory()
    }

    /// Leaves some for the agent, page tables and the kernel: the task runs out first, not they.
    mutating func measureMemory() {
        memory = max(mayfly_guest_available_memory() - 24 << 20, 16 << 20)
    }

    private mutating func run() {
        while true {
            flush()
            set.removeAll()
            set.add(childSignal, POLLIN)
            channel.addInterest(to: &set)
            addInterest()
            set.wait(milliseconds: timeout())
            hear()
            if set.has(childSignal) { reap() }
            if channel.isSearching { channel.findPort() }
            do throws(WireError) {
                try goOn()
            } catch { violation(error) }
        }
    }

    private mutating func addInterest() {
        set.add(interpreters.python.socket, POLLIN)
        if warming != nil { set.add(interpreters.node.control, POLLIN) }
        let mayRead = mayProduce && capacity > 0
        program?.addInterest(to: &set, mayRead: mayRead)
        // A POLLOUT interest of the channel wakes transfers too; credit arrives as input.
    }
    /// Credit for the running program's output.
    private var capacity: Int { mutating get { connection.sendCapacity(of: program?.stream ?? 0) } }
    /// Nothing new is made while the host does not take what there is.
    private var mayProduce: Bool {
        channel.backlog + connection.output.count < Channel.backlogLimit
    }

    private mutating func timeout() -> CInt {
        if transfers.canSend(connection), mayProduce { return 0 }
        var milliseconds: Int64 = channel.isSearching ? 20 : -1
        if let due = program?.milliseconds {
            milliseconds = milliseconds < 0 ? due : min(milliseconds, due)
        }
        return CInt(min(milliseconds, 60_000))
    }

    private mutating func flush() {
        if !connection.output.isEmpty {
            channel.send(connection.takeOutput())
        } else if channel.backlog > 0 {
            channel.flush()
        }
        if isParking {
            channel.drain()
            isParking = false
            reset()
        }
    }

    // MARK: The host

    private mutating func hear() {
        while true {
            switch channel.arrival(&set, mayReplace: !hasExecuted) {
            case .nothing: return
            case .opened: startSession()
            case .lost:
                if hasExecuted { powerOff("the host is gone") }
                reset()
            case .bytes(let count):
                channel.feed(count, to: &connection)
                do throws(WireError) {
                    while let event = try connection.next() { try handle(event) }
                } catch { violation(error) }
                flush()
            }
        }
    }

    /// Back to waiting for a host.
    private mutating func reset() {
        channel.forget()
        startSession()
    }
    private mutating func startSession() {
        connection = GuestConnection(agent: options.agent)
        forgetSession()
    }
    private mutating func forgetSession() {
        transfers.removeAll()
        isPrepared = false
        session += 1
    }

    private mutating func violation(_ error: WireError) {
        say("protocol violation: \(error.description)")
        if connection.isGreeted {
            do throws(WireError) {
                try connection.send(.error(message: error.description))
            } catch { say("and it cannot be reported") }
            flush()
            channel.drain()
        }
        if hasExecuted { powerOff("a violation while a job is here") }
        reset()
    }

    private mutating func handle(_ event: GuestConnection.Event) throws(WireError) {
        guard case .message(let stream, let message) = event else {
            // What was on its way to another host must not reach this one.
            channel.dropBacklog()
            return forgetSession()
        }
        switch message {
        case .prepare(let preparation):
            guard !hasExecuted else { throw .unexpected("'prepare' after 'exec'") }
            let report = prepare(preparation)
            isPrepared = report.unproven == nil
            try connection.send(.ready(report))
        case .ping(let value):
            try connection.send(.pong(value, realtime: realtimeNanoseconds()))
        case .put(let request): transfers.put(request, stream)
        case .file(let bytes, let isFinal):
            try transfers.write(bytes, isFinal: isFinal, stream, &connection)
        case .list(let request):
            try connection.send(JobDirectory.list(request), on: stream)
        case .get(let request): try transfers.get(request, stream, &connection)
        case .exec(let request):
            guard isPrepared else { throw .unexpected("'exec' before a proven 'prepare'") }
            hasExecuted = true
            try start(request, stream)
        case .stdin(let bytes, let isFinal):
            try program?.take(bytes, isFinal: isFinal, &connection)
        case .signal(let number): program?.signal(CInt(number))
        case .kill: program?.kill(group)
        case .warm:
            guard !hasExecuted, warming == nil else { throw .unexpected("'warm'") }
            try warm()
        case .park:
            guard !hasExecuted, warming == nil else { throw .unexpected("'park'") }
            try park()
        case .shutdown: powerOff("the host ended this machine")
        case .credit: break
        }
    }

    /// Leaves nothing of this connection behind and says so as the last word.
    private mutating func park() throws(WireError) {
        do throws(SystemError) {
            try JobDirectory.clear()
        } catch { throw .unexpected("'park': \(error.description)") }
        try connection.send(.parked)
        isParking = true
    }

    // MARK: Children and progress

    private mutating func reap() {
        var info = [UInt8](repeating: 0, count: 1024)
        while unsafe read(childSignal, &info, info.count) > 0 {}
        var (value, isSignal): (CInt, CInt) = (0, 0)
        while true {
            let pid = unsafe mayfly_guest_reap(&value, &isSignal)
            guard pid > 0 else { return }
            let ending: ExitReport.Ending = isSignal != 0 ? .signal(value) : .code(value)
            if interpreters.python.ended(pid) {
                say("the parked python ended")
                program?.serverEnded()
            }
            if interpreters.node.ended(pid) { say("the parked node ended") }
            program?.childEnded(pid, ending)
            warming?.childEnded(pid)
        }
    }

    private mutating func goOn() throws(WireError) {
        if set.take(interpreters.python.socket) { try hearPython() }
        if warming != nil { try goOnWarming(nodeSpoke: set.take(interpreters.node.control)) }
        if program != nil { try goOnRunning() }
        if mayProduce { try transfers.send(&connection) }
    }

    private mutating func hearPython() throws(WireError) {
        while let packet = interpreters.python.receive() {
            if warming != nil {
                warming?.pythonSaid(packet)
            } else if case .started(let pid) = packet {
                try program?.started(pid, &connection)
            } else if case .ended(let ending) = packet {
                program?.ended(ending)
            }
        }
    }

    private mutating func goOnRunning() throws(WireError) {
        if mayProduce { try program?.pump(&connection) } else { program?.wait() }
        try program?.flushInput(&connection)
        program?.checkTime(group)
        guard let report = try program?.report(group, &connection) else { return }
        if let stream = program?.stream { try connection.send(.exit(report), on: stream) }
        program = nil
        // The host waits for this, and not for what comes after.
        flush()
        nextGroup()
    }

    /// Every program has a cgroup of its own, so that its counts are its own.
    mutating func nextGroup() {
        groupCount += 1
        do throws(SystemError) {
            group = try ControlGroup.make(number: groupCount)
        } catch { powerOff("no cgroup for another program: \(error.description)") }
    }
}
