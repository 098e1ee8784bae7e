// `code` jobs in real machines, by the way of `mayfly run`: each program as an agent writes it is held
// against what a hosted interpreter gives; hostile ones must not harm more than their own words.

import Events
import Foundation
import Jobs
import Machines
import StrictJSON
import Testing

@testable import Mayfly

extension EndToEndTests {
    @Suite("A program as agents write it", .serialized)
    struct AgentProgramTests {
        /// Verified and loaded once for all of them.
        @LoopActor
        private static func host() async throws -> MachineHost {
            if let started { return try await started.value }
            let task = Task { @LoopActor () async throws -> MachineHost in
                var settings = HostSettings(
                    stateDirectory: TestState.directory,
                    runtimeDirectory: NSTemporaryDirectory() + "mayfly-programs-\(getpid())")
                settings.standbys = 1
                settings.hypervisor = HypervisorName(rawValue: TestState.hypervisor)
                let host = try await MachineHost.start(settings)
                try await host.prepare(images: ["code"])
                return host
            }
            started = task
            return try await task.value
        }
        @LoopActor private static var started: Task<MachineHost, any Error>?

        @LoopActor
        private static func run(_ sample: SampleProgram) async throws {
            let kind = CodeKind(try Configuration(flags: [], file: nil, environment: [:]))
            let recipe = try await kind.recipe(
                payload: sample.payload.text, timeout: sample.timeout, blobs: NoBlobs())
            let run = try await host().run(recipe.job, image: recipe.image)
            sample.check(
                run,
                CodeResult(
                    run: run, programName: recipe.programName, timeout: recipe.job.timeout,
                    queueDelay: nil))
        }

        @Test("gives what a hosted interpreter gives", arguments: SampleProgram.all)
        func gives(_ sample: SampleProgram) async throws { try await Self.run(sample) }

        @Test("that is hostile harms no more than its own words", arguments: SampleProgram.hostile)
        func isContained(_ sample: SampleProgram) async throws { try await Self.run(sample) }

        @Test func `in TypeScript runs where the image's node can, and says so where it cannot`()
            async throws
        {
            let kind = CodeKind(try Configuration(flags: [], file: nil, environment: [:]))
            let recipe = try await kind.recipe(
                payload: #"{"language":"node","source":"console.log(process.versions.node)"}"#,
                timeout: nil, blobs: NoBlobs())
            let run = try await Self.host().run(recipe.job, image: recipe.image)
            let version = String(decoding: run.report.stdout.bytes, as: UTF8.self)
            let major = Int(version.prefix { $0 != "." }) ?? 0
            try await Self.run(major >= 23 ? .typescript : .typescriptRefused)
        }
    }
}
