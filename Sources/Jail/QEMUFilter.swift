// QEMU's system calls, recorded from machines that started, restored, worked, were paused and
// saved, under emulation and under KVM (Tests/MachinesTests/Jail/Calls).
// QEMU's own `-sandbox` filter comes on top.

import CSeccomp
import Glibc

extension Filter {
    static func qemu(usesKVM: Bool) -> [Rule] {
        var rules = library
        rules += [
            .allow("mmap", "memory, libraries and, under emulation, translated code"),
            .allow("getdents64", "looks for NUMA nodes in /sys, which is not there"),
            .allow("statfs", "looks for SELinux, which is not there"),
            .allow("fstatfs", "the page size of its memory"),
            .allow("getcwd", "its working directory"),
            .allow("sysinfo", "how much memory the host has"),
            .allow("getppid", "libraries that watch for a fork"),
            .allow("dup2", "duplicates descriptors"),
            .allow("pipe2", "wakes threads"),
            .allow("signalfd4", "signals as descriptors"),
            .allow("fadvise64", "the root disk's pages in the host's cache"),
            .allow("membarrier", "its read-copy-update"),
            .allow("sendmsg", "the monitor, the agent's port"),
            .allow("recvmsg", "the monitor, the agent's port"),
            .allow("sendto", "the monitor, the agent's port"),
            .allow("recvfrom", "the monitor, the agent's port"),
            .allow("getsockopt", "what kind of socket it was given"),
            .allow("setsockopt", "asks for sending without copies, which such sockets refuse"),
            .allow("getsockname", "the monitor, the agent's port"),
            .allow("getpeername", "the monitor, the agent's port"),
            .allow("shutdown", "ends the monitor"),
            .allow("prctl", "memory errors at once", where: argument(0, is: 33)),
            .allow("prctl", "finer timers", where: argument(0, is: 29)),
            .refuse("io_uring_setup", ENOSYS, "it waits with ppoll instead"),
            .refuse("memfd_create", ENOSYS, "it tries whether there are memory files; has its own"),
            .refuse("get_mempolicy", ENOSYS, "its NUMA library asks"),
            .refuse("set_mempolicy", ENOSYS, "its NUMA library tries"),
            .refuse("mbind", ENOSYS, "its NUMA library tries"),
        ]
        // Commands to a device have its letter in their second byte.
        func commands(_ letter: UInt64) -> scmp_arg_cmp {
            argument(1, masked: 0xFF00, is: letter << 8)
        }
        if usesKVM {
            rules += [
                .allow("ioctl", "KVM", where: commands(0xAE)),
                // Memory that can be executed is the emulator's business alone; its libraries are
                // mapped, not changed afterwards.
                .allow("mprotect", "guard pages, libraries", where: argument(2, masked: 4, is: 0)),
            ]
        } else {
            rules.append(.allow("mprotect", "guard pages, libraries, translated code"))
        }
        rules.append(.allow("ioctl", "vhost, which carries vsock", where: commands(0xAF)))
        return rules
    }

    /// What the C library and other libraries of a distribution's build make, which is not static.
    private static let library: [Rule] = [
        .allow("set_robust_list", "the C library, in each thread"),
        .allow("rseq", "the C library, in each thread"),
        .refuse("clone3", ENOSYS, "its flags are in memory, so the C library uses clone"),
        .allow("sched_getaffinity", "how many processors there are"),
        .allow("getpid", "the process's own number"),
        .allow("gettid", "the thread's own number"),
        .allow("readv", "ports, disks"),
        .allow("writev", "ports, disks"),
        .allow("pread64", "disks"),
        .allow("preadv", "disks"),
        .allow("pwrite64", "the scratch disk"),
        .allow("pwritev", "the scratch disk"),
        .allow("newfstatat", "the C library's fstat"),
        .allow("statx", "the same, in newer libraries"),
        .allow("fdatasync", "the scratch disk"),
        .allow("fallocate", "gives back blocks of the scratch disk"),
        .allow("fcntl", "duplicates descriptors", where: argument(1, is: UInt64(F_DUPFD))),
        .allow("fcntl", "close-on-exec", where: argument(1, is: UInt64(F_GETFD))),
        .allow("openat", "libraries, firmware, its memory"),
        .allow("access", "which of several files is there"),
        .allow("readlink", "where its own program stands; there is no answer"),
        .allow("clock_getres", "time"),
        .allow("gettimeofday", "time"),
        .allow("clock_nanosleep", "pauses"),
        .allow("nanosleep", "pauses"),
        .allow("ppoll", "waits for descriptors"),
        .allow("epoll_wait", "waits for descriptors"),
        .allow("getuid", "who it is"),
        .allow("geteuid", "who it is"),
        .allow("getgid", "who it is"),
        .allow("getegid", "who it is"),
        .allow("getrlimit", "reads its limits"),
        .allow(
            "prctl", "its own filter: a second one only takes away",
            where: argument(0, is: 22)),
        .allow("uname", "the kernel's version"),
        own(
            .allow(
                "tgkill", "wakes and ends threads of its own",
                where: argument(0, is: UInt64(getpid())))),
    ]
}
