// One job for people: state, output, files, timings. Called by the commands that show jobs; prints
// to standard output, and whatever a guest wrote is made harmless first.

import Jobs
import Secrets
import StrictJSON

enum JobText {
    /// The whole of an ended job, or where a living one stands.
    static func show(
        _ job: JobRow, attempts: [AttemptRow] = [], transfer: TransferRow? = nil
    ) {
        let result = JSON.stored(job.result)
        line("job", "\(job.id) \(job.kind) \(job.state)")
        if job.attempt > 1 || job.maxAttempts > 1 {
            line("attempt", "\(job.attempt), at most \(job.maxAttempts) of its own failures")
        }
        for name in JSON.stored(job.payload).sealedNames {
            line("secret", "\(name) \(Secret.dots)")
        }
        if let progress = progress(job) { line("progress", progress) }
        if let transfer {
            let done = Format.bytes(transfer.byteCount)
            line("file \(transfer.way)", "\(done) of \(Format.bytes(transfer.size))")
        }
        if let original = job.replayOf { line("replay of", "\(original)") }
        if let reason = job.errorReason {
            line("error", "\(reason): \(job.errorMessage ?? "")")
        }
        output("stdout", result["stdout"]?.string)
        output("stderr", result["stderr"]?.string)
        if let value = result["value"], value != .null {
            output("value", value["text"]?.string ?? String(value.text.prefix(2000)))
        }
        for file in result["files"]?.elements ?? [] {
            let size = Format.bytes(file["size"]?.int ?? 0)
            line("file", "\(file["name"]?.string ?? "") \(size) \(file["sha256"]?.string ?? "")")
        }
        if let timings = result["timings"] { line("timings", summary(timings)) }
        if let usage = result["usage"] { line("usage", summary(usage)) }
        if let machine = result["machine"] { line("machine", summary(machine)) }
        for attempt in attempts {
            let reason = attempt.reason.map { " (\($0))" } ?? ""
            let machine = attempt.machine.map { " in \($0)" } ?? ""
            line("attempt \(attempt.attempt)", "\(attempt.outcome)\(reason)\(machine)")
        }
    }

    /// How far a running job has come: `3 of 20`, or its own words.
    static func progress(_ job: JobRow) -> String? {
        guard let text = job.progress else { return nil }
        let progress = JSON.stored(text)
        guard let done = progress["done"]?.int, let total = progress["total"]?.int else {
            return text
        }
        return "\(done) of \(total)"
    }

    private static func line(_ name: String, _ text: String) {
        let pad = String(repeating: " ", count: max(1, 12 - name.count))
        let shown = Console.harmless(text).split(separator: "\n").joined(separator: " ")
        Console.data("\(name)\(pad)\(shown)")
    }

    /// At most 40 lines; the whole of it is in `mayfly logs` and in `--json`.
    private static func output(_ name: String, _ text: String?) {
        guard let text, !text.isEmpty else { return }
        let lines = Console.harmless(text).split(separator: "\n", omittingEmptySubsequences: false)
        for (index, text) in lines.prefix(40).enumerated()
        where index < lines.count - 1 || !text.isEmpty {
            let pad = String(repeating: " ", count: 12 - (index == 0 ? name.count : 0))
            Console.data("\(index == 0 ? name : "")\(pad)\(text)")
        }
        if lines.count > 41 { Console.data("            … \(lines.count - 40) more lines") }
    }

    /// `restore 12.1 ms, prepare 40 ms, interpreter warm`.
    static func summary(_ value: JSON) -> String {
        guard case .object(let members) = value else { return "" }
        let order = [
            "queue_ms", "restore_ms", "prepare_ms", "first_byte_ms", "run_ms", "collect_ms",
            "started_from", "interpreter", "cpu_ms", "wall_ms",
            "peak_memory_bytes", "image", "generation", "accelerator", "transport",
        ]
        return order.compactMap { name in members.first { $0.name == name } }.map { member in
            switch member.value {
            case .number(let text) where member.name.hasSuffix("_ms"):
                "\(member.name.dropLast(3)) \(Format.rounded(Double(text) ?? 0)) ms"
            case .number(let text) where member.name.hasSuffix("_bytes"):
                "\(member.name.dropLast(6)) \(Format.bytes(Int(text) ?? 0))"
            case .string(let text): "\(member.name) \(text)"
            default: "\(member.name) \(member.value.text)"
            }
        }.joined(separator: ", ")
    }
}
