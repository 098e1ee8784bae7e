// The answer to one statement. Read by Jobs, by column name; a name that the statement does not
// answer, or a null where none can be, is a mistake of this program and traps.

import CLibPQ

/// Immutable once received, and so safe to share.
@safe package final class Rows: @unchecked Sendable {
    // SAFETY: libpq only reads a result after it was received; this object is its one owner.
    private let result: OpaquePointer

    init(owning result: OpaquePointer) { unsafe self.result = unsafe result }
    deinit { unsafe PQclear(result) }

    package var count: Int { Int(unsafe PQntuples(result)) }
    /// How many rows an insert, update or delete touched.
    package var affected: Int {
        Int(unsafe String(cString: PQcmdTuples(result))) ?? 0
    }

    package func text(_ row: Int, _ column: String) -> String? {
        guard let (value, length) = unsafe cell(row, column) else { return nil }
        let bytes = unsafe UnsafeRawBufferPointer(start: value, count: length)
        return unsafe String(decoding: bytes, as: UTF8.self)
    }
    /// A value that is never null.
    package func string(_ row: Int, _ column: String) -> String {
        guard let text = text(row, column) else { preconditionFailure("\(column) is null") }
        return text
    }
    package func integer(_ row: Int, _ column: String) -> Int64? {
        guard let text = text(row, column) else { return nil }
        guard let value = Int64(text) else {
            preconditionFailure("\(column) is no integer: \(text)")
        }
        return value
    }
    package func bool(_ row: Int, _ column: String) -> Bool { string(row, column) == "t" }
    /// A bytea of a statement that was asked for in binary form.
    package func bytes(_ row: Int, _ column: String) -> [UInt8]? {
        guard let (value, length) = unsafe cell(row, column) else { return nil }
        return unsafe [UInt8](UnsafeRawBufferPointer(start: value, count: length))
    }
    /// A bigint of a statement that was asked for in binary form.
    package func binaryInteger(_ row: Int, _ column: String) -> Int64? {
        guard let bytes = bytes(row, column) else { return nil }
        precondition(bytes.count == 8, "\(column) is no bigint")
        return bytes.reduce(0) { $0 << 8 | Int64($1) }
    }
    /// The names of the columns, in order.
    package var columns: [String] {
        let count = unsafe PQnfields(result)
        return (0..<count).map { column in
            let name = unsafe PQfname(result, column).map { unsafe String(cString: $0) }
            return name ?? ""
        }
    }

    private func cell(_ row: Int, _ column: String) -> (UnsafePointer<CChar>, Int)? {
        precondition(row >= 0 && row < count, "row \(row) of \(count)")
        let number = unsafe PQfnumber(result, "\"" + column + "\"")
        precondition(number >= 0, "the statement has no column \(column)")
        // SAFETY: row and column exist; the pointer lives as long as this object, and is copied
        // from.
        let isNull = unsafe PQgetisnull(result, CInt(row), number)
        guard isNull == 0, let value = unsafe PQgetvalue(result, CInt(row), number) else {
            return nil
        }
        return unsafe (UnsafePointer(value), Int(PQgetlength(result, CInt(row), number)))
    }
}
