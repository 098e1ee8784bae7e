// Images of browsers that are built for a test each: for processors that say that they are others, and
// one whose browsers would be alike. A build takes minutes under emulation, so that these run only when
// they are asked for.

import BrowseTools
import Events
import Foundation
import Glibc
import Processes
import Testing

@testable import Machines

/// The models that the environment asks for, each of them built.
private let asked = ProcessInfo.processInfo.environment["MAYFLY_TEST_BROWSERS"]

extension RealMachineTests {
    @Suite(
        "An image of browsers",
        .enabled(
            if: geteuid() == 0 && asked != nil && !TestImage.isUnderKVM,
            "MAYFLY_TEST_BROWSERS=1 builds some, under emulation and as root"),
        .serialized)
    struct BrowserImageTests {
        /// Has a state directory of its own, but for the bases: no package is installed again.
        private func settings(
            in directory: String, as model: EmulatedProcessor
        ) throws -> HostSettings {
            let path = directory + "/state"
            try makeDirectory(path)
            try FileManager.default.createSymbolicLink(
                atPath: path + "/bases", withDestinationPath: TestImage.stateDirectory + "/bases")
            var settings = TestImage.settings
            settings.stateDirectory = path
            settings.agentBinary = TestImage.agent
            settings.standbys = 0
            settings.accelerator = .tcg
            settings.processorModel = model
            return settings
        }
        @LoopActor
        private func build(
            _ settings: HostSettings, adding files: [AddedFile] = [],
            _ change: (inout ImageDefinition) -> Void = { _ in }
        ) async throws {
            var definition = ImageDefinition.browse
            change(&definition)
            let builder = ImageBuilder(
                settings: settings, definition: definition,
                tools: BrowseTools.files.map(AddedFile.init) + files
            ) { print("  \($0)") }
            _ = try await builder.build(force: false, refresh: false)
        }

        /// RDRAND decides whether BoringSSL draws from the processor as well, and by whose.
        @Test(
            arguments: [EmulatedProcessor.intel, .intelWithoutRDRAND, .amdWithoutRDRAND])
        func `has browsers that no two are alike, whatever the processor says it is`(
            model: EmulatedProcessor
        ) async throws {
            let directory = try TemporaryDirectory()
            let settings = try settings(in: directory.path, as: model)
            try await build(settings)
            try await MachineHost.with(settings) { host in
                let image = try await host.image("browse", generation: nil)
                #expect(image.manifest.hardware.emulated == model)
                let shown = try await host.run(
                    GuestJob(program: .command(["/bin/cat", "/proc/cpuinfo"])), image: "browse")
                let text = TestImage.text(shown.report.stdout)
                let isIntel = model == .intel || model == .intelWithoutRDRAND
                #expect(text.contains(isIntel ? "GenuineIntel" : "AuthenticAMD"))
                #expect(text.contains(" rdrand") == (model == .intel))
                try await expectNoTwoAlike(8, of: image, on: host, atMost: 2)
            }
            // Whoever has another processor restores none of it.
            var other = settings
            other.processorModel = .max
            let refusal = await #expect(throws: MachineError.self) {
                try await MachineHost.with(other) { host in
                    _ = try await host.image("browse", generation: nil)
                }
            }
            let words = "made with machine.processor.model = \(model), this host has max"
            #expect(refusal?.description.contains(words) == true, "\(String(describing: refusal))")
        }

        /// A library between the browser and the kernel says that a page is emptied by a fork, and
        /// has it emptied by nothing: so the agent finds no such page.
        private static let hiding = """
            #define _GNU_SOURCE
            #include <stddef.h>
            #include <sys/syscall.h>
            #include <unistd.h>
            int madvise(void *address, size_t count, int advice) {
                return advice == 18 /* MADV_WIPEONFORK */ ? 0
                    : (int)syscall(SYS_madvise, address, count, advice);
            }
            """

        @Test func `is not published when its browsers go on with one another's random numbers`()
            async throws
        {
            let directory = try TemporaryDirectory()
            let (source, library) = (directory.path + "/hide.c", directory.path + "/hide.so")
            try writeFile(source, Array(Self.hiding.utf8), mode: 0o644)
            let made = try await runTool(["clang", "-shared", "-fPIC", "-o", library, source])
            try #require(made.status == 0, "\(made.output)")
            let bytes = [UInt8](try #require(FileManager.default.contents(atPath: library)))
            // On Intel each draw has some of the processor's own.
            let settings = try settings(in: directory.path, as: .amd)
            await #expect {
                try await build(
                    settings, adding: [AddedFile(path: "/opt/hide.so", bytes: bytes)]
                ) { $0.warmUp = "LD_PRELOAD=/opt/hide.so " + $0.warmUp }
            } throws: {
                "\($0)".contains(
                    "two clones share the image's canary: getRandomValues of the waiting page: ")
                    && "\($0)".contains("the image was not published")
            }
            let store = ImageStore(stateDirectory: settings.stateDirectory)
            #expect(store.generations(of: "browse") == [])
        }
    }
}
