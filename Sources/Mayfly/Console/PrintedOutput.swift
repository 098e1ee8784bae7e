// What of a job's output has been printed: pieces while it ran, and the rest of it from its result.
// Called by `mayfly logs`.

import Jobs
import Machines
import StrictJSON

/// Some output for one of a command's streams.
struct OutputText: Equatable {
    /// `stdout` or `stderr`.
    let stream: String
    let bytes: [UInt8]
}

/// Goes from piece to piece, and says where something is missing.
struct PrintedOutput {
    private struct Place: Hashable {
        let step: Int
        let stream: String
    }
    private var attempt = 0
    /// Up to which byte each stream has been printed.
    private var offsets: [Place: Int] = [:]

    /// What to print of a piece of a running job; `nil`: nothing.
    mutating func take(_ piece: LiveOutputRow) -> OutputText? {
        begin(piece.attempt)
        guard piece.stream != "events" else { return nil }
        let place = Place(step: piece.step, stream: piece.stream)
        let seen = offsets[place] ?? 0
        guard piece.offset >= seen else { return nil }
        offsets[place] = piece.offset + piece.byteCount
        let gap = piece.offset > seen ? CapturedOutput.marker(piece.offset - seen) : []
        return OutputText(stream: piece.stream, bytes: gap + Array(piece.text.utf8))
    }

    /// What is left to print of a job that has ended.
    mutating func rest(of job: JobRow) -> [OutputText] {
        begin(job.attempt)
        let result = JSON.stored(job.result)
        let steps = result["steps"]?.elements ?? [result]
        var texts: [OutputText] = []
        for (step, program) in steps.enumerated() {
            for stream in ["stdout", "stderr"] {
                guard let stored = StoredOutput(program, stream) else { continue }
                let seen = offsets[Place(step: step, stream: stream)] ?? 0
                let rest = stored.rest(from: seen)
                if !rest.isEmpty { texts.append(OutputText(stream: stream, bytes: rest)) }
            }
        }
        return texts
    }

    private mutating func begin(_ attempt: Int) {
        if attempt != self.attempt { (self.attempt, offsets) = (attempt, [:]) }
    }
}

/// One stream of one program, as its result has it: whole, or the head and the tail of it.
private struct StoredOutput {
    private let head: [UInt8]
    private let tail: [UInt8]
    private let total: Int

    init?(_ program: JSON, _ stream: String) {
        guard let text = program[stream]?.string else { return nil }
        let exact = program["\(stream)_base64"]?.string.flatMap(Base64.decode)
        let bytes = exact ?? Array(text.utf8)
        guard let total = program["truncated"]?[stream]?["bytes"]?.int,
            let marker = CapturedOutput(cut: bytes, of: total).marker,
            let cut = bytes.firstRange(of: marker)
        else {
            (head, tail, self.total) = (bytes, [], bytes.count)
            return
        }
        (head, tail, self.total) = (
            Array(bytes[..<cut.lowerBound]), Array(bytes[cut.upperBound...]), total
        )
    }

    func rest(from seen: Int) -> [UInt8] {
        if seen >= total { return [] }
        let tailStart = total - tail.count
        if seen < head.count {
            let gap = tailStart - head.count
            return head.dropFirst(seen)
                + (gap > 0 ? CapturedOutput.marker(gap) : []) + tail
        }
        if seen < tailStart { return CapturedOutput.marker(tailStart - seen) + tail }
        return Array(tail.dropFirst(seen - tailStart))
    }
}
