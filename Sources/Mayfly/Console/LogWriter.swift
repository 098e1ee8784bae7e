// Writes log lines without ever waiting for who reads them: a worker whose log goes to a terminal
// that was stopped, or to a collector that hangs, must keep its lease. Used by the log alone.

import Glibc
import Synchronization

/// Lines for standard error, in their order.
final class LogWriter: Sendable {
    static let standardError = LogWriter(STDERR_FILENO)
    /// What waits for a reader at most; what comes then is counted and lost.
    private static let backlogByteCount = 1 << 20

    private struct Backlog {
        var lines: [[UInt8]] = []
        var byteCount = 0
        var lost = 0
        /// A thread is writing them.
        var isBeingWritten = false
    }
    private let descriptor: CInt
    private let backlog = Mutex(Backlog())

    init(_ descriptor: CInt) { self.descriptor = descriptor }

    /// Whole, by one write, so that lines of several jobs never mix.
    func write(_ line: String) {
        let bytes = Array(line.utf8)
        let needsThread = backlog.withLock { backlog in
            if !backlog.isBeingWritten, takesAtOnce(bytes.count) {
                Console.bytes(bytes, to: descriptor)
                return false
            }
            guard backlog.byteCount + bytes.count <= Self.backlogByteCount else {
                backlog.lost += 1
                return false
            }
            backlog.lines.append(bytes)
            backlog.byteCount += bytes.count
            return !backlog.isBeingWritten.exchange(true)
        }
        guard needsThread else { return }
        var handle = pthread_t()
        let retained = unsafe Unmanaged.passRetained(self).toOpaque()
        // SAFETY: the retained pointer is taken over, once, by the new thread.
        let status = unsafe pthread_create(
            &handle, nil,
            { raw in
                guard let raw = unsafe raw else { return nil }
                unsafe Unmanaged<LogWriter>.fromOpaque(raw).takeRetainedValue().writeBacklog()
                return nil
            }, retained)
        if status == 0 {
            pthread_detach(handle)
        } else {
            // The next line tries again.
            unsafe Unmanaged<LogWriter>.fromOpaque(retained).release()
            backlog.withLock { $0.isBeingWritten = false }
        }
    }

    /// Waits a moment for lines that are still to be written; before the process ends.
    func flush(within patience: Duration = .seconds(1)) {
        let deadline = ContinuousClock.now + patience
        while backlog.withLock({ $0.isBeingWritten }), .now < deadline { usleep(5000) }
    }

    /// A pipe that is ready has room for a page; files are always ready.
    private func takesAtOnce(_ count: Int) -> Bool {
        var ready = pollfd(fd: descriptor, events: Int16(POLLOUT), revents: 0)
        guard count <= 4096 else { return false }
        return unsafe poll(&ready, 1, 0) == 1
    }

    private func writeBacklog() {
        while true {
            let lines: [[UInt8]] = backlog.withLock { backlog in
                var lines = backlog.lines
                if backlog.lost > 0 {
                    let words = "\(LineLog.timestamp()) warning \(backlog.lost) lines of this log "
                    lines.append(Array((words + "were lost: nobody read it\n").utf8))
                }
                backlog.isBeingWritten = !lines.isEmpty
                (backlog.lines, backlog.byteCount, backlog.lost) = ([], 0, 0)
                return lines
            }
            if lines.isEmpty { return }
            for line in lines { Console.bytes(line, to: descriptor) }
        }
    }
}

extension Bool {
    fileprivate mutating func exchange(_ value: Bool) -> Bool {
        defer { self = value }
        return self
    }
}
