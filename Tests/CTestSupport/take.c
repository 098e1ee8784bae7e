#define _GNU_SOURCE 1
#include "CTestSupport.h"
#include <errno.h>
#include <stddef.h>
#include <sys/resource.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

int test_take_descriptor(pid_t pid, int number) {
    long process = syscall(SYS_pidfd_open, pid, 0);
    if (process < 0) return -errno;
    long taken = syscall(SYS_pidfd_getfd, (int)process, number, 0);
    int error = errno;
    close((int)process);
    return taken < 0 ? -error : (int)taken;
}
int test_machine_socket(int descriptor) {
    int domain = 0;
    socklen_t length = sizeof domain;
    if (getsockopt(descriptor, SOL_SOCKET, SO_DOMAIN, &domain, &length) < 0) return 0;
    if (domain == AF_VSOCK) return 2;
    struct sockaddr_un ours = {0}, theirs = {0};
    socklen_t our_length = sizeof ours, their_length = sizeof theirs;
    if (domain != AF_UNIX || getsockname(descriptor, (struct sockaddr *)&ours, &our_length) < 0 ||
        getpeername(descriptor, (struct sockaddr *)&theirs, &their_length) < 0)
        return 0;
    /* Firecracker's, as it has bound it. */
    if (their_length > offsetof(struct sockaddr_un, sun_path) && !strcmp(theirs.sun_path, "v.sock"))
        return 2;
    size_t unnamed = offsetof(struct sockaddr_un, sun_path);
    return our_length == unnamed && their_length == unnamed;
}
int test_limit_files(pid_t pid, unsigned long wanted, unsigned long *before) {
    struct rlimit limit;
    if (prlimit(pid, RLIMIT_NOFILE, NULL, &limit) < 0) return -errno;
    *before = limit.rlim_cur;
    limit.rlim_cur = wanted;
    return prlimit(pid, RLIMIT_NOFILE, &limit, NULL) < 0 ? -errno : 0;
}
