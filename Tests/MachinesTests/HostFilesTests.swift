// What a host keeps in files, under harm: keys and a disk that fills up, hosts that start together,
// and a QEMU that is replaced beside a running worker.

import Foundation
import Glibc
import Processes
import Testing

@testable import Machines

@Suite("Files of a host") struct HostFilesTests {
    private func withDirectory<Value>(_ body: (String) async throws -> Value) async throws -> Value
    {
        let path = NSTemporaryDirectory() + "mayfly-files-" + hexText(randomBytes(6))
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(atPath: path) }
        return try await body(path)
    }

    @Test func `a disk that fills up leaves the file as it was`() async throws {
        try #require(geteuid() == 0, "mounting a small file system needs root")
        try await withDirectory { directory in
            _ = try await runTool(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", directory])
            defer { _ = unsafe umount2(directory, CInt(MNT_DETACH)) }
            let path = directory + "/key"
            try writeFile(path, Array("old".utf8), mode: 0o600)
            #expect(throws: MachineError.self) {
                try writeFile(path, [UInt8](repeating: 7, count: 64 << 10), mode: 0o600)
            }
            #expect(FileManager.default.contents(atPath: path) == Data("old".utf8))
            #expect(children(of: directory) == ["key"])
        }
    }

    @Test func `a signing key whose public half was lost is trusted again`() async throws {
        try await withDirectory { directory in
            let store = ImageStore(stateDirectory: directory)
            let first = try store.signingKey().publicKey
            try FileManager.default.removeItem(atPath: store.keysDirectory + "/trusted")
            #expect(try store.trustedKeys().publicKeys == [])
            #expect(try store.signingKey().publicKey == first)
            #expect(try store.trustedKeys().publicKeys == [first])
        }
    }

    @Test func `a damaged signing key is named, with what to do`() async throws {
        try await withDirectory { directory in
            let store = ImageStore(stateDirectory: directory)
            _ = try store.signingKey()
            let path = store.keysDirectory + "/signing.key"
            try Data("0123".utf8).write(to: URL(fileURLWithPath: path))
            let error = #expect(throws: MachineError.self) { _ = try store.signingKey() }
            #expect(error?.description.contains("\(path) is damaged (4 bytes") == true)
        }
    }

    @Test func `hosts that start together while others sweep all keep their marks`() async throws {
        try await withDirectory { directory in
            try await withThrowingTaskGroup(of: Void.self) { group in
                for _ in 0..<4 {
                    group.addTask {
                        for _ in 0..<50 {
                            let mark = try HostMark(runtimeDirectory: directory)
                            #expect(
                                FileManager.default.fileExists(atPath: mark.directory + "/lock"))
                        }
                    }
                    group.addTask {
                        for _ in 0..<200 { _ = sweepDeadHosts(runtimeDirectory: directory) }
                    }
                }
                try await group.waitForAll()
            }
            #expect(children(of: directory + "/hosts") == [])
        }
    }

    @Test func `a program that is replaced is still the one that was opened`() async throws {
        try await withDirectory { directory in
            let path = directory + "/qemu"
            func install(_ word: String) throws {
                try "#!/bin/sh\necho \(word)\n".write(
                    toFile: path, atomically: true, encoding: .utf8)
                try #require(unsafe chmod(path, 0o755) == 0)
            }
            try install("proven")
            let file = try ProgramFile(path, remedy: "install it")
            let binary = HypervisorProgram(.qemu, file, version: "1")
            #expect(binary.isInPlace)
            try install("upgraded")
            #expect(!binary.isInPlace)
            let output = try Descriptor.memory("output")
            var request = SpawnRequest(arguments: [binary.path])
            request.executable = binary.descriptor
            request.kept = [binary.descriptor]
            request.standardOutput = output.number
            let usage = try await Child.spawn(request).wait()
            #expect(usage.status == 0)
            var bytes = [UInt8](repeating: 0, count: 64)
            let count = unsafe pread(output.number, &bytes, bytes.count, 0)
            #expect(String(decoding: bytes.prefix(max(0, count)), as: UTF8.self) == "proven\n")
        }
    }

    @Test func `a machine's memory falls into its parts by what is mapped`() throws {
        func mapping(_ head: String, _ proportional: Int, _ anonymous: Int) -> String {
            """
            \(head)
            Size:               4096 kB
            Pss:                \(proportional) kB
            Pss_Dirty:             8 kB
            Anonymous:          \(anonymous) kB
            VmFlags: rd wr mr mw me ac sd

            """
        }
        let text =
            mapping("7f00-7f80 rw-p 00000000 00:01 5  /memfd:mayfly-memory (deleted)", 5120, 3072)
            + mapping("7f80-7f90 rwxp 00000000 00:00 0 ", 4096, 4096)
            + mapping("7f90-7fa0 rw-p 00000000 00:00 0  [heap]", 2048, 2048)
            + mapping("7fa0-7fb0 r--p 00000000 08:01 9  /usr/bin/qemu", 1536, 1024)
            + mapping("7fb0-7fc0 rw-p 00000000 00:00 0 ", 1024, 1024)
        let memory = try #require(MachineMemory(smaps: text))
        #expect(memory.guest == 3 && memory.code == 4)
        #expect(memory.hypervisor == 4 && memory.shared == 2.5)
        #expect(memory.total == 13.5)
        #expect(MachineMemory(smaps: "") == nil)
    }

    @Test func `a host has room for as many machines as could use all that they may`() {
        func room(_ available: Int, taken: Int = 0) -> MachineRoom {
            var room = MachineRoom(
                total: .gibibytes(16), reserve: .gibibytes(2),
                available: .gibibytes(available), memory: .mebibytes(928))
            room.taken = .gibibytes(taken)
            return room
        }
        #expect(room(16).most == 14)
        #expect(room(16).more(beside: 0) == 14 && room(16).more(beside: 13) == 1)
        #expect(room(16).more(beside: 14) == 0 && room(16).more(beside: 15) == 0)
        // What others use counts, and so does what those at work have not taken yet.
        #expect(room(5).more(beside: 0) == 3 && room(5).more(beside: 2) == 1)
        #expect(room(5).more(beside: 3) == 0 && room(5).more(beside: 12) == 0)
        #expect(room(5, taken: 2).more(beside: 2) == 3 && room(5, taken: 9).more(beside: 9) == 3)
        #expect(room(2).more(beside: 0) == 0 && room(1).more(beside: 0) == 0)
        #expect(HostMemory.available <= HostMemory.total)
        #expect(MachineRoom(memory: .mebibytes(512)).most > 0)
    }

    @Test func `a host takes no machine while those at work want more than its processors`() {
        var room = ProcessorRoom(overcommit: 2, processors: 4)
        #expect(room.more(unmeasured: 0, each: 1) == 8 && room.more(unmeasured: 7, each: 1) == 1)
        #expect(room.more(unmeasured: 3, each: 2) == 1 && room.more(unmeasured: 9, each: 1) == 0)
        // Machines that wait want nothing, however many there are.
        room.wanted = 0.2
        #expect(room.more(unmeasured: 0, each: 1) == 8 && room.more(unmeasured: 0, each: 2) == 4)
        room.wanted = 1
        #expect(room.more(unmeasured: 0, each: 1) == 7 && room.more(unmeasured: 0, each: 2) == 3)
        room.wanted = 9
        #expect(room.more(unmeasured: 0, each: 1) == 0)
        #expect(HostProcessors.count > 0)
    }

    @Test func `what a machine wants is what it used and what it waited for`() throws {
        var demand = ProcessorDemand()
        let begin = ContinuousClock.now
        #expect(demand.isDue(at: begin))
        demand.look([7: .seconds(1), 8: .seconds(1), 9: .seconds(9)], at: begin)
        #expect(demand.wanted.isEmpty && !demand.isDue(at: begin))
        let next = begin + .seconds(2)
        // 9 lost a thread, 8 has ended, 10 is new.
        demand.look([7: .seconds(4), 9: .seconds(1), 10: .seconds(1)], at: next)
        #expect(demand.wanted == [7: 1.5, 9: 0] && demand.isDue(at: next + .seconds(1)))
        demand.forget(7)
        #expect(demand.wanted == [9: 0])
        let mine = try #require(HostProcessors.wantedTime(of: getpid()))
        #expect(mine > .zero && HostProcessors.wantedTime(of: -1) == nil)
    }

    @Test func `the memory of a process is read to the end of its list`() throws {
        let memory = try #require(MachineMemory(of: getpid()))
        let rollup = try #require(kernelText("/proc/self/smaps_rollup"))
        let sum = try #require(kibibytes(named: "Pss:", in: rollup)).mebibytes
        // The list takes the kernel many reads, and this process works on meanwhile.
        #expect(abs(memory.total - sum) < sum / 4, "\(memory.total), \(sum)")
    }
}
