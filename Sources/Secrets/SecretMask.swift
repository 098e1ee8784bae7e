// Stars in the place of secrets, in what a job printed and left in words. Literal occurrences only:
// a program that encodes a secret, or writes it into a file, has published it.

/// What is looked for in one job's output.
package struct SecretMask: Sendable {
    /// Shorter secrets are left alone: they stand in every other word.
    package static let byteCountMin = 6
    /// Of a secret that a cut went through, what is left is covered if it has so many bytes.
    private static let partByteCountMin = 3

    private let needles: [Needle]

    package init(_ secrets: [Secret] = []) {
        let texts = Set(secrets.map(\.bytes).filter { $0.count >= Self.byteCountMin })
        needles = texts.map(Needle.init)
    }
    package var isEmpty: Bool { needles.isEmpty }

    package func masked(_ text: String) -> String {
        guard !isEmpty else { return text }
        let bytes = Array(text.utf8)
        let places = places(in: bytes)
        return places.isEmpty ? text : String(decoding: Self.cover(bytes, places), as: UTF8.self)
    }

    /// - Parameters:
    ///   - marker: what stands where a middle was left out; parts of a secret beside it go, too.
    ///   - isCutShort: whether more would have come.
    package func masked(
        _ bytes: [UInt8], marker: [UInt8]? = nil, isCutShort: Bool = false
    ) -> [UInt8] {
        guard !isEmpty else { return bytes }
        var places = places(in: bytes)
        var cuts: [Range<Int>] = isCutShort ? [bytes.count..<bytes.count] : []
        if let marker { cuts += Needle(marker).matches(in: bytes) }
        for cut in cuts {
            for needle in needles {
                let before = needle.beginning(endingAt: cut.lowerBound, of: bytes)
                let after = needle.reversed.beginning(
                    endingAt: bytes.count - cut.upperBound, ofReversed: bytes)
                if before >= Self.partByteCountMin {
                    places.append(cut.lowerBound - before..<cut.lowerBound)
                }
                if after >= Self.partByteCountMin {
                    places.append(cut.upperBound..<cut.upperBound + after)
                }
            }
        }
        return Self.cover(bytes, places)
    }

    /// A piece of a stream that still grows.
    ///
    /// - Parameter followsGap: whether the bytes right before it are not known.
    /// - Returns: the bytes, and how many of them may be shown: a secret may begin behind those,
    ///   and the next look begins there.
    package func covered(
        _ bytes: [UInt8], followsGap: Bool
    ) -> (bytes: [UInt8], whole: Int) {
        guard !isEmpty else { return (bytes, bytes.count) }
        var places = places(in: bytes)
        var held = 0
        for needle in needles {
            held = max(held, needle.beginning(endingAt: bytes.count, of: bytes))
            guard followsGap else { continue }
            let rest = needle.reversed.beginning(endingAt: bytes.count, ofReversed: bytes)
            if rest >= Self.partByteCountMin { places.append(0..<rest) }
        }
        // Never through a place that is covered: its second half would be shown as it is.
        let end = bytes.count - held
        let place = places.first { $0.lowerBound < end && end < $0.upperBound }
        return (Self.cover(bytes, places), place?.upperBound ?? end)
    }

    private func places(in bytes: [UInt8]) -> [Range<Int>] {
        needles.flatMap { $0.matches(in: bytes) }
    }

    /// As many `*` as there were bytes, so that sizes and places stay what they are.
    private static func cover(_ bytes: [UInt8], _ places: [Range<Int>]) -> [UInt8] {
        var result = bytes
        for index in places.joined() { result[index] = UInt8(ascii: "*") }
        return result
    }
}

/// One text and its table of borders (Knuth, Morris, Pratt).
///
/// A search costs as much as the text that is searched, whatever a hostile program prints.
private struct Needle: Sendable {
    private let bytes: [UInt8]
    /// Of each beginning, how long a shorter beginning is that also ends it.
    private let borders: [Int]

    init(_ bytes: [UInt8]) {
        self.bytes = bytes
        var borders = [0]
        var length = 0
        for byte in bytes.dropFirst() {
            while length > 0, bytes[length] != byte { length = borders[length - 1] }
            if bytes[length] == byte { length += 1 }
            borders.append(length)
        }
        self.borders = borders
    }
    var reversed: Needle { Needle(bytes.reversed()) }

    /// How much of it is there when `byte` follows; a whole one is left through its border.
    private func step(_ length: Int, _ byte: UInt8) -> Int {
        var length = length == bytes.count ? borders[length - 1] : length
        while length > 0, bytes[length] != byte { length = borders[length - 1] }
        return bytes[length] == byte ? length + 1 : length
    }

    func matches(in text: [UInt8]) -> [Range<Int>] {
        var found: [Range<Int>] = []
        var length = 0
        for (index, byte) in text.enumerated() {
            length = step(length, byte)
            guard length == bytes.count else { continue }
            let start = index + 1 - length
            if let last = found.last, last.upperBound >= start {  // one place, however often
                found[found.count - 1] = last.lowerBound..<index + 1
            } else {
                found.append(start..<index + 1)
            }
        }
        return found
    }

    /// How long a beginning of it, short of the whole, stands right before `end`.
    func beginning(endingAt end: Int, of text: [UInt8]) -> Int {
        beginning(of: text[..<end].suffix(bytes.count - 1))
    }
    /// The same, of the text read backwards.
    func beginning(endingAt end: Int, ofReversed text: [UInt8]) -> Int {
        beginning(of: text[(text.count - end)...].prefix(bytes.count - 1).reversed())
    }
    private func beginning(of text: some Sequence<UInt8>) -> Int {
        text.reduce(0) { step($0, $1) }
    }
}
