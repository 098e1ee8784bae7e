// The guest agent: /init of the initramfs, and PID 1 until the machine ends. One thread, one poll
// loop. It must never exit (the kernel would panic) and never trap on what a host or a job sends.
//
// Read Agent.swift first; Boot.swift is what happens before it.

import CGuest

mayfly_guest_start_is_linked()
Agent.main()
