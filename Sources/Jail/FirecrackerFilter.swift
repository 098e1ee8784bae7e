// Firecracker's system calls. It loads a filter of its own for each of its threads, which knows
// more than this one: here stands what any of them may need, and what its start needs.

import CSeccomp
import Glibc

extension Filter {
    static let firecracker: [Rule] = [
        // Static: nothing but the kernel maps its code.
        .allow("mmap", "memory", where: argument(2, masked: 4, is: 0)),
        .allow("mprotect", "guard pages", where: argument(2, masked: 4, is: 0)),
        .allow("mincore", "which pages of the guest's memory were used, for a snapshot"),
        .allow("msync", "the guest's memory"),
        .allow("socket", "its API and its vsock", where: argument(0, is: 1)),
        .allow("bind", "its API and its vsock"),
        .allow("listen", "its API and its vsock"),
        .allow("accept4", "its API and its vsock"),
        .allow("connect", "a guest's connections; nobody listens"),
        .allow("sendto", "its API and its vsock"),
        .allow("recvfrom", "its API and its vsock"),
        .allow("sendmsg", "its API and its vsock"),
        .allow("recvmsg", "its API and its vsock"),
        .allow("shutdown", "its API and its vsock"),
        .allow("setsockopt", "its API and its vsock"),
        .allow("getsockopt", "its API and its vsock"),
        .allow("unlink", "its sockets"),
        .allow("stat", "its files"),
        .allow("lstat", "its files"),
        .allow("umask", "its sockets' modes"),
        .allow("pipe2", "wakes threads"),
        .allow("tkill", "stops and ends threads of its own"),
        .allow("timerfd_gettime", "timers"),
        .allow("getcwd", "its working directory"),
        .allow("dup2", "makes room in its table of descriptors at the start"),
        .allow("prctl", "its name and its filter's state", where: argument(0, is: 16)),
        .allow("ioctl", "KVM", where: argument(1, masked: 0xFF00, is: 0xAE00)),
        // FIONBIO, FIOCLEX and TCGETS of its standard streams.
        .allow("ioctl", "terminals and O_NONBLOCK", where: argument(1, masked: 0xFF00, is: 0x5400)),
        .allow("memfd_create", "rings that are mapped twice in a row, for vsock"),
        // F_ADD_SEALS: to what it has made; what it was given is sealed already.
        .allow("fcntl", "nobody changes the size of such a ring", where: argument(1, is: 1033)),
        .refuse("io_uring_setup", ENOSYS, "its disks are read by threads"),
    ]
}
