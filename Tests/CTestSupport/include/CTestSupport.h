/* For tests that harm another process: its descriptors, taken by pidfd_getfd(2), which needs root. */
#pragma once
#include <sys/types.h>

/* A duplicate of descriptor `number` of process `pid`, close-on-exec; a negative errno on failure. */
int test_take_descriptor(pid_t pid, int number);
/* Whether it is a socket that leads into a machine: AF_VSOCK (2), an unnamed AF_UNIX pair (1), or
   neither (0). */
int test_machine_socket(int descriptor);
