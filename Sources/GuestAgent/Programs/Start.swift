// Starting a program: in a parked interpreter where that is the same thing as a fresh one, as a new
// process otherwise. Every way ends in the same cgroup, user and filter.

import CGuest
import Glibc
import Wire

/// The unprivileged user of all jobs.
enum Account {
    static var user: uid_t { ImageProcess.own.user }
    static var group: gid_t { ImageProcess.own.group }
    /// For the interpreters that become that user by themselves.
    static var variable: String { "MAYFLY_ACCOUNT=\(user):\(group)" }
    /// RLIMIT_NOFILE of every program.
    static let openFiles: UInt64 = 4096
}

/// The streams of a program to be, input, output, errors and events: our ends and its ends.
struct Pipes: ~Copyable {
    private static let none: [CInt] = [-1, -1, -1, -1]
    private var ours = Pipes.none
    /// Three, or four with events.
    var theirs: [CInt] { ends[3] < 0 ? Array(ends[..<3]) : ends }
    private var ends = Pipes.none

    /// Without input the program reads /dev/null.
    init(hasInput: Bool, hasEvents: Bool) throws(SystemError) {
        for index in 0..<4 where index == 0 ? hasInput : index < 3 || hasEvents {
            var ends: [CInt] = [-1, -1]
            try check("make a pipe", unsafe mayfly_guest_pipe(&ends))
            ours[index] = ends[index == 0 ? 1 : 0]
            self.ends[index] = ends[index == 0 ? 0 : 1]
            // A program may open its streams by name: /dev/stdin, /dev/stderr.
            fchown(ends[0], Account.user, Account.group)
        }
        if !hasInput { ends[0] = try openFile("/dev/null", O_RDONLY) }
    }
    deinit {
        for file in ours + ends where file >= 0 { close(file) }
    }
    /// The program has its ends now.
    mutating func closeTheirs() {
        for file in ends where file >= 0 { close(file) }
        ends = Pipes.none
    }
    /// What a program does not get that had to be made before it was known.
    mutating func withhold(_ stream: Stream) {
        let index = stream.rawValue
        if ours[index] >= 0 { close(ours[index]) }
        ours[index] = -1
    }
    enum Stream: Int { case input = 0, output, errors, events }
    /// Input, output, errors and events, -1 for none; the taker closes them.
    mutating func takeOurs() -> (CInt, CInt, CInt, CInt) {
        defer { ours = Pipes.none }
        return (ours[0], ours[1], ours[2], ours[3])
    }
}

/// A process to start.
struct Command {
    var path: String
    var arguments: [String]
    var environment: [String]
    var directory = Boot.work
    var isRoot = false
    /// Without random addresses, see `Options.fixesLayout`.
    var hasFixedLayout = false

    /// `stdio` becomes 0, 1, 2 and so on, at most five.
    func start(stdio: [CInt], in group: CInt) -> (pid: pid_t, error: CInt) {
        var pid: pid_t = 0
        let error = unsafe withCStrings(arguments) { argv in
            unsafe withCStrings(environment) { envp in
                unsafe path.withCString { path in
                    unsafe directory.withCString { directory in
                        let user = isRoot ? 0 : Account.user
                        let accounts = isRoot ? 0 : Account.group
                        let more = stdio.dropFirst(3) + [-1, -1]
                        var program = unsafe mayfly_guest_program(
                            path: path, argv: argv, envp: envp, directory: directory,
                            stdio: (stdio[0], stdio[1], stdio[2], more[3], more[4]),
                            cgroup: group,
                            uid: user, gid: accounts, open_files: Account.openFiles,
                            fixed_layout: hasFixedLayout ? 1 : 0)
                        return unsafe mayfly_guest_spawn(&program, &pid)
                    }
                }
            }
        }
        return (pid, error)
    }
}

/// What programs find in their environment.
enum Environment {
    static let path = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"
    /// Where matplotlib keeps the font list that WARM made; without it each job would make its own.
    static let matplotlib = "/var/cache/matplotlib"

    /// The way to the network, as those read it who know of proxies; whoever has none of it at hand
    /// is told no by the host all the same.
    private static let network =
        ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"]
        .map { "\($0)=\(Network.proxy)" } + [
            "no_proxy=localhost,127.0.0.1,::1", "NO_PROXY=localhost,127.0.0.1,::1",
            "NODE_USE_ENV_PROXY=1",
            // A job's machine is its own: a virtual environment would protect nothing, and a
            // cache of packages would only take its memory.
            "PIP_BREAK_SYSTEM_PACKAGES=1", "PIP_NO_CACHE_DIR=1", "PIP_DISABLE_PIP_VERSION_CHECK=1",
            "NPM_CONFIG_UPDATE_NOTIFIER=false",
        ]

    static var standard: [String] {
        var variables = [
            "PATH=\(path)", "HOME=\(Boot.work)", "PWD=\(Boot.work)", "USER=task", "LOGNAME=task",
            "SHELL=/bin/bash", "LANG=C.UTF-8",
        ]
        variables += network
        if unsafe access(matplotlib, F_OK) == 0 { variables.append("MPLCONFIGDIR=\(matplotlib)") }
        // The image's own stand above these, but for where a job's files are.
        for variable in ImageProcess.own.environment {
            guard let end = variable.utf8.firstIndex(of: UInt8(ascii: "=")) else { continue }
            let start = variable[...end]
            guard start != "HOME=", start != "PWD=" else { continue }
            variables.removeAll { $0.hasPrefix(start) }
            variables.append(variable)
        }
        return variables
    }
    /// - Parameter events: the number of the descriptor for them, in a program that has it.
    static func of(
        _ request: ExecRequest, events: Int = 3
    ) throws(SystemError) -> [String] {
        var variables = standard
        if let authority = request.environment.last(where: { $0.name == Authority.variable }) {
            variables += try Authority.install(authority.value)
        }
        for variable in request.environment where variable.name != Authority.variable {
            let start = variable.name + "="
            variables.removeAll { $0.hasPrefix(start) }
            variables.append(start + variable.value)
        }
        if request.hasEvents {
            variables.removeAll { $0.hasPrefix("MAYFLY_EVENTS=") }
            variables.append("MAYFLY_EVENTS=\(events)")
        }
        if request.reportsValues {
            variables.removeAll { $0.hasPrefix("MAYFLY_VALUES=") }
            variables.append("MAYFLY_VALUES=1")
        }
        return variables
    }

    /// Variables that an interpreter reads only while it starts, or libraries while they are
    /// loaded: with one of them a parked interpreter would not do what a fresh one does.
    ///
    /// A name that ends in a star stands for all that begin so.
    private static let early = [
        "LD_*", "LC_*", "LANG", "LANGUAGE", "GLIBC_*", "MALLOC_*", "OPENSSL_*",
    ]
    private static let earlyPython = [
        "PYTHON*", "MPL*", "OPENBLAS_*", "OMP_*", "MKL_*", "NUMEXPR_*",
    ]
    private static let earlyNode = [
        "NODE_*", "UV_*", "SSL_*", "NO_COLOR", "FORCE_COLOR", "http_proxy", "https_proxy",
        "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", Authority.variable,
    ]

    static func allowsParked(_ request: ExecRequest) -> Bool {
        let names = early + (request.program == .python ? earlyPython : earlyNode)
        return !request.environment.contains { variable in
            names.contains {
                $0.hasSuffix("*") ? variable.name.hasPrefix($0.dropLast()) : variable.name == $0
            }
        }
    }
}

extension Agent {
    mutating func start(_ request: ExecRequest, _ stream: UInt32) throws(WireError) {
        let asked = monotonicMicroseconds()
        do throws(SystemError) {
            if request.memoryMaximum > 0 || memory > 0 {
                let bytes = request.memoryMaximum > 0 ? Int64(request.memoryMaximum) : memory
                try group.set("memory.max", String(bytes))
            }
            if request.processMaximum > 0 {
                try group.set("pids.max", String(request.processMaximum))
            }
            let mayPark = request.allowsParked && Environment.allowsParked(request)
            switch request.program {
            case .python where mayPark && interpreters.python.isReady:
                try startParkedPython(request, stream, asked)
            case .node where mayPark && interpreters.node.isReady:
                try startParkedNode(request, stream, asked)
            default: try startProcess(request, stream, asked)
            }
        } catch {
            program = nil
            let status: AckStatus
            switch error.code {
            case ENOENT, ENOTDIR: status = .notFound
            case EACCES, ENOEXEC, EINVAL, E2BIG, EISDIR: status = .invalid
            default: status = .failed
            }
            try network.end(&connection)
            return try connection.send(.ack(status, message: error.description), on: stream)
        }
        if program?.isRunning == true { try program?.started(nil, &connection) }
    }

    private mutating func startProcess(
        _ request: ExecRequest, _ stream: UInt32, _ asked: Int64
    ) throws(SystemError) {
        let environment = try Environment.of(request)
        var command: Command
        switch request.program {
        case .python:
            var arguments = [Python.path]
            if request.reportsValues { arguments.append(try Python.installHarness()) }
            command = Command(
                path: Python.path, arguments: arguments + [request.sourceName] + request.arguments,
                environment: environment)
        case .node:
            var arguments = [Node.path]
            if request.reportsValues { arguments.append(try Node.installHarness()) }
            command = Command(
                path: Node.path, arguments: arguments + [request.sourceName] + request.arguments,
                environment: environment)
        case .command:
            command = Command(
                path: Self.search(request.arguments.first ?? "", environment),
                arguments: request.arguments, environment: environment)
        }
        // Who asks for a process of its own gets its own addresses with it.
        command.hasFixedLayout = options.fixesLayout && request.allowsParked
        var pipes = try Pipes(
            hasInput: request.hasStandardInput, hasEvents: request.hasEvents)
        let (pid, error) = command.start(stdio: pipes.theirs, in: group.directory)
        try check("start \(command.path)", error)
        pipes.closeTheirs()
        program = Program(
            stream: stream, pid: pid, isParked: false, pipes: pipes,
            request: request, asked: asked)
    }

    /// A name without a slash is looked up in the PATH that the program gets.
    private static func search(_ name: String, _ environment: [String]) -> String {
        guard !name.utf8.contains(UInt8(ascii: "/")) else { return name }
        let path = environment.last { $0.hasPrefix("PATH=") }?.dropFirst(5) ?? ""
        for directory in path.split(separator: ":") {
            let candidate = "\(directory)/\(name)"
            if unsafe access(candidate, X_OK) == 0 { return candidate }
        }
        return name
    }

    private mutating func startParkedPython(
        _ request: ExecRequest, _ stream: UInt32, _ asked: Int64
    ) throws(SystemError) {
        var pipes = try Pipes(
            hasInput: request.hasStandardInput, hasEvents: request.hasEvents)
        let members = try group.members()
        defer { close(members) }
        try interpreters.python.run(
            source: request.sourceName, arguments: request.arguments,
            environment: try Environment.of(request), cgroup: members, files: pipes.theirs)
        pipes.closeTheirs()
        program = Program(
            stream: stream, pid: 0, isParked: true, pipes: pipes,
            request: request, asked: asked)
    }

    private mutating func startParkedNode(
        _ request: ExecRequest, _ stream: UInt32, _ asked: Int64
    ) throws(SystemError) {
        try group.set("cgroup.procs", String(interpreters.node.pid))
        try interpreters.node.run(
            source: request.sourceName, arguments: request.arguments,
            environment: try Environment.of(request, events: Node.events))
        guard var pipes = interpreters.node.takePipes() else {
            throw SystemError(what: "use the parked node", code: ESRCH)
        }
        if !request.hasStandardInput { pipes.withhold(.input) }
        if !request.hasEvents { pipes.withhold(.events) }
        program = Program(
            stream: stream, pid: interpreters.node.pid, isParked: true, pipes: pipes,
            request: request, asked: asked)
    }
}
