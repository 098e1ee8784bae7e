/* Starting a child from a large, threaded program: between clone3 and execve only raw system calls
   run, because the child shares our memory until it execs. */
#define _GNU_SOURCE 1
#include "CLinux.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#ifndef CLONE_CLEAR_SIGHAND
#define CLONE_CLEAR_SIGHAND 0x100000000ULL
#endif
#ifndef CLONE_INTO_CGROUP
#define CLONE_INTO_CGROUP 0x200000000ULL
#endif

const uint64_t mayfly_ns_net = CLONE_NEWNET, mayfly_ns_ipc = CLONE_NEWIPC,
               mayfly_ns_uts = CLONE_NEWUTS, mayfly_ns_mount = CLONE_NEWNS,
               mayfly_ns_pid = CLONE_NEWPID, mayfly_ns_cgroup = CLONE_NEWCGROUP;

struct start {
    const struct mayfly_spawn *spec;
    int has_handlers; /* of our parent's: no longer its, and dangerous */
    int joins_group;  /* it was not born there */
    volatile int error;
    const char *volatile step;
};
#define TRY(name, call)                                                                            \
    do {                                                                                           \
        if ((long)(call) < 0) {                                                                    \
            start->error = errno;                                                                  \
            start->step = name;                                                                    \
            _exit(127);                                                                            \
        }                                                                                          \
    } while (0)

static int limit(int resource, uint64_t value) {
    if (value == UINT64_MAX) return 0;
    struct rlimit both = {value, value};
    return (int)syscall(SYS_prlimit64, 0, resource, &both, NULL);
}
static int join(int directory) {
    int file = (int)syscall(SYS_openat, directory, "cgroup.procs", O_WRONLY | O_CLOEXEC, 0);
    if (file < 0) return -1;
    long written = syscall(SYS_write, file, "0", 1);
    int error = errno;
    syscall(SYS_close, file);
    errno = error;
    return written == 1 ? 0 : -1;
}
static int child_main(void *argument) {
    struct start *start = argument;
    const struct mayfly_spawn *s = start->spec;
    int fd[3];
    struct sigaction standard = {.sa_handler = SIG_DFL}, old;
    /* Before anything that the kernel would count. */
    if (start->joins_group) TRY("control group", join(s->control_group));
    for (int i = 1; start->has_handlers && i < NSIG; i++)
        if (sigaction(i, NULL, &old) == 0 && old.sa_handler != SIG_IGN && old.sa_handler != SIG_DFL)
            sigaction(i, &standard, NULL);
    /* Here and not by clone3, which would have the parent's thread make them: a network namespace
       takes half a millisecond. That of processes is for children, so clone3 must make it. */
    uint64_t namespaces = s->namespaces & ~(uint64_t)CLONE_NEWPID;
    if (namespaces) TRY("namespaces", syscall(SYS_unshare, namespaces));
    TRY("setsid", syscall(SYS_setsid));
    /* Copied first, to numbers that are free, so that no source is overwritten by dup2. */
    for (int i = 0; i < 3; i++) TRY("dup", fd[i] = fcntl(s->stdio[i], F_DUPFD_CLOEXEC, 3));
    for (int i = 0; i < 3; i++) TRY("dup2", dup2(fd[i], i));
    TRY("close_range", syscall(SYS_close_range, 3, ~0U, 4 /* CLOSE_RANGE_CLOEXEC */));
    int executable = s->executable, directory = s->directory;
    if (s->keep_as) {
        /* Out of the way of every number that is asked for, and only then to it. */
        int above = 3;
        for (size_t i = 0; i < s->keep_count; i++)
            if (s->keep_as[i] >= above) above = s->keep_as[i] + 1;
        if (executable >= 0) TRY("dup", executable = fcntl(executable, F_DUPFD_CLOEXEC, above));
        if (directory >= 0) TRY("dup", directory = fcntl(directory, F_DUPFD_CLOEXEC, above));
        int moved[MAYFLY_KEPT_MAX];
        if (s->keep_count > MAYFLY_KEPT_MAX) errno = EINVAL;
        TRY("keep", s->keep_count > MAYFLY_KEPT_MAX ? -1 : 0);
        for (size_t i = 0; i < s->keep_count; i++)
            TRY("keep", moved[i] = fcntl(s->keep[i], F_DUPFD_CLOEXEC, above));
        for (size_t i = 0; i < s->keep_count; i++) TRY("keep", dup2(moved[i], s->keep_as[i]));
    } else
        for (size_t i = 0; i < s->keep_count; i++) TRY("keep", fcntl(s->keep[i], F_SETFD, 0));
    TRY("core limit", limit(RLIMIT_CORE, s->limit_core));
    TRY("file limit", limit(RLIMIT_NOFILE, s->limit_files));
    TRY("file size limit", limit(RLIMIT_FSIZE, s->limit_file_size));
    /* Writing beyond the file size limit is an error to the child, and not its end. */
    struct sigaction ignore = {.sa_handler = SIG_IGN};
    TRY("ignore SIGXFSZ", sigaction(SIGXFSZ, &ignore, NULL));
    TRY("process limit", limit(RLIMIT_NPROC, s->limit_processes));
    TRY("address space limit", limit(RLIMIT_AS, s->limit_address_space));
    /* Before the change of uid: the way there may be closed to it. */
    if (directory >= 0) TRY("working directory", fchdir(directory));
    if (s->set_ids) {
        /* Raw calls: glibc's versions signal every thread of the process, which is our parent's. */
        TRY("setgroups", syscall(SYS_setgroups, 0, NULL));
        TRY("setresgid", syscall(SYS_setresgid, s->gid, s->gid, s->gid));
        TRY("setresuid", syscall(SYS_setresuid, s->uid, s->uid, s->uid));
    }
    if (!s->may_gain_privileges) TRY("no_new_privs", prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    /* After the change of uid, which clears it. */
    if (s->die_with_parent) TRY("pdeathsig", prctl(PR_SET_PDEATHSIG, SIGKILL));
    /* Until execve this is our parent's memory, too: it takes its own value back. Where it cannot be
       set, the program costs more memory, and no more than that. */
    if (s->no_huge_pages) prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
    sigset_t none;
    sigemptyset(&none);
    syscall(SYS_rt_sigprocmask, SIG_SETMASK, &none, NULL, 8);
    if (executable >= 0)
        syscall(SYS_execveat, executable, "", s->argv, s->envp, AT_EMPTY_PATH);
    else
        execve(s->path, s->argv, s->envp);
    TRY("execve", -1);
    return 127;
}
#if defined(__x86_64__)
/* The child returns to nowhere: it has a stack of its own, calls its entry and exits. */
#define SYSCALL_AND_CHILD                                                                          \
    "syscall\n\ttest %%rax,%%rax\n\tjnz 1f\n\txor %%ebp,%%ebp\n\t"                                  \
    "mov %%r9,%%rdi\n\tcall *%%r8\n\tmov %%eax,%%edi\n\tmov $60,%%eax\n\tsyscall\n1:"
static long clone3_call(struct clone_args *a, int (*entry)(void *), void *argument) {
    long result;
    register int (*r8)(void *) __asm__("r8") = entry;
    register void *r9 __asm__("r9") = argument;
    __asm__ volatile(SYSCALL_AND_CHILD
                     : "=a"(result)
                     : "a"(SYS_clone3), "D"(a), "S"(sizeof *a), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory", "cc");
    return result;
}
/* Where clone3 cannot be had: systemd's RestrictNamespaces= answers ENOSYS, because its filter cannot
   see what clone3 is asked for. */
static long clone_call(struct clone_args *a, int (*entry)(void *), void *argument) {
    long result;
    uint64_t flags = (a->flags & 0xffffffffULL) | SIGCHLD;
    uint64_t top = (a->stack + a->stack_size) & ~15ULL;
    register uint64_t r10 __asm__("r10") = 0;
    register int (*r8)(void *) __asm__("r8") = entry;
    register void *r9 __asm__("r9") = argument;
    __asm__ volatile(SYSCALL_AND_CHILD
                     : "=a"(result)
                     : "a"(SYS_clone), "D"(flags), "S"(top), "d"(a->pidfd), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory", "cc");
    return result;
}
#else
#error "clone3 needs a few lines of assembly for this processor"
#endif

int mayfly_spawn(const struct mayfly_spawn *spec, struct mayfly_child *child) {
    size_t stack_size = 64 * 1024;
    int pidfd = -1;
    struct start start = {.spec = spec};
    sigset_t all, old;
    void *stack = mmap(NULL, stack_size, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
    child->failed_step = "stack";
    if (stack == MAP_FAILED) return -errno;
    struct clone_args a = {
        .flags = CLONE_VM | CLONE_VFORK | CLONE_PIDFD | CLONE_CLEAR_SIGHAND |
                 (spec->namespaces & CLONE_NEWPID),
        .pidfd = (uint64_t)(uintptr_t)&pidfd,
        .exit_signal = SIGCHLD,
        .stack = (uint64_t)(uintptr_t)stack,
        .stack_size = stack_size,
    };
    /* Born there: no moment, and no page, outside of its limits. */
    if (spec->control_group >= 0) {
        a.flags |= CLONE_INTO_CGROUP;
        a.cgroup = (uint64_t)spec->control_group;
    }
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &old); /* no handler may run in the child */
    int huge_pages_were_off = prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0);
    long pid = clone3_call(&a, child_main, &start);
    if (pid == -ENOSYS) {
        start.has_handlers = 1;
        start.joins_group = spec->control_group >= 0;
        pid = clone_call(&a, child_main, &start);
    }
    if (spec->no_huge_pages && huge_pages_were_off == 0) prctl(PR_SET_THP_DISABLE, 0, 0, 0, 0);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    munmap(stack, stack_size);
    if (pid < 0) {
        child->failed_step = "clone3";
        return (int)pid;
    }
    if (start.error) {
        waitpid((pid_t)pid, NULL, 0);
        close(pidfd);
        child->failed_step = start.step;
        return -start.error;
    }
    child->pid = (pid_t)pid;
    child->pidfd = pidfd;
    child->failed_step = NULL;
    return 0;
}
int mayfly_reap(int pidfd, int *status, int64_t *user_us, int64_t *system_us,
                int64_t *peak_rss_kib) {
    siginfo_t info = {0};
    struct rusage usage = {0};
    for (;;) {
        if (syscall(SYS_waitid, P_PIDFD, pidfd, &info, WEXITED | WNOHANG, &usage) == 0) break;
        if (errno != EINTR) return -errno;
    }
    if (info.si_pid == 0) return 0;
    *status = info.si_code == CLD_EXITED ? info.si_status : 128 + info.si_status;
    *user_us = usage.ru_utime.tv_sec * 1000000 + usage.ru_utime.tv_usec;
    *system_us = usage.ru_stime.tv_sec * 1000000 + usage.ru_stime.tv_usec;
    *peak_rss_kib = usage.ru_maxrss;
    return 1;
}
int mayfly_pidfd_open(pid_t pid) {
    long fd = syscall(SYS_pidfd_open, pid, 0);
    return fd < 0 ? -errno : (int)fd;
}
int mayfly_pidfd_signal(int pidfd, int signal) {
    return syscall(SYS_pidfd_send_signal, pidfd, signal, NULL, 0) < 0 ? -errno : 0;
}
