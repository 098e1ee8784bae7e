#pragma once
/* Swift's runtime reads /proc before main: this target's constructor mounts it first when the
   program is PID 1. Nothing to call; importing the module links it. */
void mayfly_guest_start_is_linked(void);
