// Keeps the beginning and the end of a stream of any length in bounded memory.

/// Head and tail of one output stream.
struct OutputCapture {
    private let half: Int
    private var head: [UInt8] = []
    /// Trimmed to its last `half` bytes when it has grown to twice that: each byte moves once.
    private var tail: [UInt8] = []
    private(set) var total = 0

    init(kept: ByteCount) { half = max(1, kept.bytes / 2) }

    mutating func append(_ bytes: [UInt8]) {
        total += bytes.count
        var rest = bytes[...]
        if head.count < half {
            let part = rest.prefix(half - head.count)
            head += part
            rest = rest.dropFirst(part.count)
        }
        tail += rest.suffix(half)
        if tail.count > 2 * half { tail.removeFirst(tail.count - half) }
    }

    var captured: CapturedOutput {
        let tail = self.tail.suffix(half)
        let isTruncated = total > head.count + tail.count
        guard isTruncated else {
            return CapturedOutput(
                bytes: head + tail, total: ByteCount(bytes: total), isTruncated: false)
        }
        let left = total - head.count - tail.count
        let marker = Array("\n[… \(left) bytes left out …]\n".utf8)
        return CapturedOutput(
            bytes: head + marker + tail, total: ByteCount(bytes: total), isTruncated: true)
    }
}
