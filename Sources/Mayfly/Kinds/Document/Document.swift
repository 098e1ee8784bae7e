// Jobs of the kind `document`: one document of a stranger's, read, converted, rendered or
// recognised by the tools in the image. docs/payloads.md has the table of its fields; everything
// else is refused.

import Jobs
import Machines
import Secrets
import StrictJSON
import Wire

/// The kind `document`.
struct DocumentKind: Kind {
    static let name = "document"
    let settings: KindSettings

    init(_ configuration: Configuration) {
        var settings = KindSettings(
            configuration, image: .documentImage, timeout: .documentTimeout,
            timeoutMax: .documentTimeoutMax, inputFile: .documentInputFile,
            inputTotal: .documentInputTotal)
        settings.outputs.fileCount = Self.outputFileCount
        self.settings = settings
    }

    static func check(payload: String) throws(InvalidPayload) { _ = try DocumentPayload(payload) }

    /// A page is a file: as many as a job may have pages, and some.
    private static let outputFileCount = 600
    /// The whole program: the package is in the image, and imported in its parked interpreter.
    private static let program = "from mayfly_document import job\njob.main()\n"

    func recipe(
        payload: String, timeout: Duration?, blobs: any BlobSource, secrets: SecretOpener
    ) async throws(AttemptError) -> Recipe {
        let (document, limit): (DocumentPayload, Duration)
        do throws(InvalidPayload) {
            document = try DocumentPayload(payload)
            limit = try settings.timeout(timeout)
        } catch { throw .invalidPayload(error) }
        let (request, mask) = try document.openedRequest(secrets)
        var files = InputFiles(settings.inputs, from: blobs)
        for (number, input) in document.inputs.enumerated() {
            try await files.add(input.content, as: DocumentPayload.place(number), at: input.path)
        }
        return Recipe(
            image: image,
            job: GuestJob(
                program: .python(source: Self.program),
                standardInput: Array(request.text.utf8), files: files.files,
                outputs: ["\(DocumentResult.outputDirectory)/**"],
                timeout: limit, limits: settings.outputs, hasEvents: true),
            programName: document.operation.rawValue, mask: mask)
    }

    func result(
        of run: MachineRun, recipe: Recipe, queueDelay: Duration?
    ) -> any JobResult {
        DocumentResult(
            run: run, operation: recipe.programName, timeout: recipe.job.timeout,
            queueDelay: queueDelay)
    }
}

/// A payload of the kind `document`, checked.
struct DocumentPayload: Sendable {
    enum Operation: String, CaseIterable, Sendable {
        case text, markdown, tables, metadata, render, convert, ocr, pages

        /// What may be asked for with `to`.
        var targets: [String] {
            switch self {
            case .text, .markdown: ["md"]
            case .tables: ["csv"]
            case .render: ["png", "jpeg", "webp"]
            case .convert:
                [
                    "pdf", "docx", "odt", "rtf", "html", "md", "txt", "csv", "json", "xlsx", "ods",
                    "pptx", "odp", "png", "jpeg", "webp",
                ]
            case .ocr: ["pdf"]
            case .metadata, .pages: []
            }
        }
    }
    enum PageAction: String, CaseIterable, Sendable {
        case merge, split, rotate, decrypt
    }
    /// A document, and what its sender calls it: a hint, never a path.
    struct Input: Sendable {
        var path: String
        var name: String
        var content: CodePayload.File.Content
    }

    private enum Bounds {
        static let inputs = 50
        static let nameLength = 255
        static let password = ByteCount.kibibytes(1)
        static let pageList = ByteCount.kibibytes(1)
        static let languages = 8
        static let dpi = 10...1200
        static let pageCount = 1...500
    }
    private static let keys = [
        "operation", "input", "inputs", "to", "pages", "password", "ocr", "languages", "layout",
        "per_page", "attachments", "dpi", "max_pages", "do", "options", "network",
    ]

    let operation: Operation
    private(set) var inputs: [Input] = []
    /// What the tools in the guest are told, the documents and the password apart.
    private(set) var request: JSON
    /// What opens the documents, sealed.
    private(set) var password: SealedSecret?

    /// Where a document stands in the job's directory.
    static func place(_ number: Int) -> String { "input/\(number + 1)" }

    init(_ payload: String) throws(InvalidPayload) {
        try self.init(try PayloadField(parsing: payload))
    }

    init(_ root: PayloadField) throws(InvalidPayload) {
        let fields = try root.members(Self.keys)
        guard let operationField = fields["operation"] else {
            throw root.refuse("\"operation\" is missing; use \(PayloadField.oneOf(Operation.self))")
        }
        operation = try operationField.word()
        request = .null
        inputs = try Self.inputs(fields, root, operation)
        request = .object(try requestMembers(fields, root))
        password = try Self.password(fields["password"])
        if let network = fields["network"] {
            throw network.refuse("document jobs have no network; leave it out")
        }
    }

    private static func password(_ field: PayloadField?) throws(InvalidPayload) -> SealedSecret? {
        guard let field else { return nil }
        let password = try field.sealed()
        guard password.byteCount <= Bounds.password.bytes else {
            throw field.refuse(
                "holds \(password.byteCount) bytes; at most \(Bounds.password) are allowed")
        }
        return password
    }

    /// The request with the password in the clear, which goes into the machine and nowhere else.
    fileprivate func openedRequest(
        _ secrets: SecretOpener
    ) throws(AttemptError) -> (request: JSON, mask: SecretMask) {
        guard let password, case .object(let members) = request else {
            return (request, SecretMask())
        }
        let (secret, text) = try secrets.open(password, at: "$.password")
        return (
            .object(members + [.init(name: "password", value: .string(text))]), SecretMask([secret])
        )
    }

    private static func inputs(
        _ fields: [String: PayloadField], _ root: PayloadField, _ operation: Operation
    ) throws(InvalidPayload) -> [Input] {
        let entries: [PayloadField]
        switch (fields["input"], fields["inputs"]) {
        case (let one?, nil): entries = [one]
        case (nil, let many?): entries = try many.list(atMost: Bounds.inputs)
        case (nil, nil): throw root.refuse("\"input\" is missing; it holds the document")
        case (_?, let many?): throw many.refuse("use either input or inputs")
        }
        guard !entries.isEmpty, entries.count == 1 || operation == .pages else {
            throw root.refuse(
                "has \(entries.count) documents; only the operation pages takes more than one")
        }
        var inputs: [Input] = []
        var total = 0
        for entry in entries {
            let members = try entry.members(["name", "text", "base64", "blob"])
            let name = try members["name"]?.text(atMost: .kibibytes(1)) ?? ""
            let content = try CodePayload.content(of: entry, members)
            if case .bytes(let bytes) = content { total += bytes.count }
            inputs.append(Input(path: entry.path, name: name, content: content))
        }
        guard total <= CodePayload.Bounds.input.bytes else {
            throw root.refuse(
                "the documents are \(total) bytes; at most \(CodePayload.Bounds.input) are "
                    + "allowed, put larger ones as blobs")
        }
        return inputs
    }

    /// The fields that the tools read, each checked here: they never see anything else.
    private func requestMembers(
        _ fields: [String: PayloadField], _ root: PayloadField
    ) throws(InvalidPayload) -> [JSON.Member] {
        var members: [JSON.Member] = [
            .init(name: "operation", value: .string(operation.rawValue)),
            .init(
                name: "inputs",
                value: .array(
                    inputs.enumerated().map { number, input in
                        [
                            "path": .string(Self.place(number)),
                            "name": .string(String(input.name.prefix(Bounds.nameLength))),
                        ]
                    })),
        ]
        func add(_ name: String, _ read: (PayloadField) throws(InvalidPayload) -> JSON)
            throws(InvalidPayload)
        {
            guard let field = fields[name] else { return }
            members.append(.init(name: name, value: try read(field)))
        }
        try add("to") { field throws(InvalidPayload) in
            guard !operation.targets.isEmpty else {
                throw field.refuse("is nothing that \(operation.rawValue) can choose; leave it out")
            }
            return .string(try field.word(of: operation.targets))
        }
        try add("pages") { field throws(InvalidPayload) in
            .string(try Self.pageList(field))
        }
        try add("ocr") { field throws(InvalidPayload) in
            .string(try field.word(of: ["auto", "never", "force"]))
        }
        try add("languages") { field throws(InvalidPayload) in
            .array(try Self.languages(field))
        }
        for name in ["layout", "per_page", "attachments"] {
            try add(name) { field throws(InvalidPayload) in .bool(try field.flag()) }
        }
        try add("dpi") { field throws(InvalidPayload) in
            .number(try field.integer(in: Bounds.dpi))
        }
        try add("max_pages") { field throws(InvalidPayload) in
            .number(try field.integer(in: Bounds.pageCount))
        }
        try add("options") { field throws(InvalidPayload) in try Self.options(field) }
        if operation == .pages {
            guard let action = fields["do"] else {
                throw root.refuse("\"do\" is missing; use \(PayloadField.oneOf(PageAction.self))")
            }
            let word: PageAction = try action.word()
            members.append(.init(name: "do", value: .string(word.rawValue)))
        } else if let field = fields["do"] {
            throw field.refuse("belongs to the operation pages")
        }
        if operation == .convert, fields["to"] == nil {
            throw root.refuse("\"to\" is missing; use \(PayloadField.oneOf(operation.targets))")
        }
        return members
    }

    /// `1-3,7,9-`: whether the document has such pages is for the tools to say.
    private static func pageList(_ field: PayloadField) throws(InvalidPayload) -> String {
        let text = try field.text(atMost: Bounds.pageList)
        let parts = text.split(separator: ",", omittingEmptySubsequences: false)
        for part in parts {
            let ends = part.split(separator: "-", maxSplits: 1, omittingEmptySubsequences: false)
            let numbers = ends.filter { !$0.isEmpty }.map { Int($0) }
            let isRange =
                !numbers.isEmpty
                && numbers.allSatisfy { $0.map { (1...1_000_000).contains($0) } ?? false }
                && part.utf8.allSatisfy { (48...57).contains($0) || $0 == 45 }
            guard isRange else {
                throw field.refuse(
                    "\"\(JSON.shortened(String(part)))\" is no page or range; use 1-3,7 or 9-")
            }
        }
        return text
    }

    /// Names of tesseract's language files; which of them the image has, the tools say.
    private static func languages(_ field: PayloadField) throws(InvalidPayload) -> [JSON] {
        var languages: [JSON] = []
        for entry in try field.list(atMost: Bounds.languages) {
            let word = try entry.text(atMost: .kibibytes(1))
            let isName =
                (2...16).contains(word.utf8.count)
                && word.utf8.allSatisfy {
                    (97...122).contains($0) || (65...90).contains($0) || $0 == 95
                }
            guard isName else {
                throw entry.refuse(
                    "\"\(JSON.shortened(word))\" is no language; use tesseract's names, such as "
                        + "eng, deu or chi_sim")
            }
            languages.append(.string(word))
        }
        guard !languages.isEmpty else { throw field.refuse("is empty; leave it out for eng") }
        return languages
    }

    private static func options(_ field: PayloadField) throws(InvalidPayload) -> JSON {
        let flags = ["landscape", "single_page_sheets", "linearize"]
        let fields = try field.members(["pdfa", "quality", "angle"] + flags)
        var members: [JSON.Member] = []
        if let pdfa = fields["pdfa"] {
            let word = try pdfa.word(of: ["1b", "2b", "3b"])
            members.append(.init(name: "pdfa", value: .string(word)))
        }
        for (name, range) in [("quality", 1...100), ("angle", -90...270)] {
            guard let field = fields[name] else { continue }
            members.append(.init(name: name, value: .number(try field.integer(in: range))))
        }
        for name in flags {
            guard let flag = fields[name] else { continue }
            members.append(.init(name: name, value: .bool(try flag.flag())))
        }
        return .object(members)
    }
}
