// Which names a file in a job's directory may have. The one rule for payload validation, for both
// ends of the wire and for what LIST reports. Knows nothing of any file system.

/// The rule for relative file names.
package enum GuestPath {
    /// Throws `.invalidName` with the reason as a sentence part.
    package static func validate(_ path: String) throws(WireError) {
        var count = 0
        var segments = 1
        var segment = 0
        var isDots = true
        func endSegment() throws(WireError) {
            guard segment > 0 else { throw .invalidName("an empty segment") }
            guard !(isDots && segment <= 2) else {
                throw .invalidName("a segment of dots ('.' or '..')")
            }
            guard segment <= Limits.segmentByteCount else {
                throw .invalidName("a segment longer than \(Limits.segmentByteCount) bytes")
            }
        }
        for scalar in path.unicodeScalars {
            let width = UTF8.width(scalar)
            count += width
            guard count <= Limits.pathByteCount else {
                throw .invalidName("longer than \(Limits.pathByteCount) bytes")
            }
            if scalar == "/" {
                try endSegment()
                segments += 1
                (segment, isDots) = (0, true)
                guard segments <= Limits.pathSegments else {
                    throw .invalidName("more than \(Limits.pathSegments) segments")
                }
                continue
            }
            guard scalar != "\\" else { throw .invalidName("a backslash") }
            guard !isControl(scalar.value) else { throw .invalidName("a control character") }
            if scalar != "." { isDots = false }
            segment += width
        }
        try endSegment()
    }

    /// The segments as Linux sees them.
    ///
    /// By bytes: to Swift a slash and an accent behind it are one character, which is no slash.
    package static func segments(of path: String) -> [String] {
        path.utf8.split(separator: UInt8(ascii: "/"), omittingEmptySubsequences: false)
            .map { String(Substring($0)) }
    }

    /// Whether a directory holds what interpreters put aside for themselves.
    package static func isSetAside(directory segment: String) -> Bool {
        segment.utf8.first == UInt8(ascii: ".")
            || ["__pycache__", "node_modules"].contains { $0.utf8.elementsEqual(segment.utf8) }
    }

    package static func isValid(_ path: String) -> Bool {
        do throws(WireError) {
            try validate(path)
            return true
        } catch { return false }
    }

    /// C0, DEL, C1, the two line separators and what turns the direction of text around: none of
    /// them belongs in a name that ends up in a terminal, a log or a header.
    private static func isControl(_ value: UInt32) -> Bool {
        switch value {
        case 0..<0x20, 0x7F..<0xA0, 0x2028...0x202E, 0x2066...0x2069, 0x200E, 0x200F, 0xFEFF: true
        default: false
        }
    }
}
