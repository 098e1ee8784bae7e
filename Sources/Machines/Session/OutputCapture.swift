// Keeps the beginning and the end of a stream of any length in bounded memory.

/// Head and tail of one output stream; adding to it costs what is added, never what is held.
struct OutputCapture {
    /// Small pieces are gathered up to this, so that there are few; none is moved again.
    private static let pieceByteCount = 64 << 10

    private let half: Int
    private var head = Pieces()
    private var tail = Pieces()
    private(set) var total = 0

    init(kept: ByteCount) { half = max(1, kept.bytes / 2) }

    mutating func append(_ bytes: [UInt8]) {
        total += bytes.count
        var rest = bytes[...]
        if head.count < half {
            let part = rest.prefix(half - head.count)
            head.append(part)
            rest = rest.dropFirst(part.count)
        }
        tail.append(rest.suffix(half))
        tail.dropFirst(keeping: half)
    }

    var captured: CapturedOutput {
        let tail = self.tail.joined.suffix(half)
        let left = total - head.count - tail.count
        guard left > 0 else {
            return CapturedOutput(
                bytes: head.joined + tail, total: ByteCount(bytes: total), isTruncated: false)
        }
        let marker = Array("\n[… \(left) bytes left out …]\n".utf8)
        return CapturedOutput(
            bytes: head.joined + marker + tail, total: ByteCount(bytes: total), isTruncated: true)
    }

    private struct Pieces {
        private var pieces: [[UInt8]] = []
        private(set) var count = 0

        mutating func append(_ bytes: ArraySlice<UInt8>) {
            guard !bytes.isEmpty else { return }
            count += bytes.count
            if let last = pieces.indices.last,
                pieces[last].count + bytes.count <= OutputCapture.pieceByteCount
            {
                pieces[last] += bytes
            } else {
                pieces.append(Array(bytes))
            }
        }
        /// Drops whole pieces from the beginning as long as `kept` bytes are left.
        mutating func dropFirst(keeping kept: Int) {
            var index = 0
            while index < pieces.count, count - pieces[index].count >= kept {
                count -= pieces[index].count
                index += 1
            }
            pieces.removeFirst(index)
        }
        var joined: [UInt8] {
            var bytes: [UInt8] = []
            bytes.reserveCapacity(count)
            for piece in pieces { bytes += piece }
            return bytes
        }
    }
}
