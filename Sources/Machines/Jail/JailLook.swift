// What a jailed process really is, by the kernel's own account in /proc: for `mayfly doctor`, for
// every start of a worker, and for `security.profile = production`.

import CLinux
import Events
import Foundation
import Glibc
import Processes

/// The layers around one process.
struct JailLook: Sendable {
    let findings: [DoctorFinding]

    /// - Parameters:
    ///   - pid: of a process that has become the hypervisor.
    ///   - user: that it should be.
    ///   - groups: where its control group was made, or why it has none.
    init(at pid: pid_t, user: uid_t, _ groups: Result<ControlGroups, MachineError>) {
        let status = Self.fields(kernelText("/proc/\(pid)/status") ?? "")
        func holds(_ names: [String], _ value: String) -> Bool {
            names.allSatisfy { status[$0] == value }
        }
        let ids = Array(repeating: "\(user)", count: 4).joined(separator: "\t")
        let noRights = String(repeating: "0", count: 16)
        let capabilities = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"]
        findings = [
            Self.finding(
                "user", holds(["Uid", "Gid"], ids), "a user id of each machine's own, now \(user)",
                "user \(status["Uid"] ?? "unknown")"),
            Self.root(pid), Self.namespaces(pid),
            Self.finding(
                "capabilities", holds(capabilities, noRights), "none, and none to gain",
                capabilities.map { "\($0) \(status[$0] ?? "unknown")" }.joined(separator: ", ")),
            Self.finding(
                "privileges", holds(["NoNewPrivs"], "1"), "no program gives it new ones",
                "NoNewPrivs \(status["NoNewPrivs"] ?? "unknown")"),
            Self.finding(
                "seccomp", holds(["Seccomp"], "2"),
                "a filter of system calls (\(status["Seccomp_filters"] ?? "1") in force)",
                "Seccomp \(status["Seccomp"] ?? "unknown")"),
            Self.landlock(), Self.limits(pid), Self.controlGroup(pid, groups),
        ]
    }

    private static func fields(_ text: String) -> [String: String] {
        var fields: [String: String] = [:]
        for line in text.split(separator: "\n") {
            guard let colon = line.firstIndex(of: ":") else { continue }
            fields[String(line[..<colon])] = String(line[line.index(after: colon)...])
                .trimmingCharacters(in: .whitespaces)
        }
        return fields
    }
    private static func finding(
        _ name: String, _ isActive: Bool, _ active: String, _ other: String
    ) -> DoctorFinding {
        DoctorFinding(
            name: "hardening.\(name)", state: isActive ? .active : .off,
            found: isActive ? active : other,
            remedy: isActive ? "" : "the jail did not hold on this kernel; please report it")
    }

    /// Its root has what was put there, and one mount of ours for each part of it.
    private static func root(_ pid: pid_t) -> DoctorFinding {
        let names = Set(children(of: "/proc/\(pid)/root"))
        let known: Set = ["dev", "fd", "lib", "lib64", "usr", "work"]
        let mounts = (kernelText("/proc/\(pid)/mountinfo") ?? "").split(separator: "\n")
        let isReadOnly = mounts.contains { line in
            let parts = line.split(separator: " ")
            return parts.count > 5 && parts[4] == "/"
                && parts[5].split(separator: ",").contains("ro")
        }
        // Only root may look into another user's root; its mounts are for everybody to see.
        let holds = names.isEmpty ? geteuid() != 0 : names.isSubset(of: known)
        return finding(
            "root", holds && isReadOnly && mounts.count <= 4,
            "read-only, with nothing but what the hypervisor opens; no /proc, no /sys",
            "\(names.sorted().joined(separator: " ")), \(mounts.count) mounts")
    }
    private static func namespaces(_ pid: pid_t) -> DoctorFinding {
        let status = fields(kernelText("/proc/\(pid)/status") ?? "")
        if geteuid() != 0, status["NSpid"]?.split(separator: "\t").count == 2 {
            return DoctorFinding(
                name: "hardening.namespaces", state: .degraded,
                found: "processes of its own; the others are for root to see",
                remedy: "mayfly doctor as root sees them")
        }
        let shared = ["mnt", "pid", "net", "ipc", "uts", "cgroup"].filter { name in
            let link = { (process: String) in
                try? FileManager.default.destinationOfSymbolicLink(
                    atPath: "/proc/\(process)/ns/\(name)")
            }
            return link("\(pid)") == link("self") || link("\(pid)") == nil
        }
        return finding(
            "namespaces", shared.isEmpty,
            "mounts, processes, network, IPC, host name and control "
                + "groups of its own; no machine has a network card",
            "shared with the host: \(shared.joined(separator: ", "))")
    }
    private static func limits(_ pid: pid_t) -> DoctorFinding {
        let limited = ["Max processes", "Max open files", "Max file size", "Max address space"]
        let lines = (kernelText("/proc/\(pid)/limits") ?? "").split(separator: "\n")
        let missing = limited.filter { name in
            guard let line = lines.first(where: { $0.hasPrefix(name) }) else { return true }
            return line.dropFirst(26).split(separator: " ").prefix(2).contains("unlimited")
        }
        return finding(
            "limits", missing.isEmpty, "processes, descriptors, file size and address space",
            "no limit: \(missing.joined(separator: ", "))")
    }
    /// The kernel shows a process's own rules to nobody: that the step was taken is known, because
    /// the jail ends when it fails.
    private static func landlock() -> DoctorFinding {
        let version = Int(mayfly_landlock_version())
        guard version > 0 else {
            return DoctorFinding(
                name: "hardening.landlock", state: .off, found: "this kernel has no Landlock",
                remedy: "use a kernel of 5.13 or newer, with landlock in lsm=")
        }
        return DoctorFinding(
            name: "hardening.landlock", state: version >= 6 ? .active : .degraded,
            found: "files\(version >= 4 ? ", TCP" : "")"
                + "\(version >= 6 ? ", abstract sockets and signals" : "") (version \(version))",
            remedy: version >= 6 ? "" : "Linux 6.12 lets it guard sockets and signals, too")
    }
    /// What its group says, whatever was written there.
    private static func controlGroup(
        _ pid: pid_t, _ groups: Result<ControlGroups, MachineError>
    ) -> DoctorFinding {
        let directory = ControlGroups.directory(of: pid) ?? ""
        func value(_ file: String) -> String? { kernelText("\(directory)/\(file)")?.trimmed }
        let bounds: [(what: String, value: String?, unbounded: String)] = [
            ("memory", value("memory.max"), "max"),
            ("processor time", value("cpu.max"), "max 100000"),
            ("threads", value("pids.max"), "max"),
        ]
        let isApart = directory != ControlGroups.own()?.directory
        let bounded = bounds.filter { isApart && $0.value != nil && $0.value != $0.unbounded }
        let missing = bounds.filter { bound in !bounded.contains { $0.what == bound.what } }
        let mayNotSwap = ["0", nil].contains(value("memory.swap.max"))
        guard !missing.isEmpty || !mayNotSwap else {
            let disk = value("io.max").map { $0.isEmpty ? "" : "; disk \($0)" } ?? ""
            return DoctorFinding(
                name: "hardening.cgroup", state: .active,
                found: "one for each machine: memory \(bounds[0].value ?? ""), no swap; processor "
                    + "\(bounds[1].value ?? ""); threads \(bounds[2].value ?? "")\(disk)",
                remedy: "")
        }
        let words =
            switch groups {
            case .success(let groups): groups.shortfall.map { _ in ControlGroups.remedy }
            case .failure(let error): error.description
            }
        return DoctorFinding(
            name: "hardening.cgroup", state: bounded.isEmpty ? .off : .degraded,
            found: "not bounded: \(missing.map(\.what).joined(separator: ", "))",
            remedy: words ?? "the limits did not hold on this kernel; please report it")
    }
}

extension Jail {
    /// Starts the hypervisor behind the wall with nothing in it, waits until it works, looks at it
    /// and ends it.
    ///
    /// - Throws: `hostUnfit` with what the jail or the hypervisor said when it does not come up.
    @LoopActor
    func look(_ program: HypervisorProgram) async throws(MachineError) -> JailLook {
        // Large enough to start in, and no more.
        let cell = try cell(MachineLimits(memory: .gibibytes(1), processorPercent: 200))
        let messages = try HypervisorLog("mayfly-messages")
        let monitor = try attempting(SocketPair())
        var request = program.trialRequest(
            accelerator, monitor: monitor.theirs.number, messages: messages.writer.number,
            addressSpace: 8 << 30)
        var directory: MachineDirectory?
        if program.name == .firecracker {
            directory = try MachineDirectory(in: machinesDirectory, owner: cell.credentials)
            request.arguments = [
                program.path, "--api-sock", Firecracker.Name.api, "--id", "mayfly",
            ]
        }
        let child = try attempting(
            Child.spawn(cell.wrap(request, program.name, work: directory?.name)))
        // What it loads at its start it has loaded when it says so.
        var isUp = await Self.happens(before: child) {
            directory.map { children(of: $0.path).contains(Firecracker.Name.api) }
                ?? Self.isReadable(monitor.ours.number)
        }
        if isUp, let directory { isUp = try await Self.answers(child, in: directory, cell.user) }
        let look = JailLook(at: child.pid, user: cell.user, groups)
        let usage = await child.end()
        guard isUp else {
            throw MachineError(
                .hostUnfit,
                "\(program.path) does not run behind the jail (\(usage.ending)): "
                    + messages.lastLines(3).joined(separator: " | "))
        }
        return look
    }
    /// Whether Firecracker answers: by which calls, depends on what it was built with.
    @LoopActor
    private static func answers(
        _ child: borrowing Child, in directory: MachineDirectory, _ user: uid_t
    ) async throws(MachineError) -> Bool {
        let socket = FirecrackerSocket(Firecracker.Name.api, in: directory, owner: user)
        guard let number = try socket.connect() else { return false }
        let api = ByteStream(Descriptor(number))
        _ = api.send(Array("GET /version HTTP/1.1\r\n\r\n".utf8), from: 0)
        return await happens(before: child) {
            if case .bytes = api.receive() { true } else { false }
        }
    }
    private static func isReadable(_ descriptor: CInt) -> Bool {
        var poll = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
        return unsafe Glibc.poll(&poll, 1, 0) == 1
    }
    /// Whether it comes to that within half a minute, while the child lives.
    @LoopActor
    private static func happens(
        before child: borrowing Child, _ condition: () -> Bool
    ) async -> Bool {
        let deadline = ContinuousClock.now + .seconds(30)
        while !condition() {
            guard ContinuousClock.now < deadline else { return false }
            if await child.hasEnded(within: .milliseconds(2)) { return false }
        }
        return true
    }
}

extension Jail {
    /// The jail of a host, seen to hold; why there is none, where that was left to us; nothing
    /// where it is switched off.
    ///
    /// - Throws: `hostUnfit` when it is asked for and cannot be built, or when the profile
    ///   production misses a layer; and when its root could not be made where jails can be built: a
    ///   disk that is full for a moment does not leave a worker without them.
    @LoopActor
    static func found(
        _ settings: HostSettings, _ probe: HostProbe, in directory: String
    ) async throws(MachineError) -> Result<Jail?, MachineError> {
        if settings.profile == .production, settings.jail == .off {
            let risks = try AcceptedRisks(settings.acceptedRisks)
            try risks.check(await Hardening.examine(settings, probe))
        }
        guard settings.jail != .off else { return .success(nil) }
        let isLeftToUs = settings.jail == nil && settings.profile == .standard
        let jail: Jail
        do throws(MachineError) { jail = try Jail(settings, probe, in: directory) } catch {
            guard isLeftToUs else { throw error }
            return .failure(error)
        }
        try await jail.makeRoot(of: probe.hypervisor)
        do throws(MachineError) {
            let look = try await jail.look(probe.hypervisor)
            if settings.profile == .production {
                try AcceptedRisks(settings.acceptedRisks).check(look.findings)
            }
            return .success(jail)
        } catch {
            guard isLeftToUs, error.reason != .cancelled else { throw error }
            return .failure(error)
        }
    }
}
