// What becomes of a program's events, whatever a guest writes there.

import StrictJSON
import Testing

@testable import Machines
@testable import Mayfly

@Suite("A program's events")
struct JobEventsTests {
    private func events(_ text: String) -> JobEvents {
        let bytes = Array(text.utf8)
        return JobEvents(
            CapturedOutput(
                bytes: bytes, total: ByteCount(bytes: bytes.count), isTruncated: false))
    }

    @Test func `are sorted by what they are, and the last value stands`() {
        let found = events(
            """
            {"progress": {"done": 1, "total": 2}}
            {"page": {"page": 1}}
            {"warning": {"code": "macros_present", "message": "one", "page": 3}}
            {"display": {"source": "show"}}
            {"exception": {"type": "ValueError"}}
            {"value": 1}
            {"value": {"a": [1, "x"]}}
            {"failure": {"reason": "page_range", "message": "no page 9"}}

            """)
        #expect(found.value == ["a": [1, "x"]])
        #expect(found.progress == ["done": 1, "total": 2])
        #expect(found.pages == [["page": 1]])
        #expect(found.displays == [["source": "show"]])
        #expect(found.exception == ["type": "ValueError"])
        #expect(found.warnings == [.init(code: "macros_present", message: "one", page: 3)])
        #expect(found.failure?.reason == "page_range")
        #expect(found.unreadableCount == 0)
    }

    @Test(arguments: [
        "{", "[]", "1", "{}", #"{"value": 1, "page": 2}"#, #"{"unknown": 1}"#, "value", "\u{FF}",
        #"{"warning": 1}"#, #"{"warning": {"code": "No"}}"#, #"{"warning": {"message": "x"}}"#,
        #"{"failure": {"reason": 1}}"#, #"{"value": 1e999999}"#, #"{"value": [1e-999999]}"#,
        "{\"value\": " + String(repeating: "[", count: 100_000),
        "{\"value\": " + String(repeating: "9", count: 1000) + "}",
    ])
    func `that are none are counted and harm nothing`(line: String) {
        let found = events("{\"value\": 1}\n\(line)\n{\"page\": 2}")
        #expect(found.unreadableCount == 1)
        #expect(found.value == 1)
        #expect(found.pages == [2])
    }

    @Test func `can be stored as jsonb: no zero bytes, no number beyond numeric`() {
        let found = events(#"{"value": {"a\u0000": "b\u0000c", "n": 1e300}}"#)
        #expect(found.value == ["a\u{FFFD}": "b\u{FFFD}c", "n": .number("1e300")])
    }

    @Test func `are bounded in number`() {
        let found = events(String(repeating: "{\"page\": 1}\n", count: 20_000))
        #expect(found.pages.count == 10_000)
        #expect(found.unreadableCount == 10_000)
    }
}
