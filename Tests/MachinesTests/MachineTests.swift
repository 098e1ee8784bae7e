// Real machines, restored from a real golden image: fresh, apart from each other, and gone.

import Events
import Foundation
import Testing
import Wire

@testable import Machines

extension RealMachineTests {
    @Suite("A machine", .serialized)
    struct MachineTests {
        @Test func `runs a program and says how it ended`() async throws {
            let run = try await TestImage.run(.bash(source: "echo out; echo err >&2; exit 3"))
            #expect(run.report.ending == .exited(code: 3))
            #expect(TestImage.text(run.report.stdout) == "out\n")
            #expect(TestImage.text(run.report.stderr) == "err\n")
            #expect(run.identity.entropySeed.count == 96)
        }

        @Test func `starts Python in the parked interpreter, and cold when asked`() async throws {
            guard try await TestImage.parks("python") else { return }
            let warm = try await TestImage.run(.python(source: "print(6*7)"))
            #expect(TestImage.text(warm.report.stdout) == "42\n")
            #expect(warm.report.isWarm)
            let cold = try await TestImage.run(.python(source: "print(6*7)")) {
                $0.usesParkedInterpreter = false
            }
            #expect(TestImage.text(cold.report.stdout) == "42\n")
            #expect(!cold.report.isWarm)
        }

        @Test func `gets files, arguments, variables and stdin, and gives files back`() async throws
        {
            let big = randomBytes(3 << 20)
            let run = try await TestImage.run(
                .bash(
                    source: """
                        cat > copy.bin; echo "$1 $NAME $(cat in/a.txt)"; mkdir -p out
                        cp in/big.bin out/big.bin; ln -s /etc/passwd out/link; echo x > other.txt
                        """)
            ) { job in
                job.arguments = ["argument"]
                job.environment = [("NAME", "väl ue")]
                job.standardInput = big
                job.files = [
                    GuestFile(name: "in/a.txt", bytes: Array("text".utf8)),
                    GuestFile(name: "in/big.bin", bytes: big), GuestFile(name: "empty", bytes: []),
                ]
                job.outputs = ["out/*", "copy.bin"]
            }
            #expect(run.report.ending == .exited(code: 0))
            #expect(TestImage.text(run.report.stdout) == "argument väl ue text\n")
            let files = Dictionary(
                uniqueKeysWithValues: run.report.files.map { ($0.name, $0) })
            #expect(Set(files.keys) == ["copy.bin", "out/big.bin"])
            #expect(files["copy.bin"]?.bytes == big)
            #expect(files["out/big.bin"]?.sha256 == SHA256.hex(of: big))
        }

        @Test func `is unlike every other clone of its snapshot, 16 at once`() async throws {
            try await expectUnlike(16, of: TestImage.name)
        }
        @Test(.enabled(if: TestImage.isThere("document"), "no image of documents here"))
        func `is unlike every other clone of the image of documents`() async throws {
            try await expectUnlike(4, of: "document")
        }
        /// 300 draws of each page's random numbers, UUIDs, and every secret field of a ClientHello.
        ///
        /// The build itself compares four before it publishes; these take minutes more.
        @Test(
            .enabled(if: TestImage.isThere("browse"), "no image of browsers here"),
            .enabled(
                if: ProcessInfo.processInfo.environment["MAYFLY_TEST_BROWSERS"] != nil,
                "MAYFLY_TEST_BROWSERS=1 compares 8 of them"))
        func `is unlike every other clone of the image of browsers, 8 of them`() async throws {
            try await expectUnlike(8, of: "browse", atMost: 2)
        }
        @LoopActor
        private func expectUnlike(
            _ count: Int, of name: String, atMost atOnce: Int = 16
        ) async throws {
            let host = try await TestImage.host()
            let image = try await host.image(name, generation: nil)
            try await expectNoTwoAlike(count, of: image, on: host, atMost: atOnce)
        }

        @Test func `has the host's time within 100 ms`() async throws {
            let before = realtimeNow()
            let run = try await TestImage.run(.bash(source: "echo $EPOCHREALTIME"))
            let after = realtimeNow()
            let shown = try #require(Double(TestImage.text(run.report.stdout).trimmed))
            let guest = Int64(shown * 1e9)
            #expect(guest > before - 100_000_000 && guest < after + 100_000_000)
            #expect(run.identity.clock >= before && run.identity.clock <= after)
        }

        @Test func `gets the right time when its snapshot is an hour old`() async throws {
            let host = try await TestImage.host()
            let image = try await host.image(TestImage.name, generation: nil)
            _ = try await host.withMachine(restoring: image) {
                machine throws(MachineError) in
                var old = try Freshness(pin: nil)
                old.pinnedClock = realtimeNow() - 3_600_000_000_000
                let limit = ContinuousClock.now + .seconds(60)
                _ = try await machine.session.prepare(
                    old, id: "m-old", generation: "0", before: limit)
                try await machine.pause()
                try await machine.resume()
                _ = try await machine.session.prepare(
                    try Freshness(pin: nil), id: "m-new", generation: "0", before: limit)
                let before = realtimeNow()
                let report = try await machine.session.run(
                    GuestJob(program: .bash(source: "echo $EPOCHREALTIME")))
                let shown = Double(TestImage.text(report.stdout).trimmed) ?? 0
                #expect(Int64(shown * 1e9) > before - 100_000_000)
                #expect(Int64(shown * 1e9) < realtimeNow() + 100_000_000)
            }
        }

        @Test func `repeats its randomness and its clock when they are pinned`() async throws {
            guard try await TestImage.parks("python") else { return }
            let source = "import random; print(random.random(), random.getrandbits(64))"
            let first = try await TestImage.run(.python(source: source))
            let pin = Pin(
                generation: first.identity.generation, entropySeed: first.identity.entropySeed,
                clock: first.identity.clock)
            let host = try await TestImage.host()
            let again = try await host.run(
                GuestJob(program: .python(source: source)), image: TestImage.name, pin: pin)
            #expect(first.report.stdout.bytes == again.report.stdout.bytes)
            #expect(first.identity.clock == again.identity.clock)
        }

        @Test func `answers soon after it stood still`() async throws {
            let host = try await TestImage.host()
            let image = try await host.image(TestImage.name, generation: nil)
            _ = try await host.withMachine(restoring: image) {
                machine throws(MachineError) in
                for _ in 0..<3 {
                    try await machine.pause()
                    try await machine.resume()
                    try await machine.session.ping(before: .now + .seconds(30))
                }
                let report = try await machine.session.run(
                    GuestJob(program: .command(["/bin/true"])))
                #expect(report.ending == .exited(code: 0))
            }
        }

        @Test func `is lost within two seconds when its hypervisor is killed`() async throws {
            let host = try await TestImage.host()
            let started = Signal()
            let running = Task { @LoopActor in
                try await host.run(
                    GuestJob(
                        program: .bash(source: "echo started; sleep 60"), timeout: .seconds(90)),
                    image: TestImage.name, onOutput: { _, _ in started.raise() })
            }
            await started.wait()
            let begin = ContinuousClock.now
            // The shell that waits for the next job dies too; the next test shows that this is no harm.
            for pid in hypervisors() { kill(pid, SIGKILL) }
            let result = await running.result
            #expect(ContinuousClock.now - begin < .seconds(2))
            #expect {
                _ = try result.get()
            } throws: { ($0 as? MachineError)?.reason == .machineLost }
            let next = try await TestImage.run(.bash(source: "echo fine"))
            #expect(TestImage.text(next.report.stdout) == "fine\n")
        }

        @Test func `is gone as soon as its job is cancelled`() async throws {
            let host = try await TestImage.host()
            let started = Signal()
            let running = Task { @LoopActor in
                try await host.run(
                    GuestJob(
                        program: .bash(source: "echo started; sleep 60"), timeout: .seconds(90)),
                    image: TestImage.name, onOutput: { _, _ in started.raise() })
            }
            await started.wait()
            running.cancel()
            let result = await running.result
            #expect {
                _ = try result.get()
            } throws: { ($0 as? MachineError)?.reason == .cancelled }
            #expect(await host.machineCount == 0)
        }

        @Test func `leaves no process behind once the host is closed`() async throws {
            let host = try await MachineHost.start(TestImage.settings)
            try await host.prepare(images: [TestImage.name])
            _ = try await host.run(
                GuestJob(program: .command(["/bin/true"])), image: TestImage.name)
            // A standby takes the place of the one that ran the job: soon, not at once.
            let deadline = ContinuousClock.now + .seconds(10)
            while await hypervisors(of: host).isEmpty, .now < deadline {
                try await Task.sleep(for: .milliseconds(10))
            }
            #expect(await !hypervisors(of: host).isEmpty)
            await host.close()
            #expect(await hypervisors(of: host).isEmpty)
        }
    }
}

/// Of so many machines, as many as that at the same time, none says what another one said.
@LoopActor
func expectNoTwoAlike(
    _ count: Int, of image: GoldenImage, on host: MachineHost, atMost atOnce: Int
) async throws {
    var clones: [[String]] = []
    while clones.count < count {
        let tasks = (clones.count..<min(count, clones.count + atOnce)).map { _ in
            Task { @LoopActor () async throws -> [String] in
                try await Canary.answers(of: image, on: host)
            }
        }
        for task in tasks { clones.append(try await task.value) }
    }
    #expect(clones.count == count)
    #expect(clones.allSatisfy { $0.count >= 5 })
    #expect(Canary.alike(clones) == nil)
}

/// Raised once, by whoever sees the first output.
final class Signal: Sendable {
    private let stream: AsyncStream<Void>
    private let continuation: AsyncStream<Void>.Continuation
    init() { (stream, continuation) = AsyncStream.makeStream() }
    func raise() { continuation.finish() }
    func wait() async { for await _ in stream {} }
}
