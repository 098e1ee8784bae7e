/* System calls that only the guest's PID 1 needs: setting up the machine, and starting a program as
   the unprivileged user inside its own cgroup. The agent has one thread, so plain fork semantics
   are safe here. Nothing in this file is for the host. */
#define _GNU_SOURCE 1
#include "CGuest.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/random.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define RESULT(call) ((long)(call) < 0 ? -errno : 0)

const unsigned long mayfly_mount_read_only = MS_RDONLY,
                    mayfly_mount_locked = MS_NOSUID | MS_NODEV | MS_NOEXEC,
                    mayfly_mount_no_devices = MS_NOSUID | MS_NODEV, mayfly_mount_bind = MS_BIND,
                    mayfly_mount_move = MS_MOVE,
                    mayfly_mount_remount_proc = MS_REMOUNT | MS_NOSUID | MS_NODEV | MS_NOEXEC;

int mayfly_guest_mount(const char *source, const char *target, const char *type,
                       unsigned long flags, const char *data) {
    return RESULT(mount(source, target, type, flags, data));
}
int mayfly_guest_load_module(int fd) { return RESULT(syscall(SYS_finit_module, fd, "", 0)); }

int mayfly_guest_write_back(int fd) { return syncfs(fd) < 0 ? -errno : 0; }
int mayfly_guest_enter_root(const char *path) {
    if (chdir(path) < 0) return -errno;
    if (mount(".", "/", NULL, MS_MOVE, NULL) < 0) return -errno;
    if (chroot(".") < 0) return -errno;
    return RESULT(chdir("/"));
}
int mayfly_guest_loopback_up(void) {
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return -errno;
    struct ifreq request;
    memset(&request, 0, sizeof request);
    strcpy(request.ifr_name, "lo");
    request.ifr_flags = IFF_UP | IFF_RUNNING;
    int result = RESULT(ioctl(fd, SIOCSIFFLAGS, &request));
    close(fd);
    return result;
}
static int bound(int family, int type, uint16_t port) {
    struct sockaddr_in four = {.sin_family = AF_INET, .sin_port = htons(port)};
    struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
    four.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    six.sin6_addr = in6addr_loopback;
    int fd = socket(family, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), yes = 1, result;
    if (fd < 0) return -errno;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    result = family == AF_INET ? bind(fd, (struct sockaddr *)&four, sizeof four)
                               : bind(fd, (struct sockaddr *)&six, sizeof six);
    if (result == 0) return fd;
    result = -errno;
    close(fd);
    return result;
}
int mayfly_guest_listen(int six, uint16_t port, int backlog) {
    int fd = bound(six ? AF_INET6 : AF_INET, SOCK_STREAM, port);
    if (fd < 0 || listen(fd, backlog) == 0) return fd;
    int result = -errno;
    close(fd);
    return result;
}
int mayfly_guest_accept(int fd) {
    int connection = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    return connection < 0 ? -errno : connection;
}
void mayfly_guest_reset(int fd) {
    struct linger none = {.l_onoff = 1, .l_linger = 0};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &none, sizeof none);
    close(fd);
}
int mayfly_guest_questions(uint16_t port) { return bound(AF_INET, SOCK_DGRAM, port); }
ssize_t mayfly_guest_receive(int fd, void *bytes, size_t capacity, uint64_t *asker) {
    struct sockaddr_in peer;
    socklen_t length = sizeof peer;
    ssize_t count = recvfrom(fd, bytes, capacity, 0, (struct sockaddr *)&peer, &length);
    if (count < 0) return -errno;
    *asker = (uint64_t)peer.sin_addr.s_addr << 16 | peer.sin_port;
    return count;
}
ssize_t mayfly_guest_answer(int fd, const void *bytes, size_t length, uint64_t asker) {
    struct sockaddr_in peer = {.sin_family = AF_INET, .sin_port = (uint16_t)asker};
    peer.sin_addr.s_addr = (uint32_t)(asker >> 16);
    ssize_t count = sendto(fd, bytes, length, MSG_NOSIGNAL, (struct sockaddr *)&peer, sizeof peer);
    return count < 0 ? -errno : count;
}
int mayfly_guest_add_entropy(int fd, const uint8_t *bytes, size_t count) {
    _Alignas(struct rand_pool_info) uint8_t space[sizeof(struct rand_pool_info) + 512];
    struct rand_pool_info *pool = (void *)space;
    if (count > 512) return -EINVAL;
    pool->entropy_count = (int)count * 8;
    pool->buf_size = (int)count;
    memcpy(pool->buf, bytes, count);
    if (ioctl(fd, RNDADDENTROPY, pool) < 0) return -errno;
    return RESULT(ioctl(fd, RNDRESEEDCRNG));
}
int mayfly_guest_set_clock(int64_t nanoseconds) {
    struct timespec time = {.tv_sec = nanoseconds / 1000000000, .tv_nsec = nanoseconds % 1000000000};
    return RESULT(clock_settime(CLOCK_REALTIME, &time));
}
int mayfly_guest_set_hostname(const char *name, size_t length) {
    return RESULT(sethostname(name, length));
}
void mayfly_guest_power_off(void) {
    sync();
    /* No hypervisor of ours starts a machine again, and Firecracker's has no power switch. */
    reboot(RB_AUTOBOOT);
    for (;;) pause();
}
int mayfly_guest_child_signal(void) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    if (sigprocmask(SIG_BLOCK, &set, NULL) < 0) return -errno;
    signal(SIGPIPE, SIG_IGN);
    int fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    return fd < 0 ? -errno : fd;
}
pid_t mayfly_guest_reap(int *value, int *is_signal) {
    int status;
    pid_t pid = waitpid(-1, &status, WNOHANG);
    if (pid <= 0) return 0;
    *is_signal = WIFSIGNALED(status);
    *value = WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status);
    return pid;
}
int mayfly_guest_pipe(int ends[2]) { return RESULT(pipe2(ends, O_CLOEXEC)); }
int mayfly_guest_packet_pair(int ends[2]) {
    return RESULT(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends));
}
int64_t mayfly_guest_available_memory(void) {
    char text[2048];
    int fd = open("/proc/meminfo", O_RDONLY | O_CLOEXEC);
    if (fd < 0) return -errno;
    ssize_t count = read(fd, text, sizeof text - 1);
    close(fd);
    text[count > 0 ? count : 0] = 0;
    const char *line = strstr(text, "MemAvailable:");
    return line ? strtoll(line + 13, NULL, 10) * 1024 : -ENOENT;
}

/* Empties a directory without leaving its file system or following a link. Depth is bounded so that
   a hostile tree cannot exhaust the stack; what lies deeper makes the caller's step fail. */
static int empty_directory(int fd, int depth) {
    DIR *directory = fdopendir(fd);
    if (!directory) {
        int error = errno;
        close(fd);
        return -error;
    }
    int result = depth > 200 ? -ELOOP : 0;
    const struct dirent *entry;
    while (result == 0 && (entry = readdir(directory))) {
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
        if (unlinkat(fd, entry->d_name, 0) == 0) continue;
        int child = openat(fd, entry->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (child < 0) {
            result = -errno;
            break;
        }
        result = empty_directory(child, depth + 1);
        if (result == 0 && unlinkat(fd, entry->d_name, AT_REMOVEDIR) < 0) result = -errno;
    }
    closedir(directory);
    return result;
}
int mayfly_guest_empty_directory(const char *path) {
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) return -errno;
    /* The usual case first, by the shortest way: "." and ".." take 48 bytes, and nothing follows. */
    char entries[256];
    long count = syscall(SYS_getdents64, fd, entries, sizeof entries);
    if (count == 48) {
        close(fd);
        return 0;
    }
    lseek(fd, 0, SEEK_SET);
    return empty_directory(fd, 0);
}

/* The filter every program runs under. It refuses what would reach the host's channel around the
   agent: AF_VSOCK sockets, and io_uring, which can open sockets without socket(2). Other ABIs number
   their system calls differently and are refused whole. */
#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define EQUALS(value, yes, no) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, yes, no)
#define RETURN(value) BPF_STMT(BPF_RET | BPF_K, value)
#if defined(__x86_64__)
#define NATIVE_ARCH AUDIT_ARCH_X86_64
#define FOREIGN_NUMBERS 0x40000000u /* the x32 ABI */
#elif defined(__aarch64__)
#define NATIVE_ARCH AUDIT_ARCH_AARCH64
#define FOREIGN_NUMBERS 0x80000000u
#else
#error "name this processor's audit architecture"
#endif
static const struct sock_filter filter[] = {
    LOAD(arch),
    EQUALS(NATIVE_ARCH, 1, 0),
    RETURN(SECCOMP_RET_KILL_PROCESS),
    LOAD(nr),
    BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, FOREIGN_NUMBERS, 4, 0),
    EQUALS(SYS_io_uring_setup, 3, 0),
    EQUALS(SYS_socket, 0, 4),
    LOAD(args[0]), /* the low half; the kernel reads no more of it */
    EQUALS(AF_VSOCK, 1, 2),
    RETURN(SECCOMP_RET_ERRNO | ENOSYS),
    RETURN(SECCOMP_RET_ERRNO | EAFNOSUPPORT),
    RETURN(SECCOMP_RET_ALLOW),
};
static int limit(int resource, rlim_t value) {
    struct rlimit both = {value, value};
    return setrlimit(resource, &both);
}
static int confine(void) {
    struct sock_fprog program = {sizeof filter / sizeof *filter, (struct sock_filter *)filter};
    return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}
#define TRY(call)                                                                                  \
    do {                                                                                           \
        if ((long)(call) < 0) return;                                                              \
    } while (0)
/* Whether another process is PID 1. */
static int is_below_init;
/* How readily this process is killed when memory runs out: -1000 never, 0 as any other. */
static int be_killable(int score) {
    int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (fd < 0) return -errno;
    int result = dprintf(fd, "%d", score) < 0 ? -errno : 0;
    close(fd);
    return result;
}
/* Returns only when something failed, with errno set. */
static void become_program(const struct mayfly_guest_program *p) {
    int fd[5], count = 0;
    TRY(setsid());
    while (count < 5 && p->stdio[count] >= 0) count++;
    for (int i = 0; i < count; i++) TRY(fd[i] = fcntl(p->stdio[i], F_DUPFD_CLOEXEC, 10));
    for (int i = 0; i < count; i++) TRY(dup2(fd[i], i));
    TRY(syscall(SYS_close_range, count, ~0U, 4 /* CLOSE_RANGE_CLOEXEC */));
    if (p->fixed_layout) TRY(personality(PER_LINUX | ADDR_NO_RANDOMIZE));
    TRY(limit(RLIMIT_CORE, 0));
    TRY(limit(RLIMIT_NOFILE, p->open_files));
    if (p->uid) {
        TRY(setgroups(0, NULL));
        TRY(setresgid(p->gid, p->gid, p->gid));
        TRY(setresuid(p->uid, p->uid, p->uid));
    }
    umask(022);
    TRY(chdir(p->directory));
    if (is_below_init) TRY(be_killable(0));
    signal(SIGPIPE, SIG_DFL); /* the only one that the agent changed */
    sigset_t none;
    sigemptyset(&none);
    TRY(sigprocmask(SIG_SETMASK, &none, NULL));
    TRY(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    TRY(confine());
    execve(p->path, p->argv, p->envp);
}
int mayfly_guest_start_init(char *const argv[], char *const envp[]) {
    pid_t pid = fork();
    if (pid < 0) return -errno;
    if (pid == 0) {
        is_below_init = 1;
        /* What a job leaves behind becomes ours, as it would be PID 1's. */
        if (prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) < 0) return -errno;
        return be_killable(-1000);
    }
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_DFL);
    /* Services are under the jobs' filter; no_new_privs would break those that change their user. */
    if (confine() == 0) execve(argv[0], argv, envp);
    dprintf(2, "mayfly-agent: cannot start %s: %s\n", argv[0], strerror(errno));
    mayfly_guest_power_off();
    _exit(127);
}
int mayfly_guest_spawn(const struct mayfly_guest_program *program, pid_t *pid) {
    int report[2];
    if (pipe2(report, O_CLOEXEC) < 0) return -errno;
    struct clone_args arguments = {.exit_signal = SIGCHLD};
    if (program->cgroup >= 0) {
        arguments.flags = CLONE_INTO_CGROUP;
        arguments.cgroup = (uint64_t)program->cgroup;
    }
    long child = syscall(SYS_clone3, &arguments, sizeof arguments);
    if (child == 0) {
        /* The report pipe must survive the numbers that become_program overwrites. */
        int out = fcntl(report[1], F_DUPFD_CLOEXEC, 10);
        become_program(program);
        int error = errno;
        (void)!write(out, &error, sizeof error);
        _exit(127);
    }
    int error = child < 0 ? errno : 0;
    close(report[1]);
    if (child > 0 && read(report[0], &error, sizeof error) == sizeof error)
        waitpid((pid_t)child, NULL, 0);
    close(report[0]);
    if (error) return -error;
    *pid = (pid_t)child;
    return 0;
}
