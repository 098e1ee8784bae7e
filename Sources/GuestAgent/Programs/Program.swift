// One running program: its streams under credit, its limits of time, its end. What started it
// (a new process, the fork server, the parked node) no longer matters here, but for how its end is
// reported.

import Glibc
import Wire

/// A program from its start to its EXIT report.
struct Program: ~Copyable {
    /// After the program's end everything of it is dead; these bound the wait for what the kernel
    /// still has to say and for a host that does not take the last output.
    private static let idleGrace: Int64 = 250_000
    private static let wholeGrace: Int64 = 1_000_000
    /// What a program that is interrupted before its deadline has to say where it was, at most.
    private static let lastWords: Int64 = 2_000_000

    let stream: UInt32
    private var pid: pid_t
    /// The fork server waits for it, not we.
    private let isServed: Bool
    private let isParked: Bool
    private var output: CInt
    private var errors: CInt
    private var events: CInt
    private var input: CInt
    private var unwritten: [UInt8] = []
    private var unwrittenStart = 0
    private var isInputFinal = false
    /// When EXEC was read.
    private let began: Int64
    /// What the warm-up's processes had used until then: what they use more is this program's.
    private let warmUpBefore = ControlGroup.warmUpMicroseconds
    private let deadline: Int64?
    /// When it is told that its time is nearly over; from then on its end is the timeout's.
    private let interruption: Int64?
    private var isInterrupted = false
    private var isStarted = false
    private var ending: ExitReport.Ending?
    private var endedAt: Int64 = 0
    /// While nothing could be sent for want of credit, no grace runs.
    private var lastProgress: Int64 = 0
    private var graceFrom: Int64 = 0
    private var killedAt: Int64?
    private var isTimeout = false
    private var isCleared = false
    private var buffer = [UInt8](repeating: 0, count: Limits.payloadByteCount)

    /// `pid` 0: the fork server will say it.
    ///
    /// The descriptors are ours from now on.
    init(
        stream: UInt32, pid: pid_t, isParked: Bool, pipes: consuming Pipes,
        request: ExecRequest, asked: Int64
    ) {
        self.stream = stream
        began = asked
        self.pid = pid
        self.isParked = isParked
        isServed = pid == 0
        (input, output, errors, events) = pipes.takeOurs()
        for file in [input, output, errors, events] where file >= 0 { setNonBlocking(file) }
        let timeout = Int64(request.timeoutMilliseconds) * 1000
        deadline = timeout > 0 ? began + timeout : nil
        let interrupts = timeout > 0 && request.program == .python && request.reportsValues
        interruption = interrupts ? began + timeout - min(Self.lastWords, timeout / 5) : nil
    }
    deinit {
        for file in [input, output, errors, events] where file >= 0 { close(file) }
    }

    // MARK: What happens to it

    /// Whether it runs already; the fork server says so later.
    var isRunning: Bool { !isServed }

    /// `pid`: when the fork server has said it.
    mutating func started(
        _ pid: pid_t?, _ connection: inout GuestConnection
    ) throws(WireError) {
        if let pid { self.pid = pid }
        isStarted = true
        let microseconds = UInt32(clamping: monotonicMicroseconds() - began)
        try connection.send(
            .started(isParked: isParked, startMicroseconds: microseconds), on: stream)
    }
    mutating func childEnded(_ child: pid_t, _ how: ExitReport.Ending) {
        if !isServed, child == pid { ended(how) }
    }
    mutating func serverEnded() {
        if isServed { ended(.signal(SIGKILL)) }
    }
    mutating func ended(_ how: ExitReport.Ending) {
        guard ending == nil else { return }
        ending = how
        endedAt = monotonicMicroseconds()
        (lastProgress, graceFrom) = (endedAt, endedAt)
    }
    /// The host takes nothing at the moment.
    mutating func wait() {
        graceFrom = monotonicMicroseconds()
        lastProgress = graceFrom
    }

    /// To the whole process group of a program that has not ended.
    func signal(_ number: CInt) {
        guard ending == nil, pid > 1 else { return }
        if Glibc.kill(-pid, number) != 0 { _ = Glibc.kill(pid, number) }
    }
    mutating func kill(_ group: borrowing ControlGroup) {
        guard killedAt == nil else { return }
        killedAt = monotonicMicroseconds()
        group.kill()
    }

    mutating func checkTime(_ group: borrowing ControlGroup) {
        let now = monotonicMicroseconds()
        if let interruption, now >= interruption, ending == nil, !isInterrupted {
            isInterrupted = true
            isTimeout = true
            signal(SIGINT)
        }
        if let deadline, now >= deadline, ending == nil, killedAt == nil {
            isTimeout = true
            kill(group)
        }
        // Killed, and nobody reports its end: the fork server is stuck. Do not wait for it.
        if let killedAt, ending == nil, now > killedAt + 2_000_000 { ended(.signal(SIGKILL)) }
        // The direct child is gone: so is everything that it left behind.
        if ending != nil, !isCleared {
            isCleared = true
            if group.isPopulated { group.kill() }
        }
    }
    /// Until something is due; `nil` when only events matter.
    var milliseconds: Int64? {
        if ending != nil { return 5 }
        if killedAt != nil { return 100 }
        guard let deadline = isInterrupted ? deadline : interruption ?? deadline else { return nil }
        return max(0, (deadline - monotonicMicroseconds() + 999) / 1000)
    }

    // MARK: Streams

    func addInterest(to set: inout PollSet, mayRead: Bool) {
        guard isStarted else { return }
        if mayRead {
            set.add(output, POLLIN)
            set.add(errors, POLLIN)
            set.add(events, POLLIN)
        }
        if unwrittenStart < unwritten.count { set.add(input, POLLOUT) }
    }

    /// Reads what the program has printed, as far as the host's credit goes.
    mutating func pump(_ connection: inout GuestConnection) throws(WireError) {
        guard isStarted else { return }
        if connection.sendCapacity(of: stream) == 0 { return wait() }
        if output >= 0, try !pump(.stdout, output, &connection) {
            close(output)
            output = -1
        }
        if errors >= 0, try !pump(.stderr, errors, &connection) {
            close(errors)
            errors = -1
        }
        if events >= 0, try !pump(.events, events, &connection) {
            close(events)
            events = -1
        }
    }
    /// `false` when this was the end of the file.
    private mutating func pump(
        _ type: FrameType, _ file: CInt, _ connection: inout GuestConnection
    ) throws(WireError) -> Bool {
        // A few reads each time: what the host says must be read between them.
        for _ in 0..<4 {
            let capacity = connection.sendCapacity(of: stream)
            guard capacity > 0 else { return true }
            let count = unsafe read(file, &buffer, capacity)
            if count < 0, errno == EAGAIN || errno == EINTR { return true }
            lastProgress = monotonicMicroseconds()
            if count <= 0 {
                try connection.sendData(type, [UInt8]().span, on: stream, isFinal: true)
                return false
            }
            try connection.sendData(
                type, buffer.span.extracting(0..<count), on: stream, isFinal: false)
        }
        return true
    }

    mutating func take(
        _ bytes: [UInt8], isFinal: Bool, _ connection: inout GuestConnection
    ) throws(WireError) {
        isInputFinal = isFinal
        if unwrittenStart == unwritten.count { (unwritten, unwrittenStart) = ([], 0) }
        unwritten.append(contentsOf: bytes)
        try flushInput(&connection)
    }
    mutating func flushInput(_ connection: inout GuestConnection) throws(WireError) {
        while unwrittenStart < unwritten.count, input >= 0 {
            let count = unsafe unwritten.withUnsafeBytes {
                unsafe write(
                    input, $0.baseAddress?.advanced(by: unwrittenStart), $0.count - unwrittenStart)
            }
            if count < 0, errno == EAGAIN || errno == EINTR { return }
            guard count > 0 else {
                close(input)
                input = -1
                break
            }
            unwrittenStart += count
            try connection.release(count, of: stream)
        }
        // A program that reads no more: take the rest from the host all the same.
        if input < 0, unwrittenStart < unwritten.count {
            try connection.release(unwritten.count - unwrittenStart, of: stream)
            unwrittenStart = unwritten.count
        }
        if isInputFinal, unwrittenStart == unwritten.count, input >= 0 {
            close(input)
            input = -1
        }
    }

    // MARK: The end

    /// The report once everything is dead and said, `nil` before.
    mutating func report(
        _ group: borrowing ControlGroup, _ connection: inout GuestConnection
    ) throws(WireError) -> ExitReport? {
        guard let ending else { return nil }
        let now = monotonicMicroseconds()
        if now <= graceFrom + Self.wholeGrace {
            guard !group.isPopulated else { return nil }
            let isQuiet = now > lastProgress + Self.idleGrace
            guard output < 0 && errors < 0 && events < 0 || isQuiet else { return nil }
        }
        let open = [(FrameType.stdout, output), (.stderr, errors), (.events, events)]
        for (type, file) in open where file >= 0 {
            try connection.sendData(type, [UInt8]().span, on: stream, isFinal: true)
        }
        // A program that the fork server could not even start has no STARTED yet.
        if !isStarted { try started(nil, &connection) }
        let warmUpNow = max(ControlGroup.warmUpMicroseconds, warmUpBefore)
        return ExitReport(
            ending: ending, isOutOfMemory: group.isOutOfMemory, isTimeout: isTimeout,
            cpuMicroseconds: group.cpuMicroseconds + (warmUpNow - warmUpBefore),
            peakByteCount: group.peakByteCount,
            wallMicroseconds: UInt64(clamping: endedAt - began))
    }
}
