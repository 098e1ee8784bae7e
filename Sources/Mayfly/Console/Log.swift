// Log lines on standard error: facts with metadata, as text for people or JSON for collectors. Set
// up once by a command; everything else logs through `Logger.current`. Never writes to standard
// output.

import Foundation
import Logging
import StrictJSON

/// Writes each event as one line, in one write, so that lines of several jobs never mix.
struct LineLog: LogHandler {
    enum Format: Sendable {
        case text
        case json
    }
    var metadata: Logger.Metadata = [:]
    var logLevel: Logger.Level
    let format: Format

    subscript(metadataKey key: String) -> Logger.Metadata.Value? {
        get { metadata[key] }
        set { metadata[key] = newValue }
    }

    func log(event: LogEvent) {
        let all = metadata.merging(event.metadata ?? [:]) { $1 }.sorted { $0.key < $1.key }
        let time = Self.timestamp()
        switch format {
        case .text:
            LogWriter.standardError.write(
                "\(time) \(event.level) " + Self.line("\(event.message)", all) + "\n")
        case .json:
            var members: [JSON.Member] = [
                .init(name: "time", value: .string(time)),
                .init(name: "level", value: .string("\(event.level)")),
                .init(name: "message", value: .string("\(event.message)")),
            ]
            for (key, value) in all { members.append(.init(name: key, value: .string("\(value)"))) }
            LogWriter.standardError.write(JSON.object(members).text + "\n")
        }
    }

    /// Message and fields, so that what a guest chose can neither start a line nor look like a
    /// field of ours.
    static func line(_ message: String, _ fields: [(key: String, value: Logger.MetadataValue)])
        -> String
    {
        var line = message
        for (key, value) in fields { line += " \(key)=\(quoted("\(value)"))" }
        return oneLine(line)
    }

    /// Guests choose some of the words; none of them may start a line of its own.
    private static func oneLine(_ text: String) -> String {
        var result = String.UnicodeScalarView()
        for scalar in text.unicodeScalars {
            // Controls, line separators, and marks that turn the direction of what follows.
            let isControl = [.control, .lineSeparator, .paragraphSeparator, .format].contains(
                scalar.properties.generalCategory)
            result.append(isControl ? " " : scalar)
        }
        return String(result)
    }
    private static func quoted(_ text: String) -> String {
        let isPlain =
            !text.isEmpty
            && text.unicodeScalars.allSatisfy {
                $0 != " " && $0 != "\"" && $0 != "\\" && $0 != "=" && !$0.properties.isWhitespace
            }
        guard !isPlain else { return text }
        var result = "\""
        for scalar in text.unicodeScalars {
            if scalar == "\"" || scalar == "\\" { result += "\\" }
            result.unicodeScalars.append(scalar)
        }
        return result + "\""
    }

    /// RFC 3339 with milliseconds, in UTC.
    static func timestamp() -> String {
        let now = Date().timeIntervalSince1970
        var parts = unsafe tm()
        var seconds = time_t(now)
        unsafe gmtime_r(&seconds, &parts)
        func two(_ number: Int32) -> String { number < 10 ? "0\(number)" : "\(number)" }
        let (year, month, day) = unsafe (parts.tm_year + 1900, parts.tm_mon + 1, parts.tm_mday)
        let (hour, minute, second) = unsafe (parts.tm_hour, parts.tm_min, parts.tm_sec)
        let milliseconds = Int(now * 1000) % 1000
        let fraction =
            String(repeating: "0", count: 3 - "\(milliseconds)".count) + "\(milliseconds)"
        return "\(year)-\(two(month))-\(two(day))T"
            + "\(two(hour)):\(two(minute)):\(two(second)).\(fraction)Z"
    }
}

extension Configuration {
    /// The logger that this run binds; level and form as configured.
    ///
    /// - Parameter isQuiet: for commands that say themselves what they do: warnings only unless the
    ///   operator has set a level.
    func makeLogger(isQuiet: Bool = false) -> Logger {
        var level = Logger.Level(rawValue: text(.logLevel)) ?? .info
        if isQuiet && self[.logLevel].origin == .standard { level = .warning }
        let format: LineLog.Format = text(.logFormat) == "json" ? .json : .text
        return Logger(label: "mayfly") { _ in LineLog(logLevel: level, format: format) }
    }
}
