/* In the hypervisor's place: tries one thing that a hypervisor that was taken over would try, named
   by the first argument, and says by its exit status how that went: 0 it could, 1 it was refused, 2
   there is no such attempt. What it works with (a host's path, a process id, a descriptor) comes as
   further arguments from the test. Static, because there is nothing in the jail to load. */
#define _GNU_SOURCE 1
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/perf_event.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <arpa/inet.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

static const char *word, *more;
static int number(void) { return atoi(word); }
static int could(long result) { return result >= 0; }

/* --- files --- */
static int open_path(void) { return could(open(word, O_RDONLY)); }
static int write_path(void) { return could(open(word, O_WRONLY)); }
static int create_path(void) { return could(open(word, O_WRONLY | O_CREAT | O_EXCL, 0600)); }
static int list_path(void) {
    DIR *directory = opendir(word);
    return directory && readdir(directory);
}
static int look_above(void) {
    struct stat root, above;
    return chroot("/..") == 0 || (stat("/", &root) == 0 && stat("/../../..", &above) == 0 &&
                                  (root.st_ino != above.st_ino || root.st_dev != above.st_dev));
}
static int make_directory(void) { return could(mkdir(word, 0700)); }
static int make_device(void) { return could(mknod(word, S_IFBLK | 0600, 0xfe00)); }
static int make_link(void) { return could(symlink("/etc", word)); }
static int change_mode(void) { return could(chmod(word, 06777)); }
static int change_owner(void) { return could(chown(word, 0, 0)); }
static int remove_path(void) { return could(unlink(word)); }
static int write_large(void) {
    int file = atoi(word);
    return pwrite(file, "x", 1, 1LL << 33) == 1;
}
static int use_descriptor(void) { return could(fcntl(number(), F_GETFD)); }
static int lock_file(void) {
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_len = 1};
    return could(fcntl(number(), F_SETLK, &lock));
}
static int make_memory_file(void) { return could(memfd_create("x", 0)); }
static int open_by_handle(void) {
    union {
        struct file_handle head;
        char room[sizeof(struct file_handle) + MAX_HANDLE_SZ];
    } handle;
    int mount;
    handle.head.handle_bytes = MAX_HANDLE_SZ;
    /* Not every file system has them: where this one has none, nobody can. */
    if (name_to_handle_at(AT_FDCWD, "/", &handle.head, &mount, 0) < 0) return 0;
    return could(open_by_handle_at(AT_FDCWD, &handle.head, O_RDONLY));
}

/* --- mounts and namespaces --- */
static int do_mount(void) { return could(mount("none", word, "tmpfs", 0, NULL)); }
static int do_remount(void) { return could(mount(NULL, "/", NULL, MS_REMOUNT | MS_BIND, NULL)); }
static int do_unmount(void) { return could(umount2(word, MNT_DETACH)); }
static int do_chroot(void) { return could(chroot("/")); }
static int do_pivot(void) { return could(syscall(SYS_pivot_root, "/", "/")); }
static int new_mounts(void) { return could(syscall(SYS_fsopen, "tmpfs", 0)); }
static int unshare_user(void) { return could(unshare(CLONE_NEWUSER)); }
static int unshare_mounts(void) { return could(unshare(CLONE_NEWNS)); }
static int clone_user(void) {
    long pid = syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0);
    if (pid == 0) _exit(0);
    return could(pid);
}
static int enter_namespace(void) {
    int file = open(word, O_RDONLY);
    return file >= 0 && could(setns(file, 0));
}
static int set_host_name(void) { return could(sethostname("taken", 5)); }

/* --- other processes --- */
static int see_process(void) { return could(kill(number(), 0)); }
static int see_any_process(void) {
    for (int pid = 2; pid < 4096; pid++)
        if (kill(pid, 0) == 0 || errno == EPERM) return 1;
    return 0;
}
static int signal_everybody(void) { return could(kill(-1, SIGCONT)); }
static int open_process(void) { return could(syscall(SYS_pidfd_open, number(), 0)); }
static int trace_process(void) { return could(ptrace(PTRACE_SEIZE, number(), 0, 0)); }
static int read_process(void) {
    char byte;
    struct iovec here = {&byte, 1}, there = {(void *)(uintptr_t)strtoull(more, NULL, 10), 1};
    return process_vm_readv(number(), &here, 1, &there, 1, 0) == 1;
}
static int write_process(void) {
    char byte = 1;
    struct iovec here = {&byte, 1}, there = {(void *)(uintptr_t)strtoull(more, NULL, 10), 1};
    return process_vm_writev(number(), &here, 1, &there, 1, 0) == 1;
}
static int reprioritize(void) { return could(setpriority(PRIO_PROCESS, number(), 19)); }
static int limit_process(void) {
    struct rlimit limit;
    return could(prlimit(number(), RLIMIT_NOFILE, NULL, &limit));
}
static int take_descriptor(void) {
    int process = syscall(SYS_pidfd_open, number(), 0);
    return process >= 0 && could(syscall(SYS_pidfd_getfd, process, 0, 0));
}
static int do_fork(void) {
    pid_t pid = fork();
    if (pid == 0) _exit(0);
    return could(pid);
}
static int fork_bomb(void) {
    int made = 0;
    for (int i = 0; i < 400; i++) {
        pid_t pid = fork();
        if (pid == 0) poll(NULL, 0, -1);
        if (pid > 0) made++;
    }
    return made == 400;
}
static void *wait_for_ever(void *nothing) {
    for (;;) poll(NULL, 0, -1);
    return nothing;
}
static int thread_bomb(void) {
    pthread_attr_t small;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 64 << 10);
    int made = 0;
    for (pthread_t thread; made < 400; made++)
        if (pthread_create(&thread, &small, wait_for_ever, NULL)) break;
    return made == 400;
}
static int execute_path(void) {
    char *none[] = {NULL};
    execve(word, none, none);
    return 0;
}
static int execute_memory(void) {
    int file = memfd_create("x", 0);
    char *none[] = {NULL};
    if (file < 0) return 0;
    if (write(file, "\177ELF", 4) != 4) return 0;
    syscall(SYS_execveat, file, "", none, none, AT_EMPTY_PATH);
    return errno == ENOEXEC;
}

/* --- sockets --- */
static int family(int domain, int type) { return could(socket(domain, type, 0)); }
static int socket_unix(void) { return family(AF_UNIX, SOCK_STREAM); }
static int socket_inet(void) { return family(AF_INET, SOCK_STREAM); }
static int socket_inet6(void) { return family(AF_INET6, SOCK_DGRAM); }
static int socket_netlink(void) { return family(AF_NETLINK, SOCK_RAW); }
static int socket_packet(void) { return family(AF_PACKET, SOCK_RAW); }
static int socket_vsock(void) { return family(AF_VSOCK, SOCK_STREAM); }
static int socket_alg(void) { return family(AF_ALG, SOCK_SEQPACKET); }
static int socket_pair(void) {
    int pair[2];
    return could(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
}
static int connect_abstract(void) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int file = socket(AF_UNIX, SOCK_STREAM, 0);
    size_t length = strlen(word);
    memcpy(address.sun_path + 1, word, length);
    return file >= 0 && could(connect(file, (struct sockaddr *)&address,
                                      offsetof(struct sockaddr_un, sun_path) + 1 + length));
}
static int hear_host(void) {
    /* The loopback of whoever else is in this network: its listener is there before us. */
    struct sockaddr_storage address = {0};
    unsigned short port = htons(number());
    address.ss_family = AF_INET;
    memcpy((char *)&address + 2, &port, 2);
    memcpy((char *)&address + 4, "\177\0\0\1", 4);
    int file = socket(AF_INET, SOCK_STREAM, 0);
    return file >= 0 && could(connect(file, (struct sockaddr *)&address, 16));
}
static int pass_descriptor(void) {
    /* To the worker, over the port that it reads: whether it was taken is for the test to see. */
    char byte = 'd', space[CMSG_SPACE(sizeof(int))] = {0};
    struct iovec bytes = {&byte, 1};
    struct msghdr message = {
        .msg_iov = &bytes, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space};
    struct cmsghdr *head = CMSG_FIRSTHDR(&message);
    head->cmsg_level = SOL_SOCKET, head->cmsg_type = SCM_RIGHTS, head->cmsg_len = CMSG_LEN(4);
    memcpy(CMSG_DATA(head), &(int){0}, 4);
    return could(sendmsg(number(), &message, 0));
}

/* --- rights and the kernel --- */
static int become_root(void) { return could(setuid(0)) && geteuid() == 0; }
static int become_other(void) { return could(setresuid(number(), number(), number())); }
static int change_groups(void) {
    gid_t group = 0;
    return could(syscall(SYS_setgroups, 1, &group));
}
static int gain_capability(void) {
    return prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, 21, 0, 0) == 0;
}
static int bounding_set(void) { return prctl(PR_CAPBSET_READ, 21, 0, 0, 0) == 1; }
static int raise_limit(void) {
    struct rlimit limit = {1024, 1024};
    return could(prlimit(0, RLIMIT_NOFILE, &limit, NULL));
}
static int many_descriptors(void) {
    for (int i = 0; i < 300; i++)
        if (dup(0) < 0) return 0;
    return 1;
}
static int much_memory(void) {
    return mmap(NULL, 64ULL << 30, PROT_READ | PROT_WRITE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0) != MAP_FAILED;
}
static int lock_memory(void) {
    void *page = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return could(mlock(page, 1 << 20));
}
static int dump_core(void) {
    struct rlimit limit;
    return getrlimit(RLIMIT_CORE, &limit) == 0 && limit.rlim_max > 0;
}
static int privileges_allowed(void) { return prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 0; }
static int io_uring(void) {
    char parameters[120] = {0};
    return could(syscall(SYS_io_uring_setup, 4, parameters));
}
static int load_bpf(void) {
    union bpf_attr map = {
        .map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = 4, .max_entries = 1};
    return could(syscall(SYS_bpf, BPF_MAP_CREATE, &map, sizeof map));
}
static int perf_events(void) {
    struct perf_event_attr event = {
        .type = PERF_TYPE_SOFTWARE, .size = sizeof event, .exclude_kernel = 1};
    return could(syscall(SYS_perf_event_open, &event, 0, -1, -1, 0));
}
static int use_keys(void) { return could(syscall(SYS_keyctl, 0, -3, 1)); }
static int add_key(void) { return could(syscall(SYS_add_key, "user", "x", "y", 1, -3)); }
static int fault_in_user(void) {
    return could(syscall(SYS_userfaultfd, UFFD_USER_MODE_ONLY | O_CLOEXEC));
}
static int shared_memory(void) { return could(syscall(SYS_shmget, number(), 0, 0600)); }
static int message_queue(void) { return could(syscall(SYS_msgget, 4711, 01600)); }
static int watch_files(void) { return could(syscall(SYS_inotify_init1, 0)); }
static int load_module(void) {
    return could(syscall(SYS_init_module, "", 0, "")) || errno == ENOEXEC;
}
static int set_clock(void) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return could(clock_settime(CLOCK_REALTIME, &now));
}
static int read_kernel_log(void) { return could(syscall(SYS_syslog, 10, NULL, 0)); }
static int swap_off(void) { return could(syscall(SYS_swapoff, "/none")) || errno == ENOENT; }
static int raw_ports(void) { return could(syscall(SYS_ioperm, 0x80, 1, 1)); }
static int terminal_input(void) { return could(ioctl(number(), TIOCSTI, "x")) || errno == ENOTTY; }
static int outlive_parent(void) { return could(prctl(PR_SET_PDEATHSIG, 0)); }
static int be_dumpable(void) { return could(prctl(PR_SET_PTRACER, -1)) || errno == EINVAL; }
static int real_time(void) {
    struct sched_param highest = {1};
    return could(sched_setscheduler(0, SCHED_FIFO, &highest));
}
static int look_up_policy(void) { return could(syscall(SYS_personality, 0xffffffff)); }
/* Any system call by its number; whether it can be made at all is the filter's to say. */
static char **rest;
static int make_call(void) {
    long a[7] = {0};
    for (int i = 0; i < 7 && rest[i]; i++) a[i] = (long)strtoull(rest[i], NULL, 10);
    syscall(a[0], a[1], a[2], a[3], a[4], a[5], a[6]);
    return 1;
}
/* More of its own memory, and of the processor, than a control group lets it have. */
static int touch_memory(void) {
    size_t size = 512UL << 20;
    char *bytes = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (bytes == MAP_FAILED) return 0;
    for (size_t i = 0; i < size; i += 4096) bytes[i] = 1;
    return 1;
}
/* Eight times over one MiB of a file that is open past the cache. */
static int write_disk(void) {
    size_t size = 64 << 10;
    char *block = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (int i = 0; i < 8 * 16; i++)
        if (pwrite(number(), block, size, (off_t)(i % 16) * (off_t)size) != (ssize_t)size) return 0;
    return 1;
}
static int burn(void) {
    if (write(1, "here\n", 5) != 5) return 0;
    for (volatile unsigned long i = 0;; i++) {}
}
/* Waits until it is killed: for the tests that look at it. */
static int stay(void) {
    if (write(1, "here\n", 5) != 5) return 0;
    for (;;) poll(NULL, 0, -1);
}
static int nothing(void) { return 1; }

static const struct {
    const char *name;
    int (*could)(void);
} attempts[] = {
#define A(function) {#function, function}
    A(open_path), A(write_path), A(create_path), A(list_path), A(look_above), A(make_directory),
    A(make_device), A(make_link), A(change_mode), A(change_owner), A(remove_path), A(write_large),
    A(use_descriptor), A(lock_file), A(make_memory_file), A(open_by_handle), A(do_mount), A(do_remount),
    A(do_unmount), A(do_chroot), A(do_pivot), A(new_mounts), A(unshare_user), A(unshare_mounts),
    A(clone_user), A(enter_namespace), A(set_host_name), A(see_process), A(see_any_process),
    A(signal_everybody), A(open_process), A(trace_process), A(read_process), A(write_process),
    A(reprioritize), A(limit_process), A(take_descriptor), A(do_fork), A(fork_bomb),
    A(thread_bomb), A(execute_path), A(execute_memory), A(socket_unix), A(socket_inet),
    A(socket_inet6), A(socket_netlink), A(socket_packet), A(socket_vsock), A(socket_alg),
    A(socket_pair), A(connect_abstract), A(hear_host), A(pass_descriptor), A(become_root),
    A(become_other), A(change_groups), A(gain_capability), A(bounding_set), A(raise_limit),
    A(many_descriptors), A(much_memory), A(lock_memory), A(dump_core), A(privileges_allowed),
    A(io_uring), A(load_bpf), A(perf_events), A(use_keys), A(add_key), A(fault_in_user),
    A(shared_memory), A(message_queue), A(watch_files), A(load_module), A(set_clock),
    A(read_kernel_log), A(swap_off), A(raw_ports), A(terminal_input), A(outlive_parent),
    A(be_dumpable), A(real_time), A(look_up_policy), A(make_call), A(touch_memory),
    A(write_disk), A(burn), A(stay), A(nothing),
};

int main(int count, char **arguments) {
    if (count < 2) return 2;
    word = count > 2 ? arguments[2] : "";
    more = count > 3 ? arguments[3] : "0";
    rest = arguments + 2;
    for (size_t i = 0; i < sizeof attempts / sizeof *attempts; i++)
        if (strcmp(attempts[i].name, arguments[1]) == 0) return attempts[i].could() ? 0 : 1;
    return 2;
}
