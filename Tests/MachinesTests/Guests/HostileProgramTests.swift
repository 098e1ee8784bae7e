// Programs that misbehave, in real machines: each ends with the right word, in time, and the next
// job notices nothing.

import Foundation
import Testing

@testable import Machines

extension RealMachineTests {
    @Suite("A program", .serialized)
    struct HostileProgramTests {
        static let timeout = Duration.seconds(8)

        /// Runs it, checks the time it took beyond its timeout, and runs an honest job after it.
        private func ending(
            _ program: GuestJob.Program, timeout: Duration = timeout,
            _ change: @Sendable (inout GuestJob) -> Void = { _ in }
        ) async throws -> MachineRun {
            let run = try await TestImage.run(program, timeout: timeout, change)
            #expect(run.report.wall < timeout + .seconds(2))
            let next = try await TestImage.run(.bash(source: "echo $((6 * 7))"))
            #expect(TestImage.text(next.report.stdout) == "42\n")
            return run
        }

        @Test func `a program that prints without end is stopped at the output limit`() async throws
        {
            let run = try await ending(.bash(source: "yes"), timeout: .seconds(60)) {
                $0.limits.printed = .mebibytes(2)
                $0.limits.kept = .kibibytes(64)
            }
            guard case .outputLimit = run.report.ending else {
                Issue.record("\(run.report.ending)")
                return
            }
            #expect(run.report.stdout.isTruncated)
            #expect(run.report.stdout.bytes.count < 66_000)
        }

        /// A real machine, and an honest agent that passes on all that its program prints.
        @Test func `a program that prints as fast as it can holds up nobody else on the loop`()
            async throws
        {
            _ = try await TestImage.run(.bash(source: "echo warm"))
            let worst = try await Heartbeat.worst { () async throws -> Void in
                let neighbour = Task {
                    try await TestImage.run(.bash(source: "for i in 1 2 3; do echo $i; done"))
                }
                let run = try await TestImage.run(.bash(source: "yes"), timeout: .seconds(3)) {
                    $0.limits.printed = .gibibytes(64)
                    $0.limits.kept = .mebibytes(16)
                }
                #expect(run.report.ending == .timedOut)
                #expect(TestImage.text(try await neighbour.value.report.stdout) == "1\n2\n3\n")
            }
            print("a program that prints as fast as it can: \(worst)")
            #expect(worst.used < Heartbeat.turnMax, "\(worst)")
        }

        @Test func `a program that never ends is timed out`() async throws {
            let run = try await ending(
                .bash(source: "echo on; trap '' TERM; while :; do sleep 1; done"))
            #expect(run.report.ending == .timedOut)
            #expect(TestImage.text(run.report.stdout) == "on\n")
        }

        @Test
        func `a program that is a fork bomb is timed out or fails, and takes nothing with it`()
            async throws
        {
            let run = try await ending(.bash(source: ":(){ :|:& };:; wait; sleep 60"))
            #expect(run.report.ending != .exited(code: 0))
        }

        @Test func `a program that eats memory runs out of memory`() async throws {
            let run = try await ending(
                .python(source: "x = []\nwhile True: x.append(' ' * 10**7)"), timeout: .seconds(60))
            #expect(run.report.ending == .outOfMemory)
        }

        @Test func `a program that fills the disk is told so`() async throws {
            let run = try await ending(
                .bash(source: "dd if=/dev/zero of=big bs=1M; echo ended $?; exit 1"),
                timeout: .seconds(60))
            #expect(run.report.ending == .exited(code: 1) || run.report.ending == .outOfMemory)
        }

        @Test func `a program whose child keeps stdout open ends when it ends itself`() async throws
        {
            let run = try await ending(
                .bash(source: "sleep 300 & disown; (setsid sleep 300 &); echo done"),
                timeout: .seconds(30))
            #expect(run.report.ending == .exited(code: 0))
            #expect(TestImage.text(run.report.stdout) == "done\n")
            #expect(run.report.wall < .seconds(20))
        }

        @Test func `a program that kills everything it can reaches itself only`() async throws {
            let run = try await ending(
                .bash(source: "sleep 60 & kill -9 -1; wait; echo alone"), timeout: .seconds(30))
            // kill(2) with -1 spares its caller; everything else of the job is gone, nothing more.
            #expect(run.report.ending == .exited(code: 0))
            #expect(TestImage.text(run.report.stdout) == "alone\n")
        }

        @Test func `a program that offers a huge file is over the output limit`() async throws {
            let run = try await ending(
                .bash(source: "truncate -s 1G huge.bin; echo ok"), timeout: .seconds(30)
            ) { $0.outputs = ["*.bin"] }
            guard case .outputLimit(let words) = run.report.ending else {
                Issue.record("\(run.report.ending)")
                return
            }
            #expect(words.contains("huge.bin"))
            #expect(TestImage.text(run.report.stdout) == "ok\n")
        }

        /// The search is the agent's, in the machine's own time; a result that is there is kept.
        @Test
        func `a program whose files take for ever to search keeps its result, with a warning`()
            async throws
        {
            let source = """
                for number in range(2000): open("a" * 200 + str(number), "w").close()
                print("done")
                """
            let run = try await ending(.python(source: source), timeout: .seconds(60)) {
                $0.outputs = (0..<32).map {
                    "*" + String(repeating: "a*", count: 200) + "b\($0)"
                }
            }
            #expect(run.report.ending == .exited(code: 0))
            #expect(TestImage.text(run.report.stdout) == "done\n")
            #expect(run.report.warnings == [.listingTruncated])
            #expect(run.report.files.isEmpty)
        }

        /// A parked interpreter has its hash seed and its addresses from the snapshot; one of the
        /// job's own has neither.
        ///
        /// Keys that were drawn before the snapshot are drawn anew in both.
        @Test func `shares hash seed and addresses with no other job in a fresh interpreter`()
            async throws
        {
            guard try await TestImage.parks("python") else { return }
            let source = """
                import multiprocessing
                print(hash("a"))
                print(id(object()))
                print(multiprocessing.current_process().authkey.hex())
                """
            for isParked in [true, false] {
                var lines: [[Substring]] = []
                for _ in 0..<2 {
                    let run = try await TestImage.run(.python(source: source)) {
                        $0.usesParkedInterpreter = isParked
                    }
                    #expect(run.report.isWarm == isParked)
                    lines.append(TestImage.text(run.report.stdout).split(separator: "\n"))
                }
                try #require(lines.allSatisfy { $0.count == 3 })
                for line in 0..<2 { #expect((lines[0][line] == lines[1][line]) == isParked) }
                #expect(lines[0][2] != lines[1][2])
            }
        }

        @Test func `cannot reach the agent, its port or the host`() async throws {
            let run = try await ending(
                .bash(
                    source: """
                        id -u
                        for file in /dev/vport* /dev/vsock /proc/1/environ /proc/1/mem; do
                            [ -e $file ] || continue
                            head -c 1 $file >/dev/null 2>&1 && echo "read $file"
                            { echo x >$file; } 2>/dev/null && echo "wrote $file"
                        done
                        kill -9 1 2>&1 | grep -o 'not permitted'
                        ls /sys/class/net
                        """), timeout: .seconds(30))
            let words = TestImage.text(run.report.stdout)
            #expect(words == "1000\nnot permitted\nlo\n", "\(words)")
        }

        @Test func `cannot open a vsock socket`() async throws {
            let source = """
                import errno, socket
                try:
                    socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
                    print("opened")
                except OSError as error:
                    print("refused", errno.errorcode[error.errno])
                """
            let run = try await ending(.python(source: source), timeout: .seconds(30))
            #expect(TestImage.text(run.report.stdout) == "refused EAFNOSUPPORT\n")
        }
    }
}
