/* c-ares behind a few functions of plain types: its own constants and structures are imported into
   Swift differently from one version to the next (macros in 1.18, enumerations in 1.34). */
#pragma once
#define CARES_NO_DEPRECATED
#include <ares.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/select.h>

enum {
    MAYFLY_ARES_FOUND = 0,
    MAYFLY_ARES_NO_SUCH_NAME = 1, /* or it has no address */
    MAYFLY_ARES_NO_ANSWER = 2,    /* no server answered, or what they said makes no sense */
    MAYFLY_ARES_TOO_MANY = 3,     /* more addresses than `MAYFLY_ARES_ADDRESSES` */
    MAYFLY_ARES_ADDRESSES = 64,
    MAYFLY_ARES_SIZE = 17, /* of one address: its length (4 or 16), then its bytes */
};
/* A descriptor is to be watched for these; for neither: no longer. */
typedef void (*mayfly_ares_changed)(void *owner, int fd, int readable, int writable);
/* `addresses` holds `count` times `MAYFLY_ARES_SIZE` bytes and is gone when this returns. */
typedef void (*mayfly_ares_done)(void *query, int status, const uint8_t *addresses, size_t count);

/* `servers`: host:port,… or NULL for those of resolv.conf. NULL when it cannot be done. Names are
   asked for as they are (no search list, no HOSTALIASES) and of DNS servers only (no hosts file). */
static inline void *mayfly_ares_open(const char *servers, int timeout_ms, int tries,
                                     mayfly_ares_changed changed, void *owner) {
    struct ares_options options;
    ares_channel channel = NULL;
    char lookups[] = "b";
    memset(&options, 0, sizeof options);
    options.flags = ARES_FLAG_NOSEARCH | ARES_FLAG_NOALIASES;
    options.timeout = timeout_ms;
    options.tries = tries;
    options.lookups = lookups;
    options.sock_state_cb = changed;
    options.sock_state_cb_data = owner;
    int set = ARES_OPT_FLAGS | ARES_OPT_TIMEOUTMS | ARES_OPT_TRIES | ARES_OPT_LOOKUPS |
              ARES_OPT_SOCK_STATE_CB | ARES_OPT_DOMAINS; /* no domains */
    if (ares_library_init(ARES_LIB_INIT_ALL) != ARES_SUCCESS) return NULL;
    if (ares_init_options(&channel, &options, set) != ARES_SUCCESS) return NULL;
    if (servers != NULL && ares_set_servers_ports_csv(channel, servers) != ARES_SUCCESS) {
        ares_destroy(channel);
        return NULL;
    }
    return channel;
}
static inline void mayfly_ares_close(void *channel) { ares_destroy((ares_channel)channel); }

struct mayfly_ares_query {
    mayfly_ares_done done;
    void *query;
};
static inline void mayfly_ares_flatten(void *argument, int status, int timeouts,
                                       struct ares_addrinfo *found) {
    struct mayfly_ares_query query = *(struct mayfly_ares_query *)argument;
    uint8_t addresses[MAYFLY_ARES_ADDRESSES * MAYFLY_ARES_SIZE];
    size_t count = 0;
    int result = MAYFLY_ARES_NO_ANSWER;
    (void)timeouts;
    free(argument);
    if (status == ARES_ENOTFOUND || status == ARES_ENODATA)
        result = MAYFLY_ARES_NO_SUCH_NAME;
    else if (status == ARES_SUCCESS && found != NULL) {
        result = MAYFLY_ARES_FOUND;
        for (struct ares_addrinfo_node *node = found->nodes; node != NULL; node = node->ai_next) {
            if (node->ai_family != AF_INET && node->ai_family != AF_INET6) continue;
            if (count == MAYFLY_ARES_ADDRESSES) {
                result = MAYFLY_ARES_TOO_MANY;
                break;
            }
            uint8_t *place = addresses + count++ * MAYFLY_ARES_SIZE;
            if (node->ai_family == AF_INET) {
                *place = 4;
                memcpy(place + 1, &((struct sockaddr_in *)(void *)node->ai_addr)->sin_addr, 4);
            } else {
                *place = 16;
                memcpy(place + 1, &((struct sockaddr_in6 *)(void *)node->ai_addr)->sin6_addr, 16);
            }
        }
        if (count == 0) result = MAYFLY_ARES_NO_SUCH_NAME;
    }
    if (found != NULL) ares_freeaddrinfo(found);
    query.done(query.query, result, addresses, count);
}
/* Asks for A and AAAA. `done` is called once, perhaps before this returns. */
static inline void mayfly_ares_resolve(void *channel, const char *name, mayfly_ares_done done,
                                       void *query) {
    struct ares_addrinfo_hints hints;
    struct mayfly_ares_query *argument = (struct mayfly_ares_query *)malloc(sizeof *argument);
    if (argument == NULL) {
        done(query, MAYFLY_ARES_NO_ANSWER, NULL, 0);
        return;
    }
    argument->done = done;
    argument->query = query;
    memset(&hints, 0, sizeof hints);
    hints.ai_family = AF_UNSPEC;
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_flags = ARES_AI_NOSORT; /* sorting opens sockets to each address */
    ares_getaddrinfo((ares_channel)channel, name, NULL, &hints, mayfly_ares_flatten, argument);
}
/* What `fd` is ready for; with -1 for both, only what is due by time. */
static inline void mayfly_ares_process(void *channel, int readable, int writable) {
    ares_process_fd((ares_channel)channel, readable < 0 ? ARES_SOCKET_BAD : readable,
                    writable < 0 ? ARES_SOCKET_BAD : writable);
}
/* Milliseconds until something is due; -1: nothing is. */
static inline int64_t mayfly_ares_patience(void *channel) {
    struct timeval left;
    if (ares_timeout((ares_channel)channel, NULL, &left) == NULL) return -1;
    return (int64_t)left.tv_sec * 1000 + left.tv_usec / 1000 + 1;
}
