// Images under a running host: builds, prunes and damage beside it. The generations here are copies of
// the golden image that scripts/test built, signed again under other names; that builds of the program
// do the same is in EndToEndImageTests.

import CLinux
import Events
import Foundation
import Glibc
import Processes
import Testing

@testable import Machines

extension RealMachineTests {
    @Suite("A new generation beside a running host", .serialized)
    struct GenerationTests {
        /// Of this process, which removes it when it ends.
        private static let ownBases: String = {
            _ = atexit { try? FileManager.default.removeItem(atPath: GenerationTests.ownBasesPath) }
            return ownBasesPath
        }()
        private static let ownBasesPath = NSTemporaryDirectory() + "mayfly-bases-\(getpid())"

        /// A state directory of its own with one generation, and a host that uses it.
        @LoopActor
        private func withHost(
            _ body: @LoopActor (MachineHost, ImageStore) async throws -> Void
        ) async throws {
            let directory = try TemporaryDirectory()
            let store = ImageStore(stateDirectory: directory.path)
            let images = "\(directory.path)/images/\(TestImage.name)"
            try makeDirectory(images)
            try await copy("\(TestImage.stateDirectory)/keys", directory.path + "/keys")
            let current = try ImageStore(stateDirectory: TestImage.stateDirectory)
                .directory(of: TestImage.name, for: TestImage.hypervisor)
            let generation = (current as NSString).lastPathComponent
            try await copy(current, "\(images)/\(generation)")
            try replaceLink(
                store.currentLink(of: TestImage.name, for: TestImage.hypervisor), with: generation)
            // Links to a copy: the root disk gets and loses names under the other hosts here, but
            // not under those of another process, which would hash it again each time.
            let link = try #require(store.link(of: "\(images)/\(generation)/base"))
            let base = "bases/" + (link as NSString).lastPathComponent
            try makeDirectory(directory.path + "/bases")
            if !FileManager.default.fileExists(atPath: "\(Self.ownBases)/\(base)") {
                try makeDirectory("\(Self.ownBases)/bases")
                try await copy(
                    "\(TestImage.stateDirectory)/\(base)", "\(Self.ownBases)/\(base)")
            }
            try await copy("\(Self.ownBases)/\(base)", "\(directory.path)/\(base)", "-al")
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
            try await copy(
                try store.directory(of: TestImage.name, for: TestImage.hypervisor), directory)
            let path = directory + "/manifest.json"
            let data = try #require(FileManager.default.contents(atPath: path))
            var manifest = try JSONDecoder().decode(Manifest.self, from: data)
            manifest.generation = generation
            let bytes = try manifest.encoded()
            try writeFile(path, bytes, mode: 0o444)
            let signature = hexText(try store.signingKey().sign(bytes)) + "\n"
            try writeFile(directory + "/manifest.sig", Array(signature.utf8), mode: 0o444)
            try replaceLink(
                store.currentLink(of: TestImage.name, for: TestImage.hypervisor), with: generation)
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
                // Standbys of the old one are gone, and there are such of the new one: the last job
                // has taken one, and the next comes when that job's machine is gone.
                let deadline = ContinuousClock.now + .seconds(30)
                while hypervisors(of: host).count != 1, .now < deadline {
                    try await Task.sleep(for: .milliseconds(20))
                }
                #expect(hypervisors(of: host).count == 1)
            }
        }

        @Test func `that is damaged is refused, and the one before stays in use`() async throws {
            try await withHost { host, store in
                let old = try await ranIn(host)
                try await publish("bbbbbbbbbbbbbbbb", in: store)
                let memory =
                    try store.directory(of: TestImage.name, for: TestImage.hypervisor) + "/memory"
                try #require(unsafe truncate(memory, 4096) == 0)
                await host.takeUpImages()
                await host.takeUpImages()
                #expect(try await ranIn(host) == old)
                // The next sound one is taken up all the same.
                try FileManager.default.removeItem(
                    atPath: "\(store.imagesDirectory)/\(TestImage.name)/bbbbbbbbbbbbbbbb")
                try replaceLink(
                    store.currentLink(of: TestImage.name, for: TestImage.hypervisor), with: old)
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
                var building: ImageLock? = try ImageLock("\(images)/.alive-1")
                let report = try store.prune(keeping: 1, dryRun: false)
                #expect(report.removed == ["\(images)/.dead-1"])
                #expect(report.inUse == ["\(images)/\(old)", "\(images)/.alive-1"])
                #expect(try await ranIn(host) == old)
                #expect(building != nil)
                building = nil
                await host.takeUpImages()
                // The last standby of the old one may be on its way out: until then it stays.
                var removed: [String] = []
                let deadline = ContinuousClock.now + .seconds(30)
                while removed.count < 2, .now < deadline {
                    removed += try store.prune(keeping: 1, dryRun: false).removed
                    try await Task.sleep(for: .milliseconds(20))
                }
                #expect(removed.sorted() == ["\(images)/.alive-1", "\(images)/\(old)"])
                #expect(try await ranIn(host) == "dddddddddddddddd")
            }
        }

        @Test func `of the same name, built again, takes the place of the old one`() async throws {
            try await withHost { host, store in
                let current = try store.directory(of: TestImage.name, for: TestImage.hypervisor)
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
                weak let first = try await host.image(
                    TestImage.name, generation: "eeeeeeeeeeeeeeee")
                let second = try await host.image(TestImage.name, generation: "ffffffffffffffff")
                #expect(first == nil)
                #expect(
                    try await host.image(TestImage.name, generation: "ffffffffffffffff") === second)
            }
        }
    }
}

@Suite("What is removed of images")
struct RemovalTests {
    @Test func `a directory that was replaced after it was looked at is not removed`() throws {
        let directory = try TemporaryDirectory()
        let (path, other) = (directory.path + "/generation", directory.path + "/other")
        try makeDirectory(path)
        try makeDirectory(other)
        let isGone = try ImageLock.removing(path, dryRun: false) { (hidden) throws(MachineError) in
            // Another one may take the name at once: what is removed has a hidden one by now.
            #expect(!FileManager.default.fileExists(atPath: path))
            #expect(unsafe rename(other, path) == 0)
            #expect(unsafe rmdir(hidden) == 0)
        }
        #expect(isGone && children(of: directory.path) == ["generation"])
    }
    @Test func `a removal that is killed halfway leaves nothing but a hidden name`() throws {
        let directory = try TemporaryDirectory()
        let base = directory.path + "/bases/0123-4567"
        try makeDirectory(base)
        try writeFile(base + "/packages", [], mode: 0o644)
        let store = ImageStore(stateDirectory: directory.path)
        // As far as a removal gets before its first file is gone.
        #expect(throws: MachineError.self) {
            try ImageLock.removing(base, dryRun: false) { (_) throws(MachineError) in
                throw MachineError(.hostUnfit, "killed")
            }
        }
        #expect(children(of: store.basesDirectory).allSatisfy { $0.hasPrefix(".removed-") })
        try store.removeDrafts()
        #expect(children(of: store.basesDirectory) == [])
    }
    @Test func `a draft can be made and locked while others clean up all the time`() async throws {
        let directory = try TemporaryDirectory()
        let store = ImageStore(stateDirectory: directory.path)
        try makeDirectory(store.basesDirectory)
        let cleaning = Task.detached { while !Task.isCancelled { try? store.removeDrafts() } }
        for number in 0..<300 {
            let path = "\(store.basesDirectory)/.draft-\(number)"
            let lock = try ImageLock.making(path)
            #expect(FileManager.default.fileExists(atPath: path), "\(number)")
            withExtendedLifetime(lock) {}
            try replaceLink("\(store.basesDirectory)/newest", with: "\(number)")
        }
        cleaning.cancel()
        _ = await cleaning.value
        #expect(store.link(of: "\(store.basesDirectory)/newest") == "299")
    }
    @Test func `a generation refused for want of something is tried again, a wrong one is not`()
        throws
    {
        let directory = try TemporaryDirectory()
        try writeFile(directory.path + "/manifest.json", [], mode: 0o644)
        let identity = try GenerationIdentity(of: directory.path)
        let wrong = RefusedGeneration(
            identity: identity, isFinal: true, times: 1, at: .now - .seconds(999))
        #expect(!wrong.mayBeTried(identity))
        func want(_ times: Int, _ age: Int) -> Bool {
            RefusedGeneration(
                identity: identity, isFinal: false, times: times, at: .now - .seconds(age)
            ).mayBeTried(identity)
        }
        #expect(!want(1, 9) && want(1, 11) && !want(2, 19) && want(2, 21))
        #expect(!want(99, 299) && want(99, 301))
        // Another generation in a directory of the same number is another one.
        try writeFile(directory.path + "/manifest.json", [1], mode: 0o644)
        #expect(wrong.mayBeTried(try GenerationIdentity(of: directory.path)))
    }
}
