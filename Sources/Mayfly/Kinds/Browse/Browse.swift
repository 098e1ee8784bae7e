// Jobs of the kind `browse`: one page in a real browser, waited for, acted on, and read. The
// payload's fields are in BrowsePayload.swift; docs/payloads.md has their table.

import Jobs
import Machines
import Secrets
import StrictJSON

/// The kind `browse`.
struct BrowseKind: Kind {
    static let name = "browse"
    let settings: KindSettings

    init(_ configuration: Configuration) {
        var settings = KindSettings(
            configuration, image: .browseImage, timeout: .browseTimeout,
            timeoutMax: .browseTimeoutMax, inputFile: .browseInputFile,
            inputTotal: .browseInputTotal)
        settings.outputs.fileCount = Self.outputFileCount
        self.settings = settings
    }

    static func check(payload: String) throws(InvalidPayload) { _ = try BrowsePayload(payload) }

    private static let outputFileCount = 100
    /// The whole program: the browser and its driver wait in the image.
    private static let program = "from mayfly_browse import job\njob.main()\n"
    /// What a job's time leaves to the machine's own part: starting the program, taking its files.
    private static let margin = Duration.seconds(2)

    func recipe(
        payload: String, timeout: Duration?, blobs: any BlobSource, secrets: SecretOpener
    ) async throws(AttemptError) -> Recipe {
        let (page, limit): (BrowsePayload, Duration)
        do throws(InvalidPayload) {
            page = try BrowsePayload(payload)
            limit = try settings.timeout(timeout)
        } catch { throw .invalidPayload(error) }
        let seconds = max(1, Int((limit - Self.margin).milliseconds / 1000))
        // Each reads a key and multiplies points of a curve.
        let (request, mask) = try await besideTheLoop(unless: page.secrets.isEmpty) {
            () async throws(AttemptError) in try page.openedRequest(seconds: seconds, secrets)
        }
        var files = InputFiles(settings.inputs, from: blobs)
        for (number, file) in page.files.enumerated() {
            try await files.add(file.content, as: BrowsePayload.place(number), at: file.path)
        }
        return Recipe(
            image: image,
            job: GuestJob(
                program: .python(source: Self.program),
                standardInput: Array(request.text.utf8), files: files.files,
                outputs: ["\(BrowseResult.outputDirectory)/**"],
                timeout: limit, limits: settings.outputs, hasEvents: true),
            programName: "browse", mask: mask, network: page.network)
    }

    func result(
        of run: MachineRun, recipe: Recipe, queueDelay: Duration?
    ) -> any JobResult {
        BrowseResult(
            run: run, timeout: recipe.job.timeout, queueDelay: queueDelay,
            network: recipe.didOnNetwork)
    }
}
