#pragma once
#include <errno.h>
#include <seccomp.h>

/* The actions that Swift cannot read, being macros with casts or arguments. */
static inline uint32_t mayfly_seccomp_kill(void) { return SCMP_ACT_KILL_PROCESS; }
static inline uint32_t mayfly_seccomp_allow(void) { return SCMP_ACT_ALLOW; }
static inline uint32_t mayfly_seccomp_refuse(uint16_t code) { return SCMP_ACT_ERRNO(code); }
static inline uint32_t mayfly_seccomp_notify(void) { return SCMP_ACT_NOTIFY; }
