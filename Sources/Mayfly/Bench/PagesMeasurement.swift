// What a browser that waits in the snapshot saves: one page is read and drawn by it, and by one
// that is started for the job. Called by `mayfly bench pages`.

import Jobs
import Machines
import StrictJSON

struct PagesMeasurement {
    /// How the job comes to its browser.
    enum Way: String, CaseIterable {
        case waiting
        case started

        /// The job's program: the product's own, once its browser is as it should be.
        var program: String {
            let run = "from mayfly_browse import job\njob.main()\n"
            return switch self {
            case .waiting: run
            case .started: "from mayfly_browse import server\nserver.restart()\n" + run
            }
        }
    }

    let configuration: Configuration
    let rounds: Int
    /// Of a job; emulation takes its time.
    private static let timeout = Duration.seconds(900)
    private static let payload: JSON = [
        "html": """
        <!doctype html><title>Bench</title><h1>Bench</h1><table id=t></table><script>
        const t = document.querySelector('#t');
        for (let i = 0; i < 50; i++) t.insertRow().insertCell().textContent = 'Row ' + i;
        </script>
        """,
        "return": ["title", "text", "screenshot"],
    ]

    /// - Throws: what keeps a machine from being restored, or a page that went wrong.
    func run(_ progress: @Sendable (String) -> Void) async throws -> WaitingMeasurement {
        var settings = configuration.host
        // Nothing else shall run beside what is measured.
        settings.warm = WarmSettings()
        return try await MachineHost.with(settings, standbys: 0) { host in
            var costs: [Way: [JobCost]] = [:]
            for round in 1...rounds {
                // Turn and turn about, so that all meet the same host.
                for way in Way.allCases {
                    progress("round \(round) of \(rounds), browser: \(way.rawValue)")
                    costs[way, default: []].append(try await read(way, on: host))
                }
            }
            return WaitingMeasurement(
                of: "BROWSER", Way.allCases.map { ($0.rawValue, costs[$0] ?? []) },
                last: "from ready to the picture", on: host)
        }
    }

    private func read(_ way: Way, on host: MachineHost) async throws -> JobCost {
        let kind = BrowseKind(configuration)
        var recipe = try await kind.recipe(
            payload: Self.payload.text, timeout: Self.timeout, blobs: NoBlobs(),
            secrets: SecretOpener(keys: kind.settings.secretKeys, tenant: nil))
        recipe.job.program = .python(source: way.program)
        let cost = try await host.cost(of: recipe.job, image: recipe.image)
        let report = cost.report
        let picture = report.files.first?.bytes ?? []
        guard report.ending == .exited(code: 0), picture.starts(with: [0x89, 0x50, 0x4E, 0x47])
        else {
            let words = String(decoding: report.stderr.bytes.suffix(500), as: UTF8.self)
            let events = String(decoding: report.events.bytes.suffix(500), as: UTF8.self)
            throw FileError(
                "the bench's own page went wrong: \(report.ending) "
                    + Console.harmless(words + events))
        }
        return cost
    }
}
