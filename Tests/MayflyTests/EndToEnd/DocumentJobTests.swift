// Documents the whole way: payload, queue, worker, machine, result and blobs. What the tools make of
// many documents is Tests/DocumentToolsTests' business.

import Foundation
import Jobs
import StrictJSON
import Testing

@testable import Mayfly

extension EndToEndTests {
    @Suite("A document", .serialized)
    struct DocumentJobTests {
        private func run(_ payload: JSON, in world: World) async throws -> JobRow {
            let id = try world.number(
                """
                select mayfly.enqueue('document', $payload$\(payload.text)$payload$,
                    timeout => '10 min')
                """)
            return try await world.ended(id, within: .seconds(300))
        }

        @Test func `is made into another by one job and read by the next, from blob to blob`()
            async throws
        {
            try await World.with { world in
                _ = try await world.worker(["--slots", "1", "--set", "worker.kinds=document"])
                let made = try await run(
                    [
                        "operation": "convert", "to": "docx",
                        "input": ["name": "a.md", "text": "# Head\n\nGröße und Maß.\n"],
                    ], in: world)
                #expect(made.state == "succeeded", "\(made.error ?? "")")
                let result = JSON.stored(made.result)
                #expect(result["machine"]?["image"] == "document")
                let file = try #require(result["files"]?.elements.first)
                #expect(file["name"] == "converted.docx")
                let address = try #require(file["sha256"])
                let read = try await run(
                    [
                        "operation": "markdown",
                        "input": ["name": "a.docx", "blob": address],
                    ], in: world)
                #expect(read.state == "succeeded", "\(read.error ?? "")")
                let text = JSON.stored(read.result)["value"]?["text"]?.string
                #expect(text == "# Head\n\nGröße und Maß.")

                let fake = try await run(
                    [
                        "operation": "text",
                        "input": ["name": "a.docx", "text": "#!/bin/sh\nid\n"],
                    ], in: world)
                #expect(fake.state == "failed")
                #expect(fake.errorReason == "format_mismatch")
                #expect(JSON.stored(fake.result)["machine"]?["image"] == "document")
            }
        }
    }
}
