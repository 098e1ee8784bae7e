// What a command says: data on standard output as a table or as JSON, words on standard error.
// Called by every command. Bytes that a guest chose are made harmless before a terminal sees them.

import Glibc
import StrictJSON

/// The two streams of a command.
enum Console {
    /// Data for the caller's eyes or the next program.
    static func data(_ text: String) { write(text + "\n", to: STDOUT_FILENO) }
    /// Progress, remarks, and what went wrong.
    static func say(_ text: String) { write(text + "\n", to: STDERR_FILENO) }
    /// Exact bytes, as a job printed them.
    static func bytes(_ bytes: [UInt8], to descriptor: Int32) {
        var done = 0
        while done < bytes.count {
            let count = unsafe bytes[done...].withUnsafeBytes {
                unsafe Glibc.write(descriptor, $0.baseAddress, $0.count)
            }
            if count < 0 && errno == EINTR { continue }
            if count < 0 && errno == EAGAIN {
                // Whoever shares the other end may have made it one that does not wait.
                var writable = pollfd(fd: descriptor, events: Int16(POLLOUT), revents: 0)
                _ = unsafe poll(&writable, 1, -1)
                continue
            }
            guard count > 0 else { return }  // nobody reads any more
            done += count
        }
    }
    static func write(_ text: String, to descriptor: Int32) {
        bytes(Array(text.utf8), to: descriptor)
    }

    /// Text of a job or a guest for a terminal: no control characters but newline and tab.
    static func harmless(_ text: String) -> String {
        var result = String.UnicodeScalarView()
        for scalar in text.unicodeScalars {
            switch scalar.value {
            case 0x0A, 0x09: result.append(scalar)
            case 0..<0x20, 0x7F..<0xA0, 0x202A...0x202E, 0x2066...0x2069: result.append("\u{FFFD}")
            default: result.append(scalar)
            }
        }
        return String(result)
    }
}

/// Rows of data, printed as aligned columns or as JSON with the same names.
struct Table {
    struct Column {
        var title: String
        /// The member's name in `--json`.
        var name: String
        var isNumber = false
    }
    var columns: [Column]
    /// Longer texts are cut in the table, never in the JSON.
    var cellLimit = 80
    private(set) var rows: [[JSON]] = []

    init(_ columns: [Column]) { self.columns = columns }
    /// Titles in capitals; the JSON names are the same in lower case with underscores.
    init(_ titles: String...) {
        columns = titles.map {
            let name = $0.lowercased().split(separator: " ").joined(separator: "_")
            return Column(title: $0, name: name)
        }
    }

    mutating func add(_ cells: JSON...) { add(row: cells) }
    mutating func add(row: [JSON]) {
        precondition(
            row.count == columns.count, "a row of \(row.count) in \(columns.count) columns")
        rows.append(row)
    }

    var json: JSON {
        .array(
            rows.map { row in
                .object(zip(columns, row).map { .init(name: $0.name, value: $1) })
            })
    }

    var text: String {
        let cells = rows.map { $0.map(cell) }
        var widths = columns.map(\.title.count)
        for row in cells {
            for (index, cell) in row.enumerated() { widths[index] = max(widths[index], cell.count) }
        }
        func line(_ row: [String], _ isNumber: (Int) -> Bool) -> String {
            var line = ""
            for (index, cell) in row.enumerated() {
                let pad = String(repeating: " ", count: max(0, widths[index] - cell.count))
                line += (index > 0 ? "  " : "") + (isNumber(index) ? pad + cell : cell + pad)
            }
            while line.last == " " { line.removeLast() }
            return line
        }
        var lines = [line(columns.map(\.title)) { _ in false }]
        for (row, values) in zip(cells, rows) {
            lines.append(line(row) { if case .number = values[$0] { true } else { false } })
        }
        return lines.joined(separator: "\n")
    }

    /// A cell is one line.
    private func cell(_ value: JSON) -> String {
        switch value {
        case .null: return "-"
        case .bool(let bool): return bool ? "yes" : "no"
        case .number(let text): return text
        case .string(let text):
            let line = Console.harmless(text).split(separator: "\n").joined(separator: "\\n")
                .split(separator: "\t").joined(separator: " ")
            return line.count > cellLimit ? line.prefix(cellLimit - 1) + "…" : line
        case .array, .object: return value.text
        }
    }

    /// Prints the rows; an empty table says so on standard error.
    func print(asJSON: Bool, empty: String) {
        if asJSON { return Console.data(json.text) }
        if rows.isEmpty { return Console.say(empty) }
        Console.data(text)
    }
}

/// Durations and sizes for people.
enum Format {
    static func milliseconds(_ duration: Duration) -> JSON { .number(duration.milliseconds) }
    static func rounded(_ value: Double, _ places: Int = 1) -> Double {
        let factor = places == 0 ? 1.0 : places == 1 ? 10.0 : 100.0
        return (value * factor).rounded() / factor
    }
    static func duration(_ duration: Duration) -> String {
        let milliseconds = duration.milliseconds
        if milliseconds < 1000 { return "\(rounded(milliseconds)) ms" }
        if milliseconds < 120_000 { return "\(rounded(milliseconds / 1000, 2)) s" }
        return "\(Int(milliseconds) / 60_000) min \(Int(milliseconds) / 1000 % 60) s"
    }
    static func bytes(_ count: Int) -> String {
        switch count {
        case ..<10_240: "\(count) B"
        case ..<10_485_760: "\(rounded(Double(count) / 1024)) KiB"
        default: "\(rounded(Double(count) / 1_048_576)) MiB"
        }
    }
}
