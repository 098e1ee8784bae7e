// worker.conf: what is refused and where, what wins over what, and that the shipped file is the
// manual.

import Foundation
import Machines
import TestSupport
import Testing

@testable import Mayfly

@Suite("worker.conf")
struct ConfigurationTests {
    private static let root = UserPlaces(isRoot: true, home: "/root", runtimeDirectory: nil)

    private func load(
        _ text: String?, environment: [String: String] = [:],
        flags: [(key: String, value: String, flag: String)] = [], user: UserPlaces = root
    ) throws -> Configuration {
        let file = try text.map { try ConfFile($0, name: "worker.conf") }
        return try Configuration(
            flags: flags, file: file, environment: environment, user: user)
    }
    private func refusal(_ text: String) -> String {
        do {
            _ = try load(text)
            return "accepted"
        } catch { return "\(error)" }
    }

    @Test func `a capability exists as soon as one of its keys is set, and says what it lacks`()
        async throws
    {
        let url = "capability.hub.url = \"https://hub.test/api\"\n"
        let file = "capability.hub.secret = \"/nowhere\"\n"
        for (text, problem) in [
            (url, "capability.hub.secret is \"\""),
            (file, "capability.hub: \"\" is not https://host"),
            (url + file + "capability.hub.grant = \"default\"", "is not queue/tenant"),
            (url + file + "capability.hub.allow = \"/x\"", "\"/x\" is not what may be asked for"),
            (url + file + "capability.hub.header = \"Host\"", "names no field"),
            (url + file + "capability.hub.networks = \"10.0.0.1/8\"", "10.0.0.1/8"),
            (url + file, nil),
        ] {
            let configuration = try load(text)
            do {
                let book = try CapabilityBook(configuration)
                #expect(problem == nil, "\(text)")
                #expect(book.granted(to: "default", tenant: "").isEmpty)
                #expect(book.problems.first?.contains("/nowhere") == true)
            } catch {
                #expect("\(error)".contains(problem ?? "nothing"), "\(text): \(error)")
            }
        }
        #expect(refusal("capability.hub.ulr = \"x\"").contains("did you mean capability.hub.url?"))
    }

    @Test func `a capability is granted to its queues and tenants, and to no other`() throws {
        let configuration = try load(
            """
            capability.hub.url = "https://hub.test"
            capability.hub.secret = "/nowhere"
            capability.hub.grant = "default/acme; mail/*; */boss; jobs/"
            """)
        let book = try CapabilityBook(configuration)
        for (queue, tenant, holds) in [
            ("default", "acme", true), ("default", "", false), ("default", "acme2", false),
            ("mail", "", true), ("mail", "any", true), ("other", "boss", true),
            ("jobs", "", true), ("jobs", "x", false), ("other", "acme", false),
        ] { #expect(book.granted(to: queue, tenant: tenant).count == (holds ? 1 : 0)) }
    }

    // One line each: the text, and how the refusal must begin.
    private static let refused: [(String, String)] = [
        ("worker.slot = 3", "worker.conf:1:1: unknown key worker.slot; did you mean worker.slots?"),
        (
            "\n  machin.standby = 1",
            "worker.conf:2:3: unknown key machin.standby; did you mean machine.standby?"
        ),
        ("quite.another.thing.altogether = 1", "worker.conf:1:1: unknown key"),
        (
            "worker.slots = 1\nworker.slots = 2",
            "worker.conf:2:1: worker.slots is set a second time (first in line 1)"
        ),
        ("worker.slots", "worker.conf:1:13: expected `key = value`, found the end of the line"),
        ("worker.slots 3", "worker.conf:1:14: expected `key = value`, found `3`"),
        ("= 3", "worker.conf:1:1: expected `key = value`, found `=`"),
        ("[worker]", "worker.conf:1:1: expected `key = value`, found `[`"),
        ("worker.slots =", "worker.conf:1:15: worker.slots has no value"),
        ("worker.slots = # none", "worker.conf:1:16: worker.slots has no value"),
        (
            "worker.slots = many",
            "worker.conf:1:16: worker.slots expects a whole number, not \"many\""
        ),
        ("worker.slots = 0", "worker.conf:1:16: worker.slots is 0; it may be 1 to 1024"),
        ("worker.slots = 1025", "worker.conf:1:16: worker.slots is 1025; it may be 1 to 1024"),
        (
            "worker.slots = \"4\"",
            "worker.conf:1:16: worker.slots expects a whole number without quotes"
        ),
        ("worker.slots = 4 5", "worker.conf:1:18: `5` after the value of worker.slots"),
        (
            "worker.slots = 99999999999999999999",
            "worker.conf:1:16: worker.slots expects a whole number"
        ),
        ("worker.lease = 30", "worker.conf:1:16: worker.lease expects a duration"),
        ("worker.lease = 30 s", "worker.conf:1:19: `s` after the value of worker.lease"),
        ("worker.lease = 1ms", "worker.conf:1:16: worker.lease is 1ms; it may be 5s to"),
        ("worker.lease = 99999999999999999d", "worker.conf:1:16: worker.lease expects a duration"),
        ("image.code.memory = 512", "worker.conf:1:21: image.code.memory expects a size"),
        ("image.code.memory = 512MB", "worker.conf:1:21: image.code.memory expects a size"),
        (
            "image.code.memory = 1MiB",
            "worker.conf:1:21: image.code.memory is 1MiB; it may be 128MiB to 64GiB"
        ),
        (
            "machine.accelerator = hvf",
            "worker.conf:1:23: machine.accelerator expects one of auto, kvm, tcg"
        ),
        (
            "machine.accelerator = \"kvm\"",
            "worker.conf:1:23: machine.accelerator expects one of auto, kvm, tcg without quotes"
        ),
        ("worker.name = me", "worker.conf:1:15: worker.name expects a string in double quotes"),
        ("worker.name = \"me", "worker.conf:1:15: the text of worker.name has no closing quote"),
        ("worker.name = \"a\\n\"", "worker.conf:1:17: only \\\" and \\\\ are escapes"),
        ("worker.name = \"a\" b", "worker.conf:1:19: `b` after the value of worker.name"),
        (
            "state.directory = \"var\"",
            "worker.conf:1:19: state.directory is \"var\"; use an absolute path"
        ),
        (
            "code.timeout = 2h",
            "worker.conf:1:16: code.timeout is longer than code.timeout.max (1h)"
        ),
        ("worker.slots = 4\u{1}", "worker.conf:1:16: worker.slots expects a whole number"),
    ]

    @Test("is refused with file, line and column", arguments: refused)
    func refuses(_ text: String, _ beginning: String) {
        let found = refusal(text)
        #expect(found.hasPrefix(beginning), "\(found)")
        #expect(!found.contains("\n"))
    }

    @Test func `reports everything that is wrong at once, in the order of the lines`() {
        let text = """
            worker.slot = 3
            worker.lease = soon
            log.level = info
            = 7
            log.level = debug
            """
        let lines = refusal(text).split(separator: "\n").map { String($0.prefix(20)) }
        #expect(
            lines == [
                "worker.conf:1:1: unk", "worker.conf:2:16: wo", "worker.conf:4:1: exp",
                "worker.conf:5:1: log",
            ])
    }

    @Test func `reports a wrong line, a wrong variable and a wrong flag together`() {
        do {
            _ = try load(
                "worker.slot = 3", environment: ["MAYFLY_WORKER_LEASE": "soon"],
                flags: [("log.level", "loud", "--set log.level")])
            Issue.record("accepted")
        } catch {
            let found = "\(error)".split(separator: "\n")
            #expect(found.count == 3)
            #expect(found.last?.hasPrefix("--set log.level: log.level expects one of") == true)
        }
    }

    @Test func `takes comments, blank lines, blanks and carriage returns`() throws {
        let configuration = try load(
            "# a comment\r\n\r\n\t worker.slots\t=  7   # seven\r\nworker.name = \"a \\\"b\\\" # c\""
        )
        #expect(configuration.count(.workerSlots) == 7)
        #expect(configuration.text(.workerName) == "a \"b\" # c")
        #expect(configuration[.workerSlots].origin == .file("worker.conf:3:19"))
    }

    @Test func `a flag wins over the environment, that over the file, that over the default`()
        throws
    {
        let text = "worker.slots = 2\nmachine.standby = 2\nlog.level = debug"
        let environment = ["MAYFLY_WORKER_SLOTS": "3", "MAYFLY_MACHINE_STANDBY": "3"]
        let configuration = try load(
            text, environment: environment, flags: [("worker.slots", "4", "--slots")])
        #expect(configuration.count(.workerSlots) == 4)
        #expect(configuration[.workerSlots].origin == .flag("--slots"))
        #expect(configuration.count(.standbys) == 3)
        #expect(configuration[.standbys].origin == .environment("MAYFLY_MACHINE_STANDBY"))
        #expect(configuration.text(.logLevel) == "debug")
        #expect(configuration[.workerLease].origin == .standard)
    }

    @Test func `a wrong value in the environment or in a flag says which`() {
        #expect(throws: ConfigurationError.self) {
            try load(nil, environment: ["MAYFLY_WORKER_LEASE": "soon"])
        }
        do {
            _ = try load(nil, flags: [("worker.lease", "soon", "--set worker.lease")])
            Issue.record("accepted")
        } catch {
            #expect("\(error)".hasPrefix("--set worker.lease: worker.lease expects a duration"))
        }
    }

    @Test func `a misspelt variable is pointed out`() throws {
        let configuration = try load(nil, environment: ["MAYFLY_WORKER_SLOT": "3", "HOME": "/"])
        #expect(
            configuration.warnings == [
                "environment variable MAYFLY_WORKER_SLOT sets nothing; "
                    + "did you mean MAYFLY_WORKER_SLOTS?"
            ])
    }

    @Test func `without root, everything stands in the user's own directories`() throws {
        let user = UserPlaces(isRoot: false, home: "/home/ann", runtimeDirectory: "/run/user/7")
        let configuration = try load(nil, user: user)
        #expect(configuration.text(.stateDirectory) == "/home/ann/.local/state/mayfly")
        #expect(configuration.text(.runtimeDirectory) == "/run/user/7/mayfly")
    }

    @Test func `the shipped file lists every key once, at its default, and nothing else`() throws {
        let path = repository.appendingPathComponent("worker.conf")
        let shipped = try String(contentsOf: path, encoding: .utf8)
        let lines = shipped.split(separator: "\n")
        #expect(lines.allSatisfy { $0.hasPrefix("#") })
        // A setting is a comment without a blank after the #.
        let settings = lines.filter { $0.count > 1 && !$0.hasPrefix("# ") }.map { $0.dropFirst() }
        let text = settings.joined(separator: "\n")
        let file = try ConfFile(text, name: "worker.conf")
        #expect(file.entries.map(\.key) == Setting.all.map(\.key))
        let configuration = try load(text)
        let standard = try load(nil)
        for setting in Setting.all {
            #expect(
                configuration[setting].value == standard[setting].value,
                "\(setting.key) is not at its default")
        }
    }

    @Test func `every default is a value of its setting, and what is printed can be read again`()
        throws
    {
        for item in try load(nil).resolved {
            let written = item.value.written(as: item.setting.form)
            let raw: ConfFile.Raw =
                written.hasPrefix("\"")
                ? .quoted(String(written.dropFirst().dropLast())) : .bare(written)
            #expect(try item.setting.read(raw) == item.value, "\(item.setting.key)")
            #expect(written == item.setting.standard, "\(item.setting.key)")
            #expect(!item.setting.reason.isEmpty)
        }
    }

    @Test func `an image exists as soon as one of its keys is set, with defaults for the rest`()
        throws
    {
        let configuration = try load(
            """
            image.ml.packages = "python3 python3-venv"
            image.ml.pip = "torch==2.6.0+cpu"
            image.ml.files = "/srv/model.bin:/opt/model.bin"
            image.ml.warmup = "python3 -c 'print(1)'"
            code.image = "ml"
            image.code.memory = 1GiB
            """)
        #expect(configuration.imageNames == ["code", "document", "browse", "ml"])
        let image = try configuration.image(named: "ml")
        #expect(image.packages == ["python3", "python3-venv"])
        #expect(image.pythonPackages == ["torch==2.6.0+cpu"])
        #expect(image.files == ["/srv/model.bin:/opt/model.bin"])
        #expect(image.warmUp == "python3 -c 'print(1)'")
        #expect(image.memory == .mebibytes(512))
        #expect(image.suite == "bookworm")
        #expect(Kinds(configuration).images == ["browse", "document", "ml"])
        var code = ImageDefinition.code
        code.memory = .gibibytes(1)
        #expect(try configuration.image(named: "code") == code)
        #expect(try load(nil).image(named: "document") == .document)
        #expect(try load(nil).image(named: "browse") == .browse)
    }

    @Test(arguments: [
        ("image.ml.memry = 1GiB", "did you mean image.ml.memory?"),
        ("image.ml.pip = \"torch\"", "image.ml.pip: \"torch\" is not a package with its version"),
        ("image.ml.pip = \"x==1;rm\"", "image.ml.pip: \"x==1;rm\""),
        ("image.ml.files = \"a:/b\"", "image.ml.files: \"a:/b\" is not /on/the/host"),
        ("image.ml.files = \"/a:/b/../c\"", "image.ml.files"),
        ("image.ML.memory = 1GiB", "image name \"ML\""),
        ("code.image = \"nosuch\"", "no image has that name; there are code, document"),
        (
            "worker.kinds = \"code brew\"",
            "\"brew\" is no kind of job; there are code, document, browse"
        ),
        ("image..memory = 1GiB", "unknown key image..memory"),
    ])
    func `what an image cannot be is named`(line: String, words: String) {
        do {
            _ = try load(line)
            Issue.record("accepted")
        } catch { #expect("\(error)".contains(words), "\(error)") }
    }

    @Test func `a secret is not printed`() throws {
        let url = "postgresql://me:hunter2@db/app"
        let configuration = try load(nil, flags: [("database.url", url, "--database")])
        #expect(!configuration[.databaseURL].shownValue.contains("hunter2"))
        #expect(configuration[.databaseURL].shownValue != "\"\"")
    }

    @Test func `durations and sizes keep their value through text`() {
        for text in ["500ms", "30s", "60s", "90s", "5min", "2h", "7d", "0s"] {
            #expect(Duration(setting: text)?.settingText == text)
        }
        for text in ["5", "s", "-1s", "1.5s", "1 s", "٣s", "1m", "", "99999999999999999999s"] {
            #expect(Duration(setting: text) == nil, "\(text)")
        }
        for text in ["64KiB", "512MiB", "2GiB", "100B"] {
            #expect(ByteCount(setting: text)?.description == text)
        }
        for text in ["5", "MiB", "-1MiB", "1MB", "1 MiB", "9999999999999999GiB"] {
            #expect(ByteCount(setting: text) == nil, "\(text)")
        }
    }

    @Test func `no text makes the reader trap`() {
        var random = SeededGenerator(for: "worker.conf fuzz")
        let pieces = [
            "worker.slots", "=", " ", "\"", "\\", "#", "\n", "30s", "512MiB", "é", "\u{0}", "\r\n",
            "worker.lease", ".", "4", "auto", "\t", "\u{301}",
        ]
        for _ in 0..<20_000 {
            let text = (0..<Int.random(in: 0...12, using: &random))
                .map { _ in pieces.randomElement(using: &random) ?? "" }.joined()
            _ = try? load(text)
        }
    }
}

/// The checkout that these tests were built from.
let repository = URL(fileURLWithPath: #filePath).resolvingSymlinksInPath()
    .deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()
