// Guests with another kernel than the one that all other tests have. Linux 6.10 and newer learn from
// VMGENID that they are a copy, and reseed; Debian 12's 6.1 learns nothing. Clones are told apart by
// the same proof on both.

import Events
import Foundation
import Testing
import Wire

@testable import Machines

/// A base whose kernel has VMGENID.
private enum OtherKernel {
    static let bases = TestImage.stateDirectory + "/bases"
    static let isThere = children(of: bases).contains { base in
        let release = try? String(
            contentsOfFile: "\(bases)/\(base)/kernel.release", encoding: .utf8)
        return release?.hasPrefix("6.12") == true
    }
    static let reason: Comment = "no Debian 13 kernel here; scripts/lab test has one"
}

extension RealMachineTests {
    @Suite(
        "A guest whose kernel knows of clones",
        .enabled(if: OtherKernel.isThere, OtherKernel.reason),
        .serialized)
    struct GuestKernelTests {
        /// What scripts/lab has installed the packages of.
        private static let definition = ImageDefinition(
            name: "trixie", suite: "trixie", packages: ["bash", "procps"],
            memory: .mebibytes(256))
        @Test func `gives clones that are proven fresh, as any other does`() async throws {
            let directory = try TemporaryDirectory()
            try FileManager.default.createSymbolicLink(
                atPath: directory.path + "/bases", withDestinationPath: OtherKernel.bases)
            var settings = TestImage.settings
            settings.stateDirectory = directory.path
            settings.agentBinary = TestImage.agent
            settings.standbys = 0
            let builder = ImageBuilder(settings: settings, definition: Self.definition) {
                print("  \($0)")
            }
            let built = try await builder.build(force: false, refresh: false)
            #expect(built.map(\.hypervisor) == [TestImage.hypervisor])
            // Whatever the kernel has done by itself by then: no two say the same.
            let script = """
                uname -r
                cat /proc/sys/kernel/random/uuid; head -c 16 /dev/urandom | od -An -tx1
                date +%s
                """
            try await MachineHost.with(settings) { host in
                var seen: Set<String> = []
                for _ in 0..<4 {
                    let before = Date().timeIntervalSince1970
                    let run = try await host.run(
                        GuestJob(program: .bash(source: script)), image: "trixie")
                    let lines = TestImage.text(run.report.stdout).split(separator: "\n")
                    try #require(lines.count == 4, "\(lines)")
                    #expect(lines[0].hasPrefix("6.12"))
                    #expect(seen.insert(String(lines[1])).inserted)
                    #expect(seen.insert(String(lines[2])).inserted)
                    let clock = try #require(Double(lines[3]))
                    #expect(clock > before - 2)
                    #expect(clock < Date().timeIntervalSince1970 + 2)
                }
            }
        }
    }
}
