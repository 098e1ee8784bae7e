// Whole jobs, measured from outside: how long from the claim to the first byte and from the commit
// to the result, how many a second, and what one costs. Called by `mayfly bench jobs`.

import Glibc
import Jobs
import Machines
import StrictJSON

/// What was measured.
struct JobsMeasurementResult {
    var table = Table("WHAT", "WAY", "HYPERVISOR", "UNIT", "N", "P50", "P95", "P99")
    /// What could not be known, and why.
    var remarks: [String] = []
    var succeeded = 0
    var ended = 0

    mutating func add(
        _ what: String, _ unit: String, _ samples: [Double],
        way: (way: String, hypervisor: String)? = nil
    ) {
        guard !samples.isEmpty else { return }
        let sorted = samples.sorted()
        func percentile(_ share: Double) -> JSON {
            let place = Int((Double(sorted.count) * share).rounded(.up)) - 1
            return .number(Format.rounded(sorted[min(max(place, 0), sorted.count - 1)], 2))
        }
        table.add(
            .string(what), .optional(way?.way), .optional(way?.hypervisor), .string(unit),
            .number(sorted.count), percentile(0.5), percentile(0.95), percentile(0.99))
    }
}

struct JobsMeasurement {
    let database: Database
    let language: String
    /// Jobs one after the other, and all at once.
    let oneByOne, jobs: Int
    /// At how many machines at once each is weighed.
    let machines: [Int]
    /// Named by the caller; else they are searched.
    let workers: [Int32]?

    /// - Throws: when the database cannot be reached, or no worker is there.
    func run(_ progress: @Sendable (String) -> Void) async throws(JobsError)
        -> JobsMeasurementResult
    {
        var result = JobsMeasurementResult()
        let here = try await found(&result.remarks)
        try await database.with { client throws(JobsError) in
            progress("one after the other: \(oneByOne)")
            var single: [Ended] = []
            for _ in 0..<oneByOne {
                let begin = ContinuousClock.now
                let id = try await client.enqueueMany(payload(1)).first ?? 0
                let row = try await client.wait(id)
                single.append(Ended(row, (ContinuousClock.now - begin).milliseconds))
            }
            result.add(single, "alone")
            progress("at once: \(jobs)")
            let before = ProcessorTime(workers: here.workers, server: here.server)
            let begin = ContinuousClock.now
            var many: [Ended] = []
            for id in try await client.enqueueMany(payload(jobs)) {
                many.append(Ended(try await client.wait(id), nil))
            }
            let seconds = (ContinuousClock.now - begin).milliseconds / 1000
            let after = ProcessorTime(workers: here.workers, server: here.server)
            result.add(many, "at once")
            result.add("jobs at once", "per second", [Double(jobs) / seconds])
            if !here.workers.isEmpty {
                let count = Double(jobs)
                result.add(
                    "processor, worker", "ms a job", [(after.worker - before.worker) / count])
                result.add(
                    "processor, hypervisor", "ms a job",
                    [(after.hypervisor - before.hypervisor) / count])
            }
            if let first = before.postgres, let last = after.postgres {
                result.add("processor, PostgreSQL", "ms a job", [(last - first) / Double(jobs)])
            }
            for count in machines where !here.workers.isEmpty {
                guard count <= here.slots else {
                    result.remarks.append(
                        "memory at \(count) machines: the workers have \(here.slots) slots")
                    continue
                }
                progress("memory of machines at work: \(count)")
                let memory = try await memory(of: count, client, here.workers, &result.remarks)
                result.add("memory of a machine, \(count) at once (PSS)", "MiB", memory)
            }
        }
        return result
    }

    private func payload(_ count: Int, _ source: String? = nil) -> String {
        let sources = ["python": "print(6*7)", "node": "console.log(6*7)", "bash": "echo 42"]
        let one: JSON = .object([
            "kind": .string("code"),
            "payload": .object([
                "language": .string(source == nil ? language : "python"),
                "source": .string(source ?? sources[language] ?? ""),
            ]),
            // On a busy host it takes minutes until all of them stand beside each other.
            "timeout": .string(source == nil ? "1 min" : "10 min"),
        ])
        return JSON.array(Array(repeating: one, count: count)).text
    }

    // MARK: Memory

    /// Machines that have run a small Python job and live on; in MiB each, when they have come to
    /// rest.
    ///
    /// Their jobs are cancelled then.
    private func memory(
        of count: Int, _ client: QueueClient, _ workers: [Int32], _ remarks: inout [String]
    ) async throws(JobsError) -> [Double] {
        let ids = try await client.enqueueMany(
            payload(
                count,
                """
                import json, time
                print(sum(i * i for i in range(20000)), flush=True)
                time.sleep(600)
                """))
        let deadline = ContinuousClock.now + .seconds(300)
        var (last, samples, rests) = (0.0, [Double](), 0)
        while rests < 3, .now < deadline, !Task.isCancelled {
            try? await ContinuousClock().sleep(for: .seconds(1))
            var running = 0
            for id in ids where try await client.show(id)?.state == "running" { running += 1 }
            // The standbys are the lightest.
            let all = HostProcess.children(of: workers).compactMap {
                MachineMemory(of: $0.pid)?.total
            }
            samples = Array(all.sorted().suffix(count))
            let sum = samples.reduce(0, +)
            rests = running == count && samples.count == count && sum < last * 1.01 ? rests + 1 : 0
            last = sum
        }
        for id in ids { _ = try await client.cancel(id) }
        for id in ids { _ = try await client.wait(id) }
        if rests < 3 {
            remarks.append(
                "memory at \(count) machines is not known: they did not come to rest, or their "
                    + "/proc/PID/smaps cannot be read (as root it can)")
            return []
        }
        return samples
    }

    // MARK: Who works here

    private struct Here {
        var workers: [Int32] = []
        var slots = 0
        /// PostgreSQL's first process.
        var server: Int32?
    }

    /// Live workers that the database knows and that run on this host, and the server if it does.
    private func found(_ remarks: inout [String]) async throws(JobsError) -> Here {
        var here = Here()
        let (known, backend) = try await database.with { client throws(JobsError) in
            (try await client.workers(), try await client.localBackend())
        }
        guard !known.rows.isEmpty else { throw JobsError.noWorker }
        let (name, host, slots) = (
            known.columns.firstIndex(of: "name"), known.columns.firstIndex(of: "host"),
            known.columns.firstIndex(of: "slots")
        )
        guard let name, let host, let slots else { return here }
        for row in known.rows {
            here.slots += row[slots].flatMap { Int($0) } ?? 0
            // A worker that was not given a name is called HOST-PID.
            guard row[host] == Configuration.hostName,
                let pid = row[name]?.split(separator: "-").last.flatMap({ Int32($0) }),
                HostProcess(pid)?.name.contains("mayfly") == true
            else { continue }
            here.workers.append(pid)
        }
        if let workers { here.workers = workers.filter { HostProcess($0) != nil } }
        if here.workers.count < known.rows.count {
            remarks.append(
                "\(known.rows.count) workers are live, \(here.workers.count) of them seen on this "
                    + "host: processor time and memory are those of the seen; --worker names others"
            )
        }
        if let backend, let process = HostProcess(backend), process.name.hasPrefix("postgres") {
            here.server = process.parent
        } else {
            remarks.append("PostgreSQL is not seen on this host: its processor time is not known")
        }
        return here
    }
}

/// A job that has ended, and what its result says.
private struct Ended {
    let hasSucceeded: Bool
    let way: String
    let hypervisor: String
    /// From the commit of the enqueue to the result in the hand of who waited, in milliseconds.
    let answered: Double?
    private let timings: JSON?

    init(_ row: JobRow, _ answered: Double?) {
        let result = JSON.stored(row.result)
        hasSucceeded = row.state == "succeeded"
        way = result["timings"]?["started_from"]?.string ?? "unknown"
        hypervisor = result["machine"]?["hypervisor"]?.string ?? "unknown"
        timings = result["timings"]
        self.answered = answered
    }
    func milliseconds(_ names: String...) -> Double? {
        let found = names.compactMap { name in timings?[name].flatMap { Double($0.text) } }
        return found.count == names.count ? found.reduce(0, +) : nil
    }
}

extension JobsMeasurementResult {
    fileprivate mutating func add(_ jobs: [Ended], _ how: String) {
        ended += jobs.count
        let good = jobs.filter(\.hasSucceeded)
        succeeded += good.count
        let ways = Dictionary(grouping: good) { "\($0.way) \($0.hypervisor)" }
        for (_, group) in ways.sorted(by: { $0.key < $1.key }) {
            guard let first = group.first else { continue }
            let way = (first.way, first.hypervisor)
            func row(_ what: String, _ value: (Ended) -> Double?) {
                add("\(how): \(what)", "ms", group.compactMap(value), way: way)
            }
            row("claim to first byte") {
                $0.milliseconds("restore_ms", "prepare_ms", "first_byte_ms")
            }
            row("commit to result") { $0.answered }
            row("waiting for a slot") { $0.milliseconds("queue_ms") }
            row("restore") { $0.milliseconds("restore_ms") }
            row("prepare") { $0.milliseconds("prepare_ms") }
            row("run") { $0.milliseconds("run_ms") }
        }
    }
}
