// A PostgreSQL of the demo's own: a cluster under the state directory, reached by a Unix socket
// only, run by an unprivileged user, stopped when the demo ends. The system's clusters are never
// touched.

import Glibc
import Processes

/// A running private cluster; `stop` must be called.
struct PrivatePostgres {
    private let dataDirectory: String
    private let binaries: String
    private let prefix: [String]
    let socketDirectory: String

    /// Connection string for libpq, psql and `--database`.
    var url: String { "host=\(socketDirectory) dbname=postgres user=\(Self.userName)" }
    private static let userName = "mayfly"
    private static let socketPathMax = 90  // sun_path has 108 bytes, and the file's name needs 14

    /// Makes the cluster if it is not there, and starts it.
    static func start(
        stateDirectory: String, runtimeDirectory: String
    ) async throws(FileError) -> PrivatePostgres {
        guard let initdb = findPostgres("initdb") else {
            throw FileError("PostgreSQL is not installed; run: apt-get install postgresql")
        }
        let binaries = String(initdb.dropLast("/initdb".count))
        let home = "\(stateDirectory)/demo"
        let socketDirectory = "\(runtimeDirectory)/demo"
        guard socketDirectory.utf8.count <= socketPathMax else {
            throw FileError(
                "runtime.directory \(runtimeDirectory) is too long for a Unix socket; "
                    + "set a path of at most \(socketPathMax - 5) bytes")
        }
        try Files.makeDirectory(home)
        try Files.makeDirectory(socketDirectory)
        let prefix = try becomeUnprivileged(owning: [home, socketDirectory])
        let postgres = PrivatePostgres(
            dataDirectory: "\(home)/postgres", binaries: binaries, prefix: prefix,
            socketDirectory: socketDirectory)
        if unsafe access("\(postgres.dataDirectory)/PG_VERSION", F_OK) != 0 {
            Console.say("· making a private PostgreSQL cluster in \(postgres.dataDirectory)")
            try await postgres.run([
                "\(binaries)/initdb", "--pgdata", postgres.dataDirectory, "--auth", "trust",
                "--username", userName, "--encoding", "UTF8", "--locale", "C.UTF-8", "--no-sync",
            ])
        }
        try await postgres.launch()
        return postgres
    }

    private func launch() async throws(FileError) {
        if await isRunning { try await stop() }  // left by a demo that was killed
        let options =
            "-c listen_addresses='' -c unix_socket_directories='\(socketDirectory)' "
            + "-c unix_socket_permissions=0700 -c fsync=off"
        try await run([
            "\(binaries)/pg_ctl", "--pgdata", dataDirectory, "--wait", "--silent",
            "--log", "\(dataDirectory)/server.log", "--options", options, "start",
        ])
    }

    /// Ends the server and everything it serves.
    func stop() async throws(FileError) {
        try await run([
            "\(binaries)/pg_ctl", "--pgdata", dataDirectory, "--wait", "--silent", "--mode",
            "fast", "stop",
        ])
    }
    var isRunning: Bool {
        get async {
            let arguments =
                prefix + [
                    "\(binaries)/pg_ctl", "--pgdata", dataDirectory, "status",
                ]
            return (try? await runProgram(ProgramRequest(arguments)))?.status == 0
        }
    }

    private func run(_ arguments: [String]) async throws(FileError) {
        // It must be able to stand in its working directory, which may be root's own.
        var request = ProgramRequest(["env", "--chdir=/"] + prefix + arguments)
        // The demo stops the server also when it has itself been stopped.
        request.ignoresCancellation = true
        let result: ProgramResult
        do throws(ProgramError) { result = try await runProgram(request) } catch {
            throw FileError("\(error)")
        }
        guard result.status == 0 else {
            throw FileError("\(arguments[0]) ended with \(result.status): \(result.output)")
        }
    }

    /// The newest of the programs that PostgreSQL keeps out of PATH on Debian.
    private static func findPostgres(_ name: String) -> String? {
        for version in (15...30).reversed() {
            let path = "/usr/lib/postgresql/\(version)/bin/\(name)"
            if unsafe access(path, X_OK) == 0 { return path }
        }
        return findProgram(name)
    }

    /// PostgreSQL refuses to run as root: root gives the directories to another user.
    private static func becomeUnprivileged(
        owning directories: [String]
    ) throws(FileError) -> [String] {
        for path in directories where unsafe chmod(path, 0o700) != 0 {
            throw FileError("protect", path)
        }
        guard geteuid() == 0 else { return [] }
        for name in ["postgres", "nobody"] {
            guard let user = unsafe getpwnam(name) else { continue }
            let (uid, gid) = unsafe (user.pointee.pw_uid, user.pointee.pw_gid)
            for path in directories where unsafe chown(path, uid, gid) != 0 {
                throw FileError("give \(name)", path)
            }
            return ["setpriv", "--reuid", "\(uid)", "--regid", "\(gid)", "--clear-groups"]
        }
        throw FileError("there is no user postgres or nobody to run PostgreSQL as")
    }
}
