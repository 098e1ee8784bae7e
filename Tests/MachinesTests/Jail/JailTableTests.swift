// What a hypervisor that was taken over would try, and what refuses it. Each row is tried behind
// the whole wall, where it is refused; with each of its layers alone, where it is refused, too; and
// then without any of them, where it succeeds: so each layer holds by itself, and the attempt is a
// real one.

import CLinux
import Events
import Foundation
import Glibc
import Processes
import Testing

@testable import Machines

/// One row of the table.
struct Attempt: Sendable {
    let name: String
    /// For the stub; $NAME is replaced by what the test has made.
    let words: [String]
    /// Each of them refuses it by itself.
    let layers: Set<JailLayer>
    /// Whether it depends on the kernel that anybody can do this; outside of a jail it must do no
    /// harm.
    var dependsOnKernel = false

    init(_ name: String, _ words: String..., by layers: JailLayer...) {
        self.name = name
        self.words = words
        self.layers = Set(layers)
    }
    static func ifPossible(_ name: String, _ words: String..., by layers: JailLayer...) -> Attempt {
        var attempt = Attempt(name, words: words, layers: Set(layers))
        attempt.dependsOnKernel = true
        return attempt
    }
    private init(_ name: String, words: [String], layers: Set<JailLayer>) {
        (self.name, self.words, self.layers) = (name, words, layers)
    }
    /// Landlock's refusals of sockets and signals came with later kernels, and control groups bound
    /// nothing where they are those of version 1.
    var layersHere: Set<JailLayer> {
        let version = mayfly_landlock_version()
        let needed = ["hear_host": 4, "connect_abstract": 6, "see_process": 6][words[0]] ?? 1
        var missing: Set<JailLayer> = version >= needed ? [] : [.landlock]
        if !JailedStub.hasControlGroups { missing.insert(.group) }
        // Its rings count as locked memory in newer kernels: 6.18 refuses them, 6.1 did not.
        if words[0] == "io_uring", Self.kernel < (6, 14) { missing.insert(.limits) }
        return layers.union(more).subtracting(missing)
    }
    /// Debian's kernels let only root look at events of the processor.
    private var more: Set<JailLayer> {
        let level = kernelText("/proc/sys/kernel/perf_event_paranoid").flatMap { Int($0.trimmed) }
        return words[0] == "perf_events" && level ?? 0 > 2 ? [.user, .capabilities] : []
    }
    private static let kernel: (Int, Int) = {
        let release = kernelText("/proc/sys/kernel/osrelease") ?? ""
        let numbers = release.split { !$0.isNumber }.prefix(2).compactMap { Int($0) }
        return numbers.count == 2 ? (numbers[0], numbers[1]) : (0, 0)
    }()

    static let table: [Attempt] = [
        // Files.
        Attempt("read /etc/passwd", "open_path", "/etc/passwd", by: .root),
        Attempt("read /etc/shadow", "open_path", "/etc/shadow", by: .root, .user),
        Attempt("read /proc", "open_path", "/proc/self/status", by: .root),
        Attempt("read a host's device", "open_path", "/dev/null", by: .root),
        Attempt("read /sys", "open_path", "/sys/kernel/mm/transparent_hugepage/enabled", by: .root),
        Attempt("read another machine's file", "open_path", "$SECRET", by: .root, .user),
        Attempt("write a host's file", "write_path", "$SECRET", by: .root, .user, .landlock),
        Attempt("make a file", "create_path", "$NEW", by: .root, .user, .landlock),
        Attempt("list a directory", "list_path", "/", by: .landlock),
        Attempt("list the host's directory", "list_path", "/etc", by: .root, .landlock),
        Attempt("make a directory", "make_directory", "$NEW", by: .filter, .root, .user, .landlock),
        Attempt(
            "make a device", "make_device", "$NEW", by: .filter, .root, .user, .capabilities,
            .landlock),
        Attempt("make a link", "make_link", "$NEW", by: .filter, .root, .user, .landlock),
        Attempt("make a file setuid", "change_mode", "$SECRET", by: .filter, .root, .user),
        Attempt("give a file away", "change_owner", "$SECRET", by: .filter, .root, .user),
        Attempt("remove a file", "remove_path", "$SECRET", by: .filter, .root, .user, .landlock),
        Attempt("write beyond the file size limit", "write_large", "$FILE", by: .limits),
        Attempt("use a descriptor it was not given", "use_descriptor", "$FILE", by: .descriptors),
        Attempt("lock a file that others have", "lock_file", "$FILE", by: .filter),
        Attempt("make a memory file", "make_memory_file", by: .filter),
        .ifPossible(
            "open a file by its handle", "open_by_handle", by: .filter, .user, .capabilities,
            .landlock),
        // Mounts and namespaces.
        Attempt("mount", "do_mount", "/", by: .filter, .user, .capabilities, .landlock),
        Attempt(
            "make its root writable", "do_remount", by: .filter, .user, .capabilities, .landlock),
        Attempt("unmount", "do_unmount", "/fd", by: .filter, .user, .capabilities, .landlock),
        Attempt("change its root", "do_chroot", by: .filter, .user, .capabilities),
        Attempt("make a file system", "new_mounts", by: .filter, .user, .capabilities),
        Attempt("make a user namespace", "unshare_user", by: .filter),
        Attempt("make a mount namespace", "unshare_mounts", by: .filter, .user, .capabilities),
        Attempt("start a process in a user namespace", "clone_user", by: .filter),
        Attempt(
            "enter a namespace of the host's", "enter_namespace", "$NETWORK",
            by: .filter, .root, .user, .capabilities, .landlock),
        Attempt("change the host name", "set_host_name", by: .filter, .user, .capabilities),
        // Other processes.
        Attempt(
            "signal a process", "see_process", "$PID", by: .processes, .filter, .user, .landlock),
        Attempt("find any process", "see_any_process", by: .processes, .filter),
        Attempt("hold on to a process", "open_process", "$PID", by: .processes, .filter),
        Attempt(
            "ptrace", "trace_process", "$PID",
            by: .processes, .filter, .user, .capabilities, .landlock),
        Attempt(
            "process_vm_readv", "read_process", "$OWN", "$BYTE",
            by: .processes, .filter, .user, .capabilities, .landlock),
        Attempt(
            "process_vm_writev", "write_process", "$OWN", "$BYTE",
            by: .processes, .filter, .user, .capabilities, .landlock),
        Attempt(
            "slow a process down", "reprioritize", "$PID",
            by: .processes, .filter, .user, .capabilities),
        Attempt("read a process's limits", "limit_process", "$PID", by: .processes, .user),
        Attempt(
            "take a process's descriptor", "take_descriptor", "$PID",
            by: .processes, .filter, .user, .capabilities, .landlock),
        Attempt("fork", "do_fork", by: .filter),
        Attempt("fork without end", "fork_bomb", by: .filter, .limits, .group),
        Attempt("start threads without end", "thread_bomb", by: .limits, .group),
        Attempt("use more memory than its own", "touch_memory", by: .group),
        Attempt("run a program of the host's", "execute_path", "/bin/true", by: .filter, .root),
        Attempt("run a program from memory", "execute_memory", by: .filter),
        // Sockets.
        Attempt("socket AF_UNIX", "socket_unix", by: .filter),
        Attempt("socket AF_INET", "socket_inet", by: .filter),
        .ifPossible("socket AF_INET6", "socket_inet6", by: .filter),
        .ifPossible("socket AF_NETLINK", "socket_netlink", by: .filter),
        .ifPossible("socket AF_PACKET", "socket_packet", by: .filter, .user, .capabilities),
        .ifPossible("socket AF_VSOCK", "socket_vsock", by: .filter),
        .ifPossible("socket AF_ALG", "socket_alg", by: .filter),
        Attempt("a pair of sockets", "socket_pair", by: .filter),
        Attempt(
            "connect to an abstract socket", "connect_abstract", "$ABSTRACT",
            by: .filter, .network, .landlock),
        Attempt("connect to the host", "hear_host", "$TCP", by: .filter, .network, .landlock),
        // Rights.
        Attempt("become root", "become_root", by: .filter, .user),
        Attempt("become somebody else", "become_other", "4711", by: .filter, .user, .capabilities),
        Attempt("change its groups", "change_groups", by: .filter, .user, .capabilities),
        Attempt("have capabilities to gain", "bounding_set", by: .filter, .capabilities),
        Attempt("raise a limit", "raise_limit", by: .filter, .limits),
        Attempt("open too many descriptors", "many_descriptors", by: .limits),
        Attempt("take more address space", "much_memory", by: .limits),
        Attempt("keep memory from being swapped", "lock_memory", by: .filter, .limits),
        Attempt("outlive its worker", "outlive_parent", by: .filter),
        Attempt("let others trace it", "be_dumpable", by: .filter),
        .ifPossible("real-time priority", "real_time", by: .filter, .user, .capabilities),
        Attempt("another personality", "look_up_policy", by: .filter),
        // The kernel.
        .ifPossible("io_uring", "io_uring", by: .filter, .limits),
        .ifPossible("bpf", "load_bpf", by: .filter, .user, .capabilities),
        .ifPossible("perf events", "perf_events", by: .filter),
        .ifPossible("keyctl", "use_keys", by: .filter),
        .ifPossible("add a key", "add_key", by: .filter),
        .ifPossible("userfaultfd", "fault_in_user", by: .filter),
        Attempt("attach shared memory", "shared_memory", "$SHARED", by: .filter, .ipc, .user),
        Attempt("make a message queue", "message_queue", by: .filter),
        Attempt("watch files", "watch_files", by: .filter),
        .ifPossible("load a module", "load_module", by: .filter, .user, .capabilities),
        Attempt("end swapping", "swap_off", by: .filter, .user, .capabilities),
        .ifPossible("reach the machine's ports", "raw_ports", by: .filter, .user, .capabilities),
        Attempt("type for somebody else", "terminal_input", "0", by: .filter),
    ]
}

@Suite(
    "The jail", .enabled(if: JailedStub.isPossible, JailedStub.reason), .serialized)
@LoopActor
struct JailTableTests {
    @Test func `each layer refuses by itself, and without them it could`() async throws {
        let stub = try await JailedStub()
        var impossible: [String] = []
        for attempt in Attempt.table {
            guard !attempt.layersHere.isEmpty else {
                impossible.append("\(attempt.name) (no layer here refuses it)")
                continue
            }
            if try await !check(attempt, stub) { impossible.append(attempt.name) }
        }
        // Refused all the same, but this host's kernel lets nobody do it.
        if !impossible.isEmpty { print("not possible on this host: \(impossible)") }
        #expect(impossible.count < 10)
    }

    /// - Returns: whether it could succeed on this host at all.
    private func check(_ attempt: Attempt, _ stub: JailedStub) async throws -> Bool {
        let victims = try await Victims()
        let words = try victims.words(of: attempt)
        let layers = attempt.layersHere
        func end(without: Set<JailLayer>) async throws -> AttemptEnd {
            try victims.renew()
            let isUnasked = attempt.words[0] == "use_descriptor"
            return try await stub.attempt(
                words, without: without, kept: isUnasked ? [] : [victims.file.number],
                unasked: isUnasked ? [victims.file.number] : [])
        }
        #expect(try await end(without: []) == .refused, "\(attempt.name)")
        for layer in layers.sorted(by: { $0.rawValue < $1.rawValue }) where layers.count > 1 {
            let alone = try await end(without: layers.subtracting([layer]))
            #expect(alone == .refused, "\(attempt.name), \(layer) alone")
        }
        if attempt.dependsOnKernel, try await stub.attemptFree(words) != .could { return false }
        #expect(try await end(without: layers) == .could, "\(attempt.name) without \(layers)")
        return true
    }

    @Test func `new privileges are refused, and the kernel builds no filter without that`()
        async throws
    {
        let stub = try await JailedStub()
        let words = ["privileges_allowed"]
        #expect(try await stub.attempt(words, without: [.landlock, .filter]) == .refused)
        let others: Set<JailLayer> = [.privileges, .landlock, .filter]
        #expect(try await stub.attempt(words, without: others) == .could)
        for layer in [JailLayer.landlock, .filter] {
            let end = try await stub.attempt(words, without: others.subtracting([layer]))
            guard case .failed(let words) = end else {
                Issue.record("\(layer) without it: \(end)")
                continue
            }
            #expect(words.contains("mayfly-jail: cannot"), "\(words)")
        }
    }

    @Test func `the table has an attempt for each layer that this layer alone refuses`() {
        let alone = Set(Attempt.table.filter { $0.layers.count == 1 }.flatMap(\.layers))
        let proven = Set(Attempt.table.flatMap(\.layersHere))
        #expect(Attempt.table.count >= 45)
        #expect(alone.isSuperset(of: [.root, .descriptors, .limits, .filter, .group]))
        // The host's name and its control groups are looked at in /proc: see JailLookTests.
        // Without a refusal of new privileges there is no jail: see below.
        let all = Set(JailLayer.allCases).subtracting([.hostName, .controlGroup, .privileges])
        var missing: Set<JailLayer> = mayfly_landlock_version() > 0 ? [] : [.landlock]
        if !JailedStub.hasControlGroups { missing.insert(.group) }
        #expect(proven == all.subtracting(missing))
    }
}

/// What the attempts are made on: everything that they could harm is this test's own.
@LoopActor
private final class Victims {
    private let place: ScratchPlace
    let file: Descriptor
    private let sleeper: Child
    private let abstract: Descriptor
    private let listener: Descriptor
    private var tcp: UInt16 = 0
    private let abstractName = "mayfly-test-\(hexText(randomBytes(6)))"
    private let sharedKey = Int32.random(in: 1 << 20..<Int32.max)
    private let shared: CInt
    /// The address of a page of this process's.
    private let page: UInt

    init() async throws {
        let pages = unsafe mmap(
            nil, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
        page = UInt(bitPattern: pages)
        place = try ScratchPlace()
        file = try Descriptor.memory("mayfly-test")
        var sleep = SpawnRequest(arguments: ["/bin/sleep", "600"])
        sleep.mayGainPrivileges = true
        sleeper = try Child.spawn(sleep)
        shared = shmget(sharedKey, 4096, 0o600 | 0o1000)
        abstract = Descriptor(socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0))
        listener = Descriptor(socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0))
        var name = sockaddr_un()
        name.sun_family = sa_family_t(AF_UNIX)
        let bytes = Array(abstractName.utf8)
        unsafe withUnsafeMutableBytes(of: &name.sun_path) { path in
            for (index, byte) in bytes.enumerated() { unsafe path[index + 1] = byte }
        }
        let length = socklen_t(2 + 1 + bytes.count)
        let isBound = unsafe withUnsafePointer(to: &name) {
            unsafe $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                unsafe bind(abstract.number, $0, length)
            }
        }
        #expect(isBound == 0 && listen(abstract.number, 64) == 0)
        #expect(listen(listener.number, 64) == 0)
        var address = sockaddr_in()
        var size = socklen_t(MemoryLayout<sockaddr_in>.size)
        _ = unsafe withUnsafeMutablePointer(to: &address) {
            unsafe $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                unsafe getsockname(listener.number, $0, &size)
            }
        }
        tcp = UInt16(bigEndian: address.sin_port)
        try renew()
    }
    deinit {
        _ = shmctl(shared, IPC_RMID, nil)
        unsafe munmap(UnsafeMutableRawPointer(bitPattern: page), 4096)
    }

    private var path: String { place.path }
    /// As they were before the last attempt.
    func renew() throws {
        _ = unsafe unlink("\(path)/new")
        _ = unsafe rmdir("\(path)/new")
        if unsafe access("\(path)/secret", F_OK) != 0 {
            try writeFile("\(path)/secret", [1, 2, 3], mode: 0o600)
        }
    }
    func words(of attempt: Attempt) throws -> [String] {
        let values = [
            "$SECRET": "\(path)/secret", "$NEW": "\(path)/new", "$FILE": "\(file.number)",
            "$PID": "\(sleeper.pid)", "$OWN": "\(getpid())",
            "$BYTE": "\(page)", "$ABSTRACT": abstractName,
            "$NETWORK": "/proc/\(getpid())/ns/net", "$TCP": "\(tcp)", "$SHARED": "\(sharedKey)",
        ]
        return attempt.words.map { values[$0] ?? $0 }
    }
}
