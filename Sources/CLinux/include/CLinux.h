/* What Swift's Glibc module does not show, one small function per system call or structure.
   No _GNU_SOURCE here: it changes glibc types and clashes with Swift's own Glibc module.
   Each .c file defines it for itself. Functions return -errno on failure unless they say otherwise. */
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* --- events.c --- */
/* epoll_create1(2) and eventfd(2), close-on-exec; the event descriptor is non-blocking. */
int mayfly_epoll(void);
int mayfly_eventfd(void);
enum { MAYFLY_READ = 1, MAYFLY_WRITE = 4, MAYFLY_ERROR = 8, MAYFLY_HANGUP = 16 };
int mayfly_epoll_add(int epoll, int fd, uint32_t events);
int mayfly_epoll_change(int epoll, int fd, uint32_t events);
int mayfly_epoll_remove(int epoll, int fd);
/* Fills `ready` with (events << 32 | fd); returns how many, 0 after a signal. */
int mayfly_epoll_wait(int epoll, int timeout_ms, uint64_t *ready, int capacity);

/* --- threads.c --- */
/* The rate of this processor's time stamp counter in kHz, measured for 100 ms against the kernel's
   monotonic clock; 0 where it cannot be read. Blocks. */
uint32_t mayfly_tsc_khz(void);
void mayfly_name_thread(const char *name);

/* --- files.c --- */
/* memfd_create(2): a close-on-exec memory file that can be sealed. */
int mayfly_memfd(const char *name);
/* F_ADD_SEALS with write, grow, shrink and seal: from now on nobody can change a byte. */
int mayfly_seal(int fd);
/* 1 when all four seals are in place, 0 when not. */
int mayfly_is_sealed(int fd);
/* openat2(2) with RESOLVE_BENEATH|NO_SYMLINKS|NO_MAGICLINKS. */
int mayfly_open_beneath(int dirfd, const char *path, int flags, unsigned mode);
/* flock(2) LOCK_EX|LOCK_NB and LOCK_SH|LOCK_NB: 0 when taken. */
int mayfly_try_lock(int fd);
int mayfly_try_share(int fd);
/* renameat2(2) with RENAME_EXCHANGE: 0 or a negative errno. */
int mayfly_exchange(const char *one, const char *other);

/* --- limits.c --- */
/* RLIMIT_NOFILE of this process. */
void mayfly_file_limit(uint64_t *soft, uint64_t *hard);
int mayfly_set_file_limit(uint64_t soft);

/* --- sockets.c --- */
/* socketpair(2), AF_UNIX stream, close-on-exec, `pair[0]` non-blocking (ours). */
int mayfly_socketpair(int pair[2]);
/* A listening AF_VSOCK socket on any CID, non-blocking, close-on-exec. */
int mayfly_vsock_listen(uint32_t port);
/* accept4(2) on it; `*cid` is the peer's. */
int mayfly_vsock_accept(int fd, uint32_t *cid);
/* Starts a non-blocking connect; the caller polls for writability, then mayfly_socket_error. */
int mayfly_vsock_connect(uint32_t cid, uint32_t port);
/* A non-blocking AF_UNIX stream connected to the socket `name` in an open directory. It must be a
   socket of `owner`'s: -EPERM when something else stands there. -ENOENT, -ECONNREFUSED: nobody
   listens there yet; -EAGAIN: its backlog is full. */
int mayfly_unix_connect(int directory, const char *name, uid_t owner);
/* pipe2(2), close-on-exec and non-blocking at both ends: `pair[0]` reads. */
int mayfly_pipe(int pair[2]);
/* A TCP socket that listens on 127.0.0.1, at a port that the kernel chose. */
int mayfly_loopback_listen(int blocking, uint16_t *port);
/* A non-blocking TCP socket on its way to an address of 4 or 16 bytes in network order; the caller
   polls for writability, then mayfly_socket_error. */
int mayfly_tcp_connect(const uint8_t *address, size_t length, uint16_t port);
/* 1 when that is whom the socket is connected to (getpeername(2)), 0 when not. */
int mayfly_tcp_peer_is(int fd, const uint8_t *address, size_t length, uint16_t port);
/* SO_ERROR as a positive errno, 0 when connected. */
int mayfly_socket_error(int fd);
/* Takes `cid` for an opened /dev/vhost-vsock: 0, or -EADDRINUSE when another machine has it. */
int mayfly_vhost_vsock_set_cid(int fd, uint64_t cid);
/* sendmsg(2) of bytes with descriptors (SCM_RIGHTS); count <= MAYFLY_KEPT_MAX. */
enum { MAYFLY_KEPT_MAX = 32 };
int mayfly_send_fds(int socket, const void *bytes, size_t length, const int *fds, size_t count);

/* --- spawn.c --- */
struct mayfly_spawn {
    const char *path;
    char *const *argv; /* NULL-terminated */
    char *const *envp; /* NULL-terminated */
    int executable;    /* an open program to run instead of `path`, or -1 */
    int directory;     /* an open directory to work in, or -1: ours */
    int stdio[3];      /* become 0, 1, 2 */
    const int *keep;   /* descriptors that stay open in the child at their own numbers */
    size_t keep_count;
    const int *keep_as; /* the numbers that they have in the child instead; NULL: their own */
    uint64_t namespaces; /* CLONE_NEW* flags, 0 for none; see mayfly_ns_* below */
    int control_group;   /* an open directory of cgroup v2 to start in, or -1: ours */
    int may_gain_privileges; /* non-zero: the program itself sees to no_new_privs */
    int set_ids;         /* non-zero: drop groups, then become gid and uid */
    uid_t uid;
    gid_t gid;
    uint64_t limit_core, limit_files, limit_file_size, limit_processes, limit_address_space;
    /* UINT64_MAX: leave as it is */
    int die_with_parent; /* PR_SET_PDEATHSIG SIGKILL */
    int no_huge_pages;   /* PR_SET_THP_DISABLE, whatever the program asks for */
};
struct mayfly_child {
    pid_t pid;
    int pidfd;
    const char *failed_step; /* NULL, or where a failing spawn stopped */
};
extern const uint64_t mayfly_ns_net, mayfly_ns_ipc, mayfly_ns_uts, mayfly_ns_mount, mayfly_ns_pid,
    mayfly_ns_cgroup;
/* clone3(CLONE_VM|CLONE_VFORK|CLONE_PIDFD): its cost does not grow with the parent. 0 or -errno. */
int mayfly_spawn(const struct mayfly_spawn *spec, struct mayfly_child *child);
/* waitid(P_PIDFD, WNOHANG): 1 when reaped (*status: exit code, or 128+signal), 0 when running. */
int mayfly_reap(int pidfd, int *status, int64_t *user_us, int64_t *system_us, int64_t *peak_rss_kib);
/* pidfd_open(2) / pidfd_send_signal(2). */
int mayfly_pidfd_open(pid_t pid);
int mayfly_pidfd_signal(int pidfd, int signal);

/* --- launch.c --- */
/* A listening AF_UNIX socket of messages, non-blocking, at a path that only `owner` may use; what
   stands there is removed. */
int mayfly_messages_listen(const char *path, uid_t owner);
/* Connected to it, non-blocking; -EAGAIN: too many wait there. */
int mayfly_messages_connect(const char *path);
/* accept4(2): blocking, close-on-exec. */
int mayfly_accept(int fd);
/* Who connected (SO_PEERCRED), as it was then. */
int mayfly_peer_user(int fd, uid_t *user);
/* Its process, as a descriptor that becomes readable when it ends; -ESRCH when it has ended. */
int mayfly_peer_process(int fd);
/* One message: its length, 0 when the other side is gone. The descriptors that came with it are
   close-on-exec; -EMSGSIZE: it or they did not fit, and all were closed. */
int mayfly_receive(int fd, void *bytes, size_t capacity, int *fds, size_t fds_capacity,
                   size_t *fds_count);
/* pipe2(2), close-on-exec: ends[0] is at its end once nobody has ends[1]. */
int mayfly_gate(int ends[2]);
/* fork(2), for a program of one thread: 0 in the child, which has default signal handling and dies
   with its parent; -ESRCH there when the parent is gone already. */
int mayfly_fork(void);
/* Ends of children, as a descriptor that becomes readable; blocks their signal, and no other. */
int mayfly_child_ends(void);
/* Forgets what it has told. */
void mayfly_child_ends_clear(int fd);
/* The next child that has ended: its pid, 0 when there is none; `*orderly`: it exited with 0. */
pid_t mayfly_next_ended(int *orderly);

/* --- jail.c --- */
/* A mount namespace of this process's own, private in both directions. */
int mayfly_own_mounts(void);
int mayfly_bind(const char *source, const char *target);
/* nosuid, and what else is asked for. */
int mayfly_restrict_mount(const char *target, int read_only, int no_devices);
/* At `target`, the directory of this process's own descriptors, and nothing else of /proc, which is
   mounted at `mount_point` meanwhile. */
int mayfly_bind_own_descriptors(const char *mount_point, const char *target);
/* The working directory becomes the root; the old root is gone. It must be a mount point. */
int mayfly_enter_root(void);
/* Closes first … last, both included. */
int mayfly_close_between(int first, int last);
enum mayfly_limit_name {
    MAYFLY_LIMIT_CORE,
    MAYFLY_LIMIT_FILES,
    MAYFLY_LIMIT_FILE_SIZE,
    MAYFLY_LIMIT_ADDRESS_SPACE,
    MAYFLY_LIMIT_PROCESSES,
    MAYFLY_LIMIT_LOCKED,
    MAYFLY_LIMIT_QUEUES,
    MAYFLY_LIMIT_SIGNALS
};
int mayfly_limit(enum mayfly_limit_name name, uint64_t value);
/* All three user ids, all three group ids, and these groups; -EPERM when the kernel kept another. */
int mayfly_become(uid_t user, gid_t group, const gid_t *more, size_t more_count);
/* Whoever runs from here on gains no capability, whatever it executes. */
int mayfly_bounding_set_empty(void);
int mayfly_capabilities_drop(void);
int mayfly_no_new_privileges(void);
int mayfly_die_with_parent(void);
/* execveat(2) of an open program; returns -errno or not at all. */
int mayfly_execute(int program, char *const *argv, char *const *envp);
/* The version of Landlock's interface; 0 where the kernel has none. */
int mayfly_landlock_version(void);
/* A ruleset under which everything that this kernel can refuse is refused. */
int mayfly_landlock_begin(void);
/* Adds rights beneath an open directory, or to an open file. -EBADFD: a memory file or a pipe, which
   Landlock does not look at. */
int mayfly_landlock_allow(int ruleset, int file, uint64_t rights);
/* Closes the ruleset. */
int mayfly_landlock_enforce(int ruleset);
/* An exclusive lock on one byte, which goes with the open file; -EAGAIN when another has it. */
int mayfly_lock_byte(int file, int64_t offset);
int mayfly_unlock_byte(int file, int64_t offset);
