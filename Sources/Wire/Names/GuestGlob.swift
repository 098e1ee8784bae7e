// Patterns for output files: `*` and `?` within a segment, `[a-z]`, `**` across segments. A file or
// directory whose name begins with a dot must be spelt, as in a shell. Matching takes at most
// (pattern length × name length) steps, and all names of one search together no more than a budget:
// no pattern and no tree of files can hang anybody.

/// A compiled pattern.
package struct GuestGlob: Equatable, Sendable {
    private enum Token: Equatable, Sendable {
        case literal(UInt32)
        case any
        case star
        /// Closed ranges of scalars; `[!…]` when negated.
        case set([ClosedRange<UInt32>], isNegated: Bool)

        /// Steps that one comparison takes.
        var cost: Int {
            if case .set(let ranges, _) = self { ranges.count } else { 1 }
        }
    }
    private enum Segment: Equatable, Sendable {
        case tokens([Token])
        case doubleStar
    }
    package let pattern: String
    private let segments: [Segment]

    /// Throws `.invalidPattern` with the reason as a sentence part.
    package init(_ pattern: String) throws(WireError) {
        guard !pattern.isEmpty else { throw .invalidPattern("it is empty") }
        guard pattern.utf8.count <= Limits.pathByteCount else {
            throw .invalidPattern("it is longer than \(Limits.pathByteCount) bytes")
        }
        var segments: [Segment] = []
        let scalars = Array(pattern.unicodeScalars.map(\.value))
        for part in scalars.split(separator: slash, omittingEmptySubsequences: false) {
            guard !part.isEmpty else { throw .invalidPattern("it has an empty segment") }
            guard segments.count < Limits.pathSegments else {
                throw .invalidPattern("it has more than \(Limits.pathSegments) segments")
            }
            if part.elementsEqual([star, star]) {
                // Two in a row mean the same as one and would only cost time.
                if segments.last != .doubleStar { segments.append(.doubleStar) }
            } else {
                segments.append(.tokens(try Self.tokens(Array(part))))
            }
        }
        self.pattern = pattern
        self.segments = segments
    }

    private static func tokens(_ part: [UInt32]) throws(WireError) -> [Token] {
        guard !part.elementsEqual([dot]), !part.elementsEqual([dot, dot]) else {
            throw .invalidPattern("it has a segment of dots ('.' or '..')")
        }
        var tokens: [Token] = []
        var index = 0
        while index < part.count {
            switch part[index] {
            case star:
                if tokens.last != .star { tokens.append(.star) }
            case question: tokens.append(.any)
            case open: tokens.append(try set(part, &index))
            case backslash: throw .invalidPattern("it has a backslash")
            case 0..<0x20, 0x7F..<0xA0: throw .invalidPattern("it has a control character")
            case let value: tokens.append(.literal(value))
            }
            index += 1
        }
        return tokens
    }

    /// `[…]` with `index` on the bracket; leaves it on the closing one.
    private static func set(_ part: [UInt32], _ index: inout Int) throws(WireError) -> Token {
        var ranges: [ClosedRange<UInt32>] = []
        index += 1
        let isNegated = index < part.count && (part[index] == bang || part[index] == caret)
        if isNegated { index += 1 }
        // A closing bracket right after the opening one stands for itself.
        while index < part.count, part[index] != close || ranges.isEmpty {
            let low = part[index]
            guard low != backslash else { throw .invalidPattern("it has a backslash") }
            if index + 2 < part.count, part[index + 1] == hyphen, part[index + 2] != close {
                let high = part[index + 2]
                guard low <= high else { throw .invalidPattern("it has a range backwards") }
                ranges.append(low...high)
                index += 3
            } else {
                ranges.append(low...low)
                index += 1
            }
        }
        guard index < part.count else { throw .invalidPattern("a '[' is not closed") }
        return .set(ranges, isNegated: isNegated)
    }

    package func matches(_ name: String) -> Bool {
        var steps = 0
        return matches(Self.parts(of: name), steps: &steps)
    }
    /// As `matches`, and counts the work: the tests hold it to its bound.
    func matches(_ name: String, steps: inout Int) -> Bool {
        matches(Self.parts(of: name), steps: &steps)
    }

    /// The segments of a name, as scalars.
    fileprivate static func parts(of name: String) -> [ArraySlice<UInt32>] {
        name.unicodeScalars.map(\.value)
            .split(separator: slash, omittingEmptySubsequences: false)
    }

    fileprivate func matches(_ parts: [ArraySlice<UInt32>], steps: inout Int) -> Bool {
        // possible[i]: the first i parts are matched by the segments read so far. Each pair of
        // segment and part is compared at most once.
        var possible = [Bool](repeating: false, count: parts.count + 1)
        possible[0] = true
        for segment in segments {
            steps += parts.count
            var next = [Bool](repeating: false, count: parts.count + 1)
            switch segment {
            case .doubleStar:
                next[0] = possible[0]
                for index in parts.indices {
                    next[index + 1] =
                        possible[index + 1] || next[index] && parts[index].first != dot
                }
            case .tokens(let tokens):
                for index in parts.indices where possible[index] {
                    next[index + 1] = Self.match(tokens, parts[index], &steps)
                }
            }
            possible = next
        }
        return possible[parts.count]
    }

    /// One segment: on a mismatch only the last star takes one more, so this never branches.
    private static func match(
        _ tokens: [Token], _ part: ArraySlice<UInt32>, _ steps: inout Int
    ) -> Bool {
        if part.first == dot, tokens.first != .literal(dot) { return false }
        var (token, position) = (0, part.startIndex)
        var retry: (token: Int, position: Int)?
        while position < part.endIndex {
            steps += token < tokens.count ? tokens[token].cost : 1
            if token < tokens.count, tokens[token] == .star {
                retry = (token, position)
                token += 1
            } else if token < tokens.count, accepts(tokens[token], part[position]) {
                token += 1
                position += 1
            } else if let last = retry {
                retry = (last.token, last.position + 1)
                (token, position) = (last.token + 1, last.position + 1)
            } else {
                return false
            }
        }
        while token < tokens.count, tokens[token] == .star { token += 1 }
        return token == tokens.count
    }
    private static func accepts(_ token: Token, _ value: UInt32) -> Bool {
        switch token {
        case .literal(let expected): value == expected
        case .any: true
        case .star: false
        case .set(let ranges, let isNegated):
            ranges.contains { $0.contains(value) } != isNegated
        }
    }
}

/// The patterns of one search, with what it may cost in all.
package struct GuestPatterns: Sendable {
    private let globs: [GuestGlob]
    private var steps = 0

    /// Throws `.invalidPattern` for the first that means nothing.
    package init(_ patterns: [String]) throws(WireError) {
        var globs: [GuestGlob] = []
        for pattern in patterns { globs.append(try GuestGlob(pattern)) }
        self.globs = globs
    }

    /// Whether one of them matches.
    ///
    /// - Throws: `.tooMany` when the search has cost `Limits.matchingSteps`.
    package mutating func matches(_ name: String) throws(WireError) -> Bool {
        let parts = GuestGlob.parts(of: name)
        steps += name.utf8.count
        for glob in globs {
            let isMatch = glob.matches(parts, steps: &steps)
            guard steps <= Limits.matchingSteps else { throw .tooMany("steps of matching") }
            if isMatch { return true }
        }
        return false
    }
}

private let slash = ("/" as Unicode.Scalar).value, star = ("*" as Unicode.Scalar).value
private let question = ("?" as Unicode.Scalar).value, open = ("[" as Unicode.Scalar).value
private let close = ("]" as Unicode.Scalar).value, bang = ("!" as Unicode.Scalar).value
private let caret = ("^" as Unicode.Scalar).value, hyphen = ("-" as Unicode.Scalar).value
private let dot = ("." as Unicode.Scalar).value, backslash = ("\\" as Unicode.Scalar).value
