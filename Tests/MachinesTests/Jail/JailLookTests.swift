// Jailed processes as the kernel shows them, two of them beside each other, and what is left when
// everything was killed.

import CLinux
import Events
import Foundation
import Glibc
import Processes
import Testing

@testable import Machines

@Suite("Jailed processes", .enabled(if: JailedStub.isPossible, JailedStub.reason), .serialized)
@LoopActor
struct JailLookTests {
    /// Starts one that waits, and waits until it does.
    private func waiting(
        _ stub: JailedStub, without layers: Set<JailLayer> = []
    ) async throws -> JailedChild {
        let pair = try SocketPair()
        let jailed = try stub.start(["stay"], without: layers, output: pair.theirs.number)
        let end = await EventLoop.shared.ready(
            [(pair.ours.number, .read)], before: .now + .seconds(20), ignoringCancellation: true)
        try #require(end != .timedOut)
        return jailed
    }
    private func link(_ pid: pid_t, _ name: String) -> String {
        (try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/\(pid)/\(name)")) ?? ""
    }

    @Test func `show every layer, and without one of them that it is off`() async throws {
        let stub = try await JailedStub()
        func off(without layers: Set<JailLayer>) async throws -> [String] {
            let jailed = try await waiting(stub, without: layers)
            let look = JailLook(at: jailed.child.pid, user: jailed.cell.user, stub.jail.groups)
            _ = await jailed.take().end()
            return look.findings.filter { $0.state == .off }.map(\.name).filter {
                !["hardening.cgroup", "hardening.landlock"].contains($0)
            }
        }
        #expect(try await off(without: []) == [])
        let names: [(JailLayer, String)] = [
            (.user, "user"), (.root, "root"), (.limits, "limits"),
            (.filter, "seccomp"), (.processes, "namespaces"), (.network, "namespaces"),
            (.ipc, "namespaces"), (.hostName, "namespaces"), (.controlGroup, "namespaces"),
        ]
        for (layer, name) in names {
            let found = try await off(without: [layer])
            #expect(found.contains("hardening.\(name)"), "without \(layer): \(found)")
        }
        // The kernel loads neither of the other two without it.
        #expect(
            try await off(without: [.privileges, .landlock, .filter])
                .contains("hardening.privileges"))
        // Another user has no capabilities anyway; what it could gain again is another matter.
        #expect(try await off(without: [.capabilities]).contains("hardening.capabilities"))
    }

    @Test func `have a user, namespaces and descriptors each, and nothing to write in common`()
        async throws
    {
        let stub = try await JailedStub()
        let one = try await waiting(stub)
        let other = try await waiting(stub)
        #expect(one.cell.user != other.cell.user)
        for name in ["mnt", "pid", "net", "ipc", "uts", "cgroup"] {
            let links = [one.child.pid, other.child.pid, getpid()].map { link($0, "ns/\(name)") }
            #expect(Set(links).count == 3, "\(name): \(links)")
        }
        func writable(_ pid: pid_t) -> Set<String> {
            Set(
                children(of: "/proc/\(pid)/fd").compactMap { number in
                    let flags = kernelText("/proc/\(pid)/fdinfo/\(number)")?.split(separator: "\n")
                        .first { $0.hasPrefix("flags:") }?.suffix(1)
                    let target = link(pid, "fd/\(number)")
                    return flags == "0" || target == "/dev/null" ? nil : target
                })
        }
        #expect(writable(one.child.pid).isDisjoint(with: writable(other.child.pid)))
        // Each is the only process that it could see, and the first.
        for pid in [one.child.pid, other.child.pid] {
            let status = kernelText("/proc/\(pid)/status") ?? ""
            #expect(status.contains("\t1\n"), "NSpid of \(pid)")
            #expect(Set(children(of: "/proc/\(pid)/root/fd")).isSubset(of: ["0", "1", "2"]))
        }
        _ = await one.take().end()
        _ = await other.take().end()
    }

    @Test
    func `are killed by a sweep when nobody holds their user, whatever they made of their mark`()
        async throws
    {
        // A range of this test's own: no sweep of a worker is in the way.
        let first: uid_t = 1_950_000_000 + uid_t.random(in: 0..<10_000) * 4096
        let users = try JailUsers(first: first)
        let (held, free) = (try users.take(), try users.take())
        var request = SpawnRequest(arguments: ["/bin/sleep", "600"])
        request.user = Credentials(user: held, group: held)
        let owned = try Child.spawn(request)
        request.user = Credentials(user: free, group: free)
        let abandoned = try Child.spawn(request)
        users.give(back: free)
        #expect(JailUsers.killAbandoned(from: first) == 1)
        #expect(await abandoned.hasEnded(within: .seconds(10)))
        #expect(!(await owned.hasEnded(within: .zero)))
        _ = await abandoned.end()
        _ = await owned.end()
    }

    @Test func `have a user that no other worker has, and the longest unused one`() throws {
        let first: uid_t = 1_950_000_000 + uid_t.random(in: 0..<10_000) * 4096
        let (one, other) = (try JailUsers(first: first), try JailUsers(first: first))
        let mine = try one.take()
        #expect(try other.take() != mine)
        one.give(back: mine)
        #expect(try one.take() != mine)
        let rest = try (0..<(JailUsers.count - 2)).map { _ in try one.take() }
        #expect(Set(rest).count == JailUsers.count - 2)
        #expect(throws: MachineError.self) { _ = try one.take() }
    }

    @Test func `end the start with a sentence when a step fails`() async throws {
        let stub = try await JailedStub()
        // The root is gone from under it.
        try FileManager.default.removeItem(atPath: "\(stub.directory)/roots")
        let end = try await stub.attempt(["nothing"])
        guard case .failed(let words) = end else {
            Issue.record("it ended as \(end)")
            return
        }
        #expect(
            words.contains("mayfly-jail: cannot put the prepared directory in the root's place"))
    }

    @Test func `leave nothing after kill -9 of the jail and of the hypervisor at any point`()
        async throws
    {
        let stub = try await JailedStub()
        let cycles =
            ProcessInfo.processInfo.environment["MAYFLY_JAIL_CYCLES"].flatMap { Int($0) } ?? 20
        let descriptors = children(of: "/proc/self/fd").count
        for _ in 0..<cycles {
            let jailed = try stub.start(["stay"])
            usleep(UInt32.random(in: 0..<12_000))
            let pid = jailed.child.pid
            _ = await jailed.take().end()
            #expect(kill(pid, 0) != 0)
        }
        #expect(children(of: "/proc/self/fd").count == descriptors)
        // Not a comparison of all mounts: image builds of other tests have some meanwhile.
        #expect(kernelText("/proc/self/mountinfo")?.contains(stub.directory) == false)
        #expect(children(of: stub.jail.machinesDirectory) == [])
    }
}

@Suite("The profile production")
struct SecurityProfileTests {
    private let findings = [
        DoctorFinding(name: "hardening.user", state: .active, found: "", remedy: ""),
        DoctorFinding(name: "hardening.cgroup", state: .off, found: "none", remedy: "mount it"),
        DoctorFinding(name: "hardening.landlock", state: .degraded, found: "old", remedy: ""),
    ]

    @Test func `refuses a layer that is off, by name, with its remedy and the way around`() throws {
        let error = #expect(throws: MachineError.self) {
            try AcceptedRisks("landlock: old kernel").check(findings)
        }
        let words = error?.description ?? ""
        #expect(words.contains("cgroup (none; mount it)"))
        #expect(words.contains("security.accept = \"cgroup: reason\""))
    }
    @Test func `takes a layer that somebody accepted with a reason, and no other`() throws {
        try AcceptedRisks("cgroup: a host of its own; user: test").check(findings)
        #expect(throws: MachineError.self) { try AcceptedRisks("").check(findings) }
        for text in ["cgroup", "cgroup:", ": reason", "cgroup: x; user"] {
            #expect(throws: MachineError.self, "\(text)") { _ = try AcceptedRisks(text) }
        }
    }
}
