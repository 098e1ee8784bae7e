/* For tests that harm another process, which needs root: its descriptors, taken by pidfd_getfd(2),
   and its limits. */
#pragma once
#include <sys/types.h>

/* A duplicate of descriptor `number` of process `pid`, close-on-exec; a negative errno on failure. */
int test_take_descriptor(pid_t pid, int number);
/* Whether it is a socket that leads into a machine: AF_VSOCK (2), an unnamed AF_UNIX pair (1), or
   neither (0). */
int test_machine_socket(int descriptor);
/* Sets how many descriptors process `pid` may open, and tells how many it might before; 0, or a negative
   errno. */
int test_limit_files(pid_t pid, unsigned long wanted, unsigned long *before);
