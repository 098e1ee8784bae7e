// One SQL statement with its values. Written as a string literal; what is interpolated is bound as
// a parameter and never becomes text of the statement, so there is no way to splice a value in.

/// A statement such as `"select mayfly.cancel(\(id))"`: the interpolated id is bound as $1.
package struct Statement: Sendable, ExpressibleByStringInterpolation {
    package enum Value: Sendable, Equatable {
        case null
        case text(String)
        case bytes(ArraySlice<UInt8>)
    }

    package let text: String
    package let values: [Value]
    /// Asks for all columns in binary form; see `Rows.bytes`.
    package private(set) var wantsBinary = false

    /// Only for text of this module itself.
    init(trusted text: String) {
        self.text = text
        values = []
    }
    package init(stringLiteral text: StaticString) {
        self.text = text.description
        values = []
    }
    package init(stringInterpolation interpolation: Interpolation) {
        text = interpolation.text
        values = interpolation.values
    }

    /// The same statement with its result in binary form: for bytea, which is twice as long as
    /// text.
    package var binary: Statement {
        var copy = self
        copy.wantsBinary = true
        return copy
    }

    package struct Interpolation: StringInterpolationProtocol {
        fileprivate var text = ""
        fileprivate var values: [Value] = []

        package init(literalCapacity: Int, interpolationCount: Int) {
            text.reserveCapacity(literalCapacity + 3 * interpolationCount)
            values.reserveCapacity(interpolationCount)
        }
        // A StaticString exists in the source of this program only.
        package mutating func appendLiteral(_ literal: StaticString) { text += literal.description }

        private mutating func bind(_ value: Value) {
            values.append(value)
            text += "$\(values.count)"
        }
        package mutating func appendInterpolation(_ value: String?) {
            bind(value.map(Value.text) ?? .null)
        }
        package mutating func appendInterpolation(_ value: [UInt8]?) {
            bind(value.map { .bytes($0[...]) } ?? .null)
        }
        package mutating func appendInterpolation(_ value: ArraySlice<UInt8>) {
            bind(.bytes(value))
        }
        package mutating func appendInterpolation<Number: FixedWidthInteger>(_ value: Number?) {
            bind(value.map { .text(String($0)) } ?? .null)
        }
        package mutating func appendInterpolation(_ value: Bool) {
            bind(.text(value ? "true" : "false"))
        }
        /// An interval, exact to the microsecond.
        package mutating func appendInterpolation(_ value: Duration?) {
            bind(value.map { .text("\(Statement.microseconds($0)) us") } ?? .null)
        }
        package mutating func appendInterpolation(_ values: [Int64]) {
            bind(.text("{" + values.map(String.init).joined(separator: ",") + "}"))
        }
        package mutating func appendInterpolation(_ values: [String]) {
            bind(.text("{" + values.map(Statement.quoted).joined(separator: ",") + "}"))
        }
    }

    private static func microseconds(_ duration: Duration) -> Int64 {
        let parts = duration.components
        return parts.seconds * 1_000_000 + parts.attoseconds / 1_000_000_000_000
    }
    /// An element of an array literal; see "Array Input and Output Syntax" in PostgreSQL's manual.
    private static func quoted(_ element: String) -> String {
        var text = "\""
        for character in element.unicodeScalars {
            if character == "\"" || character == "\\" { text.unicodeScalars.append("\\") }
            text.unicodeScalars.append(character)
        }
        return text + "\""
    }
}

/// A file of statements that came with the program, such as a migration; it takes no values.
package struct Script: Sendable {
    package let name: String
    package let bytes: [UInt8]
    package init(name: String, bytes: [UInt8]) {
        self.name = name
        self.bytes = bytes
    }
}

/// A channel to listen on.
package struct NotificationChannel: Sendable, Hashable, ExpressibleByStringLiteral {
    package let name: String
    package init(stringLiteral name: StaticString) { self.name = name.description }
    /// A name that the database made: lower-case letters, digits and underscores.
    package init(named name: String) {
        let isPlain = name.utf8.allSatisfy { byte in
            switch byte {
            case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "0")...UInt8(ascii: "9"),
                UInt8(ascii: "_"):
                true
            default: false
            }
        }
        precondition(isPlain && !name.isEmpty, "not the name of a channel: \(name)")
        self.name = name
    }
}

package struct Notification: Sendable, Equatable {
    package let channel: String
    package let payload: String
}
