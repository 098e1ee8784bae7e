#include "CGuest.h"
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

/* Priority 101 is the first a program may take: before Swift's constructors, which abort or trap
   without /proc ("Unable to obtain Swift runtime path"). */
__attribute__((constructor(101))) static void mount_proc_first(void) {
    if (getpid() != 1) return;
    mkdir("/proc", 0555);
    mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, 0);
}

void mayfly_guest_start_is_linked(void) {}
