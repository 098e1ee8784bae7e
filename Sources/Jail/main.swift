// mayfly-jail: between the worker and a hypervisor. It walls itself in, step by step, and becomes
// the hypervisor: what breaks out of that finds nothing. Started by the worker for each machine,
// as root, in process, network, IPC, host name and control group namespaces of its own, with the
// runtime directory of its worker to work in. One thread, no Foundation. Read from top to bottom:
// the order is the argument. A step that fails is the end, and says so in a sentence.

import CLinux
import Glibc

if CommandLine.arguments.dropFirst().first == "rules" {
    listRules(CommandLine.arguments.dropFirst(2))
}
let request = Request(CommandLine.arguments)
let walls = Walls(request)

// What there is to see. First, while it may still mount.
step(.root, "leave the host's mounts") { mayfly_own_mounts() }
step(.root, "put the prepared directory in the root's place") { walls.bindRoot() }
step(.root, "show it its own descriptors") { walls.bindDescriptors() }
step(.root, "show it its directory") { walls.bindWork() }
step(.root, "show it /dev/kvm") { walls.bindKVM() }
step(.root, "make the root read-only") { walls.restrictRoot() }
step(.root, "enter the root") { walls.enterRoot() }

// What it holds, and how much of anything it may take.
step(.descriptors, "close what it was not given") { walls.closeDescriptors() }
step(.limits, "set its limits") { walls.limit() }

// Who it is. The bounding set goes while there is still the right to give it up.
step(.capabilities, "empty the bounding set") { mayfly_bounding_set_empty() }
step(.user, "become the machine's own user") { walls.becomeUser() }
step(.capabilities, "give up all capabilities") { mayfly_capabilities_drop() }
step(.privileges, "refuse new privileges") { mayfly_no_new_privileges() }
// After the change of user, which clears it. The worker waits until this program is one that runs,
// so it cannot have died before.
step(nil, "die with the worker") { mayfly_die_with_parent() }

// What it may ask the kernel. Last, because each of the steps above needs more.
step(.landlock, "let Landlock watch over files, sockets and signals") { walls.enforceLandlock() }
step(.filter, "load the filter of system calls") { Filter.load(for: request) }

// SAFETY: the process's own argument and environment vectors, which live as long as it does.
let status = unsafe mayfly_execute(
    request.program, CommandLine.unsafeArgv + request.argumentsBegin, environ)
fail("become the hypervisor", -status)
