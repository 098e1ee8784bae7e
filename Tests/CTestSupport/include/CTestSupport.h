/* For tests that harm another process, which needs root: its descriptors, taken by pidfd_getfd(2),
   and its limits. */
#pragma once
#include <stdint.h>
#include <sys/types.h>

/* A duplicate of descriptor `number` of process `pid`, close-on-exec; a negative errno on failure. */
int test_take_descriptor(pid_t pid, int number);
/* Whether it is a socket that leads into a machine: AF_VSOCK (2), an unnamed AF_UNIX pair (1), or
   neither (0). */
int test_machine_socket(int descriptor);
/* Sets how many descriptors process `pid` may open, and tells how many it might before; 0, or a negative
   errno. */
int test_limit_files(pid_t pid, unsigned long wanted, unsigned long *before);

/* --- record.c: a process whose filter of system calls asks --- */
struct test_call {
    uint64_t id;
    int number;
    uint64_t arguments[6];
};
/* The listener of process `pid`'s filter; -ENOENT while it has none. */
int test_take_listener(pid_t pid);
/* 1: there is a call, which waits for its answer; 0: none came in time; -1: the process is gone. */
int test_next_call(int listener, int milliseconds, struct test_call *call);
/* Lets it be made, or fail with that errno. */
void test_answer_call(int listener, const struct test_call *call, int error);
