// The layers between a guest that broke out of its hypervisor and this host, as they are: whom that
// runs as, and what `mayfly doctor` says of each layer.

import Glibc
import Processes

/// Whom a hypervisor process runs as.
enum HypervisorUser {
    /// The unprivileged id of every machine, when we are root.
    static let unprivileged: uid_t = 65534

    /// For KVM in the group of its device, so that an unprivileged process can open it.
    ///
    /// `nil`: our own user, because we are not root or because /dev/kvm is root's alone.
    static func forAccelerator(_ accelerator: Accelerator) -> Credentials? {
        guard geteuid() == 0 else { return nil }
        guard accelerator == .kvm else {
            return Credentials(user: unprivileged, group: unprivileged)
        }
        var status = stat()
        guard unsafe stat("/dev/kvm", &status) == 0 else { return nil }
        return forDevice(mode: status.st_mode, group: status.st_gid)
    }
    /// Who can open a device of this mode and group without being root.
    static func forDevice(mode: mode_t, group: gid_t) -> Credentials? {
        if mode & 0o006 == 0o006 { return Credentials(user: unprivileged, group: unprivileged) }
        if mode & 0o060 == 0o060, group != 0 {
            return Credentials(user: unprivileged, group: group)
        }
        return nil
    }
}

enum Hardening {
    static func findings(
        _ hypervisor: HypervisorName, _ accelerator: Accelerator
    ) -> [DoctorFinding] {
        let isRoot = geteuid() == 0
        let jail = "comes with the jail, a later version"
        return [
            DoctorFinding(
                name: "hardening.seccomp", state: .active,
                found: hypervisor == .qemu
                    ? "QEMU's own filter: no new processes, no other privileges"
                    : "Firecracker's own filter for each of its threads", remedy: ""),
            user(accelerator, isRoot: isRoot, jail),
            DoctorFinding(
                name: "hardening.namespaces", state: isRoot ? .degraded : .off,
                found: isRoot
                    ? "network, IPC and host name are separate; the file system is shared"
                    : "none: making them needs root",
                remedy: "an empty root file system \(jail)"),
            DoctorFinding(
                name: "hardening.network", state: .active,
                found: "no machine has a network card", remedy: ""),
            DoctorFinding(
                name: "hardening.cgroup", state: .off,
                found: "no limits on the hypervisor's memory and processor time",
                remedy: "a cgroup per machine \(jail)"),
        ]
    }

    private static func user(
        _ accelerator: Accelerator, isRoot: Bool, _ jail: String
    ) -> DoctorFinding {
        if HypervisorUser.forAccelerator(accelerator) != nil {
            return DoctorFinding(
                name: "hardening.user", state: .degraded,
                found: "all machines share the user id \(HypervisorUser.unprivileged)",
                remedy: "one user id per machine \(jail)")
        }
        return DoctorFinding(
            name: "hardening.user", state: .off,
            found: isRoot
                ? "machines run as root, because only root can open /dev/kvm"
                : "machines run as the worker's own user",
            remedy: isRoot ? "chgrp kvm /dev/kvm && chmod 660 /dev/kvm, as udev does" : jail)
    }
}
