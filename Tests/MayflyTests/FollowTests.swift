// What is passed on of a running job, and how `mayfly logs` puts it together with the result.

import Events
import StrictJSON
import Testing

@testable import Jobs
@testable import Machines
@testable import Mayfly

@Suite("A look at a running job")
struct FollowTests {
    private func piece(_ text: String, at offset: Int, step: Int = 0, attempt: Int64 = 1)
        -> LiveOutputRow
    {
        LiveOutputRow(
            place: attempt << 32 | Int64(offset + 1), step: step, stream: "stdout",
            offset: offset, byteCount: text.utf8.count, text: text)
    }
    private func job(_ result: JSON, attempt: Int = 1) -> JobRow {
        JobRow(
            id: 1, queue: "", tenant: "", kind: "code", state: "succeeded", priority: 0,
            attempt: attempt, maxAttempts: 1, payload: "{}", result: result.text, error: nil,
            uniqueKey: nil, replayOf: nil, runAt: "", createdAt: "", startedAt: nil,
            finishedAt: nil, timeout: nil, isCancelRequested: false, worker: nil, progress: nil)
    }
    private func text(_ texts: [OutputText]) -> String {
        texts.map { String(decoding: $0.bytes, as: UTF8.self) }.joined()
    }

    @Test func `pieces and the rest from the result make the whole, whatever was seen of it`() {
        // As OutputCapture cuts 200 bytes down to 20.
        let all = (0..<200).map { UInt8(ascii: "a") + UInt8($0 % 26) }
        var capture = OutputCapture(kept: ByteCount(bytes: 20))
        capture.append(all)
        let captured = capture.captured
        let cut: JSON = .object([
            "stdout": .string(String(decoding: captured.bytes, as: UTF8.self)),
            "truncated": .object(["stdout": .object(["bytes": .number(200)])]),
        ])
        let whole: JSON = .object(["stdout": .string(String(decoding: all, as: UTF8.self))])
        for seen in 0...200 {
            for (result, head) in [(cut, 8), (whole, 200)] {
                var printed = PrintedOutput()
                let first = String(decoding: all[..<seen], as: UTF8.self)
                let shown = printed.take(piece(first, at: 0)).map { [$0] } ?? []
                let output = text(shown) + text(printed.rest(of: job(result)))
                // Whatever is missing is said to be, with its length.
                let gap = max(0, 188 - max(seen, head))
                let expected =
                    gap > 0
                    ? String(decoding: all[..<max(seen, head)], as: UTF8.self)
                        + "\n[… \(gap) bytes left out …]\n"
                        + String(decoding: all[188...], as: UTF8.self)
                    : String(decoding: all, as: UTF8.self)
                #expect(output == expected, "\(seen) bytes were seen")
            }
        }
    }

    @Test func `a gap between two pieces is named, and a piece that was seen is not shown again`() {
        var printed = PrintedOutput()
        #expect(printed.take(piece("abc", at: 0)).map { text([$0]) } == "abc")
        #expect(printed.take(piece("abc", at: 0)) == nil)
        #expect(
            printed.take(piece("xyz", at: 10)).map { text([$0]) }
                == "\n[… 7 bytes left out …]\nxyz")
        // The next attempt begins anew.
        #expect(printed.take(piece("abc", at: 0, attempt: 2)).map { text([$0]) } == "abc")
        #expect(text(printed.rest(of: job(.object(["stdout": "abcdef"]), attempt: 2))) == "def")
        #expect(text(printed.rest(of: job(.object(["stdout": "abcdef"]), attempt: 3))) == "abcdef")
        #expect(text(printed.rest(of: job(.object([:]), attempt: 3))) == "")
    }

    @Test func `no character is cut in two, and what is none is passed on`() {
        let text = Array("aä€😀".utf8)
        let whole = [0, 1, 1, 3, 3, 3, 6, 6, 6, 6, 10]
        for count in 0...text.count {
            #expect(Array(text[..<count]).wholeCharacters.count == whole[count])
        }
        #expect([UInt8]([0x80, 0x80, 0x80, 0x80]).wholeCharacters.count == 4)
        #expect([UInt8]([0x61, 0xFF]).wholeCharacters.count == 1)
        #expect([UInt8]([0xFF, 0x61]).wholeCharacters.count == 2)
    }

    @Test func `progress is the last whole line of the newest events, and never a long one`()
        async
    {
        var reader = ProgressReader()
        let view = OutputView()
        #expect(await reader.latest(in: view) == nil)
        let first = await ProgramOutput(OutputLimits())
        func write(_ text: String, to output: ProgramOutput) async {
            await output.write(Array(text.utf8))
        }
        await view.show(first)
        #expect(await reader.latest(in: view) == nil)
        await write(#"{"progress":{"done":1}}"#, to: first)
        #expect(await reader.latest(in: view) == nil)
        await write("\n{\"progress\":{\"done\":2}}\nnonsense\n{\"prog", to: first)
        #expect(await reader.latest(in: view) == #"{"done":2}"#)
        #expect(await reader.latest(in: view) == nil)
        await write("ress\":3}\n", to: first)
        #expect(await reader.latest(in: view) == "3")
        let long = String(repeating: "x", count: 2000)
        await write("{\"progress\":\"\(long)\"}\n{\"progress\":1e999}\n", to: first)
        #expect(await reader.latest(in: view) == nil)
        let flood = String(repeating: "{\"page\":1}\n", count: 20_000)
        await write("{\"progress\":4}\n" + flood + "{\"progress\":5}\n", to: first)
        #expect(await reader.latest(in: view) == "5")
        let second = await ProgramOutput(OutputLimits())
        await view.show(second)
        await write("{\"progress\":6}\n", to: second)
        #expect(await reader.latest(in: view) == "6")
    }

    @Test func `the end of a program is still to be seen when the next one has begun`() async {
        let view = OutputView()
        let outputs = [
            await ProgramOutput(OutputLimits()), await ProgramOutput(OutputLimits()),
            await ProgramOutput(OutputLimits()),
        ]
        func piece(_ program: Int) async -> String? {
            await view.piece(of: .events, program: program, from: 0, backlog: 3, atMost: 9)
                .map { String(decoding: $0.bytes, as: UTF8.self) }
        }
        for (index, output) in outputs.enumerated() {
            await view.show(output)
            await output.write(Array("a long text \(index)".utf8))
        }
        #expect(await piece(0) == nil)
        #expect(await piece(1) == "t 1")
        #expect(await piece(2) == "t 2")
        #expect(await piece(3) == nil)
    }
}

extension ProgramOutput {
    fileprivate func write(_ bytes: [UInt8]) { events.append(bytes) }
}
