// WARM: starts the interpreters that the snapshot shall hold and lets each of them work once, so
// that what a job needs is in memory. Runs while an image is built, beside the agent's loop: a host
// that asks meanwhile gets its answers.

import CGuest
import Glibc
import Wire

/// Where WARM stands.
struct Warming {
    enum Stage { case warmUp, python, pythonProgram, node, shell, done }
    let session: Int
    var stage: Stage
    var failure: String?
    /// What is waited for in the stages of the warm-up and the shell.
    private(set) var child: pid_t = 0
    fileprivate var clockBefore: (realtime: Int64, monotonic: Int64) = (0, 0)
    fileprivate var isStageOver = false

    mutating func pythonSaid(_ packet: Python.Packet) {
        switch packet {
        case .ready where stage == .python: isStageOver = true
        case .ended(let ending) where stage == .pythonProgram:
            isStageOver = true
            if ending != .code(0) { failure = "the parked python cannot run a program" }
        default: break
        }
    }
    mutating func childEnded(_ pid: pid_t, _ ending: ExitReport.Ending) {
        guard stage == .shell || stage == .warmUp, pid == child else { return }
        isStageOver = true
        if stage == .warmUp, ending != .code(0) {
            failure = "the warm-up ended with \(ending.words)\(WarmUp.lastWords)"
        }
    }
    fileprivate mutating func wait(for pid: pid_t) { child = pid }
    fileprivate init(session: Int) {
        self.session = session
        stage = .warmUp
        isStageOver = true
    }
    fileprivate mutating func enter(_ next: Stage) {
        stage = next
        isStageOver = false
    }
}

extension Agent {
    /// OpenSSL inside Node keeps a generator of its own, whose state would be the same in every
    /// clone.
    ///
    /// It seeds itself anew when the clock stands before its last seeding; so Node starts under a
    /// clock far ahead, and every clock that PREPARE sets is before that.
    private static let yearsAhead: Int64 = 10 * 366 * 86_400 * 1_000_000_000

    mutating func warm() throws(WireError) {
        var warming = Warming(session: session)
        do throws(SystemError) {
            if !options.warmUp.isEmpty {
                warming.wait(for: try runWarmUp())
                warming.isStageOver = false
            }
        } catch { warming.failure = error.description }
        self.warming = warming
        try advanceWarming(nodeSpoke: false)
    }

    mutating func advanceWarming(nodeSpoke: Bool) throws(WireError) {
        guard var now = warming else { return }
        if now.stage == .node, nodeSpoke, interpreters.node.readReady() { now.isStageOver = true }
        checkAlive(&now)
        if now.stage == .node, now.isStageOver || now.failure != nil { restoreClock(&now) }
        while now.isStageOver, now.failure == nil, now.stage != .done {
            do throws(SystemError) { try nextStage(&now) } catch {
                now.failure = error.description
                restoreClock(&now)
            }
        }
        warming = now
        guard now.stage == .done || now.failure != nil else { return }
        warming = nil
        finishWarming()
        guard now.session == session else { return }
        let message = now.failure ?? ""
        try connection.send(.ack(now.failure == nil ? .ok : .failed, message: message))
    }

    private func checkAlive(_ now: inout Warming) {
        if now.stage == .python || now.stage == .pythonProgram, interpreters.python.wasStarted,
            interpreters.python.socket < 0
        {
            now.failure = "the parked python ended"
        }
        if now.stage == .node, interpreters.node.control < 0 {
            now.failure = "the parked node ended"
        }
    }

    private mutating func nextStage(_ now: inout Warming) throws(SystemError) {
        switch now.stage {
        case .warmUp:
            now.enter(.python)
            guard options.warmsPython, !interpreters.python.wasStarted else {
                now.isStageOver = true
                return
            }
            try interpreters.python.start(
                modules: options.pythonModules, hasFixedLayout: options.fixesLayout)
        case .python:
            now.enter(.pythonProgram)
            guard interpreters.python.isReady else {
                now.isStageOver = true
                return
            }
            try runOnceInPython()
        case .pythonProgram:
            now.enter(.node)
            guard options.warmsNode, !interpreters.node.wasStarted else {
                now.isStageOver = true
                return
            }
            now.clockBefore = (realtimeNanoseconds(), monotonicMicroseconds())
            try check(
                "set the clock", mayfly_guest_set_clock(now.clockBefore.realtime + Self.yearsAhead))
            try interpreters.node.start(hasFixedLayout: options.fixesLayout)
        case .node:
            now.enter(.shell)
            let pid = try runShellOnce()
            if pid > 0 { now.wait(for: pid) } else { now.isStageOver = true }
        case .shell, .done: now.enter(.done)
        }
    }

    private func restoreClock(_ now: inout Warming) {
        let before = now.clockBefore
        guard before.realtime > 0 else { return }
        let passed = (monotonicMicroseconds() - before.monotonic) * 1000
        _ = mayfly_guest_set_clock(before.realtime + passed)
        now.clockBefore = (0, 0)
    }

    /// The way of every job, once: fork, cgroup, user, source file, output, end.
    private mutating func runOnceInPython() throws(SystemError) {
        let source = Boot.run + "/once.py"
        try writeFile(source, "import sys, json\nprint(json.dumps([6 * 7]), file=sys.stdout)\n")
        let null = try openFile("/dev/null", O_RDWR)
        let members = try group.members()
        defer {
            close(null)
            close(members)
        }
        try interpreters.python.run(
            source: source, arguments: [], environment: Environment.standard,
            cgroup: members, files: [null, null, null])
    }
    /// The image's own preparation, as root like its packages' installation.
    ///
    /// What it leaves running stays, in a cgroup that is no job's.
    private func runWarmUp() throws(SystemError) -> pid_t {
        let group = try ControlGroup.make(name: ControlGroup.warmUp)
        try group.set("pids.max", "max")
        try group.set("memory.oom.group", "0")
        let (null, log) = (try openFile("/dev/null", O_RDONLY), try WarmUp.open())
        defer {
            close(null)
            close(log)
        }
        let environment = Environment.standard.filter { !$0.hasPrefix("HOME=") }
        let command = Command(
            path: "/bin/sh", arguments: ["/bin/sh", "-c", options.warmUp],
            environment: environment + ["HOME=/root", "TMPDIR=\(WarmUp.directory)"],
            directory: "/", isRoot: true, hasFixedLayout: options.fixesLayout)
        let (pid, error) = command.start(stdio: [null, log, log], in: group.directory)
        try check("start the warm-up", error)
        return pid
    }
    /// Common programs, so that their pages are in the page cache.
    private func runShellOnce() throws(SystemError) -> pid_t {
        let script = """
            for i in 1 2; do
            (ls -la /; cat /etc/hostname; head -c 64 /dev/urandom | od -An -tx1 | sort | uniq; \
            date; env; mktemp -u; hostname; echo a b | tr a b | sed s/b/c/ | grep -c c) | wc -c
            done
            """
        let null = try openFile("/dev/null", O_RDWR)
        defer { close(null) }
        let command = Command(
            path: "/bin/bash", arguments: ["/bin/bash", "-c", script],
            environment: Environment.standard, hasFixedLayout: options.fixesLayout)
        let (pid, error) = command.start(stdio: [null, null, null], in: group.directory)
        // An image need not have a shell.
        if error == -ENOENT { return 0 }
        try check("start /bin/bash", error)
        return pid
    }

    /// What jobs get is measured with everything parked in its place.
    private mutating func finishWarming() {
        _ = unsafe chown(Environment.matplotlib, Account.user, Account.group)
        nextGroup()
        measureMemory()
    }
}

/// Where the image's own warm-up may leave files, and where what it prints goes: neither PARK nor
/// PREPARE empties it, so what it leaves running keeps both.
private enum WarmUp {
    static let directory = "/var/lib/mayfly-warm"
    private static let log = directory + "/output"
    /// So much of it fits into an answer.
    private static let wordsByteCount = 800

    static func open() throws(SystemError) -> CInt {
        _ = unsafe mkdir("/var/lib", 0o755)
        _ = unsafe mkdir(directory, 0o755)
        _ = unsafe chmod(directory, 0o1777)
        return try openFile(log, O_WRONLY | O_CREAT | O_APPEND)
    }
    /// The end of what it printed, as one line.
    static var lastWords: String {
        let lines = readWhole(log).suffix(wordsByteCount).split(separator: UInt8(ascii: "\n"))
        var words = lines.map { String(decoding: $0, as: UTF8.self) }.joined(separator: " | ")
        // What is no UTF-8 has grown.
        while words.utf8.count > wordsByteCount { words.removeFirst() }
        return words.isEmpty ? "" : ": " + words
    }
}

extension ExitReport.Ending {
    fileprivate var words: String {
        switch self {
        case .code(let code): "exit code \(code)"
        case .signal(let signal): "signal \(signal)"
        }
    }
}
