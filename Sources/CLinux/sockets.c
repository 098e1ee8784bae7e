#define _GNU_SOURCE 1
#include "CLinux.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/vhost.h>
#include <linux/vm_sockets.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

int mayfly_socketpair(int pair[2]) {
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) return -errno;
    if (fcntl(pair[0], F_SETFL, O_NONBLOCK) < 0) {
        int e = errno;
        close(pair[0]);
        close(pair[1]);
        return -e;
    }
    return 0;
}
static struct sockaddr_vm address(uint32_t cid, uint32_t port) {
    struct sockaddr_vm a;
    memset(&a, 0, sizeof a);
    a.svm_family = AF_VSOCK;
    a.svm_cid = cid;
    a.svm_port = port;
    return a;
}
int mayfly_vsock_listen(uint32_t port) {
    int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return -errno;
    struct sockaddr_vm a = address(VMADDR_CID_ANY, port);
    if (bind(fd, (struct sockaddr *)&a, sizeof a) < 0 || listen(fd, 8) < 0) {
        int e = errno;
        close(fd);
        return -e;
    }
    return fd;
}
int mayfly_vsock_accept(int fd, uint32_t *cid) {
    struct sockaddr_vm a = address(0, 0);
    socklen_t length = sizeof a;
    int c = accept4(fd, (struct sockaddr *)&a, &length, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (c < 0) return -errno;
    *cid = a.svm_cid;
    return c;
}
int mayfly_vsock_connect(uint32_t cid, uint32_t port) {
    int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return -errno;
    struct sockaddr_vm a = address(cid, port);
    if (connect(fd, (struct sockaddr *)&a, sizeof a) < 0 && errno != EINPROGRESS) {
        int e = errno;
        close(fd);
        return -e;
    }
    return fd;
}
int mayfly_unix_connect(int directory, const char *name, uid_t owner) {
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    struct stat status;
    /* Looked at and connected to by descriptor: it is one thing, wherever the name points by then, and
       however long the path is. */
    int place = openat(directory, name, O_PATH | O_NOFOLLOW | O_CLOEXEC), fd = -1, error = 0;
    if (place < 0) return -errno;
    if (fstat(place, &status) < 0)
        error = errno;
    else if (!S_ISSOCK(status.st_mode) || status.st_uid != owner)
        error = EPERM;
    else if ((fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)) < 0)
        error = errno;
    else {
        snprintf(a.sun_path, sizeof a.sun_path, "/proc/self/fd/%d", place);
        if (connect(fd, (struct sockaddr *)&a, sizeof a) < 0) {
            error = errno;
            close(fd);
        }
    }
    close(place);
    return error ? -error : fd;
}
/* The size of the socket address, 0 for an address that is none. */
static socklen_t tcp_address(
    struct sockaddr_storage *storage, const uint8_t *address, size_t length, uint16_t port) {
    memset(storage, 0, sizeof *storage);
    if (length == 4) {
        struct sockaddr_in *a = (struct sockaddr_in *)storage;
        a->sin_family = AF_INET;
        a->sin_port = htons(port);
        memcpy(&a->sin_addr, address, 4);
        return sizeof *a;
    }
    if (length != 16) return 0;
    struct sockaddr_in6 *a = (struct sockaddr_in6 *)storage;
    a->sin6_family = AF_INET6;
    a->sin6_port = htons(port);
    memcpy(&a->sin6_addr, address, 16);
    return sizeof *a;
}
int mayfly_loopback_listen(int blocking, uint16_t *port) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof a;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | (blocking ? 0 : SOCK_NONBLOCK), 0);
    if (fd < 0) return -errno;
    if (bind(fd, (struct sockaddr *)&a, size) < 0 || listen(fd, 64) < 0 ||
        getsockname(fd, (struct sockaddr *)&a, &size) < 0) {
        int e = errno;
        close(fd);
        return -e;
    }
    *port = ntohs(a.sin_port);
    return fd;
}
int mayfly_tcp_connect(const uint8_t *address, size_t length, uint16_t port) {
    struct sockaddr_storage a;
    socklen_t size = tcp_address(&a, address, length, port);
    int one = 1;
    if (size == 0) return -EINVAL;
    int fd = socket(a.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return -errno;
    /* What is relayed is written as it comes: no second wait for more. */
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    /* No IPv4 by way of an IPv6 address. */
    if (a.ss_family == AF_INET6) setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one);
    if (connect(fd, (struct sockaddr *)&a, size) < 0 && errno != EINPROGRESS) {
        int e = errno;
        close(fd);
        return -e;
    }
    return fd;
}
int mayfly_tcp_peer_is(int fd, const uint8_t *address, size_t length, uint16_t port) {
    struct sockaddr_storage wanted, a;
    socklen_t size = sizeof a;
    if (tcp_address(&wanted, address, length, port) == 0) return 0;
    if (getpeername(fd, (struct sockaddr *)&a, &size) < 0 || a.ss_family != wanted.ss_family) return 0;
    if (length == 4) {
        struct sockaddr_in *x = (struct sockaddr_in *)&a, *y = (struct sockaddr_in *)&wanted;
        return x->sin_port == y->sin_port && x->sin_addr.s_addr == y->sin_addr.s_addr;
    }
    struct sockaddr_in6 *x = (struct sockaddr_in6 *)&a, *y = (struct sockaddr_in6 *)&wanted;
    return x->sin6_port == y->sin6_port && memcmp(&x->sin6_addr, &y->sin6_addr, 16) == 0;
}
int mayfly_pipe(int pair[2]) { return pipe2(pair, O_CLOEXEC | O_NONBLOCK) < 0 ? -errno : 0; }
int mayfly_socket_error(int fd) {
    int error = 0;
    socklen_t length = sizeof error;
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length) < 0) return errno;
    return error;
}
int mayfly_vhost_vsock_set_cid(int fd, uint64_t cid) {
    return ioctl(fd, VHOST_VSOCK_SET_GUEST_CID, &cid) < 0 ? -errno : 0;
}
int mayfly_send_fds(int socket, const void *bytes, size_t length, const int *fds, size_t count) {
    union {
        char buffer[CMSG_SPACE(MAYFLY_KEPT_MAX * sizeof(int))];
        struct cmsghdr align;
    } control;
    if (count > MAYFLY_KEPT_MAX) return -EINVAL;
    memset(&control, 0, sizeof control);
    struct iovec part = {.iov_base = (void *)(uintptr_t)bytes, .iov_len = length};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (count > 0) {
        message.msg_control = control.buffer;
        message.msg_controllen = CMSG_SPACE(count * sizeof(int));
        struct cmsghdr *head = CMSG_FIRSTHDR(&message);
        head->cmsg_level = SOL_SOCKET;
        head->cmsg_type = SCM_RIGHTS;
        head->cmsg_len = CMSG_LEN(count * sizeof(int));
        memcpy(CMSG_DATA(head), fds, count * sizeof(int));
    }
    ssize_t sent = sendmsg(socket, &message, MSG_NOSIGNAL);
    return sent < 0 ? -errno : (int)sent;
}
