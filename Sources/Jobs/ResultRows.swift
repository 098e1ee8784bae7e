// How rows of the database become the values of this module. Called by Queue and QueueClient.

import Postgres

extension JobRow {
    init(_ rows: Rows, _ row: Int) {
        id = rows.integer(row, "id") ?? 0
        queue = rows.string(row, "queue")
        tenant = rows.string(row, "tenant")
        kind = rows.string(row, "kind")
        state = rows.string(row, "state")
        priority = Int(rows.integer(row, "priority") ?? 0)
        attempt = Int(rows.integer(row, "attempt") ?? 0)
        maxAttempts = Int(rows.integer(row, "max_attempts") ?? 1)
        payload = rows.string(row, "payload")
        result = rows.text(row, "result")
        error = rows.text(row, "error")
        uniqueKey = rows.text(row, "unique_key")
        replayOf = rows.integer(row, "replay_of")
        runAt = rows.string(row, "run_at")
        createdAt = rows.string(row, "created_at")
        startedAt = rows.text(row, "started_at")
        finishedAt = rows.text(row, "finished_at")
        timeout = rows.integer(row, "timeout_ms").map { .milliseconds($0) }
        isCancelRequested = rows.bool(row, "cancel_requested")
        worker = rows.integer(row, "worker")
        progress = rows.text(row, "progress")
    }
}

extension AttemptRow {
    init(_ rows: Rows, _ row: Int) {
        attempt = Int(rows.integer(row, "attempt") ?? 0)
        worker = rows.integer(row, "worker") ?? 0
        outcome = rows.string(row, "outcome")
        reason = rows.text(row, "reason")
        message = rows.text(row, "message")
        machine = rows.text(row, "machine")
        generation = rows.text(row, "generation")
        seed = rows.text(row, "seed")
        clock = rows.integer(row, "clock")
        timings = rows.text(row, "timings")
        usage = rows.text(row, "usage")
        logTail = rows.text(row, "log_tail")
        startedAt = rows.string(row, "started_at")
        finishedAt = rows.string(row, "finished_at")
    }
}

extension ResultTable {
    init(_ rows: Rows) {
        let names = rows.columns
        columns = names
        self.rows = (0..<rows.count).map { row in names.map { rows.text(row, $0) } }
    }
}

extension Job {
    init(_ rows: Rows, _ row: Int, worker: Int64) {
        var pin: Pin?
        if let generation = rows.text(row, "pin_generation"),
            let clock = rows.integer(row, "pin_clock"),
            let seed = rows.text(row, "pin_seed").flatMap(Hex.decode)
        {
            pin = Pin(generation: generation, seed: seed, clock: clock)
        }
        self.init(
            id: rows.integer(row, "id") ?? 0, token: rows.integer(row, "token") ?? 0,
            attempt: Int(rows.integer(row, "attempt") ?? 0), queue: rows.string(row, "queue"),
            tenant: rows.string(row, "tenant"), kind: rows.string(row, "kind"),
            priority: Int(rows.integer(row, "priority") ?? 0), payload: rows.string(row, "payload"),
            timeout: rows.integer(row, "timeout_ms").map { .milliseconds($0) },
            maxAttempts: Int(rows.integer(row, "max_attempts") ?? 1),
            createdAt: rows.string(row, "created_at"), runAt: rows.string(row, "run_at"),
            queueDelay: .microseconds(rows.integer(row, "delay_us") ?? 0), pin: pin, worker: worker)
    }
}

enum Hex {
    static func decode(_ text: String) -> [UInt8]? {
        let digits = text.utf8.map { byte -> UInt8? in
            switch byte {
            case UInt8(ascii: "0")...UInt8(ascii: "9"): byte - UInt8(ascii: "0")
            case UInt8(ascii: "a")...UInt8(ascii: "f"): byte - UInt8(ascii: "a") + 10
            default: nil
            }
        }
        guard digits.count.isMultiple(of: 2), !digits.contains(nil) else { return nil }
        return stride(from: 0, to: digits.count, by: 2).map { index in
            (digits[index] ?? 0) << 4 | (digits[index + 1] ?? 0)
        }
    }
}
