// `mayfly-jail rules qemu kvm`: the filter as data, for whoever wants to read it, and for the test
// that holds it against the calls that hypervisors really make. One rule a line, tabs between:
// the call's number and name, `allow` or the error that it is answered with, the conditions on its
// arguments, the reason.

import CSeccomp
import Glibc

/// Lists the rules of one hypervisor, and ends.
func listRules(_ words: ArraySlice<String>) -> Never {
    guard let name = words.first, let hypervisor = Hypervisor(rawValue: name),
        words.dropFirst().allSatisfy({ $0 == "kvm" })
    else {
        print("usage: mayfly-jail rules qemu [kvm] | firecracker")
        exit(2)
    }
    let usesKVM = words.count > 1 || hypervisor == .firecracker
    for rule in Filter.rules(hypervisor, usesKVM: usesKVM, program: 3) {
        let number = unsafe seccomp_syscall_resolve_name(rule.call)
        let verdict = rule.refusal.map { "\($0)" } ?? "allow"
        let conditions = rule.conditions.map(\.text).joined(separator: " ")
        print(
            "\(number)\t\(rule.call)\t\(verdict)\t\(rule.isOwn ? "*" : conditions)\t\(rule.reason)")
    }
    exit(0)
}

extension scmp_arg_cmp {
    /// ARGUMENT&MASK=VALUE, or without a mask.
    fileprivate var text: String {
        func hexadecimal(_ number: UInt64) -> String { "0x" + String(number, radix: 16) }
        return op == SCMP_CMP_MASKED_EQ
            ? "\(arg)&\(hexadecimal(datum_a))=\(hexadecimal(datum_b))"
            : "\(arg)=\(hexadecimal(datum_a))"
    }
}
