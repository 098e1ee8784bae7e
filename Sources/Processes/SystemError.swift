// Why a system call failed, as a sentence for an operator.

import Glibc

/// A failed system call: which, on what, and the kernel's reason.
package struct SystemError: Error, Sendable, Equatable, CustomStringConvertible {
    /// What was tried, as a verb: `open`, `lock`, `start`.
    package let call: String
    /// What it was tried on.
    package let path: String
    /// The kernel's reason, as errno(3) numbers it.
    package let code: CInt

    package init(_ call: String, _ path: String, _ code: CInt = errno) {
        self.call = call
        self.path = path
        self.code = code
    }

    package var description: String {
        "cannot \(call) \(path): \(errnoText(code))\(remedy.map { "; \($0)" } ?? "")"
    }
    /// What an operator can do, where the reason alone does not say it.
    private var remedy: String? {
        switch code {
        case EMFILE:
            "this process may open too few files: raise its limit (LimitNOFILE= of the unit, "
                + "ulimit -n)"
        case ENFILE: "this host may open too few files: raise fs.file-max"
        case ENOSPC, EDQUOT: "make room there"
        case ENOMEM: "this host is out of memory"
        case EAGAIN where call.hasPrefix("start"):
            "too few processes are allowed: raise TasksMax= of the unit, or ulimit -u"
        default: nil
        }
    }
}

/// The kernel's words for an error number.
package func errnoText(_ code: CInt) -> String { unsafe String(cString: strerror(code)) }
