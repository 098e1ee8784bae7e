// Real hypervisors behind the jail, two beside each other.

import Events
import Foundation
import Glibc
import Processes
import Testing

@testable import Machines

extension RealMachineTests {
    @Suite("A jailed machine", .enabled(if: geteuid() == 0, "the jail needs root"))
    @LoopActor
    struct JailedMachineTests {
        /// What a process has open for writing, sealed memory files apart: nobody can write those.
        private func writable(_ pid: pid_t) -> Set<String> {
            var found: Set<String> = []
            for number in children(of: "/proc/\(pid)/fd") {
                let path = "/proc/\(pid)/fd/\(number)"
                let flags = kernelText("/proc/\(pid)/fdinfo/\(number)")?.split(separator: "\n")
                    .first { $0.hasPrefix("flags:") }
                guard let last = flags?.last, last != "0" else { continue }
                // Event counters and the like have no file of their own, and one name for all.
                let target = try? FileManager.default.destinationOfSymbolicLink(atPath: path)
                guard target?.hasPrefix("anon_inode:") == false else { continue }
                if let file = try? Descriptor.open(path, O_RDONLY),
                    isSealed(file.number)
                {
                    continue
                }
                var status = stat()
                guard unsafe stat(path, &status) == 0, status.st_mode & S_IFMT != S_IFCHR else {
                    continue
                }
                found.insert("\(status.st_dev) \(status.st_ino)")
            }
            return found
        }
        private func isSealed(_ file: CInt) -> Bool {
            let getSeals: CInt = 1034
            return fcntl(file, getSeals) & 0xF == 0xF
        }

        // The other's root holds no libraries, and fits.
        @Test(.enabled(if: TestImage.hypervisor == .qemu, "needs QEMU"))
        func `is not given up for a disk that is full, which the error names`() async throws {
            let place = "/tmp/mayfly-full-\(getpid())"
            try makeDirectory(place)
            defer { _ = unsafe rmdir(place) }
            try #require(unsafe mount("tmpfs", place, "tmpfs", 0, "size=1m,mode=0755") == 0)
            defer { _ = unsafe umount2(place, CInt(MNT_DETACH)) }
            var settings = TestImage.settings
            settings.runtimeDirectory = place
            settings.jail = nil
            let start = await #expect(throws: MachineError.self) {
                await (try MachineHost.start(settings)).close()
            }
            #expect(start?.description.contains("No space left on device") == true, "\(start)")
        }

        @Test(.enabled(if: TestImage.hypervisor == .qemu, "needs QEMU"))
        func `is not made of a script, which is named with what to set instead`() async throws {
            let script = "/tmp/mayfly-script-\(getpid())"
            let lines = "#!/bin/sh\nexec qemu-system-x86_64 \"$@\"\n"
            try writeFile(script, Array(lines.utf8), mode: 0o755)
            defer { _ = unsafe unlink(script) }
            var settings = TestImage.settings
            (settings.hypervisor, settings.qemuBinary, settings.jail) = (.qemu, script, .on)
            let start = await #expect(throws: MachineError.self) {
                await (try MachineHost.start(settings)).close()
            }
            let said = start?.description ?? ""
            #expect(said.contains("\(script) is a script"), "\(said)")
            #expect(said.contains("machine.qemu.binary"), "\(said)")
        }

        @Test func `is none in production while a layer is off that nobody accepted`()
            async throws
        {
            var settings = TestImage.settings
            (settings.profile, settings.jail) = (.production, .off)
            settings.acceptedRisks = "worker: a test of root's"
            let start = await #expect(throws: MachineError.self) {
                await (try MachineHost.start(settings)).close()
            }
            let said = start?.description ?? ""
            #expect(said.contains("security.profile = production"), "\(said)")
            #expect(said.contains("security.accept = \"jail: reason\""), "\(said)")
        }

        @Test func `has a user of its own and shares nothing that can be written`() async throws {
            let host = try await TestImage.host()
            let image = try await host.image(TestImage.name, generation: nil)
            let one = try await host.spawnStandby(of: image)
            let other = try await host.spawnStandby(of: image)
            let pids = [one.hypervisor.pid, other.hypervisor.pid]
            let users = pids.map { pid in
                kernelText("/proc/\(pid)/status")?.split(separator: "\n")
                    .first { $0.hasPrefix("Uid:") }.map(String.init) ?? ""
            }
            #expect(Set(users).count == 2)
            #expect(users.allSatisfy { !$0.contains("\t0") && !$0.contains("65534") }, "\(users)")
            // Sockets, its log and the like are there, and each is one machine's.
            let (mine, theirs) = (writable(pids[0]), writable(pids[1]))
            #expect(!mine.isEmpty && mine.isDisjoint(with: theirs), "\(mine) \(theirs)")
            for pid in pids {
                let root = Set(children(of: "/proc/\(pid)/root"))
                #expect(
                    !root.isEmpty && root.isDisjoint(with: ["etc", "proc", "sys", "home", "tmp"]))
            }
            await one.destroy()
            await other.destroy()
        }
    }
}
