// The machine's own disk, which holds the job's directory where the image says so.

import CGuest
import Glibc

struct ScratchDisk {
    /// What may wait in memory to be written: so much is written at most when a program has ended.
    private static let unwrittenByteCountMax = 64 << 20

    private let root: CInt

    /// Puts the disk in the place of the job's directory.
    ///
    /// Not before PREPARE: a snapshot must know nothing of what is on it.
    init() throws(SystemError) {
        guard let disk = Boot.disk(isReadOnly: false) else {
            throw SystemError(what: "find the scratch disk", code: ENODEV)
        }
        try writeFile("/proc/sys/vm/dirty_bytes", "\(Self.unwrittenByteCountMax)")
        try writeFile("/proc/sys/vm/dirty_background_bytes", "\(Self.unwrittenByteCountMax / 4)")
        // Only now, so that the kernel writes nothing by itself: not even its tables of inodes.
        try Boot.mount(
            disk, Boot.work, "ext4", mayfly_mount_no_devices, "noinit_itable,nobarrier")
        root = try openFile(Boot.work, O_RDONLY | O_DIRECTORY)
        try checkErrno("hand over \(Boot.work)", fchown(root, Account.user, Account.group))
    }

    /// Whether all that was ever written here is there.
    ///
    /// A write that fails behind a program's back, on a host whose disk is full, is told to nobody
    /// who does not ask: the program would go on with zeros, and its files would be stored.
    func checkWrites() throws(SystemError) {
        try check("write to the scratch disk", mayfly_guest_write_back(root))
    }
}
