// What an office that waits in the snapshot saves: one DOCX becomes a PDF with it, with one that is
// started for the job, and with one that must make its profile first. Called by `mayfly bench
// documents`.

import Jobs
import Machines
import StrictJSON

/// What was measured.
struct DocumentsMeasurementResult {
    var table = Table("OFFICE", "WHAT", "UNIT", "N", "P50", "MIN", "MAX")
    /// Median processor time with the office that waits, over that of another way, by its name.
    var ratios: [(way: String, ratio: Double)] = []
    /// The machine and its image.
    var host = ""
}

struct DocumentsMeasurement {
    /// How the job comes to its office.
    enum Way: String, CaseIterable {
        case waiting
        case started
        case new = "new profile"

        /// The job's program: the product's own, once its office is as it should be.
        ///
        /// An office that is gone is started again by the job itself.
        var program: String {
            let stop = """
                import shutil
                from mayfly_document.operations import office
                office.stop()

                """
            let run = "from mayfly_document import job\njob.main()\n"
            return switch self {
            case .waiting: run
            case .started: stop + run
            case .new: stop + "shutil.rmtree(f'{office.HOME}/profile')\n" + run
            }
        }
    }

    let configuration: Configuration
    let rounds: Int
    /// Of a job; emulation takes its time.
    private static let timeout = Duration.seconds(900)
    private static let text = (1...12).map {
        """
        # Part \($0)

        Sales grew in *both* cities, and this is a paragraph of some words that fills a line or two,
        so that there is something to lay out, to break into lines, and to put on pages.

        | City | Amount |
        |------|--------|
        | Oslo | 220    |
        | Lima | 125.25 |


        """
    }.joined()

    /// - Throws: what keeps a machine from being restored, or a conversion that went wrong.
    func run(_ progress: @Sendable (String) -> Void) async throws -> DocumentsMeasurementResult {
        var settings = configuration.host
        // Nothing else shall run beside what is measured.
        settings.warm = WarmSettings()
        return try await MachineHost.with(settings, standbys: 0) { host in
            progress("making the DOCX")
            let document = try await make(
                "docx", of: ["name": "bench.md", "text": .string(Self.text)], on: host)
            var costs: [Way: [JobCost]] = [:]
            for round in 1...rounds {
                // Turn and turn about, so that all meet the same host.
                for way in Way.allCases {
                    progress("round \(round) of \(rounds), office: \(way.rawValue)")
                    let cost = try await convert(document, way, on: host)
                    costs[way, default: []].append(cost)
                }
            }
            return result(costs, on: host)
        }
    }

    private func make(
        _ target: String, of input: JSON, on host: MachineHost
    ) async throws -> [UInt8] {
        let recipe = try await recipe(to: target, of: input)
        return try file(of: try await host.cost(of: recipe.job, image: recipe.image))
    }
    private func convert(
        _ document: [UInt8], _ way: Way, on host: MachineHost
    ) async throws -> JobCost {
        var recipe = try await recipe(
            to: "pdf", of: ["name": "bench.docx", "base64": .string(Base64.encode(document))])
        recipe.job.program = .python(source: way.program)
        let cost = try await host.cost(of: recipe.job, image: recipe.image)
        guard try file(of: cost).starts(with: Array("%PDF-".utf8)) else {
            throw FileError("the conversion left no PDF")
        }
        return cost
    }
    private func recipe(to target: String, of input: JSON) async throws -> Recipe {
        let payload: JSON = ["operation": "convert", "to": .string(target), "input": input]
        let kind = DocumentKind(configuration)
        return try await kind.recipe(
            payload: payload.text, timeout: Self.timeout, blobs: NoBlobs(),
            secrets: SecretOpener(keys: kind.settings.secretKeys, tenant: nil))
    }
    /// The one that a conversion left.
    private func file(of cost: JobCost) throws -> [UInt8] {
        let report = cost.report
        guard report.ending == .exited(code: 0), let bytes = report.files.first?.bytes else {
            let words = String(decoding: report.stderr.bytes.suffix(500), as: UTF8.self)
            let events = String(decoding: report.events.bytes.suffix(500), as: UTF8.self)
            throw FileError(
                "the bench's own document went wrong: \(report.ending) "
                    + Console.harmless(words + events))
        }
        return bytes
    }

    private func result(
        _ costs: [Way: [JobCost]], on host: MachineHost
    ) -> DocumentsMeasurementResult {
        var result = DocumentsMeasurementResult()
        result.host = "\(host.probe.profile.hypervisor), \(host.probe.profile.accelerator)"
        func median(_ way: Way) -> Double {
            let sorted = (costs[way] ?? []).map(\.processor.milliseconds).sorted()
            return sorted.isEmpty ? .nan : sorted[(sorted.count - 1) / 2]
        }
        for way in Way.allCases {
            let all = costs[way] ?? []
            for (what, part) in Self.rows {
                let sorted = all.map { part($0).milliseconds }.sorted()
                guard let least = sorted.first, let most = sorted.last else { continue }
                let middle = sorted[(sorted.count - 1) / 2]
                result.table.add(
                    .string(way.rawValue), .string(what), "ms", .number(sorted.count),
                    .number(Format.rounded(middle)), .number(Format.rounded(least)),
                    .number(Format.rounded(most)))
            }
            guard way != .waiting else { continue }
            result.ratios.append((way.rawValue, median(.waiting) / median(way)))
        }
        return result
    }
    private static let rows: [(String, @Sendable (JobCost) -> Duration)] = [
        ("processor time of the whole machine", { $0.processor }),
        ("  of it: since it was ready", { $0.sinceReady }),
        ("processor time that the job is told", { $0.report.cpu }),
        ("from ready to the PDF", { $0.wall }),
    ]
}
