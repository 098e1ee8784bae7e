// One connection to PostgreSQL: an actor on the event loop, always in libpq's pipeline mode, so
// that concurrent callers share it without waiting for each other. Used by Jobs. It never blocks
// the loop: connecting, with its name resolution, happens on a thread of its own.

import CLibPQ
import Events
import Glibc

@safe package actor Connection {
    nonisolated package var unownedExecutor: UnownedSerialExecutor {
        unsafe EventLoop.shared.asUnownedSerialExecutor()
    }

    /// What callers wait for: the results of the statements up to one Sync, which are one
    /// transaction.
    private struct Request {
        let statements: [Statement]
        var sentCount = 0
        let answer: CheckedContinuation<Result<[Rows], PostgresError>, Never>
    }
    private enum State {
        case open
        case running(CheckedContinuation<Result<[Rows], PostgresError>, Never>)  // a script
        case closed(PostgresError)
    }

    // SAFETY: used on the event loop's thread only, from `init` to `end`.
    private nonisolated(unsafe) let handle: OpaquePointer
    private let socket: CInt
    private var state = State.open
    private var unsent = Fifo<Request>()
    private var waiting = Fifo<Request>()
    private var results: [Rows] = []
    private var failure: PostgresError?
    private var unflushedByteCount = 0
    private var watchesWriting = false
    private var listeners:
        [(id: Int, channels: Set<String>, sink: AsyncStream<Notification>.Continuation)] = []
    private var listenerCount = 0

    /// Connects by libpq's rules, within its connect_timeout (10 s unless told otherwise), and sets
    /// what the session is to have.
    package init(_ settings: ConnectionSettings) async throws(PostgresError) {
        let opened = try await offload { () throws(PostgresError) in try Opened(settings) }
        unsafe handle = unsafe opened.handle
        socket = unsafe PQsocket(opened.handle)
        watch()
        guard !settings.session.isEmpty else { return }
        try await run(
            settings.session.map { "select set_config(\($0.name), \($0.value), false)" })
    }

    private func watch() {
        EventLoop.shared.watch(socket, .read) { [weak self] interest in
            self?.assumeIsolated { connection in connection.isReady() }
        }
    }

    isolated deinit { end(PostgresError(sqlstate: "08003", message: "the connection was dropped")) }

    /// Ends what is under way with an error, and the connection.
    package func close() {
        end(
            PostgresError(
                sqlstate: "08003", message: "the connection was closed", isConnectionLost: true))
    }

    package var isOpen: Bool { if case .closed = state { false } else { true } }

    // MARK: Statements

    /// One statement, one transaction.
    @discardableResult
    package func run(_ statement: Statement) async throws(PostgresError) -> Rows {
        let rows = try await run([statement])
        return rows[rows.count - 1]
    }

    /// All statements as one transaction: the first that fails undoes them all.
    @discardableResult
    package func run(_ statements: [Statement]) async throws(PostgresError) -> [Rows] {
        precondition(!statements.isEmpty, "nothing to run")
        // Nothing may come between the check and the waiting: the closure runs without suspension.
        let result: Result<[Rows], PostgresError> = await EventLoop.shared.resumedHere { answer in
            switch state {
            case .closed(let error): answer.resume(returning: .failure(error))
            case .open, .running:
                unsent.append(Request(statements: statements, answer: answer))
                pump()
            }
        }
        return try result.get()
    }

    /// A file of statements, as one transaction unless it says otherwise.
    ///
    /// Only for a connection that nobody else is using.
    package func run(_ script: Script) async throws(PostgresError) {
        let result: Result<[Rows], PostgresError> = await EventLoop.shared.resumedHere { answer in
            guard case .open = state, unsent.isEmpty, waiting.isEmpty else {
                let error = PostgresError(sqlstate: "55006", message: "the connection is in use")
                answer.resume(returning: .failure(error))
                return
            }
            // SAFETY: the bytes end with a zero and libpq copies them before it returns.
            let isSent =
                unsafe PQexitPipelineMode(handle) == 1
                && (script.bytes + [0]).withUnsafeBufferPointer { bytes in
                    unsafe bytes.withMemoryRebound(to: CChar.self) { text in
                        unsafe PQsendQuery(handle, text.baseAddress) == 1
                    }
                }
            guard isSent else {
                answer.resume(returning: .failure(connectionError()))
                return
            }
            state = .running(answer)
            flush()
        }
        _ = try result.get()
    }

    // MARK: Notifications

    /// Listens for as long as `body` runs.
    ///
    /// The stream ends when the connection does.
    package func withNotifications<Value: Sendable>(
        on channels: [NotificationChannel],
        _ body: @Sendable (AsyncStream<Notification>) async throws(PostgresError) -> Value
    ) async throws(PostgresError) -> Value {
        let (stream, sink) = AsyncStream<Notification>.makeStream()
        listenerCount += 1
        let id = listenerCount
        listeners.append((id, Set(channels.map(\.name)), sink))
        defer {
            listeners.removeAll { $0.id == id }
            sink.finish()
        }
        for channel in channels { try await run(Statement(listeningTo: channel)) }
        return try await body(stream)
    }

    // MARK: Sending

    /// Sends as much as the socket takes without hoarding: a result of 100 MB is not copied at
    /// once.
    private func pump() {
        while case .open = state, var request = unsent.first {
            while request.sentCount < request.statements.count {
                if unflushedByteCount > 1 << 18 {
                    unsent.first = request
                    flush()
                    guard unflushedByteCount == 0, case .open = state else { return }
                }
                if let error = send(request.statements[request.sentCount]) {
                    return refuse(request, error)
                }
                request.sentCount += 1
            }
            _ = unsent.removeFirst()
            guard unsafe PQpipelineSync(handle) == 1 else {
                request.answer.resume(returning: .failure(connectionError()))
                return end(connectionError())
            }
            waiting.append(request)
        }
        flush()
    }

    /// A statement that libpq does not take.
    ///
    /// Before anything was sent, only its caller has a problem.
    private func refuse(_ request: Request, _ error: PostgresError) {
        _ = unsent.removeFirst()
        request.answer.resume(returning: .failure(error))
        if request.sentCount > 0 || error.isConnectionLost { return end(error) }
        pump()
    }

    private func send(_ statement: Statement) -> PostgresError? {
        guard let parameters = Parameters(statement.values) else {
            return PostgresError(
                sqlstate: "22021", message: "a text value contains a zero byte",
                hint: "PostgreSQL cannot store it; replace the byte or use bytea")
        }
        unflushedByteCount += parameters.bytes.count + statement.text.utf8.count
        // SAFETY: every pointer lies in the parameters' bytes, which live through the call; libpq
        // copies.
        let isSent = unsafe parameters.bytes.withUnsafeBytes { memory in
            let pointers = unsafe parameters.offsets.map { offset in
                unsafe offset.flatMap { unsafe memory.baseAddress?.advanced(by: $0) }?
                    .assumingMemoryBound(to: CChar.self)
            }
            return unsafe PQsendQueryParams(
                handle, statement.text, CInt(parameters.offsets.count), parameters.types, pointers,
                parameters.lengths, parameters.formats, statement.wantsBinary ? 1 : 0) == 1
        }
        return isSent ? nil : connectionError()
    }

    private func flush() {
        switch unsafe PQflush(handle) {
        case 0:
            unflushedByteCount = 0
            if watchesWriting { EventLoop.shared.change(socket, .read) }
            watchesWriting = false
        case 1:
            if !watchesWriting { EventLoop.shared.change(socket, [.read, .write]) }
            watchesWriting = true
        default: end(connectionError())
        }
    }

    // MARK: Receiving

    private func isReady() {
        guard case .closed = state else {
            guard unsafe PQconsumeInput(handle) == 1 else { return end(connectionError()) }
            if watchesWriting { flush() }
            receive()
            deliverNotifications()
            if case .open = state, !unsent.isEmpty { pump() }
            return
        }
    }

    private func receive() {
        // In a pipeline a null ends each statement; two in a row mean that nothing is there.
        var nullCount = 0
        while nullCount < 2, isOpen, unsafe PQisBusy(handle) == 0 {
            if let result = unsafe PQgetResult(handle) {
                nullCount = 0
                unsafe take(result)
            } else {
                nullCount += 1
                if case .running(let answer) = state { finishScript(answer) }
            }
        }
    }

    private func take(_ result: OpaquePointer) {
        let rows = unsafe Rows(owning: result)
        switch unsafe PQresultStatus(result) {
        case PGRES_PIPELINE_SYNC:
            let request = waiting.removeFirst()
            let (done, error) = (results, failure)
            (results, failure) = ([], nil)
            request.answer.resume(returning: error.map(Result.failure) ?? .success(done))
        case PGRES_FATAL_ERROR, PGRES_BAD_RESPONSE:
            if failure == nil { failure = unsafe serverError(result) }
        case PGRES_PIPELINE_ABORTED: break
        default: results.append(rows)
        }
    }

    private func finishScript(_ answer: CheckedContinuation<Result<[Rows], PostgresError>, Never>) {
        let error = failure
        (results, failure) = ([], nil)
        guard unsafe PQenterPipelineMode(handle) == 1 else { return end(connectionError()) }
        state = .open
        answer.resume(returning: error.map(Result.failure) ?? .success([]))
    }

    private func deliverNotifications() {
        guard isOpen else { return }
        while let raw = unsafe PQnotifies(handle) {
            let note = unsafe Notification(
                channel: String(cString: raw.pointee.relname),
                payload: String(cString: raw.pointee.extra))
            unsafe PQfreemem(raw)
            for listener in listeners where listener.channels.contains(note.channel) {
                listener.sink.yield(note)
            }
        }
    }

    // MARK: The end

    private func end(_ error: PostgresError) {
        guard isOpen else { return }
        let script: CheckedContinuation<Result<[Rows], PostgresError>, Never>?
        if case .running(let answer) = state { script = answer } else { script = nil }
        state = .closed(error)
        EventLoop.shared.unwatch(socket)
        unsafe PQfinish(handle)
        for listener in listeners { listener.sink.finish() }
        listeners = []
        // The statement that was being answered gets the server's own last words, if it said any.
        let last = failure.map { $0.lostWithConnection } ?? error
        (results, failure) = ([], nil)
        script?.resume(returning: .failure(last))
        var isFirst = true
        while let request = waiting.popFirst() ?? unsent.popFirst() {
            request.answer.resume(returning: .failure(isFirst ? last : error))
            isFirst = false
        }
    }

    private func connectionError() -> PostgresError {
        PostgresError(
            sqlstate: "08006", message: unsafe firstLine(PQerrorMessage(handle)),
            isConnectionLost: true)
    }
}
