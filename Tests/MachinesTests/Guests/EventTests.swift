// A program's third way out: lines for the host, beside what it prints and what it leaves.

import Foundation
import Testing
import Wire

@testable import Machines

extension RealMachineTests {
    @Suite("Events", .serialized)
    struct EventTests {
        private static let python = """
            import os, subprocess, sys
            events = os.fdopen(int(os.environ["MAYFLY_EVENTS"]), "w")
            print(1, file=events, flush=True)
            print("out"); print("err", file=sys.stderr)
            print(2, file=events)
            """
        private static let node = """
            const fs = require('fs');
            fs.writeSync(Number(process.env.MAYFLY_EVENTS), '1\\n');
            console.log('out'); console.error('err');
            fs.writeSync(Number(process.env.MAYFLY_EVENTS), '2\\n');
            """
        private static let bash = """
            echo 1 >&$MAYFLY_EVENTS; echo out; echo err >&2; echo 2 >&$MAYFLY_EVENTS
            """

        @Test func `come from a program of every language, parked or not, and only from who asks`()
            async throws
        {
            var programs: [(GuestJob.Program, Bool)] = [(.bash(source: Self.bash), false)]
            for isParked in [true, false] {
                if try await TestImage.parks("python") {
                    programs.append((.python(source: Self.python), isParked))
                }
                if try await TestImage.parks("node") {
                    programs.append((.node(source: Self.node), isParked))
                }
            }
            for (program, isParked) in programs {
                let run = try await TestImage.run(program) { job in
                    job.usesParkedInterpreter = isParked
                    job.hasEvents = true
                }
                #expect(run.report.ending == .exited(code: 0))
                #expect(TestImage.text(run.report.events) == "1\n2\n", "\(program)")
                #expect(TestImage.text(run.report.stdout) == "out\n")
                #expect(TestImage.text(run.report.stderr) == "err\n")
            }
            let without = try await TestImage.run(
                .bash(source: "echo ${MAYFLY_EVENTS-none}; ls /proc/self/fd | wc -l"))
            // Three, and the directory that ls reads.
            #expect(TestImage.text(without.report.stdout) == "none\n4\n")
            #expect(without.report.events.total.bytes == 0)
        }

        @Test func `are bounded: head and tail are kept, and too many end the program`()
            async throws
        {
            let run = try await TestImage.run(
                .bash(source: "yes 0123456789 | head -c 9000000 >&$MAYFLY_EVENTS; echo last >&3")
            ) { $0.hasEvents = true }
            #expect(run.report.ending == .exited(code: 0))
            #expect(run.report.events.isTruncated)
            #expect(run.report.events.total.bytes == 9_000_005)
            #expect(run.report.events.bytes.count < 5 << 20)
            #expect(TestImage.text(run.report.events).hasSuffix("last\n"))
            let flood = try await TestImage.run(.bash(source: "yes >&$MAYFLY_EVENTS")) {
                $0.hasEvents = true
            }
            guard case .outputLimit(let words) = flood.report.ending else {
                Issue.record("\(flood.report.ending)")
                return
            }
            #expect(words.contains("events"))
        }
    }
}
