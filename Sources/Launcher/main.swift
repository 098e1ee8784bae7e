// mayfly-launcher: between a worker without privileges and the jail, which needs them. It listens
// on a socket of messages, serves one user, and for each connection makes one machine's process:
// always mayfly-jail, always as a user of the range that it was started with, always the one
// hypervisor that it has open. It reads nothing that a guest wrote. One thread, no Foundation.
//
// This process accepts and forks (Listener.swift); it never waits for a worker. What it forked
// serves one connection (Service.swift) and dies with it.

import CLinux
import Glibc

signal(SIGPIPE, SIG_IGN)
umask(0o077)
let setup = Setup(CommandLine.arguments)
if let weakness = setup.weakness { end(weakness) }
guard let users = Users(setup) else { end("the file of users cannot be opened") }
// Descriptors of machines have the numbers that the worker gave them.
var (softLimit, hardLimit): (UInt64, UInt64) = (0, 0)
unsafe mayfly_file_limit(&softLimit, &hardLimit)
mayfly_set_file_limit(hardLimit)
// What a launcher before this one left.
users.killAbandoned()
var listener = Listener(setup)
listener.run()
