// What bounds a machine's hypervisor, in the lab where control groups of version 2 have all of their
// controllers: a greedy one beside healthy ones, and what is left of groups.

import Events
import Foundation
import Glibc
import Processes
import Testing

@testable import Machines

@Suite(
    "A machine's control group", .enabled(if: JailedStub.isPossible, JailedStub.reason), .serialized
)
@LoopActor
struct ControlGroupTests {
    private nonisolated static let hasGroups: Bool = ControlGroups.own() != nil
    private nonisolated static let none: Comment = "no control groups of version 2 at all"

    private func number(_ name: String, in file: String) -> Int? {
        (kernelText(file) ?? "").split(separator: "\n").first { $0.hasPrefix("\(name) ") }
            .flatMap { Int($0.dropFirst(name.count + 1)) }
    }
    /// A process of the stub's as a driver has it: with a log, and an end that says why.
    private func process(
        _ words: [String], of stub: JailedStub, _ cell: JailCell, output: CInt = -1
    ) throws -> HypervisorProcess {
        var request = stub.request(words, kept: [])
        request.standardOutput = output
        return try HypervisorProcess(
            .qemu, request, console: try HypervisorLog(), messages: try HypervisorLog(), cell: cell)
    }

    @Test(.enabled(if: hasGroups, none))
    func `holds it from its first moment, and goes with it`() async throws {
        let stub = try await JailedStub()
        let pair = try SocketPair()
        let jailed = try stub.start(["stay"], output: pair.theirs.number)
        let path = try #require(jailed.cell.group?.path)
        #expect(ControlGroups.directory(of: jailed.child.pid) == path)
        #expect(kernelText("\(path)/cgroup.procs") == "\(jailed.child.pid)\n")
        #expect(ControlGroups.directory(of: getpid()) == ControlGroups.own()?.directory)
        let without = try stub.start(["stay"], without: [.group])
        #expect(ControlGroups.directory(of: without.child.pid) == ControlGroups.own()?.directory)
        _ = await without.take().end()
        await end(jailed)
        #expect(!FileManager.default.fileExists(atPath: path))
    }
    private func end(_ jailed: consuming JailedChild) async {
        let cell = jailed.cell
        _ = await jailed.take().end()
        withExtendedLifetime(cell) {}
    }

    @Test(.enabled(if: hasGroups, none))
    func `of a host that was killed goes with the next sweep, and what runs in it`() async throws {
        let runtime = try ScratchPlace()
        let name = "1-deadbeef"
        let host = "\(runtime.path)/hosts/\(name)"
        try makeDirectory(host)
        try writeFile("\(host)/lock", [], mode: 0o600)
        let groups = try ControlGroups(of: host, disk: runtime.path)
        let group = try groups.make(MachineLimits(memory: .mebibytes(64), processorPercent: 100))
        // Without the mark and as nobody's user: only its group tells whose it is.
        var request = SpawnRequest(arguments: ["/bin/sleep", "600"])
        request.controlGroup = group.descriptor
        let orphan = try Child.spawn(request)
        let report = sweepDeadHosts(runtimeDirectory: runtime.path)
        #expect(report.groups == 1 && report.directories == 1)
        #expect(await orphan.hasEnded(within: .seconds(10)))
        _ = await orphan.end()
        #expect(!FileManager.default.fileExists(atPath: group.path))
        #expect(children(of: "\(runtime.path)/hosts") == [])
    }

    @Test(.enabled(if: JailedStub.hasControlGroups, JailedStub.noControlGroups))
    func `ends a hypervisor that wants more memory, for a reason of its own, and no other`()
        async throws
    {
        let stub = try await JailedStub()
        let pair = try SocketPair()
        let healthy = try stub.start(["stay"], output: pair.theirs.number)
        let cell = try stub.jail.cell(JailedStub.limits)
        let path = try #require(cell.group).path
        let greedy = try process(["touch_memory"], of: stub, cell)
        let end = await EventLoop.shared.ready(
            [(greedy.pidDescriptor, .read)], before: .now + .seconds(60), ignoringCancellation: true
        )
        #expect(end != .timedOut)
        #expect(try #require(number("oom_kill", in: "\(path)/memory.events")) > 0)
        let error = await greedy.end(explaining: MachineError(.machineLost, "it ended"))
        #expect(error.reason == .hypervisorMemory, "\(error)")
        #expect(error.description.contains("96MiB"))
        #expect(!(await healthy.child.hasEnded(within: .zero)))
        // One that was killed for another reason keeps that.
        let other = try process(["stay"], of: stub, try stub.jail.cell(JailedStub.limits))
        other.kill()
        let lost = await other.end(explaining: MachineError(.machineLost, "it ended"))
        #expect(lost.reason == .machineLost)
        await self.end(healthy)
    }

    @Test(.enabled(if: JailedStub.hasControlGroups, JailedStub.noControlGroups))
    func `slows down a hypervisor that wants more of the processor`() async throws {
        let stub = try await JailedStub()
        let pair = try SocketPair()
        let limits = MachineLimits(memory: .mebibytes(96), processorPercent: 10)
        let cell = try stub.jail.cell(limits)
        let path = try #require(cell.group).path
        let greedy = try process(["burn"], of: stub, cell, output: pair.theirs.number)
        let deadline = ContinuousClock.now + .seconds(60)
        while number("nr_throttled", in: "\(path)/cpu.stat") ?? 0 < 5, .now < deadline {
            _ = await EventLoop.shared.ready(
                [(greedy.pidDescriptor, .read)], before: .now + .milliseconds(50),
                ignoringCancellation: true)
        }
        let stat = "\(path)/cpu.stat"
        let (throttled, periods) = (
            number("nr_throttled", in: stat), number("nr_periods", in: stat)
        )
        #expect(try #require(throttled) >= 5)
        // Never more than its tenth of each period, by the kernel's count.
        let used = try #require(number("usage_usec", in: stat))
        #expect(used <= (try #require(periods) + 2) * 10_000 * 2, "\(used) µs in \(periods ?? 0)")
        #expect(!greedy.hasEnded)
        _ = await greedy.end()
    }

    @Test(.enabled(if: JailedStub.hasControlGroups, JailedStub.noControlGroups))
    func `slows down what a hypervisor writes to the disk that scratch disks stand on`()
        async throws
    {
        let stub = try await JailedStub()
        // A disk of its own: what tests write to elsewhere may be memory.
        let place = try ScratchPlace()
        let (host, disk, image) = ("\(place.path)/1-disk", "\(place.path)/d", "\(place.path)/i")
        for path in [host, disk] { try makeDirectory(path) }
        for words in [
            ["modprobe", "loop"], ["truncate", "-s", "64M", image],
            ["mke2fs", "-q", "-t", "ext4", "-F", image], ["mount", "-o", "loop", image, disk],
        ] {
            let done = try await runTool(words)
            try #require(done.status == 0, "\(words): \(done.output)")
        }
        defer { unsafe umount2(disk, CInt(MNT_DETACH)) }
        let groups = try ControlGroups(of: host, disk: disk)
        let device = try #require(groups.device)
        var limits = MachineLimits(memory: .mebibytes(96), processorPercent: 100)
        limits.diskRate = .mebibytes(2)
        let group = try groups.make(limits)
        let rate = 2 << 20
        #expect(
            kernelText("\(group.path)/io.max")?.trimmed
                == "\(device) rbps=\(rate) wbps=\(rate) riops=max wiops=max")
        let direct: CInt = 0o40000
        let file = try Descriptor.open("\(disk)/scratch", O_RDWR | O_CREAT | direct)
        var request = stub.request(["write_disk", "\(file.number)"], kept: [file.number])
        request.controlGroup = group.descriptor
        let begin = ContinuousClock.now
        let child = try Child.spawn(request)
        #expect(await child.hasEnded(within: .seconds(300)))
        let duration = ContinuousClock.now - begin
        let usage = await child.end()
        #expect(usage.status == 0)
        let written = (kernelText("\(group.path)/io.stat") ?? "").split(separator: "\n")
            .first { $0.hasPrefix("\(device) ") }?.split(separator: " ")
            .first { $0.hasPrefix("wbytes=") }.flatMap { Int($0.dropFirst(7)) }
        #expect(try #require(written) >= 8 << 20)
        // 8 MiB at 2 MiB a second; the first of them at once.
        #expect(duration > .seconds(3), "\(duration)")
    }

    @Test(.enabled(if: JailedStub.hasControlGroups, JailedStub.noControlGroups))
    func `is what doctor finds, and without it doctor says what is not bounded`() async throws {
        let stub = try await JailedStub()
        func finding(without layers: Set<JailLayer>) async throws -> DoctorFinding {
            let jailed = try stub.start(["stay"], without: layers)
            let look = JailLook(
                at: jailed.child.pid, user: jailed.cell.user, stub.jail.groups)
            await end(jailed)
            return try #require(look.findings.first { $0.name == "hardening.cgroup" })
        }
        let active = try await finding(without: [])
        #expect(active.state == .active, "\(active)")
        #expect(active.found.contains("\(96 << 20)"))
        let off = try await finding(without: [.group])
        #expect(off.state == .off && off.found.contains("memory"), "\(off)")
    }
}

extension RealMachineTests {
    @Suite("A machine beside a greedy one")
    @LoopActor
    struct GreedyNeighbourTests {
        @Test(
            .enabled(
                if: JailedStub.isPossible && JailedStub.hasControlGroups, JailedStub.noControlGroups
            ))
        func `does its job while its neighbour's hypervisor wants all memory and all processors`()
            async throws
        {
            let stub = try await JailedStub()
            let burning = try stub.start(["burn"])
            for _ in 0..<3 {
                let greedy = try stub.start(["touch_memory"])
                let run = try await TestImage.run(.bash(source: "echo fine"))
                #expect(TestImage.text(run.report.stdout) == "fine\n")
                #expect(await greedy.child.hasEnded(within: .seconds(60)))
                let usage = await greedy.take().end()
                #expect(usage.status == 128 + SIGKILL)
            }
            #expect(!(await burning.child.hasEnded(within: .zero)))
            _ = await burning.take().end()
        }
    }
}
