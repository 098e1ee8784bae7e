// Log lines hold what guests and databases chose; none of it may pass for a line or a field of ours.

import Logging
import Testing

@testable import Mayfly

@Suite("A log line") struct LogTests {
    private func line(_ value: String) -> String {
        LineLog.line("attempt ended", [("error", .string(value)), ("outcome", "failed")])
    }

    @Test func `keeps plain values as they are`() {
        #expect(line("timeout") == "attempt ended error=timeout outcome=failed")
    }

    @Test(arguments: [
        (#"x" outcome="succeeded"#, #"error="x\" outcome=\"succeeded" outcome=failed"#),
        (#"x\"#, #"error="x\\" outcome=failed"#),
        ("a=b", #"error="a=b" outcome=failed"#),
        ("", #"error="" outcome=failed"#),
        ("x\u{2028}2026-01-01 info", #"error="x 2026-01-01 info" outcome=failed"#),
        ("x\ny\r\u{1B}[2J", #"error="x y  [2J" outcome=failed"#),
        ("a\u{202E}b", "error=a b outcome=failed"),
    ])
    func `quotes a value that could pass for something else`(value: String, shown: String) {
        #expect(line(value) == "attempt ended " + shown)
    }
}
