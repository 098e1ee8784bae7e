// What an office that waits in the snapshot saves: one DOCX becomes a PDF with it, with one that is
// started for the job, and with one that must make its profile first. Called by `mayfly bench
// documents`.

import Jobs
import Machines
import StrictJSON

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
    func run(_ progress: @Sendable (String) -> Void) async throws -> WaitingMeasurement {
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
            return WaitingMeasurement(
                of: "OFFICE", Way.allCases.map { ($0.rawValue, costs[$0] ?? []) },
                last: "from ready to the PDF", on: host)
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
}
