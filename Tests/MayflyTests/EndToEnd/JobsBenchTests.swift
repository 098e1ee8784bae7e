// What `mayfly bench jobs` says about a real worker: every column is there and can be true. How much
// it is, no test says.

import Foundation
import StrictJSON
import Testing

@testable import Mayfly

extension EndToEndTests {
    @Suite("The bench of jobs", .serialized)
    struct JobsBenchTests {
        @Test func `measures times by way, the rate, processor time and memory of a real worker`()
            async throws
        {
            try await World.with { world in
                let worker = try await world.worker(["--slots", "2"])
                let ended = try await world.mayfly([
                    "bench", "jobs", "--jobs", "3", "--one-by-one", "2", "--language", "bash",
                    "--machines", "1,9", "--worker", "\(worker.program.pid)", "--json",
                ])
                #expect(ended.status == 0, "\(ended.errors)")
                let rows = try JSON(parsing: ended.output).elements
                func row(_ what: String) -> JSON? { rows.first { $0["what"] == .string(what) } }
                func number(_ what: String, _ column: String) -> Double {
                    row(what)?[column].flatMap { Double($0.text) } ?? -1
                }
                for what in [
                    "alone: claim to first byte", "alone: commit to result", "alone: restore",
                    "at once: claim to first byte", "jobs at once", "processor, worker",
                    "processor, hypervisor", "processor, PostgreSQL",
                    "memory of a machine, 1 at once (PSS)",
                ] {
                    try #require(row(what) != nil, "\(what) is missing in \(ended.output)")
                    #expect(number(what, "n") >= 1)
                    #expect(number(what, "p50") > 0 && number(what, "p99") >= number(what, "p50"))
                }
                let first = row("alone: claim to first byte")
                #expect(first?["hypervisor"]?.string?.isEmpty == false)
                #expect(["standby", "spawn", "warm"].contains(first?["way"]?.string ?? ""))
                #expect(
                    number("alone: claim to first byte", "p50")
                        <= number("alone: commit to result", "p99"))
                // A machine holds at least its hypervisor, and no more than its whole memory.
                let memory = number("memory of a machine, 1 at once (PSS)", "p50")
                #expect((1...2048).contains(memory))
                // What cannot be known is said.
                #expect(row("memory of a machine, 9 at once (PSS)") == nil)
                #expect(ended.errors.contains("memory at 9 machines: the workers have 2 slots"))
            }
        }

        @Test func `says that no worker is live`() async throws {
            try await World.with { world in
                let ended = try await world.mayfly(["bench", "jobs", "--jobs", "1"])
                #expect(ended.status == 1)
                #expect(ended.errors.contains("mayfly worker"), "\(ended.errors)")
            }
        }
    }
}
