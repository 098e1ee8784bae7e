#define _GNU_SOURCE 1
#include "CLinux.h"
#include <pthread.h>
#include <time.h>

void mayfly_name_thread(const char *name) { pthread_setname_np(pthread_self(), name); }

#if defined(__x86_64__)
static int64_t nanoseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC_RAW, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}
uint32_t mayfly_tsc_khz(void) {
    struct timespec pause = {.tv_nsec = 100000000};
    int64_t begin = nanoseconds();
    uint64_t first = __builtin_ia32_rdtsc();
    nanosleep(&pause, NULL);
    int64_t end = nanoseconds();
    uint64_t last = __builtin_ia32_rdtsc();
    return end > begin ? (uint32_t)((last - first) * 1000000 / (uint64_t)(end - begin)) : 0;
}
#else
uint32_t mayfly_tsc_khz(void) { return 0; }
#endif
