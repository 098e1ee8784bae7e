// Keeps the beginning and the end of a stream of any length in bounded memory.

/// Head and tail of one output stream; adding to it costs what is added, never what is held.
struct OutputCapture {
    /// Small pieces are gathered up to this, so that there are few; none is moved again.
    private static let pieceByteCount = 64 << 10

    /// The answer stands at the end more often than at the start.
    private let headLimit: Int
    private let tailLimit: Int
    private var head = Pieces()
    private var tail = Pieces()
    private(set) var total = 0

    init(kept: ByteCount) {
        headLimit = max(1, kept.bytes / 5 * 2)
        tailLimit = max(1, kept.bytes - headLimit)
    }

    mutating func append(_ bytes: [UInt8]) {
        total += bytes.count
        var rest = bytes[...]
        if head.count < headLimit {
            let part = rest.prefix(headLimit - head.count)
            head.append(part)
            rest = rest.dropFirst(part.count)
        }
        tail.append(rest.suffix(tailLimit))
        tail.dropFirst(keeping: tailLimit)
    }

    /// What came from `offset` on, at most `count` bytes; later bytes where those are not kept.
    func piece(from offset: Int, atMost count: Int) -> OutputView.Piece? {
        guard offset < total, offset >= 0, count > 0 else { return nil }
        if offset < head.count {
            return OutputView.Piece(
                offset: offset, bytes: head.bytes(from: offset, atMost: count))
        }
        // The tail may hold a piece more than it will give at the end.
        let start = max(offset, total - tail.count)
        return OutputView.Piece(
            offset: start, bytes: tail.bytes(from: start - (total - tail.count), atMost: count))
    }

    var captured: CapturedOutput {
        let tail = self.tail.joined.suffix(tailLimit)
        let left = total - head.count - tail.count
        guard left > 0 else {
            return CapturedOutput(
                bytes: head.joined + tail, total: ByteCount(bytes: total), isTruncated: false)
        }
        let marker = CapturedOutput.marker(left)
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
        func bytes(from offset: Int, atMost limit: Int) -> [UInt8] {
            var (skipped, bytes): (Int, [UInt8]) = (0, [])
            for piece in pieces where bytes.count < limit {
                let start = max(0, offset - skipped)
                skipped += piece.count
                if start < piece.count {
                    bytes += piece[start...].prefix(limit - bytes.count)
                }
            }
            return bytes
        }
        var joined: [UInt8] {
            var bytes: [UInt8] = []
            bytes.reserveCapacity(count)
            for piece in pieces { bytes += piece }
            return bytes
        }
    }
}

extension CapturedOutput {
    /// What was kept, marker and all, of a longer stream.
    package init(cut bytes: [UInt8], of total: Int) {
        self.init(bytes: bytes, total: ByteCount(bytes: total), isTruncated: true)
    }
    /// What stands where so many bytes are left out.
    package static func marker(_ left: Int) -> [UInt8] {
        Array("\n[… \(left) bytes left out …]\n".utf8)
    }
    /// What stands where the middle was left out; `nil` when all of it is here.
    package var marker: [UInt8]? {
        guard isTruncated else { return nil }
        // Its own length depends on the digits of what it says.
        return (1...19).lazy.map { digits in
            (digits, total.bytes - bytes.count + Self.marker(0).count - 1 + digits)
        }.first { digits, left in left > 0 && String(left).count == digits }
            .map { Self.marker($1) }
    }
}
