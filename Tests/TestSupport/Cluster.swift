// A throw-away PostgreSQL server for tests: its own data directory under the temporary directory, a
// Unix socket in it, no TCP. A small shell owns it and waits on a socket: when this process ends,
// however it ends, the socket closes, and the shell stops the server and removes the directory.

import Dispatch
import Glibc

package final class Cluster: Sendable {
    package struct Failure: Error, CustomStringConvertible {
        package let description: String
    }

    /// One for all tests of a process that do not stop it.
    package static let shared = Result { try Cluster() }

    package let directory: String
    /// Commands go to the shell, its answers come back.
    private let shell: CInt

    package init() throws {
        let binaries = try Self.binaries()
        directory = try Self.makeDirectory()
        shell = try Self.start(binaries, directory)
        try Self.expectReady(shell, directory)
    }

    deinit { _ = Glibc.close(shell) }

    /// A connection string for one of its databases.
    package func info(database: String = "postgres", user: String = "postgres") -> String {
        "host=\(directory) dbname=\(database) user=\(user)"
    }

    /// Stops the server as a crash would, and starts it again; returns when it answers.
    package func restart() async throws { try await command("restart") }
    package func stop() async throws { try await command("stop") }
    package func start() async throws { try await command("start") }

    private func command(_ word: String) async throws {
        try await withCheckedThrowingContinuation { (done: CheckedContinuation<Void, any Error>) in
            DispatchQueue.global().async { [shell, directory] in
                let line = Array((word + "\n").utf8)
                _ = unsafe write(shell, line, line.count)
                done.resume(with: Result { try Cluster.expectReady(shell, directory) })
            }
        }
    }

    // MARK: Starting

    /// The newest PostgreSQL that Debian installed, or the one in PATH.
    package static func binaries() throws -> String {
        let root = "/usr/lib/postgresql"
        let versions = (20...30).reversed().map(String.init) + (15...19).reversed().map(String.init)
        for version in versions {
            let path = "\(root)/\(version)/bin"
            if unsafe access("\(path)/initdb", X_OK) == 0 { return path }
        }
        throw Failure(description: "no PostgreSQL 15 or newer in \(root); install postgresql")
    }

    private static func makeDirectory() throws -> String {
        let parent = unsafe getenv("TMPDIR").map { unsafe String(cString: $0) } ?? "/tmp"
        var template = Array("\(parent)/mayfly-test-XXXXXX".utf8CString)
        guard unsafe mkdtemp(&template) != nil else {
            throw Failure(description: "no temporary directory in \(parent): errno \(errno)")
        }
        return String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }

    private static let script = """
        set -u
        bin=$1 dir=$2
        as=
        if [ "$(id -u)" = 0 ]; then
            chown postgres "$dir"
            as="setpriv --reuid postgres --regid postgres --clear-groups"
        fi
        cd "$dir"
        ctl() { $as "$bin/pg_ctl" -D "$dir/data" -w -t 60 "$@" </dev/null >>"$dir/ctl.log" 2>&1; }
        begin() { ctl -l "$dir/server.log" start && echo ready || echo failed; }
        $as "$bin/initdb" -D "$dir/data" -U postgres -A trust -E UTF8 --locale=C.UTF-8 --no-sync \\
            >"$dir/ctl.log" 2>&1
        cat >>"$dir/data/postgresql.conf" <<END
        unix_socket_directories = '$dir'
        listen_addresses = ''
        fsync = off
        full_page_writes = off
        max_connections = 200
        max_prepared_transactions = 10
        shared_buffers = 64MB
        END
        begin
        while read -r word; do
            case $word in
                restart) ctl -m immediate stop; begin ;;
                stop) ctl -m immediate stop && echo ready || echo failed ;;
                start) begin ;;
            esac
        done
        ctl -m immediate stop
        cd /
        rm -rf "$dir"
        """

    /// Starts the shell in a session of its own, so that an interrupt from a keyboard spares it.
    private static func start(_ binaries: String, _ directory: String) throws -> CInt {
        // Close-on-exec: what stays here must not live on in other children, for then the shell would
        // never see the end of this process.
        var pair: [CInt] = [0, 0]
        let kind = CInt(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue)
        guard unsafe socketpair(AF_UNIX, kind, 0, &pair) == 0 else {
            throw Failure(description: "no descriptors left: errno \(errno)")
        }
        var actions = unsafe posix_spawn_file_actions_t()
        unsafe posix_spawn_file_actions_init(&actions)
        defer { unsafe posix_spawn_file_actions_destroy(&actions) }
        unsafe posix_spawn_file_actions_adddup2(&actions, pair[1], 0)
        unsafe posix_spawn_file_actions_adddup2(&actions, pair[1], 1)
        var attributes = posix_spawnattr_t()
        unsafe posix_spawnattr_init(&attributes)
        defer { unsafe posix_spawnattr_destroy(&attributes) }
        unsafe posix_spawnattr_setflags(&attributes, 0x80)  // POSIX_SPAWN_SETSID
        let words: [String] = ["sh", "-c", script, "sh", binaries, directory]
        let arguments = unsafe words.map { unsafe strdup($0) }
        defer { unsafe arguments.forEach { unsafe free($0) } }
        var child: pid_t = 0
        // SAFETY: the list ends with nil and lives through the call.
        let status = unsafe posix_spawn(
            &child, "/bin/sh", &actions, &attributes, arguments + [nil], environ)
        guard status == 0 else { throw Failure(description: "no shell: errno \(status)") }
        _ = close(pair[1])
        return pair[0]
    }

    private static func expectReady(_ shell: CInt, _ directory: String) throws {
        var line: [UInt8] = []
        var byte: UInt8 = 0
        while unsafe read(shell, &byte, 1) == 1, byte != UInt8(ascii: "\n") { line.append(byte) }
        guard line == Array("ready".utf8) else {
            throw Failure(description: "PostgreSQL did not start; see \(directory)/server.log")
        }
    }
}
