// Other programs that the tests start, workers above all, from any thread and waited for by number.

import Glibc
import Machines
import Processes

@testable import Mayfly

/// A running child process.
final class Program: Sendable {
    let pid: pid_t
    private init(pid: pid_t) { self.pid = pid }

    /// How a child is started.
    struct Request {
        var arguments: [String]
        /// Added to, or replacing, what this process has.
        var environment: [String: String] = [:]
        /// Written to the child's standard input; `nil`: /dev/null.
        var input: Int32?
        var output: Int32?
        var errors: Int32?
        init(_ arguments: [String]) { self.arguments = arguments }
    }

    static func start(_ request: Request) throws(FileError) -> Program {
        guard let name = request.arguments.first, let path = findProgram(name) else {
            throw FileError("\(request.arguments.first ?? "a program") is not installed")
        }
        var environment = ConfigurationOptions.environment()
        environment.merge(request.environment) { $1 }
        let variables = environment.map { "\($0.key)=\($0.value)" }
        var actions = unsafe posix_spawn_file_actions_t()
        unsafe posix_spawn_file_actions_init(&actions)
        defer { unsafe posix_spawn_file_actions_destroy(&actions) }
        for (target, given) in [(0, request.input), (1, request.output), (2, request.errors)] {
            let target = Int32(target)
            if let given {
                unsafe posix_spawn_file_actions_adddup2(&actions, given, target)
            } else if target == 0 {
                unsafe posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0)
            }
        }
        var pid: pid_t = 0
        let status = unsafe withCStrings(request.arguments) { arguments in
            unsafe withCStrings(variables) { variables in
                unsafe posix_spawn(&pid, path, &actions, nil, arguments, variables)
            }
        }
        guard status == 0 else {
            throw FileError("cannot start \(path): \(unsafe String(cString: strerror(status)))")
        }
        return Program(pid: pid)
    }

    /// Runs a program to its end; `output` is what it printed, at most 16 MiB of it.
    static func run(
        _ arguments: [String], environment: [String: String] = [:], input: String? = nil
    ) throws(FileError) -> (status: Int32, output: String) {
        let captured = try TemporaryFile()
        let fed = try TemporaryFile()
        if let input { Console.write(input, to: fed.descriptor) }
        lseek(fed.descriptor, 0, SEEK_SET)
        var request = Request(arguments)
        request.environment = environment
        request.input = fed.descriptor
        request.output = captured.descriptor
        request.errors = captured.descriptor
        let status = try start(request).wait()
        return (status, captured.text(atMost: .mebibytes(16)))
    }

    func signal(_ number: Int32) { kill(pid, number) }

    /// Waits for the end; 128 and more: the signal that ended it.
    func wait() -> Int32 {
        var status: Int32 = 0
        while unsafe waitpid(pid, &status, 0) < 0 && errno == EINTR {}
        return Self.exitCode(status)
    }
    /// The exit code when it has ended already.
    func poll() -> Int32? {
        var status: Int32 = 0
        guard unsafe waitpid(pid, &status, WNOHANG) == pid else { return nil }
        return Self.exitCode(status)
    }
    private static func exitCode(_ status: Int32) -> Int32 {
        status & 0x7F == 0 ? (status >> 8) & 0xFF : 128 + (status & 0x7F)
    }
}

/// An unnamed file for what a program reads or prints; gone with its descriptor.
struct TemporaryFile: ~Copyable {
    let descriptor: Int32
    init() throws(FileError) {
        var name = Array("/tmp/mayfly-XXXXXX".utf8CString)
        let file = unsafe mkstemp(&name)
        guard file >= 0 else { throw FileError("make a file in", "/tmp") }
        _ = unsafe unlink(name)
        _ = fcntl(file, F_SETFD, FD_CLOEXEC)
        descriptor = file
    }
    borrowing func text(atMost limit: ByteCount) -> String {
        lseek(descriptor, 0, SEEK_SET)
        var bytes: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 1 << 16)
        while bytes.count < limit.bytes {
            let count = unsafe read(descriptor, &buffer, buffer.count)
            guard count > 0 else { break }
            bytes += buffer[..<count]
        }
        return String(decoding: bytes, as: UTF8.self)
    }
    deinit { close(descriptor) }
}
