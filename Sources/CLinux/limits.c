#define _GNU_SOURCE 1
#include "CLinux.h"
#include <errno.h>
#include <sys/resource.h>

void mayfly_file_limit(uint64_t *soft, uint64_t *hard) {
    struct rlimit limit = {0, 0};
    getrlimit(RLIMIT_NOFILE, &limit);
    *soft = limit.rlim_cur;
    *hard = limit.rlim_max;
}
int mayfly_set_file_limit(uint64_t soft) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0) return -errno;
    limit.rlim_cur = soft;
    return setrlimit(RLIMIT_NOFILE, &limit) < 0 ? -errno : 0;
}
