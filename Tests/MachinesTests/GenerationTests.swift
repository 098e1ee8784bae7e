// Images under a running host: builds, prunes and damage beside it. The generations here are copies of
// the golden image that scripts/test built, signed again under other names; that builds of the program
// do the same is in EndToEndImageTests.

import CLinux
import Events
import Foundation
import Glibc
import Testing

@testable import Machines

extension RealMachineTests {
    @Suite("A new generation beside a running host", .serialized)
    struct GenerationTests {
        /// A state directory of its own with one generation, and a host that uses it.
        @LoopActor
        private func withHost(
            _ body: @LoopActor (MachineHost, ImageStore) async throws -> Void
        ) async throws {
            let directory = try TemporaryDirectory()
            let store = ImageStore(stateDirectory: directory.path)
            for part in ["keys", "images/\(TestImage.name)"] {
                try makeDirectory(
                    (directory.path + "/" + part as NSString).deletingLastPathComponent)
                try await copy("\(TestImage.stateDirectory)/\(part)", directory.path + "/" + part)
            }
            // Links, not copies: the root disk gets and loses names under the other hosts here.
            try await copy("\(TestImage.stateDirectory)/bases", directory.path + "/bases", "-al")
            var settings = TestImage.settings
            settings.stateDirectory = directory.path
            let host = try await MachineHost.start(settings)
            try await host.prepare(images: [TestImage.name])
            do { try await body(host, store) } catch {
                await host.close()
                throw error
            }
            await host.close()
        }
        @LoopActor
        private func copy(_ from: String, _ to: String, _ how: String = "-a") async throws {
            let result = try await runTool(["cp", how, "--sparse=always", from, to])
            try #require(result.status == 0, "\(result.output)")
        }

        /// Publishes a copy of the current generation under another name, as a build does.
        @LoopActor
        private func publish(_ generation: String, in store: ImageStore) async throws {
            let images = "\(store.imagesDirectory)/\(TestImage.name)"
            let directory = "\(images)/\(generation)"
            try await copy(try store.directory(of: TestImage.name), directory)
            let path = directory + "/manifest.json"
            let data = try #require(FileManager.default.contents(atPath: path))
            var manifest = try JSONDecoder().decode(Manifest.self, from: data)
            manifest.generation = generation
            let bytes = try manifest.encoded()
            try writeFile(path, bytes, mode: 0o444)
            let signature = hexText(try store.signingKey().sign(bytes)) + "\n"
            try writeFile(directory + "/manifest.sig", Array(signature.utf8), mode: 0o444)
            try replaceLink("\(images)/current", with: generation)
        }
        @LoopActor
        private func ranIn(_ host: MachineHost) async throws -> String {
            try await host.restoreOnce(image: TestImage.name).identity.generation
        }

        @Test func `is used by new machines, while those that live keep theirs`() async throws {
            try await withHost { host, store in
                let old = try await ranIn(host)
                let started = Signal()
                let living = Task { @LoopActor in
                    try await host.run(
                        GuestJob(program: .bash(source: "echo on; sleep 3; echo done")),
                        image: TestImage.name, onOutput: { _, _ in started.raise() })
                }
                await started.wait()
                try await publish("aaaaaaaaaaaaaaaa", in: store)
                #expect(try await ranIn(host) == old, "not before it was looked at")
                await host.takeUpImages()
                #expect(try await ranIn(host) == "aaaaaaaaaaaaaaaa")
                let run = try await living.value
                #expect(run.identity.generation == old)
                #expect(TestImage.text(run.report.stdout) == "on\ndone\n")
                // Standbys of the old one are gone, and there are such of the new one.
                #expect(hypervisors(of: host).count == 1)
            }
        }

        @Test func `that is damaged is refused, and the one before stays in use`() async throws {
            try await withHost { host, store in
                let old = try await ranIn(host)
                try await publish("bbbbbbbbbbbbbbbb", in: store)
                let memory = try store.directory(of: TestImage.name) + "/memory"
                try #require(unsafe truncate(memory, 4096) == 0)
                await host.takeUpImages()
                await host.takeUpImages()
                #expect(try await ranIn(host) == old)
                // The next sound one is taken up all the same.
                try FileManager.default.removeItem(
                    atPath: "\(store.imagesDirectory)/\(TestImage.name)/bbbbbbbbbbbbbbbb")
                try replaceLink("\(store.imagesDirectory)/\(TestImage.name)/current", with: old)
                try await publish("cccccccccccccccc", in: store)
                await host.takeUpImages()
                #expect(try await ranIn(host) == "cccccccccccccccc")
            }
        }

        @Test func `leaves nothing that is in use to a prune`() async throws {
            try await withHost { host, store in
                let old = try await ranIn(host)
                try await publish("dddddddddddddddd", in: store)
                // What a killed build left, and what a living one works on.
                let images = "\(store.imagesDirectory)/\(TestImage.name)"
                try makeDirectory("\(images)/.dead-1")
                try makeDirectory("\(images)/.alive-1")
                let building = try ImageLock("\(images)/.alive-1")
                let report = try store.prune(keeping: 1, dryRun: false)
                #expect(report.removed == ["\(images)/.dead-1"])
                #expect(report.inUse == ["\(images)/\(old)", "\(images)/.alive-1"])
                #expect(try await ranIn(host) == old)
                withExtendedLifetime(building) {}
                await host.takeUpImages()
                #expect(
                    try store.prune(keeping: 1, dryRun: false).removed
                        == ["\(images)/\(old)", "\(images)/.alive-1"])
                #expect(try await ranIn(host) == "dddddddddddddddd")
            }
        }

        @Test func `of the same name, built again, takes the place of the old one`() async throws {
            try await withHost { host, store in
                let current = try store.directory(of: TestImage.name)
                let draft = "\(store.imagesDirectory)/\(TestImage.name)/.draft"
                try await copy(current, draft)
                try #require(unsafe mayfly_exchange(draft, current) == 0)
                try FileManager.default.removeItem(atPath: draft)
                let before = try #require(host.images[TestImage.name])
                await host.takeUpImages()
                #expect(host.images[TestImage.name] !== before)
                _ = try await ranIn(host)
            }
        }

        @Test func `does not make a host keep every pinned one`() async throws {
            try await withHost { host, store in
                let old = try await ranIn(host)
                for generation in ["eeeeeeeeeeeeeeee", "ffffffffffffffff"] {
                    try await publish(generation, in: store)
                }
                let current = try await host.image(TestImage.name, generation: nil)
                #expect(try await host.image(TestImage.name, generation: old) === current)
                weak var first = try await host.image(
                    TestImage.name, generation: "eeeeeeeeeeeeeeee")
                let second = try await host.image(TestImage.name, generation: "ffffffffffffffff")
                #expect(first == nil)
                #expect(
                    try await host.image(TestImage.name, generation: "ffffffffffffffff") === second)
            }
        }
    }
}
