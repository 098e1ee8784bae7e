#define _GNU_SOURCE 1
#include "CLinux.h"
#include <pthread.h>

void mayfly_name_thread(const char *name) { pthread_setname_np(pthread_self(), name); }
