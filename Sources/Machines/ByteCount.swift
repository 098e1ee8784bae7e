// A size in bytes that cannot be mistaken for a number of anything else.

/// A number of bytes; shown and read with 1024-based units.
package struct ByteCount: Sendable, Hashable, Comparable, Codable, CustomStringConvertible {
    package let bytes: Int
    package init(bytes: Int) { self.bytes = bytes }
    package static func kibibytes(_ count: Int) -> ByteCount { ByteCount(bytes: count << 10) }
    package static func mebibytes(_ count: Int) -> ByteCount { ByteCount(bytes: count << 20) }
    package static func gibibytes(_ count: Int) -> ByteCount { ByteCount(bytes: count << 30) }
    package static func < (left: ByteCount, right: ByteCount) -> Bool { left.bytes < right.bytes }

    package var mebibytes: Double { Double(bytes) / 1_048_576 }

    package init(from decoder: any Decoder) throws {
        bytes = try decoder.singleValueContainer().decode(Int.self)
    }
    package func encode(to encoder: any Encoder) throws {
        var container = encoder.singleValueContainer()
        try container.encode(bytes)
    }
    package var description: String {
        for (unit, size) in [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)]
        where bytes >= size && bytes % size == 0 {
            return "\(bytes / size)\(unit)"
        }
        return "\(bytes)B"
    }
}
