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

        @Test func `of many pages says by SQL how far it is, and gives each page as it comes`()
            async throws
        {
            try await World.with { world in
                _ = try await world.worker(["--slots", "1", "--set", "worker.kinds=document"])
                let text = (1...1500).map { "Paragraph \($0) of many.\n\n" }.joined()
                let made = try await run(
                    [
                        "operation": "convert", "to": "pdf",
                        "input": ["name": "a.txt", "text": .string(text)],
                    ], in: world)
                #expect(made.state == "succeeded", "\(made.error ?? "")")
                let address = try #require(
                    JSON.stored(made.result)["files"]?.elements.first?["sha256"])
                let payload: JSON = [
                    "operation": "render", "dpi": 200,
                    "input": ["name": "a.pdf", "blob": address],
                ]
                let id = try world.number(
                    """
                    select mayfly.enqueue('document', $payload$\(payload.text)$payload$,
                        timeout => '10 min')
                    """)
                _ = try await world.until(id) { $0.state == "running" }
                try world.sql("select * from mayfly.follow(\(id))")
                let job = try await world.until(id) { $0.progress != nil || $0.hasEnded }
                #expect(job.state == "running")
                let progress = JSON.stored(job.progress)
                let total = try #require(progress["total"]?.int)
                #expect(total > 20)
                #expect((1...total).contains(progress["done"]?.int ?? 0))
                let deadline = ContinuousClock.now + .seconds(60)
                var events = ""
                while !events.contains("{\"page\"") && .now < deadline {
                    events = try world.sql(
                        "select text from mayfly.follow(\(id)) where stream = 'events'")
                    try await Task.sleep(for: .milliseconds(100))
                }
                #expect(events.contains("{\"page\""))
                #expect(try await world.until(id) { _ in true }.state == "running")
                try world.sql("select mayfly.cancel(\(id))")
                let ended = try await world.ended(id)
                #expect(ended.state == "cancelled")
                #expect(ended.progress == nil)
            }
        }
    }
}
