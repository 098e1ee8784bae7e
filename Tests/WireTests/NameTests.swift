// File names and patterns: what is refused, what matches, and that no pattern takes long.

import Testing

@testable import Wire

@Suite("File names and patterns")
struct NameTests {
    @Test(arguments: [
        "a", "main.py", "out/plot 1.png", "a/b/c", "...", "a..b", ".hidden", "-x", "ü/€/😀.txt",
        "a b", "x:y*?[z]", String(repeating: "s", count: 255),
    ])
    func `file names and patterns that name one file beneath the job's directory are accepted`(
        name: String
    ) throws {
        try GuestPath.validate(name)
    }

    @Test(arguments: [
        "", "/", "/etc/passwd", "a/", "a//b", ".", "..", "../x", "a/../b", "a/./b", "a/..", "a\\b",
        "a\nb",
        "a\u{0}b", "a\u{7F}", "\u{85}", "a\u{202E}b", "a\u{2028}", "\u{FEFF}x", "a\u{1B}[0m",
        String(repeating: "s", count: 256), Array(repeating: "d", count: 17).joined(separator: "/"),
        Array(repeating: String(repeating: "s", count: 100), count: 11).joined(separator: "/"),
    ])
    func `file names and patterns that could name anything else are refused`(name: String) {
        #expect(!GuestPath.isValid(name))
    }

    /// To Swift a slash and an accent behind it are one character; to Linux they are a slash.
    @Test func `are split into the segments that Linux sees`() throws {
        #expect(GuestPath.segments(of: "a/b") == ["a", "b"])
        #expect(GuestPath.segments(of: "x/\u{301}y/z") == ["x", "\u{301}y", "z"])
        try GuestPath.validate("x/\u{301}y")
        #expect(!GuestPath.isValid("../\u{301}y"))
        #expect(try GuestGlob("x/*").matches("x/\u{301}y"))
        #expect(try !GuestGlob("*").matches("x/\u{301}y"))
    }

    /// Names and patterns of the job's choosing may cost so much and no more, however many there are.
    @Test func `cost no more than the budget of their search`() throws {
        var patterns = try GuestPatterns(
            Array(repeating: "*" + String(repeating: "a*", count: 400) + "b", count: 32))
        let name = String(repeating: "a", count: 255)
        var tried = 0
        #expect(throws: WireError.tooMany("steps of matching")) {
            while tried < 50_000, try !patterns.matches(name) { tried += 1 }
        }
        #expect(tried > 10)
        #expect(tried < 50_000)
        // A job's usual files cost next to nothing of it.
        var usual = try GuestPatterns(["*.png", "out/**", "**/*.csv"])
        for number in 0..<4096 {
            #expect(try usual.matches("out/figures/plot-\(number).svg"))
        }
    }

    static let matching: [(pattern: String, names: [String], others: [String])] = [
        ("*.csv", ["a.csv", "ü.csv"], ["a.csvx", "d/a.csv", ".csv", ".a.csv", "csv"]),
        ("**", ["a", "a/b", "a/b/c"], [".a", "a/.b", ".git/config"]),
        ("**/*.png", ["a.png", "x/a.png", "x/y/a.png"], ["a.jpg", ".x/a.png"]),
        ("out/**", ["out", "out/a", "out/a/b"], ["outs", "a/out"]),
        ("out/**/x", ["out/x", "out/a/x", "out/a/b/x"], ["out/a", "x"]),
        ("a?c", ["abc", "a€c"], ["ac", "abbc", "a/c"]),
        ("[a-c]x", ["ax", "bx", "cx"], ["dx", "x", "aax"]),
        ("[!a-c]x", ["dx"], ["ax", "x"]),
        ("[]]x", ["]x"], ["x", "[x"]),
        ("[a-]x", ["ax", "-x"], ["bx"]),
        (".config/*", [".config/a"], ["config/a", ".config/.b"]),
        ("a*b*c", ["abc", "aXbYc", "abcbc"], ["ab", "acb", "a/b/c"]),
        ("**/a/**/b", ["a/b", "x/a/y/b", "a/a/b/b"], ["a", "b", "b/a"]),
    ]
    @Test(arguments: matching.indices)
    func `match as in a shell`(index: Int) throws {
        let (pattern, names, others) = Self.matching[index]
        let glob = try GuestGlob(pattern)
        for name in names { #expect(glob.matches(name), "\(pattern) and \(name)") }
        for name in others { #expect(!glob.matches(name), "\(pattern) and not \(name)") }
    }

    @Test(arguments: [
        "", "/a", "a/", "a//b", "..", "a/../b", ".", "[", "[a", "[b-a]", "a\\*", "a\u{0}", "[!",
    ])
    func `file names and patterns that mean nothing are refused as patterns`(pattern: String) {
        #expect(isViolation { () throws(WireError) in _ = try GuestGlob(pattern) })
    }

    /// The meaning of one segment, spelt as plainly as possible and without regard for time.
    private static func matches(
        _ pattern: [Character], _ name: [Character], atStart: Bool
    ) -> Bool {
        guard let first = pattern.first else { return name.isEmpty }
        let rest = Array(pattern.dropFirst())
        guard let character = name.first else {
            return first == "*" && matches(rest, name, atStart: false)
        }
        if atStart, character == ".", first != "." { return false }
        if first == "*" {
            return matches(rest, name, atStart: false)
                || matches(pattern, Array(name.dropFirst()), atStart: false)
        }
        guard first == "?" || first == character else { return false }
        return matches(rest, Array(name.dropFirst()), atStart: false)
    }
    /// As `matches`, segment by segment: `**` takes any number of them.
    private static func matchesSegments(_ pattern: String, _ name: String) -> Bool {
        func go(_ pattern: ArraySlice<Substring>, _ name: ArraySlice<Substring>) -> Bool {
            guard let first = pattern.first else { return name.isEmpty }
            if first == "**" {
                if go(pattern.dropFirst(), name) { return true }
                return name.first.map { $0.first != "." } == true
                    && go(pattern, name.dropFirst())
            }
            guard let segment = name.first else { return false }
            return matches(Array(first), Array(segment), atStart: true)
                && go(pattern.dropFirst(), name.dropFirst())
        }
        return go(pattern.split(separator: "/")[...], name.split(separator: "/")[...])
    }

    @Test func `match what their plain meaning matches`() throws {
        var random = Fuzzing.generator("plain meaning", 1)
        let pieces = ["a", "b", "*", "?", ".", "a", "/"]
        var matched = 0
        for _ in 0..<20_000 {
            let pattern = (0...random.below(7)).map { _ in pieces[random.below(pieces.count)] }
                .joined()
            let name = (0...random.below(6)).map { _ in ["a", "b", ".", "/"][random.below(4)] }
                .joined()
            guard GuestPath.isValid(name), let glob = try? GuestGlob(pattern) else { continue }
            let plain = Self.matchesSegments(pattern, name)
            #expect(glob.matches(name) == plain, "\(pattern) and \(name)")
            if plain { matched += 1 }
        }
        #expect(matched > 100)
    }

    @Test func `take no more steps than pattern times name`() throws {
        let stars = String(repeating: "a*", count: 120) + "b"
        let segments = Array(repeating: "**/*a*a*a*a*b", count: 8).joined(separator: "/")
        let long = String(repeating: "a", count: 255)
        let deep = Array(repeating: String(repeating: "a", count: 60), count: 16).joined(
            separator: "/")
        for (pattern, name) in [(stars, long), (segments, deep), ("**/" + stars, deep)] {
            var steps = 0
            let glob = try GuestGlob(pattern)
            let isMatch = glob.matches(name, steps: &steps)
            #expect(!isMatch)
            #expect(steps <= pattern.utf8.count * name.utf8.count)
        }
    }

    @Test func `neighbouring patterns differ in time no more than the name grows`() throws {
        let glob = try GuestGlob("*a*a*a*a*a*a*a*a*b")
        var steps: [Int] = []
        for count in [60, 120, 240] {
            var taken = 0
            _ = glob.matches(String(repeating: "a", count: count), steps: &taken)
            steps.append(taken)
        }
        #expect(steps[1] <= steps[0] * 3)
        #expect(steps[2] <= steps[1] * 3)
    }
}
