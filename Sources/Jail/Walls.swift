// The steps that are more than one system call. Each returns 0, or the negative error code of what
// failed.

import CLinux
import Glibc

struct Walls {
    private let request: Request
    /// Below the working directory, made by the worker: what the hypervisor opens, nothing else.
    private let root: String

    init(_ request: Request) {
        self.request = request
        root = "roots/\(request.hypervisor.rawValue)"
    }

    // MARK: The root

    func bindRoot() -> CInt { unsafe mayfly_bind(root, root) }
    func bindDescriptors() -> CInt {
        unsafe mayfly_bind_own_descriptors("\(root)/dev", "\(root)/fd")
    }
    /// The one place where it may make something: sockets, which the worker connects to.
    func bindWork() -> CInt {
        guard let work = request.work else { return 0 }
        let name = String(work, radix: 16)
        let padded = String(repeating: "0", count: 16 - name.utf8.count) + name
        let status = unsafe mayfly_bind("machines/\(padded)", "\(root)/work")
        return status != 0 ? status : unsafe mayfly_restrict_mount("\(root)/work", 0, 1)
    }
    func bindKVM() -> CInt {
        guard request.usesKVM else { return 0 }
        let status = unsafe mayfly_bind("/dev/kvm", "\(root)/dev/kvm")
        return status != 0 ? status : unsafe mayfly_restrict_mount("\(root)/dev/kvm", 0, 0)
    }
    func restrictRoot() -> CInt { unsafe mayfly_restrict_mount(root, 1, 1) }
    func enterRoot() -> CInt {
        guard unsafe chdir(root) == 0 else { return -errno }
        let status = mayfly_enter_root()
        guard status == 0, request.work != nil else { return status }
        return unsafe chdir("/work") == 0 ? 0 : -errno
    }

    // MARK: Descriptors and limits

    func closeDescriptors() -> CInt {
        var first: CInt = 3
        for kept in (request.kept + [request.program]).sorted() {
            let status = mayfly_close_between(first, kept - 1)
            if status != 0 { return status }
            first = max(first, kept + 1)
        }
        let status = mayfly_close_between(first, CInt.max)
        if status != 0 { return status }
        // What runs the program does not hand it on: nothing can be executed by this number again.
        return fcntl(request.program, F_SETFD, FD_CLOEXEC) == 0 ? 0 : -errno
    }

    func limit() -> CInt {
        let limits: [(mayfly_limit_name, UInt64)] = [
            (MAYFLY_LIMIT_CORE, 0),  // a core file holds a guest's memory
            (MAYFLY_LIMIT_FILES, 256),
            (MAYFLY_LIMIT_FILE_SIZE, request.fileSize),
            (MAYFLY_LIMIT_ADDRESS_SPACE, request.addressSpace),
            (MAYFLY_LIMIT_PROCESSES, request.processes),  // of its user, which nobody else is
            (MAYFLY_LIMIT_LOCKED, 0),
            (MAYFLY_LIMIT_QUEUES, 0),
            (MAYFLY_LIMIT_SIGNALS, 64),
        ]
        for (name, value) in limits {
            let status = mayfly_limit(name, value)
            if status != 0 { return status }
        }
        // Writing beyond the file size limit is an error to the hypervisor, and not its end.
        signal(SIGXFSZ, SIG_IGN)
        umask(0o077)
        return 0
    }

    // MARK: Identity

    func becomeUser() -> CInt {
        guard let user = request.user else { return 0 }
        let more = request.deviceGroup.map { [$0] } ?? []
        return unsafe mayfly_become(user, user, more, more.count)
    }

    // MARK: Landlock

    /// Where the kernel has it; `mayfly doctor` says where not.
    ///
    /// The root may be read and executed, not listed. Of what is open, each file may be opened
    /// again by its number as it is open now; nothing else of any file system may be opened.
    func enforceLandlock() -> CInt {
        guard mayfly_landlock_version() > 0 else { return 0 }
        let ruleset = mayfly_landlock_begin()
        guard ruleset >= 0 else { return ruleset }
        var status = allow(ruleset, "/", .execute | .read)
        if status == 0, request.work != nil {
            status = allow(ruleset, "/work", .read | .write | .makeSocket | .removeFile)
        }
        if status == 0, request.usesKVM {
            status = allow(ruleset, "/dev/kvm", .read | .write | .command)
        }
        if status == 0 {
            status = mayfly_landlock_allow(ruleset, request.program, .read | .execute)
        }
        for file in request.kept where status == 0 { status = allow(ruleset, open: file) }
        return status != 0 ? status : mayfly_landlock_enforce(ruleset)
    }
    private func allow(_ ruleset: CInt, _ path: String, _ rights: UInt64) -> CInt {
        let place = unsafe open(path, openPath | O_CLOEXEC)
        guard place >= 0 else { return -errno }
        defer { close(place) }
        return mayfly_landlock_allow(ruleset, place, rights)
    }
    private func allow(_ ruleset: CInt, open file: CInt) -> CInt {
        var facts = stat()
        guard unsafe fstat(file, &facts) == 0 else { return -errno }
        guard facts.st_mode & S_IFMT == S_IFREG else { return 0 }
        let isWritable = fcntl(file, F_GETFL) & O_ACCMODE != O_RDONLY
        let status = mayfly_landlock_allow(
            ruleset, file, isWritable ? .read | .write | .truncate : .read)
        // Memory files are none of Landlock's.
        return status == -EBADFD ? 0 : status
    }
}

/// O_PATH of open(2), which the Glibc module does not show.
private let openPath: CInt = 0o10_000_000

/// Rights of linux/landlock.h.
extension UInt64 {
    fileprivate static let execute: UInt64 = 1 << 0
    fileprivate static let write: UInt64 = 1 << 1
    fileprivate static let read: UInt64 = 1 << 2
    fileprivate static let removeFile: UInt64 = 1 << 5
    fileprivate static let makeSocket: UInt64 = 1 << 9
    fileprivate static let truncate: UInt64 = 1 << 14
    fileprivate static let command: UInt64 = 1 << 15
}
