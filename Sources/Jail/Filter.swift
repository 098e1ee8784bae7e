// The filter of system calls: what a hypervisor asks of the kernel and why, as data; everything
// else ends the process at once. Here is what both ask; the rest is in QEMUFilter.swift and
// FirecrackerFilter.swift.

import CSeccomp
import Glibc

/// A system call that is let through, or answered with an error without being made.
struct Rule {
    let call: String
    let reason: String
    /// All of them hold, or the rule does not apply.
    var conditions: [scmp_arg_cmp] = []
    /// `nil`: allowed.
    var refusal: CInt?
    /// The conditions name numbers of one process.
    var isOwn = false

    static func allow(
        _ call: String, _ reason: String, where conditions: scmp_arg_cmp...
    ) -> Rule {
        Rule(call: call, reason: reason, conditions: conditions)
    }
    /// For a call that is tried and can be done without: the caller goes on.
    static func refuse(_ call: String, _ code: CInt, _ reason: String) -> Rule {
        Rule(call: call, reason: reason, refusal: code)
    }
}

/// A condition on an argument of a call, counted from 0.
func argument(_ index: UInt32, is value: UInt64) -> scmp_arg_cmp {
    scmp_arg_cmp(arg: index, op: SCMP_CMP_EQ, datum_a: value, datum_b: 0)
}
func argument(_ index: UInt32, masked mask: UInt64, is value: UInt64) -> scmp_arg_cmp {
    scmp_arg_cmp(arg: index, op: SCMP_CMP_MASKED_EQ, datum_a: mask, datum_b: value)
}

enum Filter {
    /// - Parameter program: the descriptor that becomes the hypervisor.
    static func rules(_ hypervisor: Hypervisor, usesKVM: Bool, program: CInt) -> [Rule] {
        let more =
            switch hypervisor {
            case .qemu: qemu(usesKVM: usesKVM)
            case .firecracker: firecracker
            }
        return common + [becoming(program)] + more
    }

    /// Holds for every thread that this process will ever have, and for what it becomes.
    static func load(for request: Request) -> CInt {
        let otherwise =
            request.recording == nil ? mayfly_seccomp_kill() : mayfly_seccomp_notify()
        guard let context = unsafe seccomp_init(otherwise) else { return -ENOMEM }
        defer { unsafe seccomp_release(context) }
        // Refusing new privileges is a step of its own.
        var status = unsafe seccomp_attr_set(context, SCMP_FLTATR_CTL_NNP, 0)
        // The kernel's own reason when it refuses the filter.
        if status == 0 { status = unsafe seccomp_attr_set(context, SCMP_FLTATR_API_SYSRAWRC, 1) }
        // A tree instead of a list: a call in the middle is found as soon as the first.
        if status == 0 { status = unsafe seccomp_attr_set(context, SCMP_FLTATR_CTL_OPTIMIZE, 2) }
        let all = rules(request.hypervisor, usesKVM: request.usesKVM, program: request.program)
        for rule in all where status == 0 && isJudged(rule, request.recording) {
            let number = unsafe seccomp_syscall_resolve_name(rule.call)
            // A newer call that this libseccomp does not know is one that it refuses.
            if number == __NR_SCMP_ERROR { continue }
            let action =
                rule.refusal.map { mayfly_seccomp_refuse(UInt16($0)) } ?? mayfly_seccomp_allow()
            status = unsafe seccomp_rule_add_array(
                context, action, number, UInt32(rule.conditions.count), rule.conditions)
        }
        return status != 0 ? status : unsafe seccomp_load(context)
    }
}

extension Filter {
    /// Whether the filter itself answers; who records judges the others, and what is not listed.
    private static func isJudged(_ rule: Rule, _ recording: Recording?) -> Bool {
        switch recording {
        case nil: true
        case .all: false
        case .seldom: constant.contains(rule.call)
        }
    }
    /// Calls that every machine makes thousands of times a second.
    private static let constant: Set = [
        "futex", "read", "readv", "pread64", "preadv", "write", "recvmsg", "sendmsg", "poll",
        "ppoll",
    ]

    /// What both hypervisors need to start, to have threads and to end.
    private static let common: [Rule] = [
        .allow("arch_prctl", "thread-local storage of the first thread"),
        .allow("set_tid_address", "the C library's start"),
        .allow("sigaltstack", "a stack for signal handlers, in each thread"),
        // CLONE_VM and CLONE_THREAD, and none of the namespaces.
        .allow(
            "clone", "threads, and no processes",
            where: argument(0, masked: 0x7E03_0100 | 0x80, is: 0x0001_0100)),
        .allow("exit", "a thread ends"),
        .allow("exit_group", "the process ends"),
        .allow("futex", "locks"),
        .allow("sched_yield", "locks"),
        .allow("rt_sigaction", "handlers"),
        .allow("rt_sigprocmask", "which signals a thread takes"),
        .allow("rt_sigreturn", "back from a handler"),
        .allow("restart_syscall", "a wait that was interrupted goes on"),
        .allow("brk", "memory"),
        .allow("munmap", "memory"),
        .allow("mremap", "memory"),
        .allow("madvise", "memory"),
        .allow("read", "ports, monitor, wake-ups"),
        .allow("write", "ports, console, wake-ups"),
        .allow("lseek", "sizes of files"),
        .allow("close", "descriptors"),
        .allow("fstat", "what a descriptor is"),
        .allow("fsync", "the scratch disk"),
        .allow("ftruncate", "memory files of a machine that is saved"),
        // None of its locks, leases and signals: what they are on may be shared with others.
        .allow("fcntl", "duplicates descriptors", where: argument(1, is: 1030)),
        .allow("fcntl", "close-on-exec", where: argument(1, is: UInt64(F_SETFD))),
        .allow("fcntl", "O_NONBLOCK", where: argument(1, is: UInt64(F_GETFL))),
        .allow("fcntl", "O_NONBLOCK", where: argument(1, is: UInt64(F_SETFL))),
        .allow("dup", "duplicates descriptors"),
        // Names are looked up in the root of the jail, where there is little.
        .allow("open", "libraries, firmware, its memory"),
        .allow("getrandom", "hash tables' seeds, the guest's entropy device"),
        .allow("clock_gettime", "time"),
        .allow("poll", "waits for descriptors"),
        .allow("epoll_create1", "waits for descriptors"),
        .allow("epoll_ctl", "waits for descriptors"),
        .allow("epoll_pwait", "waits for descriptors"),
        .allow("eventfd2", "wakes threads"),
        .allow("timerfd_create", "timers"),
        .allow("timerfd_settime", "timers"),
        .allow("prlimit64", "reads its limits", where: argument(2, is: 0)),
        .allow("prctl", "names a thread", where: argument(0, is: 15)),
        .allow("prctl", "sets no_new_privs before its own filter", where: argument(0, is: 38)),
        .allow("seccomp", "its own filter: a second one only takes away"),
    ]

    /// execveat(program, "", …, AT_EMPTY_PATH): the step that follows, and no other program.
    private static func becoming(_ program: CInt) -> Rule {
        own(
            .allow(
                "execveat", "becomes the hypervisor",
                where: argument(0, is: UInt64(program)), argument(4, is: 0x1000)))
    }
    /// A rule that depends on which process this is.
    static func own(_ rule: Rule) -> Rule {
        var rule = rule
        rule.isOwn = true
        return rule
    }
}
