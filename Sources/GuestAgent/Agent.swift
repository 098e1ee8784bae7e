// The agent's loop: waits, reads what the host says, advances programs, listings and transfers,
// writes what there is to say. How far a session has come is the connection's own state; once a job
// is here a lost host or a violation ends the machine.

import CGuest
import Glibc
import Wire

struct Agent: ~Copyable {
    /// What this machine's memory is.
    enum Life {
        /// It was booted: an image may be made of it.
        case booted
        /// PARKED is on its way; then everything of the session is forgotten.
        case parking
        /// It is a snapshot, or a copy of one.
        case snapshot
    }

    let options: Options
    /// Readable when a child has ended; also orphans of jobs become our children.
    let childSignal: CInt
    private var link: HostLink
    var set = PollSet()
    var connection: GuestConnection
    /// Counts connections, so that an answer never goes to another than the one that asked.
    var session = 0
    var identity: Identity
    var interpreters = Interpreters()
    /// Found before the snapshot, emptied in each of its clones.
    var forkMarks = ForkMarks()
    var program: Program?
    var transfers = Transfers()
    private var listings = Listings()
    var network: Network
    /// A PUT has come since the job's directory was last known to be empty.
    var holdsFiles = false
    /// What the worker will show over AF_VSOCK.
    private var token: [UInt8] = []
    var warming: Warming?
    /// The agent plays a job's way by itself; `connection` leads to nobody.
    var isRehearsing = false
    /// The next program's cgroup, made ahead.
    var group: ControlGroup
    var groupCount = 1
    /// What a program may use when the host names no limit.
    var memory: Int64 = 0
    private var life = Life.booted
    /// The machine's own disk once the job's directory is on it: open since nothing was written.
    var scratch: ScratchDisk?

    static func main() {
        let options = Boot.start()
        do throws(SystemError) {
            let children = try check("wait for children", mayfly_guest_child_signal())
            let group = try ControlGroup.make(number: 1)
            let link = try HostLink(vsock: options.port)
            let network = try Network()
            var identity = try Identity()
            if options.startsSystemd {
                // One that is empty systemd would replace, where PREPARE could not reach it; its
                // journal refuses to begin without either.
                try identity.machineID.set(hexadecimal(randomBytes(16)))
                try identity.bootID.set(uuid())
                try Boot.startSystemd()
            }
            var agent = Agent(options, children, identity, group, link, network)
            agent.run()
        } catch { powerOff("cannot start: \(error.description)") }
    }

    private init(
        _ options: Options, _ childSignal: CInt, _ identity: Identity,
        _ group: consuming ControlGroup, _ link: consuming HostLink,
        _ network: consuming Network
    ) {
        self.options = options
        self.childSignal = childSignal
        self.identity = identity
        self.group = group
        self.link = link
        self.network = network
        connection = GuestConnection(agent: options.agent, trust: .theWay)
        measureMemory()
    }

    /// Leaves some for the agent, page tables and the kernel: the job runs out first, not they.
    mutating func measureMemory() {
        memory = max(mayfly_guest_available_memory() - 24 << 20, 16 << 20)
    }

    private mutating func run() {
        while true {
            flush()
            set.removeAll()
            set.add(childSignal, POLLIN)
            link.addInterest(to: &set)
            addInterest()
            set.wait(milliseconds: timeout())
            read()
            if set.has(childSignal) { reap() }
            if link.isSearching { link.findPort() }
            do throws(WireError) {
                try advance()
            } catch { violation(error) }
        }
    }

    mutating func addInterest() {
        set.add(interpreters.python.socket, POLLIN)
        if warming != nil { set.add(interpreters.node.control, POLLIN) }
        let mayRead = mayProduce && capacity > 0
        program?.addInterest(to: &set, mayRead: mayRead)
        network.addInterest(to: &set, connection, mayRead: mayProduce)
        // A POLLOUT interest of the link wakes transfers too; credit arrives as input.
    }
    /// Credit for the running program's output.
    private var capacity: Int { mutating get { connection.sendCapacity(of: program?.stream ?? 0) } }
    /// Nothing new is made while the host does not take what there is.
    private var mayProduce: Bool {
        link.backlog + connection.output.count < HostLink.backlogLimit
    }

    mutating func timeout() -> CInt {
        if listings.isBusy || transfers.canSend(connection), mayProduce { return 0 }
        var milliseconds: Int64 = link.isSearching ? 20 : -1
        if let due = program?.milliseconds {
            milliseconds = milliseconds < 0 ? due : min(milliseconds, due)
        }
        return CInt(min(milliseconds, 60_000))
    }

    private mutating func flush() {
        // What is said then is for the agent itself.
        guard !isRehearsing else { return }
        if !connection.output.isEmpty {
            link.send(connection.takeOutput())
        } else if link.backlog > 0 {
            link.flush()
        }
        if life == .parking {
            link.drain()
            life = .snapshot
            // Nobody can come in a snapshot's name: each copy is told anew whom to expect.
            link.forgetInvitation()
            token = []
            reset()
        }
    }

    // MARK: The host

    private mutating func read() {
        while true {
            switch link.arrival(&set, isBound: isBound) {
            case .nothing: return
            case .admitted(let preamble):
                startSession(link.isVsockPrivate ? .theWay : .token(token))
                connection.receive(preamble)
                readEvents()
            case .lost:
                if isBound { powerOff("the host is gone") }
                reset()
            case .bytes(let count):
                if link.isOverPort, !isOverPort { startSession(.theWay) }
                link.feed(count, to: &connection)
                readEvents()
            }
        }
    }
    private mutating func readEvents() {
        do throws(WireError) {
            while let event = try connection.next() { try handle(event) }
        } catch { violation(error) }
        flush()
    }
    /// A job is here: this host or none.
    private var isBound: Bool { connection.state == .bound }
    private var isOverPort: Bool { connection.trust == .theWay }

    /// Back to waiting for a host.
    private mutating func reset() {
        link.forget()
        startSession(.theWay)
    }
    private mutating func startSession(_ trust: GuestConnection.Trust) {
        connection = GuestConnection(agent: options.agent, trust: trust)
        forgetSession()
    }
    /// Nothing that one host has put here is there for another.
    mutating func forgetSession() {
        transfers.removeAll()
        listings.removeAll()
        session += 1
        guard holdsFiles else { return }
        holdsFiles = false
        do throws(SystemError) { try JobDirectory.clear() } catch {
            powerOff("the files of a session cannot be removed: \(error.description)")
        }
    }

    private mutating func violation(_ error: WireError) {
        say("protocol violation: \(error.description)")
        if connection.state != .waiting {
            do throws(WireError) {
                try connection.send(.error(message: error.description))
            } catch { say("and it cannot be reported") }
            flush()
            link.drain()
        }
        if isBound { powerOff("a violation while a job is here") }
        reset()
    }

    mutating func handle(_ event: GuestConnection.Event) throws(WireError) {
        switch event {
        case .invited(let invitation):
            do throws(SystemError) { try link.expect(invitation) } catch {
                // The host will see that nobody answers there.
                say(error.description)
            }
            token = invitation.token
            startSession(.theWay)
        case .greeted:
            // What was on its way to another host must not reach this one.
            link.dropBacklog()
            forgetSession()
        case .message(let stream, let message): try handle(message, on: stream)
        }
    }

    private mutating func handle(
        _ message: HostMessage, on stream: UInt32
    ) throws(WireError) {
        switch message {
        case .prepare(let preparation): try connection.send(.ready(prepare(preparation)))
        case .ping(let value):
            try connection.send(.pong(value, realtime: realtimeNanoseconds()))
        case .put(let request):
            holdsFiles = true
            transfers.put(request, stream)
        case .file(let bytes, let isFinal):
            try transfers.write(bytes, isFinal: isFinal, stream, &connection)
        case .list(let request): try listings.begin(request, stream, given: transfers.given)
        case .get(let request): try transfers.get(request, stream, &connection)
        case .exec(let request):
            if !isRehearsing { link.stopListening() }
            try start(request, stream)
        case .stdin(let bytes, let isFinal):
            try program?.take(bytes, isFinal: isFinal, &connection)
        case .signal(let number): program?.signal(CInt(number))
        case .kill: program?.kill(group)
        case .warm:
            guard life == .booted, warming == nil else { throw .unexpected("'warm'") }
            try warm()
        case .park:
            guard life == .booted, warming == nil else { throw .unexpected("'park'") }
            try park()
        case .rehearse: try rehearse()
        case .shutdown: powerOff("the host ended this machine")
        case .credit: break
        case .data(let bytes, let isFinal):
            try network.take(bytes, isFinal: isFinal, stream, &connection)
        case .close: try network.closed(stream, &connection)
        }
    }

    /// Leaves nothing of this connection behind and says so as the last word.
    private mutating func park() throws(WireError) {
        do throws(SystemError) {
            try JobDirectory.clear()
        } catch { throw .unexpected("'park': \(error.description)") }
        forkMarks = ForkMarks.find()
        try connection.send(.parked)
        life = .parking
    }

    // MARK: Children and progress

    mutating func reap() {
        var info = [UInt8](repeating: 0, count: 1024)
        while unsafe Glibc.read(childSignal, &info, info.count) > 0 {}
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
            warming?.childEnded(pid, ending)
        }
    }

    mutating func advance() throws(WireError) {
        if set.take(interpreters.python.socket) { try readPython() }
        if warming != nil { try advanceWarming(nodeSpoke: set.take(interpreters.node.control)) }
        try network.advance(&set, &connection, mayRead: mayProduce)
        if program != nil { try advanceProgram() }
        guard mayProduce else { return }
        try listings.advance(&connection)
        try transfers.send(&connection)
    }

    private mutating func readPython() throws(WireError) {
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

    private mutating func advanceProgram() throws(WireError) {
        if mayProduce { try program?.pump(&connection) } else { program?.wait() }
        try program?.flushInput(&connection)
        program?.checkTime(group)
        guard let report = try program?.report(group, &connection) else { return }
        do throws(SystemError) { try scratch?.checkWrites() } catch { powerOff(error.description) }
        try network.end(&connection)
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
