/* The steps of the jail that Swift cannot say: namespaces, mounts, capabilities, Landlock. Called
   by mayfly-jail, which has one thread. */
#define _GNU_SOURCE 1
#include "CLinux.h"
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static int result(long value) { return value < 0 ? -errno : 0; }

/* --- the file system --- */
int mayfly_own_mounts(void) {
    /* Nothing that is mounted here shows outside, nor the other way round. */
    if (unshare(CLONE_NEWNS) < 0) return -errno;
    return result(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
}
int mayfly_bind(const char *source, const char *target) {
    return result(mount(source, target, NULL, MS_BIND, NULL));
}
int mayfly_restrict_mount(const char *target, int read_only, int no_devices) {
    unsigned long flags = MS_REMOUNT | MS_BIND | MS_NOSUID;
    if (read_only) flags |= MS_RDONLY;
    if (no_devices) flags |= MS_NODEV;
    return result(mount(NULL, target, NULL, flags, NULL));
}
int mayfly_bind_own_descriptors(const char *mount_point, const char *target) {
    char own[64];
    struct stat status;
    size_t length = 0;
    while (mount_point[length] && length < sizeof own - 16) {
        own[length] = mount_point[length];
        length++;
    }
    for (const char *end = "/self/fd"; *end;) own[length++] = *end++;
    own[length] = 0;
    if (mount("proc", mount_point, "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0)
        return -errno;
    int done = stat(own, &status) < 0 || mount(own, target, NULL, MS_BIND, NULL) < 0 ? -errno : 0;
    if (umount2(mount_point, MNT_DETACH) < 0 && done == 0) done = -errno;
    return done;
}
int mayfly_enter_root(void) {
    /* The new root over the old one, and then the old one away: see pivot_root(2). */
    if (syscall(SYS_pivot_root, ".", ".") < 0) return -errno;
    if (umount2(".", MNT_DETACH) < 0) return -errno;
    return result(chdir("/"));
}

/* --- descriptors, limits, identity --- */
int mayfly_close_between(int first, int last) {
    return first > last ? 0 : result(syscall(SYS_close_range, first, last, 0));
}
int mayfly_limit(enum mayfly_limit_name name, uint64_t value) {
    static const int resources[] = {RLIMIT_CORE, RLIMIT_NOFILE, RLIMIT_FSIZE, RLIMIT_AS,
                                    RLIMIT_NPROC, RLIMIT_MEMLOCK, RLIMIT_MSGQUEUE,
                                    RLIMIT_SIGPENDING};
    struct rlimit both = {value, value};
    return result(setrlimit(resources[name], &both));
}
int mayfly_become(uid_t user, gid_t group, const gid_t *more, size_t more_count) {
    uid_t u[3];
    gid_t g[3];
    if (setgroups(more_count, more) < 0 || setresgid(group, group, group) < 0 ||
        setresuid(user, user, user) < 0)
        return -errno;
    if (getresuid(&u[0], &u[1], &u[2]) < 0 || getresgid(&g[0], &g[1], &g[2]) < 0) return -errno;
    for (int i = 0; i < 3; i++)
        if (u[i] != user || g[i] != group) return -EPERM;
    return 0;
}
int mayfly_bounding_set_empty(void) {
    for (int capability = 0; capability < 64; capability++)
        if (prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) < 0) return errno == EINVAL ? 0 : -errno;
    return 0;
}
int mayfly_capabilities_drop(void) {
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct none[2] = {{0}};
    if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0) return -errno;
    return result(syscall(SYS_capset, &header, none));
}
int mayfly_no_new_privileges(void) { return result(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)); }
int mayfly_die_with_parent(void) { return result(prctl(PR_SET_PDEATHSIG, SIGKILL)); }
int mayfly_execute(int program, char *const *argv, char *const *envp) {
    syscall(SYS_execveat, program, "", argv, envp, AT_EMPTY_PATH);
    return -errno;
}

/* --- Landlock: the numbers of linux/landlock.h, of which Debian 12's knows only the first --- */
struct ruleset {
    uint64_t files, network, scopes;
};
struct __attribute__((packed)) path_beneath {
    uint64_t allowed;
    int32_t parent;
};
int mayfly_landlock_version(void) {
    long version = syscall(444, NULL, 0, 1 /* LANDLOCK_CREATE_RULESET_VERSION */);
    return version < 0 ? 0 : (int)version;
}
int mayfly_landlock_begin(void) {
    int version = mayfly_landlock_version();
    struct ruleset all = {.files = (1ULL << 13) - 1};
    size_t size = sizeof all.files;
    if (version >= 2) all.files |= 1ULL << 13; /* linking and renaming across directories */
    if (version >= 3) all.files |= 1ULL << 14; /* truncating */
    if (version >= 5) all.files |= 1ULL << 15; /* commands to devices */
    if (version >= 4) all.network = 3, size = 16; /* TCP: bind and connect */
    if (version >= 6) all.scopes = 3, size = 24;  /* abstract sockets and signals of others */
    long ruleset = syscall(444, &all, size, 0);
    return ruleset < 0 ? -errno : (int)ruleset;
}
int mayfly_landlock_allow(int ruleset, int file, uint64_t rights) {
    int version = mayfly_landlock_version();
    if (version < 3) rights &= ~(1ULL << 14);
    if (version < 5) rights &= ~(1ULL << 15);
    struct path_beneath rule = {rights, file};
    return result(syscall(445, ruleset, 1 /* LANDLOCK_RULE_PATH_BENEATH */, &rule, 0));
}
int mayfly_landlock_enforce(int ruleset) {
    int done = result(syscall(446, ruleset, 0));
    close(ruleset);
    return done;
}

/* --- locks on user ids --- */
int mayfly_lock_byte(int file, int64_t offset) {
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = offset, .l_len = 1};
    return result(fcntl(file, F_OFD_SETLK, &lock));
}
int mayfly_unlock_byte(int file, int64_t offset) {
    struct flock lock = {.l_type = F_UNLCK, .l_whence = SEEK_SET, .l_start = offset, .l_len = 1};
    return result(fcntl(file, F_OFD_SETLK, &lock));
}
