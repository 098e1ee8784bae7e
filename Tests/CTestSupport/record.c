/* Watching the system calls of a jailed process: its filter asks for each of them (see seccomp(2),
   SECCOMP_RET_USER_NOTIF), and whoever holds the filter's listener answers. */
#define _GNU_SOURCE 1
#include "CTestSupport.h"
#include <dirent.h>
#include <errno.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

/* How many filters a process has. */
static long filters(const char *path) {
    char line[128];
    long count = -1;
    FILE *status = fopen(path, "re");
    if (!status) return -1;
    while (fgets(line, sizeof line, status)) sscanf(line, "Seccomp_filters: %ld", &count);
    fclose(status);
    return count;
}
int test_take_listener(pid_t pid) {
    char path[64], link[64];
    /* Until it is another program a child has copies of our descriptors, other listeners among them. */
    snprintf(path, sizeof path, "/proc/%d/status", (int)pid);
    if (filters(path) <= filters("/proc/self/status")) return -ENOENT;
    snprintf(path, sizeof path, "/proc/%d/fd", (int)pid);
    DIR *directory = opendir(path);
    if (!directory) return -errno;
    int found = -ENOENT;
    for (struct dirent *entry; found == -ENOENT && (entry = readdir(directory));) {
        ssize_t length = readlinkat(dirfd(directory), entry->d_name, link, sizeof link - 1);
        if (length < 0) continue;
        link[length] = 0;
        if (!strcmp(link, "anon_inode:seccomp notify"))
            found = test_take_descriptor(pid, atoi(entry->d_name));
    }
    closedir(directory);
    /* Linux 6.6: who asks and who answers take turns on one processor. Without it both wait more. */
    uint64_t take_turns = 1;
    if (found >= 0) ioctl(found, _IOW('!', 4, uint64_t), take_turns);
    return found;
}
int test_next_call(int listener, int milliseconds, struct test_call *call) {
    struct pollfd waiting = {.fd = listener, .events = POLLIN};
    int ready = poll(&waiting, 1, milliseconds);
    if (ready <= 0) return 0;
    if (waiting.revents & (POLLHUP | POLLERR | POLLNVAL)) return -1;
    struct seccomp_notif seen;
    memset(&seen, 0, sizeof seen);
    /* ENOENT: a signal took it out of the call again. */
    if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &seen) < 0) return 0;
    call->id = seen.id;
    call->number = seen.data.nr;
    for (int i = 0; i < 6; i++) call->arguments[i] = seen.data.args[i];
    return 1;
}
void test_answer_call(int listener, const struct test_call *call, int error) {
    struct seccomp_notif_resp answer = {
        .id = call->id,
        .error = -error,
        .flags = error ? 0 : SECCOMP_USER_NOTIF_FLAG_CONTINUE};
    ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &answer);
}
