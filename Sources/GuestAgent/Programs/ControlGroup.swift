// The cgroup of one program: its limits, its end, its usage.

import Glibc

/// A directory of cgroup2, made before it is needed.
struct ControlGroup: ~Copyable {
    /// Processes and threads of one job: enough for builds and browsers, too few for a fork bomb
    /// to be felt.
    static let processes: UInt32 = 128

    let directory: CInt
    private let path: String

    private init(_ path: String, _ directory: CInt) {
        self.path = path
        self.directory = directory
    }
    static func make(number: Int) throws(SystemError) -> ControlGroup {
        try make(name: "job\(number)")
    }
    static func make(name: String) throws(SystemError) -> ControlGroup {
        let path = "/sys/fs/cgroup/\(name)"
        try checkErrno("make \(path)", unsafe mkdir(path, 0o755))
        let group = ControlGroup(path, try openFile(path, O_RDONLY | O_DIRECTORY))
        try group.prepare()
        return group
    }
    private func prepare() throws(SystemError) {
        // When memory runs out all of it goes: half a job would only hang.
        try set("memory.oom.group", "1")
        try set("pids.max", String(Self.processes))
        // Absent in kernels without swap.
        do throws(SystemError) { try set("memory.swap.max", "0") } catch {}
    }
    deinit {
        close(directory)
        // Refused while something in it still dies; an empty cgroup costs nothing.
        _ = unsafe rmdir(path)
    }

    func set(_ name: String, _ value: String) throws(SystemError) {
        let file = unsafe openat(directory, name, O_WRONLY | O_CLOEXEC)
        guard file >= 0 else { throw SystemError(what: "open \(name)", code: errno) }
        defer { close(file) }
        try writeWhole(file, Array(value.utf8), name)
    }
    /// Opened for whoever moves itself in.
    func members() throws(SystemError) -> CInt {
        try checkErrno(
            "open cgroup.procs", unsafe openat(directory, "cgroup.procs", O_WRONLY | O_CLOEXEC))
    }

    /// Kills everything in it at once: nothing can fork away, nothing can catch it.
    func kill() {
        do throws(SystemError) { try set("cgroup.kill", "1") } catch {
            say(error.description)
        }
    }
    var isPopulated: Bool {
        number(named: "populated", in: readFile("cgroup.events", in: directory)) != 0
    }
    var isOutOfMemory: Bool {
        number(named: "oom_kill", in: readFile("memory.events", in: directory)) != 0
    }
    var cpuMicroseconds: UInt64 {
        number(named: "usage_usec", in: readFile("cpu.stat", in: directory))
    }
    /// What the image's warm-up left running, in a group that no job's end touches.
    static let warmUp = "warmup"
    /// The processor time of those; 0 where the image has none.
    static var warmUpMicroseconds: UInt64 {
        number(named: "usage_usec", in: readFile("/sys/fs/cgroup/\(warmUp)/cpu.stat"))
    }
    var peakByteCount: UInt64 {
        decimal(readFile("memory.peak", in: directory).utf8)
    }
}
