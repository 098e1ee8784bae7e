// The systemd units as systemd itself judges them, without running it.

import Foundation
import Testing

@testable import Mayfly

@Suite(
    "The systemd units", .enabled(if: ExampleRuntime.hasSystemd, ExampleRuntime.noSystemd),
    .serialized)
struct UnitTests {
    private static let directory = "\(ExampleRuntime.directory)/systemd"
    private static let names = [
        "mayfly-worker.service", "mayfly-launcher.service", "mayfly-launcher.socket",
    ]
    private func text(_ name: String) throws -> String {
        try String(contentsOfFile: "\(Self.directory)/\(name)", encoding: .utf8)
    }

    @Test func `the unit files are ones that systemd accepts without a warning`() throws {
        let directory = NSTemporaryDirectory() + "mayfly-unit-\(getpid())"
        try FileManager.default.createDirectory(
            atPath: directory, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(atPath: directory) }
        for name in Self.names {
            // systemd wants the program to exist; here it stands where it was built.
            try text(name).replacingOccurrences(
                of: "/usr/local/bin/mayfly", with: TestState.program
            )
            .write(toFile: "\(directory)/\(name)", atomically: true, encoding: .utf8)
        }
        let paths = Self.names.map { "\(directory)/\($0)" }
        let (status, output) = try Program.run(["systemd-analyze", "verify"] + paths)
        #expect(status == 0 && output.isEmpty, "\(output)")
    }

    /// Root builds images where root's defaults say; the worker is somebody else.
    @Test(.enabled(if: geteuid() == 0, "needs root"))
    func `a worker's unit looks for images and keys where root puts them`() throws {
        let environment = try text("mayfly-worker.service").split(separator: "\n")
            .filter { $0.hasPrefix("Environment=") }
            .map { String($0.dropFirst("Environment=".count)) }
        func place(_ variables: [String], _ command: [String] = []) throws -> String {
            let (status, output) = try Program.run(
                ["env", "-i"] + variables + command + [TestState.program, "config", "--json"])
            #expect(status == 0, "\(output)")
            let rows = try JSONDecoder().decode([[String: String?]].self, from: Data(output.utf8))
            let row = rows.first { $0["key"] == "state.directory" }
            return try #require(row?["value"] ?? nil, "\(output)")
        }
        let nobody = ["/usr/bin/setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        let roots = try place(["HOME=/root"])
        #expect(try place(["HOME=/var/lib/mayfly"] + environment, nobody) == roots)
    }

    /// What `systemd-analyze security` says of a unit, in tenths.
    private func exposure(_ name: String) throws -> Int {
        let (_, output) = try Program.run([
            "systemd-analyze", "security", "--offline=true", "--no-pager",
            "\(Self.directory)/\(name)",
        ])
        let found = try #require(
            output.firstMatch(of: /exposure level for [\w.-]+: (\d+)\.(\d)/), "\(output)")
        let (whole, tenth) = (try #require(Int(found.1)), try #require(Int(found.2)))
        return whole * 10 + tenth
    }

    @Test func `a worker's unit exposes less than 2_0, and its launcher no more than it must`()
        throws
    {
        #expect(try exposure("mayfly-worker.service") < 20)
        // It mounts, makes namespaces and becomes other users: docs/operations.md has the account.
        #expect(try exposure("mayfly-launcher.service") <= 26)
    }

    private func calls(_ group: String) throws -> Set<String> {
        let (_, output) = try Program.run([
            "systemd-analyze", "syscall-filter", "--no-pager", group,
        ])
        var found: Set<String> = []
        for line in output.split(separator: "\n").dropFirst() {
            let word = line.trimmingCharacters(in: .whitespaces)
            if word.hasPrefix("@") {
                found.formUnion(try calls(word))
            } else if !word.isEmpty, !word.hasPrefix("#") {
                found.insert(word)
            }
        }
        return found
    }

    @Test
    func `a machine's process may ask the kernel through the unit for what its jail lets through`()
        throws
    {
        var allowed: Set<String> = []
        for line in try text("mayfly-launcher.service").split(separator: "\n")
        where line.hasPrefix("SystemCallFilter=") {
            let words = line.dropFirst("SystemCallFilter=".count)
            var listed: Set<String> = []
            for word in words.drop(while: { $0 == "~" }).split(separator: " ") {
                listed.formUnion(word.hasPrefix("@") ? try calls(String(word)) : [String(word)])
            }
            if words.hasPrefix("~") {
                allowed.subtract(listed)
            } else {
                allowed.formUnion(listed)
            }
        }
        let sources = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
            .deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()
            .appendingPathComponent("Sources/Jail")
        var needed: Set = [
            "unshare", "mount", "umount2", "pivot_root", "capset", "setgroups", "setresuid",
            "setresgid", "prlimit64", "close_range", "clone", "waitid", "pidfd_open", "signalfd4",
            "pidfd_send_signal", "accept4", "execveat", "seccomp", "setsid",
        ]
        for file in ["Filter.swift", "QEMUFilter.swift"] {
            let text = try String(contentsOf: sources.appendingPathComponent(file), encoding: .utf8)
            needed.formUnion(text.matches(of: /\.allow\(\s*"(\w+)"/).map { String($0.1) })
        }
        #expect(needed.count > 80)
        #expect(needed.subtracting(allowed).sorted() == [])
    }
}
