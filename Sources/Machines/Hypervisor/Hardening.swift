// The layers between a guest that broke out of its hypervisor and this host, as they are: whom that
// runs as, and what `mayfly doctor` says of each layer.

import Events
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
    /// The group that may open /dev/kvm, where not everybody may.
    static var deviceGroup: gid_t? {
        var status = stat()
        guard unsafe stat("/dev/kvm", &status) == 0 else { return nil }
        return status.st_mode & 0o006 == 0o006 ? nil : status.st_gid
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
    /// Each layer as it is around a real process of this host's hypervisor.
    @LoopActor
    static func examine(_ settings: HostSettings, _ probe: HostProbe) async -> [DoctorFinding] {
        let worker = WorkerPrivileges.finding(runtimeDirectory: settings.runtimeDirectory)
        return await walls(settings, probe) + [worker]
    }
    @LoopActor
    private static func walls(
        _ settings: HostSettings, _ probe: HostProbe
    ) async -> [DoctorFinding] {
        if let path = settings.launcher {
            do throws(MachineError) {
                return try await Launcher(path, settings, probe).look(probe.hypervisor).findings
                    + [own(probe)]
            } catch {
                return [
                    DoctorFinding(
                        name: "hardening.jail", state: .off, found: "\(error)",
                        remedy: "machines of this worker are started by the launcher alone"),
                    own(probe),
                ]
            }
        }
        guard settings.jail != .off else {
            return withoutJail(
                probe, "machine.jail = off", "set machine.jail = auto")
        }
        do throws(MachineError) {
            let mark = try HostMark(runtimeDirectory: settings.runtimeDirectory)
            let jail = try Jail(settings, probe, in: mark.directory)
            try await jail.makeRoot(of: probe.hypervisor)
            return try await jail.look(probe.hypervisor).findings + [own(probe)]
        } catch {
            return withoutJail(
                probe, "\(error)", "with that mended, machines are jailed by themselves")
        }
    }

    private static func withoutJail(
        _ probe: HostProbe, _ found: String, _ remedy: String
    ) -> [DoctorFinding] {
        let isRoot = geteuid() == 0
        return [
            DoctorFinding(name: "hardening.jail", state: .off, found: found, remedy: remedy),
            user(probe.profile.accelerator, isRoot: isRoot), own(probe),
            DoctorFinding(
                name: "hardening.namespaces", state: isRoot ? .degraded : .off,
                found: isRoot
                    ? "network, IPC and host name are separate; the file system is shared"
                    : "none: making them needs root",
                remedy: "an empty root comes with the jail"),
        ]
    }

    /// What the hypervisor itself does, jailed or not.
    private static func own(_ probe: HostProbe) -> DoctorFinding {
        DoctorFinding(
            name: "hardening.hypervisor", state: .active,
            found: probe.hypervisor.name == .qemu
                ? "QEMU's own filter: no new processes, no other privileges"
                : "Firecracker's own filter for each of its threads", remedy: "")
    }

    static func user(_ accelerator: Accelerator, isRoot: Bool) -> DoctorFinding {
        let jail = "one user id per machine comes with the jail"
        if HypervisorUser.forAccelerator(accelerator) != nil {
            return DoctorFinding(
                name: "hardening.user", state: .degraded,
                found: "all machines share the user id \(HypervisorUser.unprivileged)",
                remedy: jail)
        }
        return DoctorFinding(
            name: "hardening.user", state: .off,
            found: isRoot
                ? "machines run as root, because only root can open /dev/kvm"
                : "machines run as the worker's own user",
            remedy: isRoot ? "chgrp kvm /dev/kvm && chmod 660 /dev/kvm, as udev does" : jail)
    }
}
