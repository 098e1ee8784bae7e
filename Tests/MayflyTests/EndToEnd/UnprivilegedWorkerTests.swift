// Workers that are not root: one that gave it up, with a launcher of its own, and one that never was,
// beside a launcher like that of the systemd units.

import Foundation
import Glibc
import Jobs
import Machines
import StrictJSON
import Testing

@testable import Mayfly

extension EndToEndTests {
    @Suite(
        "Workers without root", .serialized,
        .enabled(if: geteuid() == 0 && TestState.hypervisor == "qemu", "needs root, and QEMU"))
    struct UnprivilegedWorkerTests {
        private static let user: uid_t = 65_534
        private static let standardUsers: Range<uid_t> = 1_900_000_000..<1_900_004_096

        private func field(_ name: String, _ pid: Int32) -> [Substring] {
            let status = (try? String(contentsOfFile: "/proc/\(pid)/status", encoding: .utf8)) ?? ""
            return status.split(separator: "\n").first { $0.hasPrefix(name) }?
                .dropFirst(name.count).split { $0 == "\t" || $0 == " " } ?? []
        }
        private var processes: [Int32] {
            ((try? FileManager.default.contentsOfDirectory(atPath: "/proc")) ?? [])
                .compactMap(Int32.init)
        }
        /// Living processes of the users that one range of machines has.
        private func machines(_ users: Range<uid_t>) -> [Int32] {
            processes.filter { pid in
                let ids = field("Uid:", pid)
                return ids.first.flatMap { uid_t($0) }.map { users.contains($0) } ?? false
                    && field("State:", pid).first != "Z"
            }
        }
        private func launchers(of worker: Int32) -> [Int32] {
            processes.filter {
                field("PPid:", $0).first == "\(worker)"
                    && field("Name:", $0).first == "mayfly-launcher"
            }
        }
        private func gone(_ isThere: () -> Bool) async throws -> Bool {
            let deadline = ContinuousClock.now + .seconds(30)
            while isThere() {
                guard .now < deadline else { return false }
                try await Task.sleep(for: .milliseconds(20))
            }
            return true
        }
        private func expectNoRights(_ pid: Int32) {
            // Every thread that lives: the first one has ended by now, and keeps what it had.
            let names = try? FileManager.default.contentsOfDirectory(atPath: "/proc/\(pid)/task")
            let living = (names ?? []).compactMap(Int32.init).filter {
                field("State:", $0).first != "Z"
            }
            #expect(!living.isEmpty)
            for thread in living {
                #expect(field("Uid:", thread) == Array(repeating: "\(Self.user)", count: 4))
                for name in ["CapPrm:", "CapEff:", "CapInh:", "CapAmb:"] {
                    #expect(field(name, thread) == ["0000000000000000"], "\(name)")
                }
            }
        }

        /// What a unit with RestrictNamespaces= does to every program in it.
        @Test func `machines are made where clone3 is forbidden, as in a unit of systemd's`()
            async throws
        {
            let source = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
                .deletingLastPathComponent().deletingLastPathComponent()
                .appendingPathComponent("JailStub/no_clone3.c").path
            try await World.with { world in
                let without = "\(world.directory)/no_clone3"
                let made = try Program.run(["cc", "-O1", "-o", without, source])
                try #require(made.status == 0, "\(made.output)")
                let ended = try await onThread {
                    try Program.run(
                        [without, TestState.program, "restore", "code"],
                        environment: [
                            "MAYFLY_STATE_DIRECTORY": TestState.directory,
                            "MAYFLY_RUNTIME_DIRECTORY": world.runtime,
                            "MAYFLY_MACHINE_HYPERVISOR": "qemu",
                        ])
                }
                #expect(ended.status == 0, "\(ended.output)")
            }
        }

        @Test func `a program that was never root runs a job through a launcher`() async throws {
            try await World.with { world in
                let socket = "\(world.directory)/launcher.sock"
                var request = Program.Request([
                    TestState.program, "launcher", "--worker", "nobody", "--socket", socket,
                ])
                request.environment = ["MAYFLY_MACHINE_HYPERVISOR": "qemu"]
                let launcher = try Program.start(request)
                defer {
                    launcher.signal(SIGKILL)
                    _ = launcher.wait()
                }
                #expect(
                    try await gone {
                        (try? String(contentsOfFile: "/proc/\(launcher.pid)/comm", encoding: .utf8))
                            != "mayfly-launcher\n"
                    })
                let run = "\(world.directory)/nobody"
                try FileManager.default.createDirectory(
                    atPath: run, withIntermediateDirectories: true)
                try #require(unsafe chown(run, Self.user, Self.user) == 0)
                let ended = try await onThread {
                    try Program.run(
                        [
                            "setpriv", "--reuid=\(Self.user)", "--regid=\(Self.user)",
                            "--clear-groups", TestState.program, "run", "python", "-",
                        ],
                        environment: [
                            "HOME": run, "MAYFLY_STATE_DIRECTORY": TestState.directory,
                            "MAYFLY_RUNTIME_DIRECTORY": run, "MAYFLY_MACHINE_LAUNCHER": socket,
                            "MAYFLY_MACHINE_HYPERVISOR": "qemu",
                        ], input: "print(40 + 2)")
                }
                #expect(ended.status == 0 && ended.output.contains("42\n"), "\(ended.output)")
            }
        }
    }
}
