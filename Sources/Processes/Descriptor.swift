// Owners of what the kernel gives by number. Small, so that their `deinit` is the whole story.

import CLinux
import Glibc

/// An open descriptor, closed exactly once.
package struct Descriptor: ~Copyable, Sendable {
    package let number: CInt
    package init(_ number: CInt) { self.number = number }
    deinit { close(number) }

    /// One that several hold.
    package final class Shared: Sendable {
        private let descriptor: Descriptor
        package var number: CInt { descriptor.number }
        package init(_ descriptor: consuming Descriptor) { self.descriptor = descriptor }
    }

    /// Opens a path, close-on-exec.
    package static func open(
        _ path: String, _ flags: CInt, mode: mode_t = 0o600
    ) throws(SystemError) -> Descriptor {
        let number = unsafe Glibc.open(path, flags | O_CLOEXEC, mode)
        guard number >= 0 else { throw SystemError("open", path) }
        return Descriptor(number)
    }
    /// A close-on-exec memory file.
    package static func memory(_ name: String) throws(SystemError) -> Descriptor {
        let number = unsafe mayfly_memfd(name)
        guard number >= 0 else { throw SystemError("make the memory file", name, -number) }
        return Descriptor(number)
    }
}

/// A connected pair: `ours` is non-blocking and stays here, `theirs` goes to a child.
package struct SocketPair: ~Copyable {
    package let ours: Descriptor
    package let theirs: Descriptor

    package init() throws(SystemError) {
        var pair: [CInt] = [-1, -1]
        let status = unsafe mayfly_socketpair(&pair)
        guard status == 0 else { throw SystemError("make", "a socket pair", -status) }
        ours = Descriptor(pair[0])
        theirs = Descriptor(pair[1])
    }
    package consuming func take() -> Descriptor { ours }
}

/// A TCP socket that listens on 127.0.0.1, at a port that the kernel chose.
package struct LoopbackListener: ~Copyable, Sendable {
    package let descriptor: Descriptor
    package let port: UInt16

    package init(isBlocking: Bool) throws(SystemError) {
        var port: UInt16 = 0
        let number = unsafe mayfly_loopback_listen(isBlocking ? 1 : 0, &port)
        guard number >= 0 else { throw SystemError("listen on", "127.0.0.1", -number) }
        descriptor = Descriptor(number)
        self.port = port
    }
}
