// A request as the command line of mayfly-jail: the launcher's numbers and the worker's, in words
// of its own. Of the worker's words only those behind the dashes, which the jail does not read.

import CLinux
import Glibc
import Launch

struct Jailed {
    private let setup: Setup
    private let request: LaunchRequest
    private let descriptors: [CInt]
    private let user: uid_t
    /// Its control group, or -1.
    private let group: CInt

    init(
        _ setup: Setup, _ request: LaunchRequest, _ descriptors: [CInt], _ user: uid_t,
        _ group: CInt
    ) {
        self.setup = setup
        self.request = request
        self.descriptors = descriptors
        self.user = user
        self.group = group
    }

    /// The number that the hypervisor's own program has: none of those that the worker chose.
    private var program: UInt32 {
        LaunchRequest.keptNumbers.first { !request.kept.contains($0) } ?? 3
    }

    private var words: [String] {
        var words = [
            "mayfly-jail", "hypervisor=qemu", "program=\(program)",
            "kvm=\(setup.usesKVM ? 1 : 0)", "user=\(user)", "file-size=\(request.fileSize)",
            "address-space=\(request.addressSpace)", "processes=\(Groups.threads)",
        ]
        words += request.kept.sorted().map { "keep=\($0)" }
        if setup.usesKVM, let group = setup.deviceGroup { words.append("device-group=\(group)") }
        return words + ["--"]
    }
    /// 0 or a negative error code; `child` then says which step it was.
    ///
    /// What it allocates is not given back: this process has nothing else to do.
    func spawn(_ child: inout mayfly_child) -> CInt {
        var arguments = unsafe words.map { unsafe strdup($0) }
        for argument in request.arguments {
            let text = argument.map { CChar(bitPattern: $0) } + [0]
            unsafe arguments.append(unsafe strdup(text))
        }
        unsafe arguments.append(nil)
        // Nothing of the worker's environment, which would be the jail's while it is root. Arenas
        // of its own for each thread would cost every machine megabytes that it frees.
        var environment = unsafe [unsafe strdup("MALLOC_ARENA_MAX=1"), nil]
        let null = unsafe open("/dev/null", O_RDWR | O_CLOEXEC)
        guard null >= 0 else { return -errno }
        var standard = [null, null, null]
        var next = 0
        for place in 0..<3 where request.standard[place] {
            standard[place] = descriptors[next]
            next += 1
        }
        let kept = [setup.program] + descriptors[next...]
        let numbers = ([program] + request.kept).map { CInt($0) }
        return unsafe kept.withUnsafeBufferPointer { kept in
            unsafe numbers.withUnsafeBufferPointer { numbers in
                unsafe arguments.withUnsafeMutableBufferPointer { arguments in
                    unsafe environment.withUnsafeMutableBufferPointer { environment in
                        var spec = unsafe mayfly_spawn()
                        unsafe spec.path = UnsafePointer(arguments[0])
                        unsafe spec.executable = setup.jail
                        unsafe spec.directory = setup.directory
                        unsafe spec.argv = UnsafePointer(arguments.baseAddress)
                        unsafe spec.envp = UnsafePointer(environment.baseAddress)
                        unsafe spec.stdio = (standard[0], standard[1], standard[2])
                        unsafe spec.keep = kept.baseAddress
                        unsafe spec.keep_as = numbers.baseAddress
                        unsafe spec.keep_count = kept.count
                        unsafe spec.namespaces =
                            mayfly_ns_pid | mayfly_ns_net | mayfly_ns_ipc | mayfly_ns_uts
                            | mayfly_ns_cgroup
                        unsafe spec.control_group = group
                        // The jail's own steps, which come later than these would.
                        unsafe spec.may_gain_privileges = 1
                        unsafe spec.limit_core = 0
                        unsafe spec.limit_files = .max
                        unsafe spec.limit_file_size = .max
                        unsafe spec.limit_address_space = .max
                        unsafe spec.limit_processes = .max
                        unsafe spec.no_huge_pages = request.hugePages ? 0 : 1
                        unsafe spec.die_with_parent = 1
                        return unsafe mayfly_spawn(&spec, &child)
                    }
                }
            }
        }
    }
}
