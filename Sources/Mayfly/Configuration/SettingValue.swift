// A setting's value: read from text with its unit, checked against the setting's bounds, and
// written back. Called by Configuration; knows neither files nor the environment.

import Machines

/// A value that fits its setting.
enum SettingValue: Sendable, Equatable {
    case text(String)
    case list([String])
    case count(Int)
    case duration(Duration)
    case size(ByteCount)
}

/// Why a text is no value of a setting; completed with its place by the caller.
struct ValueProblem: Error {
    let sentence: String
    init(_ sentence: String) { self.sentence = sentence }
}

extension Setting {
    /// Reads a value as written in the file, where texts stand in quotes and nothing else does.
    func read(_ raw: ConfFile.Raw) throws(ValueProblem) -> SettingValue {
        switch (form, raw) {
        case (.text, .bare(let text)), (.secret, .bare(let text)), (.list, .bare(let text)):
            throw ValueProblem("expects a string in double quotes: \(key) = \"\(text)\"")
        case (.text, .quoted(let text)), (.secret, .quoted(let text)), (.list, .quoted(let text)),
            (_, .bare(let text)):
            return try read(text)
        case (_, .quoted(let text)):
            throw ValueProblem("expects \(expectation) without quotes: \(key) = \(text)")
        }
    }

    /// Reads a value as it comes from a flag or the environment: never in quotes.
    func read(_ text: String) throws(ValueProblem) -> SettingValue {
        switch form {
        case .text, .secret: return .text(text)
        case .list:
            let parts = text.split { $0 == "," || $0.isWhitespace }.map(String.init)
            return .list(parts)
        case .word(let words):
            guard words.contains(text) else {
                throw ValueProblem("expects \(expectation), not \(quoted(text))")
            }
            return .text(text)
        case .count(let range):
            guard let number = plainNumber(text) else {
                throw ValueProblem("expects \(expectation), not \(quoted(text))")
            }
            guard range.contains(number) else { throw outOfBounds(text) }
            return .count(number)
        case .duration(let range):
            guard let duration = Duration(setting: text) else {
                throw ValueProblem("expects \(expectation), not \(quoted(text))")
            }
            guard range.contains(duration) else { throw outOfBounds(text) }
            return .duration(duration)
        case .size(let range):
            guard let size = ByteCount(setting: text) else {
                throw ValueProblem("expects \(expectation), not \(quoted(text))")
            }
            guard range.contains(size) else { throw outOfBounds(text) }
            return .size(size)
        }
    }

    private func outOfBounds(_ text: String) -> ValueProblem {
        ValueProblem("is \(text); it may be \(bounds)")
    }
    private var bounds: String {
        switch form {
        case .count(let range): "\(range.lowerBound) to \(range.upperBound)"
        case .duration(let range):
            "\(range.lowerBound.settingText) to \(range.upperBound.settingText)"
        case .size(let range): "\(range.lowerBound) to \(range.upperBound)"
        case .text, .secret, .list, .word: "any text"
        }
    }
    private var expectation: String {
        switch form {
        case .text, .secret: "a string"
        case .list: "names separated by spaces"
        case .word(let words): "one of " + words.joined(separator: ", ")
        case .count: "a whole number"
        case .duration: "a duration such as 500ms, 30s, 5min, 2h or 7d"
        case .size: "a size such as 64KiB, 512MiB or 2GiB"
        }
    }
}

extension SettingValue: CustomStringConvertible {
    /// As it would be written in worker.conf.
    func written(as form: Setting.Form) -> String {
        switch (self, form) {
        case (.text(let text), .word): text
        case (.text(let text), _): "\"\(escaped(text))\""
        case (.list(let parts), _): "\"\(escaped(parts.joined(separator: " ")))\""
        case (.count(let number), _): "\(number)"
        case (.duration(let duration), _): duration.settingText
        case (.size(let size), _): "\(size)"
        }
    }
    var description: String { written(as: .text) }

    private func escaped(_ text: String) -> String {
        var result = ""
        for character in text {
            if character == "\"" || character == "\\" { result.append("\\") }
            result.append(character)
        }
        return result
    }
}

// MARK: Units

/// Digits only, at most 18 of them, so that no sum below can overflow.
private func plainNumber(_ text: some StringProtocol) -> Int? {
    guard (1...18).contains(text.utf8.count), text.utf8.allSatisfy({ (48...57).contains($0) })
    else { return nil }
    return Int(text)
}

private func quoted(_ text: String) -> String {
    "\"" + text.prefix(60) + (text.count > 60 ? "…" : "") + "\""
}

extension Duration {
    private static let units: [(name: String, milliseconds: Int)] = [
        ("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1000), ("ms", 1),
    ]

    /// `500ms`, `30s`, `5min`, `2h`, `7d`; a bare number has no unit and is refused.
    init?(setting text: String) {
        let digits = text.prefix { $0.isASCII && $0.isNumber }
        let unit = text.dropFirst(digits.count)
        guard let number = plainNumber(digits),
            let factor = Self.units.first(where: { $0.name == unit })?.milliseconds,
            number <= Int.max / 1000 / factor
        else { return nil }
        self = .milliseconds(number * factor)
    }

    /// In the largest unit that leaves a whole number.
    var settingText: String {
        let milliseconds = wholeMilliseconds
        if milliseconds == 0 { return "0s" }
        for unit in Self.units where milliseconds % unit.milliseconds == 0 {
            if unit.name == "min" && milliseconds < 120_000 { continue }  // 60s reads better
            if unit.name == "h" && milliseconds < 3_600_000 { continue }
            return "\(milliseconds / unit.milliseconds)\(unit.name)"
        }
        return "\(milliseconds)ms"
    }

    var wholeMilliseconds: Int {
        let (seconds, attoseconds) = components
        return Int(clamping: seconds) &* 1000 &+ Int(attoseconds / 1_000_000_000_000_000)
    }
    /// Milliseconds with three decimals, for results and tables.
    var milliseconds: Double {
        let (seconds, attoseconds) = components
        let microseconds = Double(seconds) * 1_000_000 + Double(attoseconds / 1_000_000_000_000)
        return microseconds.rounded() / 1000
    }
}

extension ByteCount {
    /// `64KiB`, `512MiB`, `2GiB`; powers of 1024, and nothing without a unit but plain bytes (`B`).
    init?(setting text: String) {
        let digits = text.prefix { $0.isASCII && $0.isNumber }
        let shifts = ["B": 0, "KiB": 10, "MiB": 20, "GiB": 30]
        guard let number = plainNumber(digits),
            let shift = shifts[String(text.dropFirst(digits.count))],
            number <= Int.max >> (shift + 1)
        else { return nil }
        self.init(bytes: number << shift)
    }
}
