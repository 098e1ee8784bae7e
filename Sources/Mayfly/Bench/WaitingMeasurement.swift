// What a program that waits in the snapshot saves: costs of the same job, by how it came to that
// program. The way that waits stands first; the others are compared with it.

import Machines
import StrictJSON

struct WaitingMeasurement {
    var table: Table
    /// Median processor time of the way that waits, over that of another way, by its name.
    var ratios: [(way: String, ratio: Double)] = []
    /// The machine and its image.
    var host: String

    /// - Parameters:
    ///   - program: what waits, as the head of a column.
    ///   - last: what the wall clock from READY is called.
    init(
        of program: String, _ ways: [(name: String, costs: [JobCost])], last: String,
        on host: MachineHost
    ) {
        table = Table(program, "WHAT", "UNIT", "N", "P50", "MIN", "MAX")
        self.host = "\(host.probe.profile.hypervisor), \(host.probe.profile.accelerator)"
        let rows: [(String, @Sendable (JobCost) -> Duration)] = [
            ("processor time of the whole machine", { $0.processor }),
            ("  of it: since it was ready", { $0.sinceReady }),
            ("processor time that the job is told", { $0.report.cpu }),
            (last, { $0.wall }),
        ]
        var first: Double?
        for (name, costs) in ways {
            for (what, part) in rows {
                let sorted = costs.map { part($0).milliseconds }.sorted()
                guard let least = sorted.first, let most = sorted.last else { continue }
                table.add(
                    .string(name), .string(what), "ms", .number(sorted.count),
                    .number(Format.rounded(sorted[(sorted.count - 1) / 2])),
                    .number(Format.rounded(least)), .number(Format.rounded(most)))
            }
            let sorted = costs.map(\.processor.milliseconds).sorted()
            guard !sorted.isEmpty else { continue }
            let median = sorted[(sorted.count - 1) / 2]
            if let first { ratios.append((name, first / median)) } else { first = median }
        }
    }
}
