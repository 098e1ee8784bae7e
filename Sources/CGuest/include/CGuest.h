/* What only the guest's PID 1 needs of the system, one small function per call. No _GNU_SOURCE here:
   it changes glibc types and clashes with Swift's own Glibc module. Functions return -errno on
   failure unless they say otherwise. */
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* --- start.c --- */
/* Swift's runtime reads /proc before main: this target's constructor mounts it first when the
   program is PID 1. Nothing to call but this, which links it. */
void mayfly_guest_start_is_linked(void);

/* --- guest.c --- */
extern const unsigned long mayfly_mount_read_only, mayfly_mount_locked, mayfly_mount_no_devices,
    mayfly_mount_bind, mayfly_mount_move, mayfly_mount_remount_proc;
int mayfly_guest_mount(const char *source, const char *target, const char *type,
                       unsigned long flags, const char *data);
/* finit_module(2) of an opened file. */
int mayfly_guest_load_module(int fd);
/* Moves the mount at `path` onto / and makes it the root of this process. */
int mayfly_guest_enter_root(const char *path);
/* Writes the file system of `fd`; -errno also for a write since `fd` was opened that failed unseen. */
int mayfly_guest_write_back(int fd);
int mayfly_guest_loopback_up(void);
/* A listening TCP socket on 127.0.0.1 (`six` 0) or ::1 (1), non-blocking, close-on-exec; and a
   connection of it, or -EAGAIN. */
int mayfly_guest_listen(int six, uint16_t port, int backlog);
int mayfly_guest_accept(int fd);
/* Closes a connection so that its peer sees a reset, and no end of what was sent. */
void mayfly_guest_reset(int fd);
/* A UDP socket on 127.0.0.1; a datagram of it with who sent it, and one back. */
int mayfly_guest_questions(uint16_t port);
ssize_t mayfly_guest_receive(int fd, void *bytes, size_t capacity, uint64_t *asker);
ssize_t mayfly_guest_answer(int fd, const void *bytes, size_t length, uint64_t asker);
/* Credits `bytes` to the kernel's generator (all bits) and rekeys it; `fd` is /dev/urandom. */
int mayfly_guest_add_entropy(int fd, const uint8_t *bytes, size_t count);
int mayfly_guest_set_clock(int64_t nanoseconds);
int mayfly_guest_set_hostname(const char *name, size_t length);
/* Does not return. */
void mayfly_guest_power_off(void);
/* Blocks SIGCHLD and answers a signalfd for it; ignores SIGPIPE. */
int mayfly_guest_child_signal(void);
/* One ended child, or 0: its exit code or signal. */
pid_t mayfly_guest_reap(int *value, int *is_signal);
/* Close-on-exec pairs: a pipe (read end first), and a packet socket. */
int mayfly_guest_pipe(int ends[2]);
int mayfly_guest_packet_pair(int ends[2]);
/* MemAvailable in bytes, or -errno. */
int64_t mayfly_guest_available_memory(void);
/* Removes everything in a directory; follows no link. */
int mayfly_guest_empty_directory(const char *path);
struct mayfly_guest_program {
    const char *path;
    char *const *argv; /* NULL-terminated */
    char *const *envp; /* NULL-terminated */
    const char *directory;
    int stdio[5];          /* become 0, 1, 2, 3, 4; the last ones -1: there are no more */
    int cgroup;            /* a directory descriptor, or -1 */
    uid_t uid;             /* 0: stays root */
    gid_t gid;
    uint64_t open_files;
    int fixed_layout;      /* 1: no random addresses, in it and in whatever it starts */
};
/* Starts it as the leader of a new session, with no_new_privs and under the filter that keeps every
   task away from the host's channel; 0, or -errno of the step that failed. */
int mayfly_guest_spawn(const struct mayfly_guest_program *program, pid_t *pid);
/* Goes on as a child of this process, which becomes the init `argv` names and stays PID 1. Where that
   cannot be started the machine ends. */
int mayfly_guest_start_init(char *const argv[], char *const envp[]);
