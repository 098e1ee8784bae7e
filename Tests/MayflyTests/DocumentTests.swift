// The kind `document` on the host's side: what a payload may say, and what is made of the tools' words.

import DocumentTools
import Foundation
import Jobs
import Secrets
import StrictJSON
import TestSupport
import Testing

@testable import Machines
@testable import Mayfly

@Suite("A document job")
struct DocumentTests {
    private struct NoBlobs: BlobSource {
        func part(of digest: String, at offset: Int) async throws -> BlobPart? { nil }
    }

    @Test func `has every module of its tools in the image`() throws {
        let folder = repository.appendingPathComponent("Sources/DocumentTools/mayfly_document")
        let there = try FileManager.default.subpathsOfDirectory(atPath: folder.path)
            .filter { $0.hasSuffix(".py") }
        let packed = DocumentTools.files.map(\.path).filter { $0.hasSuffix(".py") }
            .map { $0.replacing("/usr/local/lib/mayfly/mayfly_document/", with: "") }
        #expect(packed.sorted() == there.sorted())
    }

    @Test func `has the reasons and warnings of its tools, and no other`() throws {
        let events = try #require(DocumentTools.files.first { $0.path.hasSuffix("/events.py") })
        let text = String(decoding: events.bytes, as: UTF8.self)
        func words(after name: String) throws -> Set<String> {
            let parts = text.components(separatedBy: "\(name) = frozenset(\n    \"\"\"")
            let list = try #require(parts.count == 2 ? parts[1] : nil)
            return Set(
                list.prefix { $0 != "\"" }.split(whereSeparator: \.isWhitespace).map(String.init))
        }
        #expect(try words(after: "REASONS") == Set(DocumentResult.reasons.map(\.rawValue)))
        #expect(try words(after: "WARNINGS") == DocumentResult.warningCodes)
    }

    @Test func `hands the tools what they may know, and the documents as files with names of ours`()
        async throws
    {
        let kind = DocumentKind(try Configuration(flags: [], file: nil, environment: [:]))
        var keys = SecretKeys(directory: "/nonexistent")
        keys.held = [PrivateKey.generate()]
        let password = try SealedSecret.seal(
            Secret("p"), for: keys.held[0].publicKey, tenant: nil)
        let recipe = try await kind.recipe(
            payload: """
                {"operation": "convert", "to": "pdf", "pages": "1-3,7,9-", "password": "\(password)",
                 "languages": ["eng", "chi_sim"], "dpi": 150, "layout": true,
                 "options": {"pdfa": "2b", "landscape": true, "quality": 80},
                 "input": {"name": "../../etc/pass wd.docx", "base64": "UEsDBA=="}}
                """, timeout: nil, blobs: NoBlobs(), secrets: SecretOpener(keys: keys, tenant: ""))
        #expect(recipe.image == "document")
        #expect(recipe.job.files.map(\.name) == ["input/1"])
        #expect(recipe.job.files.first?.bytes == [0x50, 0x4B, 3, 4])
        #expect(recipe.job.outputs == ["out/**"])
        #expect(recipe.job.hasEvents)
        let request = try JSON(parsing: recipe.job.standardInput)
        #expect(request["operation"] == "convert")
        #expect(request["to"] == "pdf")
        #expect(request["password"] == "p")
        #expect(request["languages"] == ["eng", "chi_sim"])
        #expect(request["options"] == ["pdfa": "2b", "quality": 80, "landscape": true])
        #expect(
            request["inputs"] == [["path": "input/1", "name": "../../etc/pass wd.docx"]])
        guard case .python(let source) = recipe.job.program else {
            Issue.record("\(recipe.job.program)")
            return
        }
        #expect(!source.contains("pass"))
    }

    @Test(arguments: [
        (#"{}"#, "$: \"operation\" is missing"),
        (#"{"operation": "print", "input": {"text": ""}}"#, "$.operation: \"print\" is not known"),
        (#"{"operation": "text"}"#, "\"input\" is missing"),
        (#"{"operation": "text", "input": {}}"#, "$.input: has no content"),
        (#"{"operation": "text", "input": {"text": "", "blob": ""}}"#, "use one of them"),
        (#"{"operation": "text", "input": {"blob": "x"}}"#, "is not the address of a blob"),
        (#"{"operation": "text", "inputs": [{"text": ""}, {"text": ""}]}"#, "only the operation"),
        (#"{"operation": "pages", "do": "merge", "inputs": []}"#, "has 0 documents"),
        (#"{"operation": "pages", "input": {"text": ""}}"#, "\"do\" is missing"),
        (#"{"operation": "text", "do": "merge", "input": {"text": ""}}"#, "$.do: belongs to"),
        (#"{"operation": "convert", "input": {"text": ""}}"#, "\"to\" is missing"),
        (#"{"operation": "convert", "to": "exe", "input": {"text": ""}}"#, "$.to: \"exe\""),
        (
            #"{"operation": "text", "to": "pdf", "input": {"text": ""}}"#,
            "$.to: \"pdf\" is not known"
        ),
        (
            #"{"operation": "pages", "do": "merge", "to": "pdf", "input": {"text": ""}}"#,
            "leave it out"
        ),
        (
            #"{"operation": "render", "to": "webp", "options": {"quality": 0}, "input": {"text": ""}}"#,
            "quality"
        ),
        (#"{"operation": "text", "pages": "0", "input": {"text": ""}}"#, "$.pages: \"0\""),
        (#"{"operation": "text", "pages": "1,,2", "input": {"text": ""}}"#, "$.pages"),
        (#"{"operation": "text", "pages": "-", "input": {"text": ""}}"#, "$.pages"),
        (#"{"operation": "text", "pages": "1--3", "input": {"text": ""}}"#, "$.pages"),
        (#"{"operation": "ocr", "languages": ["../x"], "input": {"text": ""}}"#, "languages[0]"),
        (#"{"operation": "ocr", "languages": [], "input": {"text": ""}}"#, "$.languages: is empty"),
        (#"{"operation": "render", "dpi": 6000, "input": {"text": ""}}"#, "$.dpi"),
        (#"{"operation": "render", "dpi": "150", "input": {"text": ""}}"#, "$.dpi"),
        (#"{"operation": "text", "password": "p", "input": {"text": ""}}"#, "is not sealed"),
        (#"{"operation": "text", "layout": 1, "input": {"text": ""}}"#, "$.layout"),
        (#"{"operation": "text", "options": {"x": 1}, "input": {"text": ""}}"#, "unknown key"),
        (#"{"operation": "text", "network": {}, "input": {"text": ""}}"#, "have no network"),
        (#"{"operation": "text", "macro": 1, "input": {"text": ""}}"#, "unknown key \"macro\""),
    ])
    func `is refused with the place of what is wrong`(payload: String, words: String) {
        do throws(InvalidPayload) {
            _ = try DocumentPayload(payload)
            Issue.record("accepted: \(payload)")
        } catch {
            #expect("\(error)".contains(words), "\(error)")
            #expect(error.reason == .invalidPayload)
        }
    }

    private func result(
        _ ending: GuestReport.Ending, events: String, files: [OutputFile] = []
    ) -> DocumentResult {
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
                id: "m-1", image: "document", generation: "g1", hypervisor: .qemu,
                accelerator: .tcg, transport: .virtioSerial, entropySeed: [], clock: 7),
            timings: MachineTimings(startedFrom: .warm))
        return DocumentResult(
            run: run, operation: "text", timeout: .seconds(5), queueDelay: nil)
    }

    @Test func `gives the value, the warnings, and the files by the names in the value`() {
        let found = result(
            .exited(code: 0),
            events: """
                {"warning": {"code": "macros_present", "message": "a macro"}}
                {"warning": {"code": "all_is_well", "message": "no such warning"}}
                {"value": {"text": "hello"}}
                """,
            files: [OutputFile(name: "out/page-0001.png", bytes: [1], sha256: "d")])
        #expect(found.failure == nil)
        #expect(found.json["value"] == ["text": "hello"])
        #expect(
            found.json["warnings"] == [["code": "macros_present", "message": "a macro"]])
        #expect(
            found.json["files"] == [
                ["name": "page-0001.png", "size": 1, "sha256": "d", "status": "new"]
            ])
    }

    @Test func `keeps the pages that were done when it fails, whatever ended it`() {
        let pages = """
            {"page": {"page": 1, "text": "one"}}
            {"page": {"page": 2, "text": "two"}}

            """
        let endings: [(GuestReport.Ending, String, Reason)] = [
            (.timedOut, "", .timeout), (.outOfMemory, "", .outOfMemory),
            (.signalled(11), "", .converterCrashed), (.exited(code: 1), "", .converterCrashed),
            (.exited(code: 0), "", .converterCrashed),
            (
                .exited(code: 0), #"{"failure": {"reason": "pixel_limit", "message": "page 3"}}"#,
                .pixelLimit
            ),
            // What a guest makes up is no reason of ours.
            (
                .exited(code: 0), #"{"failure": {"reason": "machine_lost", "message": "x"}}"#,
                .converterCrashed
            ),
        ]
        for (ending, failure, reason) in endings {
            let found = result(ending, events: pages + failure)
            #expect(found.failure?.reason == reason, "\(ending)")
            #expect(found.json["value"]?["pages_done"] == [1, 2])
            #expect(
                found.json["value"]?["per_page"] == [
                    ["page": 1, "text": "one"], ["page": 2, "text": "two"],
                ])
        }
    }
}
