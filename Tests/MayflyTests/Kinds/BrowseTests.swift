// The kind `browse` on the host's side: what a payload may say, and what is made of the browser's words.

import BrowseTools
import Foundation
import Jobs
import Secrets
import StrictJSON
import TestSupport
import Testing

@testable import Machines
@testable import Mayfly

@Suite("A browse job")
struct BrowseTests {
    private struct NoBlobs: BlobSource {
        func part(of digest: String, at offset: Int) async throws -> BlobPart? { nil }
    }

    @Test func `has every file of its tools in the image`() throws {
        let folder = repository.appendingPathComponent("Sources/BrowseTools/mayfly_browse")
        let there = try FileManager.default.subpathsOfDirectory(atPath: folder.path)
            .filter { $0.hasSuffix(".py") || $0.hasSuffix(".js") }
        let packed = BrowseTools.files.map(\.path).filter { !$0.hasSuffix(".pth") }
            .map { $0.replacing("/usr/local/lib/mayfly/mayfly_browse/", with: "") }
        #expect(packed.sorted() == there.sorted())
    }

    @Test func `has the reasons, warnings, returns and actions of its tools, and no other`() throws
    {
        func text(_ name: String) throws -> String {
            let file = try #require(BrowseTools.files.first { $0.path.hasSuffix("/\(name)") })
            return String(decoding: file.bytes, as: UTF8.self)
        }
        let events = try text("events.py")
        func words(after name: String) throws -> Set<String> {
            let parts = events.components(separatedBy: "\(name) = frozenset(\n    \"\"\"")
            let list = try #require(parts.count == 2 ? parts[1] : nil)
            return Set(
                list.prefix { $0 != "\"" }.split(whereSeparator: \.isWhitespace).map(String.init))
        }
        #expect(try words(after: "REASONS") == Set(BrowseResult.reasons.map(\.rawValue)))
        #expect(try words(after: "WARNINGS") == BrowseResult.warningCodes)
        let actions = try text("actions.py").components(separatedBy: "\nACTIONS = {")[1]
        let named = actions.prefix { $0 != "}" }.matches(of: /"([a-z]+)":/).map { String($0.1) }
        #expect(Set(named) == Set(BrowsePayload.actionNames))
    }

    @Test
    func
        `hands the browser what it may know, secrets in their places, and files with names of ours`()
        async throws
    {
        let kind = BrowseKind(try Configuration(flags: [], file: nil, environment: [:]))
        var keys = SecretKeys(directory: "/nonexistent")
        keys.held = [PrivateKey.generate()]
        let key = keys.held[0].publicKey
        let seal = { (text: String) in
            try SealedSecret.seal(Secret(text), for: key, tenant: nil)
        }
        let recipe = try await kind.recipe(
            payload: """
                {"url": "https://example.com/a?b#c",
                 "secrets": {"PW": "\(try seal("hunter2-abc"))", "STATE": "\(try seal(#"{"cookies": []}"#))"},
                 "actions": [{"type": ["#p", {"secret": "PW"}]}, {"upload": ["#f", "../a b.txt"]}],
                 "auth": {"username": "ann", "password": {"secret": "PW"}},
                 "headers": {"Authorization": {"secret": "PW"}, "X-A": "b"},
                 "cookies": [{"name": "n", "value": {"secret": "PW"}, "domain": "example.com"}],
                 "storage": {"secret": "STATE"},
                 "files": [{"name": "../a b.txt", "text": "x"}],
                 "network": {"allow": ["example.com:443"]}}
                """, timeout: .seconds(30), blobs: NoBlobs(),
            secrets: SecretOpener(keys: keys, tenant: ""))
        #expect(recipe.image == "browse")
        #expect(recipe.job.files.map(\.name) == ["input/1"])
        #expect(recipe.job.outputs == ["out/**"])
        let request = try JSON(parsing: recipe.job.standardInput)
        #expect(
            request["actions"] == [
                ["type": ["#p", "hunter2-abc"]], ["upload": ["#f", "../a b.txt"]],
            ])
        #expect(request["auth"] == ["username": "ann", "password": "hunter2-abc"])
        #expect(request["headers"] == ["Authorization": "hunter2-abc", "X-A": "b"])
        #expect(request["storage"] == ["cookies": []])
        #expect(request["limits"] == ["seconds": 28])
        #expect(request["secrets"] == nil)
        #expect(request["network"] == nil)
        #expect(recipe.mask.masked("hunter2-abc") == "***********")
    }

    @Test(arguments: [
        (#"{}"#, "\"url\" is missing"),
        (#"{"url": "https://a", "html": ""}"#, "use either"),
        (#"{"html": "", "macro": 1}"#, "unknown key \"macro\""),
        (#"{"html": "", "return": ["everything"]}"#, "$.return[0]"),
        (#"{"html": "", "actions": [{}]}"#, "$.actions[0]: is not one action"),
        (#"{"html": "", "actions": [{"click": "a", "hover": "b"}]}"#, "is not one action"),
        (#"{"html": "", "actions": [{"type": ["a"]}]}"#, "$.actions[0].type"),
        (#"{"html": "", "actions": [{"upload": ["a", "b"]}]}"#, "is none of files"),
        (#"{"html": "", "actions": [{"type": ["a", {"secret": "X"}]}]}"#, "names a secret"),
        (#"{"html": "", "actions": [{"type": ["a", {"blob": "X"}]}]}"#, "unknown key"),
        (#"{"html": "", "actions": [{"page": -1}]}"#, "$.actions[0].page"),
        (#"{"html": "", "auth": {"username": "a", "password": "p"}}"#, "in the clear"),
        (#"{"html": "", "storage": {"cookies": []}}"#, "unknown key"),
        (#"{"html": "", "storage": "x"}"#, "in the clear"),
        (#"{"html": "", "headers": {"cookie": "a=b"}}"#, "in the clear"),
        (#"{"html": "", "headers": {"a b": "c"}}"#, "no name of a header"),
        (
            #"{"html": "", "cookies": [{"name": "a", "value": "b", "url": "https://a"}]}"#,
            "in the clear"
        ),
        (#"{"html": "", "secrets": {"A": "clear"}}"#, "$.secrets.A"),
        (#"{"html": "", "viewport": {"width": 99999}}"#, "$.viewport.width"),
        (#"{"html": "", "geolocation": {"latitude": 99, "longitude": 0}}"#, "$.geolocation"),
        (#"{"html": "", "block": ["document"]}"#, "$.block[0]"),
        (#"{"html": "", "wait": {"selctor": "a"}}"#, "unknown key"),
        (#"{"html": "", "screenshot": {"type": "gif"}}"#, "$.screenshot.type"),
    ])
    func `is refused with the place of what is wrong`(payload: String, words: String) {
        do throws(InvalidPayload) {
            _ = try BrowsePayload(payload)
            Issue.record("accepted: \(payload)")
        } catch {
            #expect("\(error)".contains(words), "\(error)")
            #expect(error.reason == .invalidPayload)
            #expect(!"\(error)".contains("a=b"))
        }
    }

    @Test(arguments: [
        "file:///etc/passwd", "FILE:///etc/passwd", " file:///etc/passwd", "fi\\tle:///etc/passwd",
        "view-source:http://a/", "chrome://version", "devtools://x", "javascript:alert(1)",
        "data:text/html,x", "blob:http://a/x", "about:blank", "ftp://a/", "filesystem:http://a/x",
        "http://", "https:///etc/passwd", "http:a", "http://ann@a/", "https://a:b@c/",
        "http://a\\\\@b/", "http://a b/", "http://a/\\n", "", "a", "//a/", "http//a",
    ])
    func `refuses an address that a page must not come from`(url: String) {
        for payload in [
            #"{"url": "\#(url)"}"#, #"{"html": "", "actions": [{"goto": "\#(url)"}]}"#,
        ] where !url.contains("\\\\@") {
            do throws(InvalidPayload) {
                _ = try BrowsePayload(payload)
                Issue.record("accepted: \(payload)")
            } catch { #expect(error.reason == .urlRefused, "\(error)") }
        }
    }

    private func result(
        _ ending: GuestReport.Ending, events: String, files: [OutputFile] = []
    ) -> BrowseResult {
        func output(_ text: String) -> CapturedOutput {
            CapturedOutput(
                bytes: Array(text.utf8), total: ByteCount(bytes: text.utf8.count),
                isTruncated: false)
        }
        let run = MachineRun(
            report: GuestReport(
                ending: ending, stdout: output(""), stderr: output("boom\n"),
                events: output(events), files: files, cpu: .zero, peakMemory: .mebibytes(1),
                wall: .zero, firstByte: nil, isWarm: true),
            identity: MachineIdentity(
                id: "m-1", image: "browse", generation: "g1", hypervisor: .qemu,
                accelerator: .tcg, transport: .virtioSerial, entropySeed: [], clock: 7),
            timings: MachineTimings(startedFrom: .warm))
        return BrowseResult(run: run, timeout: .seconds(5), queueDelay: nil)
    }

    @Test func `keeps what it had when it fails, and has no reason that a guest makes up`() {
        let page = #"{"value": {"text": "half"}}"# + "\n"
        let endings: [(GuestReport.Ending, String, Reason?)] = [
            (.exited(code: 0), "", nil), (.timedOut, "", .timeout),
            (.outOfMemory, "", .outOfMemory), (.signalled(11), "", .pageCrashed),
            (.exited(code: 1), "", .pageCrashed),
            (
                .exited(code: 0), #"{"failure": {"reason": "dialog_storm", "message": "x"}}"#,
                .dialogStorm
            ),
            (
                .exited(code: 0), #"{"failure": {"reason": "machine_lost", "message": "x"}}"#,
                .pageCrashed
            ),
        ]
        for (ending, failure, reason) in endings {
            let found = result(
                ending, events: page + failure,
                files: [OutputFile(name: "out/failure.png", bytes: [1], sha256: "d")])
            #expect(found.failure?.reason == reason, "\(ending)")
            #expect(found.json["value"] == ["text": "half"])
            #expect(found.files.map(\.name) == ["failure.png"])
        }
        #expect(result(.exited(code: 0), events: "").failure?.reason == .pageCrashed)
    }
}
