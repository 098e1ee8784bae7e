/* Between a worker and its launcher: sockets of messages with descriptors, and processes of one
   thread that fork. */
#define _GNU_SOURCE 1
#include "CLinux.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77 /* Linux 6.5; younger than some headers */
#endif

static int place(struct sockaddr_un *address, const char *path) {
    memset(address, 0, sizeof *address);
    address->sun_family = AF_UNIX;
    if (strlen(path) >= sizeof address->sun_path) return -ENAMETOOLONG;
    strcpy(address->sun_path, path);
    return 0;
}
static int closing(int fd, int error) {
    close(fd);
    return -error;
}
int mayfly_messages_listen(const char *path, uid_t owner) {
    struct sockaddr_un address;
    int status = place(&address, path), fd;
    if (status < 0) return status;
    if (unlink(path) < 0 && errno != ENOENT) return -errno;
    fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return -errno;
    /* Nobody connects before it listens, and by then it is the owner's alone. */
    if (bind(fd, (struct sockaddr *)&address, sizeof address) < 0 || chmod(path, 0600) < 0 ||
        lchown(path, owner, (gid_t)-1) < 0 || listen(fd, 4096) < 0)
        return closing(fd, errno);
    return fd;
}
int mayfly_messages_connect(const char *path) {
    struct sockaddr_un address;
    int status = place(&address, path), fd;
    if (status < 0) return status;
    fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return -errno;
    if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0) return closing(fd, errno);
    return fd;
}
int mayfly_accept(int fd) {
    int connection = accept4(fd, NULL, NULL, SOCK_CLOEXEC);
    return connection < 0 ? -errno : connection;
}
int mayfly_peer_user(int fd, uid_t *user) {
    struct ucred peer;
    socklen_t length = sizeof peer;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) < 0) return -errno;
    *user = peer.uid;
    return 0;
}
int mayfly_peer_process(int fd) {
    int process = -1;
    socklen_t size = sizeof process;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERPIDFD, &process, &size) == 0) return process;
    if (errno != ENOPROTOOPT) return -errno;
    struct ucred peer;
    socklen_t length = sizeof peer;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) < 0) return -errno;
    return mayfly_pidfd_open(peer.pid);
}
int mayfly_receive(int fd, void *bytes, size_t capacity, int *fds, size_t fds_capacity,
                   size_t *fds_count) {
    union {
        char buffer[CMSG_SPACE(MAYFLY_KEPT_MAX * sizeof(int))];
        struct cmsghdr align;
    } control;
    struct iovec part = {.iov_base = bytes, .iov_len = capacity};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    int fits = 1;
    ssize_t length;
    *fds_count = 0;
    if (fds_capacity > MAYFLY_KEPT_MAX) return -EINVAL;
    if (fds_capacity > 0) {
        message.msg_control = control.buffer;
        message.msg_controllen = CMSG_SPACE(fds_capacity * sizeof(int));
    }
    do length = recvmsg(fd, &message, MSG_CMSG_CLOEXEC);
    while (length < 0 && errno == EINTR);
    if (length < 0) return -errno;
    if (message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) fits = 0;
    for (struct cmsghdr *head = CMSG_FIRSTHDR(&message); head; head = CMSG_NXTHDR(&message, head)) {
        if (head->cmsg_level != SOL_SOCKET || head->cmsg_type != SCM_RIGHTS) continue;
        size_t count = (head->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count; i++) {
            int one;
            memcpy(&one, CMSG_DATA(head) + i * sizeof(int), sizeof one);
            if (*fds_count < fds_capacity)
                fds[(*fds_count)++] = one;
            else {
                close(one);
                fits = 0;
            }
        }
    }
    if (fits) return (int)length;
    while (*fds_count > 0) close(fds[--*fds_count]);
    return -EMSGSIZE;
}
int mayfly_gate(int ends[2]) { return pipe2(ends, O_CLOEXEC) < 0 ? -errno : 0; }
int mayfly_fork(void) {
    pid_t parent = getpid(), child;
    sigset_t none;
    child = fork();
    if (child < 0) return -errno;
    if (child > 0) return child;
    signal(SIGTERM, SIG_DFL);
    signal(SIGINT, SIG_DFL);
    signal(SIGALRM, SIG_DFL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0) _exit(1);
    if (getppid() != parent) _exit(1);
    return 0;
}
int mayfly_child_ends(void) {
    sigset_t ends;
    sigemptyset(&ends);
    sigaddset(&ends, SIGCHLD);
    /* Nothing else is, whatever whoever started this program had blocked. */
    if (sigprocmask(SIG_SETMASK, &ends, NULL) < 0) return -errno;
    int fd = signalfd(-1, &ends, SFD_NONBLOCK | SFD_CLOEXEC);
    return fd < 0 ? -errno : fd;
}
void mayfly_child_ends_clear(int fd) {
    struct signalfd_siginfo ends[16];
    while (read(fd, ends, sizeof ends) > 0) {}
}
pid_t mayfly_next_ended(int *orderly) {
    int status = 0;
    pid_t child = waitpid(-1, &status, WNOHANG);
    *orderly = WIFEXITED(status) && WEXITSTATUS(status) == 0;
    return child < 0 ? 0 : child;
}
