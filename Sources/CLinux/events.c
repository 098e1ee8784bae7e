#define _GNU_SOURCE 1
#include "CLinux.h"
#include <errno.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

int mayfly_epoll(void) { return epoll_create1(EPOLL_CLOEXEC); }
int mayfly_eventfd(void) { return eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC); }

static int control(int epoll, int operation, int fd, uint32_t events) {
    struct epoll_event event = {.events = events, .data.fd = fd};
    return epoll_ctl(epoll, operation, fd, &event) < 0 ? -errno : 0;
}
int mayfly_epoll_add(int epoll, int fd, uint32_t events) {
    return control(epoll, EPOLL_CTL_ADD, fd, events);
}
int mayfly_epoll_change(int epoll, int fd, uint32_t events) {
    return control(epoll, EPOLL_CTL_MOD, fd, events);
}
int mayfly_epoll_remove(int epoll, int fd) { return control(epoll, EPOLL_CTL_DEL, fd, 0); }

int mayfly_epoll_wait(int epoll, int timeout_ms, uint64_t *ready, int capacity) {
    struct epoll_event events[64];
    int count = epoll_wait(epoll, events, capacity < 64 ? capacity : 64, timeout_ms);
    for (int i = 0; i < count; i++)
        ready[i] = (uint64_t)events[i].events << 32 | (uint32_t)events[i].data.fd;
    return count < 0 ? 0 : count;
}
