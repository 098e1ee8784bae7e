// The filter of system calls held against what hypervisors really ask of the kernel: every call
// that a record shows is listed, and every call that is listed was recorded, or is rare and is made
// by a test. The records stand in Calls/, made with MAYFLY_JAIL_RECORD=1.

import Events
import Foundation
import Glibc
import Processes
import Synchronization
import Testing

@testable import Machines

/// A filter, and the record of what was done behind it.
struct CallRecord: Sendable, CustomTestStringConvertible {
    /// As `mayfly-jail rules` takes it.
    let filter: [String]
    var testDescription: String { filter.joined(separator: " ") }
    /// `1`: a record is made; anything else: it is compared.
    static let mode = ProcessInfo.processInfo.environment["MAYFLY_JAIL_RECORD"]
    /// Those that were made: see docs/security.md for what was not.
    static let made = [["qemu"], ["qemu", "kvm"], ["firecracker"]].map { CallRecord(filter: $0) }
        .filter { FileManager.default.fileExists(atPath: $0.path) }

    /// Of what the tests' images run with.
    static var here: CallRecord {
        CallRecord(
            filter: TestImage.hypervisor == .firecracker
                ? ["firecracker"] : TestImage.isUnderKVM ? ["qemu", "kvm"] : ["qemu"])
    }
    private var path: String { Self.path(filter.joined(separator: "-")) }
    static func path(_ name: String) -> String {
        URL(fileURLWithPath: #filePath).deletingLastPathComponent()
            .appendingPathComponent("Calls/\(name).txt").path
    }
    func read() throws -> Set<String> {
        let text = try String(contentsOfFile: path, encoding: .utf8)
        return Set(text.split(separator: "\n").map(String.init))
    }
    func write(_ calls: Set<String>) throws {
        try Data((calls.sorted().joined(separator: "\n") + "\n").utf8)
            .write(to: URL(fileURLWithPath: path))
    }
    /// Listed though no record shows it.
    func isRare(_ rule: CallRule) -> Bool {
        RareCall.all.contains { $0.rule == rule.text && $0.filters.contains(filter[0]) }
    }
}

extension RealMachineTests {
    @Suite(
        "A jailed hypervisor's system calls",
        .enabled(if: geteuid() == 0, "the jail needs root"), .serialized)
    @LoopActor
    struct JailedCallsTests {
        @Test(
            .enabled(
                if: CallRecord.mode != nil,
                "takes minutes: MAYFLY_JAIL_RECORD=check"))
        func `of every kind of job are listed, and recorded`() async throws {
            let record = CallRecord.here
            let recorder = CallRecorder(try await CallRule.all(of: record.filter))
            // Each call of a short life; then of long ones all that are not made all of the time.
            try await recording(1) { host, _ in
                try await host.prepare(images: [TestImage.name])
                let job = GuestJob(program: .bash(source: "echo fine"), timeout: .seconds(300))
                let run = try await host.run(job, image: TestImage.name)
                #expect(TestImage.text(run.report.stdout) == "fine\n")
            }
            #expect(recorder.watchedCount > 0)
            try await recording(2, warm: .gibibytes(1)) { host, jail in
                for name in ["code", "document", "browse"] where TestImage.isThere(name) {
                    try await work(name, on: host)
                }
                try await boot(on: host, jail)
            }
            let (used, unlisted) = recorder.end()
            #expect(recorder.watchedCount > 4)
            #expect(unlisted.isEmpty, "not listed: \(unlisted.sorted())")
            if CallRecord.mode == "1" {
                let calls = used.union((try? record.read()) ?? [])
                try record.write(calls)
                print("record of \(record.testDescription):")
                for call in calls.sorted() { print("  \(call)") }
            }
            guard CallRecord.made.contains(where: { $0.filter == record.filter }) else { return }
            let known = try record.read().union(RareCall.all.map(\.rule))
            #expect(used.isSubset(of: known), "not recorded: \(used.subtracting(known).sorted())")
        }

        private func recording(
            _ extent: Int, warm: ByteCount = ByteCount(bytes: 0),
            _ body: @LoopActor (MachineHost, Jail) async throws -> Void
        ) async throws {
            var settings = TestImage.settings
            settings.warm.memory = warm
            let host = try await MachineHost.start(settings)
            do {
                let jail = try #require(host.walls as? Jail)
                jail.recording.store(extent, ordering: .relaxed)
                try await body(host, jail)
            } catch {
                await host.close()
                throw error
            }
            await host.close()
        }

        /// What a job of the kind that the image is for makes its machine do.
        private static let programs = [
            "code": """
            head -c 8000000 /dev/zero > big; sync; head -c 2000000 /dev/urandom | base64
            cat given > taken; find / -xdev -type f 2>/dev/null | head -3000 | xargs cat | md5sum
            """,
            "document": "echo words > a.txt; soffice --headless --convert-to pdf a.txt; ls a.pdf",
            "browse": """
            chromium-headless-shell --version
            find / -xdev -type f 2>/dev/null | head -3000 | xargs cat | md5sum
            """,
        ]
        private func work(_ name: String, on host: MachineHost) async throws {
            try await host.prepare(images: [name])
            await host.settle()
            var job = GuestJob(
                program: .bash(source: Self.programs[name] ?? ""), timeout: .seconds(300))
            job.files = [GuestFile(name: "given", bytes: [UInt8](repeating: 7, count: 300_000))]
            // Warm where that can be; then from a standby; then started for it.
            for _ in 0..<3 {
                let run = try await host.run(job, image: name)
                #expect(run.report.stdout.bytes.count > 8, "\(name): \(run.report)")
            }
            let image = try await host.image(name, generation: nil)
            _ = try await host.withMachine(restoring: image) { machine throws(MachineError) in
                let pid = machine.hypervisor.pid
                // What stood still goes on with the calls that it was in.
                let stopper = Task.detached {
                    for _ in 0..<5 {
                        kill(pid, SIGSTOP)
                        usleep(20_000)
                        kill(pid, SIGCONT)
                        usleep(100_000)
                    }
                }
                _ = try await machine.session.run(
                    GuestJob(program: .bash(source: "sleep 1; echo end"), timeout: .seconds(60)))
                await stopper.value
            }
        }

        /// As `image build` does it, with a disk of the machine's own.
        private func boot(on host: MachineHost, _ jail: Jail) async throws {
            let image = try await host.image(TestImage.name, generation: nil)
            // Scratch disks are files without a name, which an overlay (the lab's /tmp) does not have.
            let place = try ScratchPlace(in: "/dev/shm")
            var manifest = image.manifest
            for file in [manifest.rootDisk, manifest.kernel, manifest.initramfs] {
                let link = "\(place.path)/\(file.path)"
                try makeDirectory((link as NSString).deletingLastPathComponent)
                #expect(unsafe symlink("\(image.directory)/\(file.path)", link) == 0)
            }
            let size = ByteCount.mebibytes(64)
            try await ScratchDisk.makeTemplate("\(place.path)/scratch", size: size)
            manifest.hardware.scratch = size
            let template = try #require(
                FileManager.default.contents(atPath: "\(place.path)/scratch"))
            manifest.scratch = ImageFile(
                path: "scratch", byteCount: template.count, sha256: SHA256.hex(of: Array(template)))
            manifest.commandLine += " mayfly.scratch=on"
            let boot = try BootedMachine(
                manifest, in: place.path, work: place.path, program: host.probe.hypervisor,
                jail: jail, mark: host.mark.environment)
            do throws(MachineError) {
                let deadline = ContinuousClock.now + .seconds(300)
                let session = try await boot.session(agent: manifest.agent, before: deadline)
                try await session.warm(before: deadline)
                _ = try await session.prepare(
                    Freshness(pin: nil), id: "m-calls", generation: manifest.generation,
                    before: deadline)
                let report = try await session.run(
                    GuestJob(
                        program: .bash(
                            source: """
                                head -c 9000000 /dev/urandom > a; sync; cp a b; sync b; rm a b; sync
                                df . | tail -1
                                """), timeout: .seconds(120)))
                #expect(!report.stdout.bytes.isEmpty)
                try await boot.hypervisor.pause(before: deadline)
                try await boot.hypervisor.save(before: deadline)
                _ = await boot.hypervisor.end()
            } catch {
                throw await boot.hypervisor.end(explaining: error)
            }
        }
    }
}

@Suite("The filter of system calls", .enabled(if: JailedStub.isPossible, JailedStub.reason))
@LoopActor
struct JailFilterTests {
    @Test(
        .enabled(
            if: !CallRecord.made.isEmpty, "no record was made yet: MAYFLY_JAIL_RECORD=1 makes one"),
        arguments: CallRecord.made)
    func `lists nothing that no record shows and no test makes, and each has a reason`(
        record: CallRecord
    ) async throws {
        let rules = try await CallRule.all(of: record.filter)
        let recorded = try record.read()
        #expect(recorded.count > 40)
        for rule in rules {
            #expect(!rule.reason.isEmpty)
            let isRecorded = recorded.contains(rule.text)
            #expect(
                isRecorded || record.isRare(rule), "\(rule.text) is listed, and nobody makes it")
        }
        let listed = Set(rules.map(\.text))
        #expect(recorded.isSubset(of: listed), "\(recorded.subtracting(listed).sorted())")
        let rare = RareCall.all.filter { $0.filters.contains(record.filter[0]) }.map(\.rule)
        #expect(rare.count == Set(rare).count)
    }

    @Test func `lets each rare call through, and ends who makes another`() async throws {
        let stub = try await JailedStub()
        for rule in try await CallRule.all(of: ["qemu"]) {
            guard
                RareCall.all.contains(where: { $0.rule == rule.text && $0.filters.contains("qemu") }
                )
            else { continue }
            // Those that need their maker's own number, or a handler to come back from.
            if rule.conditions == nil || rule.call == "rt_sigreturn" { continue }
            let end = try await stub.attempt(
                ["make_call", "\(rule.number)"] + rule.arguments.map { "\($0)" })
            #expect(end == .could, "\(rule.text): \(end)")
        }
        // Not listed: getitimer(2).
        #expect(try await stub.attempt(["make_call", "36"]) == .refused)
    }
}

/// A call that a hypervisor makes seldom, or only on other hosts: a line of Calls/rare.txt.
struct RareCall: Sendable {
    /// As `CallRule.text`.
    let rule: String
    /// Whose filters list it: `qemu`, `firecracker`.
    let filters: Set<String>

    static let all: [RareCall] = {
        let text = (try? String(contentsOfFile: CallRecord.path("rare"), encoding: .utf8)) ?? ""
        return text.split(separator: "\n").compactMap { line in
            let parts = line.split(separator: "\t").map(String.init)
            // Without a reason it does not count.
            guard parts.count == 3, parts[2].count > 8 else { return nil }
            return RareCall(
                rule: parts[1], filters: Set(parts[0].split(separator: " ").map(String.init)))
        }
    }()
}
