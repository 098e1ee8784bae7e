// Connecting, and the words of libpq. Part of Connection; runs on a thread where blocking is
// allowed.

import CLibPQ
import Glibc

/// A new connection in pipeline mode, on its way to the actor that owns it.
@safe struct Opened: @unchecked Sendable {
    // SAFETY: made on one thread, then handed to the one actor that uses and finishes it.
    let handle: OpaquePointer

    init(_ settings: ConnectionSettings) throws(PostgresError) {
        if let refusal = settings.refusal() { throw refusal }
        let parameters = settings.parameters
        guard let handle = unsafe Opened.connect(parameters) else {
            throw PostgresError(sqlstate: "53200", message: "no memory for a connection")
        }
        guard unsafe PQstatus(handle) == CONNECTION_OK, unsafe PQsetnonblocking(handle, 1) == 0,
            unsafe PQenterPipelineMode(handle) == 1
        else {
            let words = unsafe firstLine(PQerrorMessage(handle))
            unsafe PQfinish(handle)
            throw PostgresError(
                sqlstate: "08001", message: "the database does not answer: \(words)",
                hint: "Check that the server runs, and DATABASE_URL or the PG* variables")
        }
        // Unasked, libpq would print the server's notices between our own words, such as that it is
        // about to close the connection. What matters of them comes as an error, too.
        _ = unsafe PQsetNoticeProcessor(handle, { _, _ in }, nil)
        unsafe self.handle = unsafe handle
    }

    private static func connect(_ parameters: [(name: String, value: String)]) -> OpaquePointer? {
        func terminated(_ texts: [String]) -> [UnsafeMutablePointer<CChar>?] {
            unsafe (texts.map { unsafe strdup($0) }) + [nil]
        }
        let names = unsafe terminated(parameters.map(\.name))
        let values = unsafe terminated(parameters.map(\.value))
        defer { unsafe (names + values).forEach { unsafe free($0) } }
        // SAFETY: both lists end with nil and live through the call; libpq copies them.
        return unsafe PQconnectdbParams(
            names.map { unsafe $0.map { unsafe UnsafePointer($0) } },
            values.map { unsafe $0.map { unsafe UnsafePointer($0) } }, 1)
    }
}

/// The values of a statement as libpq wants them: one block of bytes and what lies where in it.
struct Parameters {
    private(set) var bytes: [UInt8] = []
    private(set) var offsets: [Int?] = []
    private(set) var lengths: [CInt] = []
    private(set) var formats: [CInt] = []
    private(set) var types: [Oid] = []

    /// Nil when a text has a zero byte, at which libpq would end it without a word.
    init?(_ values: [Statement.Value]) {
        for value in values {
            let start = bytes.count
            var isBinary = false
            switch value {
            case .null: break
            case .text(let text):
                bytes.append(contentsOf: text.utf8)
                if bytes[start...].contains(0) { return nil }
            case .bytes(let value):
                bytes.append(contentsOf: value)
                isBinary = true
            }
            offsets.append(value == .null ? nil : start)
            lengths.append(CInt(bytes.count - start))
            formats.append(isBinary ? 1 : 0)
            types.append(isBinary ? 17 : 0)  // bytea, or what the statement makes of it
            bytes.append(0)
        }
    }
}

/// What libpq says, on one line.
func firstLine(_ words: UnsafePointer<CChar>?) -> String {
    guard let words = unsafe words else { return "libpq gives no reason" }
    let lines = unsafe String(cString: words).split(separator: "\n").map { line in
        line.drop { $0 == " " || $0 == "\t" }
    }
    return lines.isEmpty ? "the connection was lost" : lines.joined(separator: " ")
}

/// What the server said about a statement.
func serverError(_ result: OpaquePointer) -> PostgresError {
    func field(_ code: Character) -> String? {
        guard let code = code.asciiValue else { return nil }
        // SAFETY: the text lives as long as the result, and is copied here.
        return unsafe PQresultErrorField(result, CInt(code)).map { unsafe String(cString: $0) }
    }
    let sqlstate = field("C")  // the letters are PG_DIAG_* of postgres_ext.h
    return PostgresError(
        sqlstate: sqlstate ?? "08006",
        message: field("M") ?? (unsafe firstLine(PQresultErrorMessage(result))),
        detail: field("D"), hint: field("H"), isConnectionLost: sqlstate == nil)
}

extension PostgresError {
    /// The server's last words before it closed the connection.
    var lostWithConnection: PostgresError {
        PostgresError(
            sqlstate: sqlstate, message: message, detail: detail, hint: hint, isConnectionLost: true
        )
    }
}

extension Statement {
    /// LISTEN takes no parameter; the channel's name is a literal of this program, or was checked.
    init(listeningTo channel: NotificationChannel) {
        self.init(trusted: "listen \"" + channel.name + "\"")
    }
}

/// First in, first out, without moving what waits.
struct Fifo<Element> {
    private var elements: [Element?] = []
    private var served = 0

    var isEmpty: Bool { served == elements.count }
    var first: Element? {
        get { isEmpty ? nil : elements[served] }
        set { elements[served] = newValue }
    }
    mutating func append(_ element: Element) { elements.append(element) }
    mutating func removeFirst() -> Element {
        guard let element = popFirst() else { preconditionFailure("the queue is empty") }
        return element
    }
    mutating func popFirst() -> Element? {
        guard served < elements.count else { return nil }
        defer {
            elements[served] = nil
            served += 1
            if isEmpty || served > 512 {
                elements.removeFirst(served)
                served = 0
            }
        }
        return elements[served]
    }
}
