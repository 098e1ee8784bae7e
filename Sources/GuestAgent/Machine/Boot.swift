// From the initramfs to a machine that can run programs: kernel modules, the root file system with
// a writable layer in RAM, the usual mounts. Runs once, before the agent; any failure is fatal.

import CGuest
import Glibc

enum Boot {
    /// The directory of every job; also its home.
    static let work = "/work"
    /// The agent's own files: readable by jobs, writable by none.
    static let run = "/run/mayfly"
    /// Sizes of the file systems in RAM.
    ///
    /// Together they may exceed it: what jobs write there counts against their cgroup's memory,
    /// which cannot.
    private static let rootOptions = "size=40%,mode=755"
    private static let workOptions =
        "size=40%,mode=755,uid=\(Account.user),gid=\(Account.group)"
    private static let temporaryOptions = "size=25%,mode=1777"

    static func start() -> Options {
        do throws(SystemError) {
            try openConsole()
            try mount("sysfs", "/sys", "sysfs", mayfly_mount_locked)
            var options = Options(commandLine: readFile("/proc/cmdline"))
            options.warmUp = readFile("/warmup")
            if Account.user == 0 { throw SystemError(what: "run jobs as root", code: EPERM) }
            try loadModules()
            let disk = try findRootDisk()
            let added = readAdded()
            try enterRoot(disk)
            try mountRest()
            try addFiles(added)
            try settle()
            return options
        } catch { powerOff("cannot start: \(error.description)") }
    }

    static func mount(
        _ source: String, _ target: String, _ type: String, _ flags: UInt, _ data: String = ""
    ) throws(SystemError) {
        _ = unsafe mkdir(target, 0o755)
        try check(
            "mount \(type) on \(target)",
            unsafe mayfly_guest_mount(source, target, type, flags, data))
    }

    /// Until here nobody can read what we say: the initramfs need not hold a /dev/console.
    private static func openConsole() throws(SystemError) {
        try mount("devtmpfs", "/dev", "devtmpfs", 0, "mode=755")
        let console = try openFile("/dev/console", O_RDWR | O_NOCTTY)
        for number: CInt in 0...2 where number != console { dup2(console, number) }
        if console > 2 { close(console) }
    }

    private static func loadModules() throws(SystemError) {
        for name in readFile("/modules/order").split(separator: "\n") {
            let file = try openFile("/modules/\(name)", O_RDONLY)
            let result = mayfly_guest_load_module(file)
            close(file)
            // A module that finds no device or is already there does no harm; the mounts below
            // tell what is really missing.
            if result < 0, result != -EEXIST {
                say("module \(name): \(SystemError.text(-result))")
            }
        }
    }

    /// The disk that cannot be written; another one is the machine's own.
    ///
    /// Which of them comes first is the hypervisor's affair.
    private static func findRootDisk() throws(SystemError) -> String {
        for _ in 0..<2000 {
            if let disk = disk(isReadOnly: true) { return disk }
            usleep(5000)
        }
        throw SystemError(what: "find the root disk", code: ENODEV)
    }
    static func disk(isReadOnly: Bool) -> String? {
        let wanted = isReadOnly ? "1" : "0"
        return ["vda", "vdb"].first { readFile("/sys/block/\($0)/ro").hasPrefix(wanted) }
            .map { "/dev/\($0)" }
    }

    /// The image read-only below, RAM above, and both together as the new root.
    private static func enterRoot(_ disk: String) throws(SystemError) {
        try mount(disk, "/lower", "ext4", mayfly_mount_read_only, "noload")
        try mount("tmpfs", "/scratch", "tmpfs", mayfly_mount_no_devices, rootOptions)
        for path in ["/scratch/upper", "/scratch/work"] { _ = unsafe mkdir(path, 0o755) }
        try mount(
            "overlay", "/root", "overlay", mayfly_mount_no_devices,
            "lowerdir=/lower,upperdir=/scratch/upper,workdir=/scratch/work")
        for path in ["/proc", "/sys", "/dev"] {
            _ = unsafe mkdir("/root\(path)", 0o755)
            try mount(path, "/root\(path)", "", mayfly_mount_move)
        }
        // The initramfs is RAM: give it back. The running program keeps its own pages.
        for path in ["/modules", "/added"] { _ = unsafe mayfly_guest_empty_directory(path) }
        for path in ["/modules", "/added", "/proc", "/sys", "/dev"] { _ = unsafe rmdir(path) }
        for path in ["/init", "/warmup", "/process"] { _ = unsafe unlink(path) }
        try check("enter the root file system", unsafe mayfly_guest_enter_root("/root"))
    }

    /// Files that the image's builder has put beside the agent, which belong into the root.
    private static func readAdded() -> [(path: String, bytes: [UInt8])] {
        let paths = String(decoding: readWhole("/added/paths"), as: UTF8.self)
            .split(separator: "\n")
        return paths.enumerated().map { (String($1), readWhole("/added/\($0)")) }
    }
    private static func addFiles(
        _ files: [(path: String, bytes: [UInt8])]
    ) throws(SystemError) {
        for (path, bytes) in files {
            var directory = ""
            for part in path.split(separator: "/").dropLast() {
                directory += "/\(part)"
                _ = unsafe mkdir(directory, 0o755)
            }
            let file = try openFile(path, O_WRONLY | O_CREAT | O_TRUNC)
            defer { close(file) }
            try writeWhole(file, bytes, path)
        }
    }

    private static func mountRest() throws(SystemError) {
        let locked = mayfly_mount_locked
        let plain = mayfly_mount_no_devices
        try mount("devpts", "/dev/pts", "devpts", locked, "mode=620,ptmxmode=666")
        try mount("tmpfs", "/dev/shm", "tmpfs", plain, temporaryOptions)
        try mount("tmpfs", "/run", "tmpfs", plain, "size=16m,mode=755")
        try mount("tmpfs", "/tmp", "tmpfs", plain, temporaryOptions)
        try mount("/tmp", "/var/tmp", "", mayfly_mount_bind)
        // A file system of its own: shorter ways than through the overlay, for every job's files.
        try mount("tmpfs", work, "tmpfs", plain, workOptions)
        try mount("cgroup2", "/sys/fs/cgroup", "cgroup2", locked, "nsdelegate")
        // Jobs see their own processes only: not the agent, not the parked interpreters.
        try mount("proc", "/proc", "proc", mayfly_mount_remount_proc, "hidepid=invisible")
        for (link, target) in [
            ("fd", "fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2"),
        ] {
            _ = unsafe symlink("/proc/self/\(target)", "/dev/\(link)")
        }
        _ = unsafe mkdir(run, 0o755)
        // Tells a job nothing that it may know; only the agent needs it.
        _ = unsafe chmod("/dev/vsock", 0o600)
    }

    /// Hands PID 1 over to systemd, as it would run in a container: devices, modules and the
    /// console are the agent's affair.
    static func startSystemd() throws(SystemError) {
        let arguments = [
            "/lib/systemd/systemd", "--system", "systemd.getty_auto=no", "systemd.show_status=no",
            "systemd.mask=console-getty.service", "systemd.mask=getty.target",
            // It would keep this boot's name in the place of the file that PREPARE writes.
            "systemd.mask=systemd-machine-id-commit.service",
        ]
        let environment = ["container=mayfly", "PATH=\(Environment.path)"]
        let status = unsafe withCStrings(arguments) { argv in
            unsafe withCStrings(environment) { unsafe mayfly_guest_start_init(argv, $0) }
        }
        try check("start systemd", status)
    }

    private static func settle() throws(SystemError) {
        try check("loopback", mayfly_guest_loopback_up())
        // Interpreters and browsers reserve far more address space than they use.
        try writeFile("/proc/sys/vm/overcommit_memory", "1")
        // A parked interpreter drops its privileges late; it must still own its /proc/self.
        try writeFile("/proc/sys/fs/suid_dumpable", "1")
        try writeFile("/sys/fs/cgroup/cgroup.subtree_control", "+memory +pids +cpu")
        // A link there may lead to what a resolver of the image's writes; this machine has its own.
        _ = unsafe unlink("/etc/resolv.conf")
        try writeFile("/etc/resolv.conf", "nameserver 127.0.0.1\n")
        try check("host name", unsafe mayfly_guest_set_hostname("mayfly", 6))
    }
}
