// Log lines hold what guests and databases chose; none of it may pass for a line or a field of ours.

import Glibc
import Logging
import Processes
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

    @Test func `holds nobody up while nobody reads it, and says how many were lost`() throws {
        var pair: [CInt] = [-1, -1]
        try #require(unsafe pipe(&pair) == 0)
        let reader = Descriptor(pair[0])
        let writer = Descriptor(pair[1])
        let log = LogWriter(writer.number)
        // Three times what a pipe and the backlog hold; with a write that waits this is the end.
        let count = 4000
        for number in 0..<count {
            log.write("\(number) " + String(repeating: "x", count: 1000) + "\n")
        }
        let text = readAll(from: reader.number, until: "were lost")
        let lines = text.split(separator: "\n")
        let numbers = lines.dropLast().compactMap {
            $0.split(separator: " ").first.flatMap { Int($0) }
        }
        #expect(numbers == Array(0..<numbers.count) && numbers.count > 1000)
        let lost = count - numbers.count
        #expect(lines.last?.contains("warning \(lost) lines of this log were lost") == true)
        log.flush()
        log.write("again\n")
        #expect(readAll(from: reader.number, until: "again\n") == "again\n")
    }

    private func readAll(from descriptor: CInt, until end: String) -> String {
        var (text, buffer) = ("", [UInt8](repeating: 0, count: 1 << 16))
        while !text.contains(end) || !text.hasSuffix("\n") {
            let count = unsafe read(descriptor, &buffer, buffer.count)
            guard count > 0 else { return text }
            text += String(decoding: buffer[..<count], as: UTF8.self)
        }
        return text
    }
}
