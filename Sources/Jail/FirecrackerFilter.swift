// Firecracker's system calls, recorded from machines that started, restored, worked, were paused
// and saved (Tests/MachinesTests/Jail/Calls/firecracker.txt), and what its own filters let through
// of what a guest can bring about. It loads one for each of its threads, on top of this one.

import CSeccomp
import Glibc

extension Filter {
    static let firecracker: [Rule] = [
        // Static: nothing but the kernel maps its code.
        .allow("mmap", "memory", where: argument(2, masked: 4, is: 0)),
        .allow("mprotect", "guard pages", where: argument(2, masked: 4, is: 0)),
        .allow("mincore", "which pages of the guest's memory were used, for a snapshot"),
        .allow("socket", "its API and its vsock", where: argument(0, is: 1)),
        .allow("bind", "its API and its vsock"),
        .allow("listen", "its API and its vsock"),
        .allow("accept4", "its API and its vsock"),
        .allow("connect", "a guest's connections; nobody listens"),
        .allow("recvfrom", "its API and its vsock"),
        .allow("sendto", "its API and its vsock, in builds of a newer Rust"),
        .allow("recvmsg", "its API"),
        .allow("stat", "its files"),
        .allow("tkill", "stops and ends threads of its own"),
        .allow("dup2", "makes room in its table of descriptors at the start"),
        .allow("ioctl", "KVM", where: argument(1, masked: 0xFF00, is: 0xAE00)),
        // FIONBIO, FIOCLEX and TCGETS of its standard streams.
        .allow("ioctl", "terminals and O_NONBLOCK", where: argument(1, masked: 0xFF00, is: 0x5400)),
        .allow("memfd_create", "rings that are mapped twice in a row, for vsock"),
        // F_ADD_SEALS: to what it has made; what it was given is sealed already.
        .allow("fcntl", "nobody changes the size of such a ring", where: argument(1, is: 1033)),
    ]
}
