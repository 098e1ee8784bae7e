// The payload of a `browse` job: read strictly, and made into what the driver in the guest is told.
// Addresses are checked here and, as a browser reads them, again in the guest.

import Egress
import Jobs
import Machines
import Secrets
import StrictJSON

/// A payload of the kind `browse`, checked.
struct BrowsePayload: Sendable {
    /// A file that a page may be given by `upload`.
    struct File: Sendable {
        var path: String
        var name: String
        var content: CodePayload.File.Content
    }

    enum Bounds {
        static let html = ByteCount.mebibytes(5)
        static let script = ByteCount.kibibytes(256)
        static let text = ByteCount.kibibytes(64)
        static let selector = ByteCount.kibibytes(4)
        static let url = ByteCount.kibibytes(8)
        static let name = ByteCount.kibibytes(1)
        static let actions = 200
        static let files = 50
        static let entries = 100
        static let milliseconds = 0...3_600_000
    }
    private static let keys = [
        "url", "html", "wait", "actions", "script", "return", "files", "screenshot", "pdf",
        "snapshot", "viewport", "cookies", "storage", "headers", "auth", "user_agent", "locale",
        "timezone", "geolocation", "javascript", "color_scheme", "block", "dialogs",
        "service_workers", "fresh", "fail_on_status", "network", "secrets",
    ]
    static let returns = [
        "text", "markdown", "article", "snapshot", "links", "images", "html", "title", "metadata",
        "screenshot", "pdf", "value", "console", "network", "har", "storage", "downloads",
    ]
    static let resourceTypes = [
        "stylesheet", "image", "media", "font", "script", "texttrack", "xhr", "fetch",
        "eventsource", "websocket", "manifest", "other",
    ]

    private(set) var files: [File] = []
    /// What pages may reach.
    private(set) var network: NetworkRequest
    /// Values that stand sealed in the payload, by their names.
    private(set) var secrets: [CodePayload.SecretField] = []
    /// What the driver is told, with `{"secret": NAME}` where a secret belongs.
    private(set) var request: [JSON.Member] = []

    static func place(_ number: Int) -> String { "input/\(number + 1)" }

    init(_ payload: String) throws(InvalidPayload) {
        try self.init(try PayloadField(parsing: payload))
    }

    init(_ root: PayloadField) throws(InvalidPayload) {
        let fields = try root.members(Self.keys)
        network = try fields["network"].map(NetworkRequest.init) ?? NetworkRequest()
        // Every hello of a browser has an extension that looks like an encrypted one.
        network.encryptedHello = .behindTheRightName
        network.hasCapabilities = false
        try readSecrets(fields["secrets"])
        try readFiles(fields["files"])
        switch (fields["url"], fields["html"]) {
        case (let url?, nil): add("url", .string(try Self.address(url)))
        case (nil, let html?): add("html", .string(try html.text(atMost: Bounds.html)))
        case (nil, nil):
            throw root.refuse("\"url\" is missing; it says where the page is, or html what it is")
        case (_?, let html?): throw html.refuse("use either url or html")
        }
        try readWork(fields)
        try readBrowser(fields)
        try readOutput(fields)
    }

    private mutating func add(_ name: String, _ value: JSON) {
        request.append(.init(name: name, value: value))
    }
    private mutating func add(
        _ name: String, _ fields: [String: PayloadField],
        _ read: (PayloadField) throws(InvalidPayload) -> JSON
    ) throws(InvalidPayload) {
        guard let field = fields[name] else { return }
        add(name, try read(field))
    }

    // MARK: Parts

    private mutating func readSecrets(_ field: PayloadField?) throws(InvalidPayload) {
        guard let field else { return }
        for (name, entry) in try field.dictionary(atMost: CodePayload.Bounds.secrets) {
            secrets.append(
                .init(name: name, path: entry.path, sealed: try entry.sealed()))
        }
    }

    private mutating func readFiles(_ field: PayloadField?) throws(InvalidPayload) {
        var total = 0
        for entry in try field?.list(atMost: Bounds.files) ?? [] {
            let members = try entry.members(["name", "text", "base64", "blob"])
            guard let name = try members["name"]?.text(atMost: Bounds.name), !name.isEmpty else {
                throw entry.refuse("\"name\" is missing; upload names the file by it")
            }
            let content = try CodePayload.content(of: entry, members)
            if case .bytes(let bytes) = content { total += bytes.count }
            files.append(File(path: entry.path, name: name, content: content))
        }
        guard total <= CodePayload.Bounds.input.bytes else {
            throw InvalidPayload(
                path: "$.files",
                sentence: "are \(total) bytes; at most \(CodePayload.Bounds.input) are allowed, "
                    + "put larger ones as blobs")
        }
    }

    private mutating func readWork(
        _ fields: [String: PayloadField]
    ) throws(InvalidPayload) {
        let known = self
        try add("wait", fields) { field throws(InvalidPayload) in try Self.wait(field) }
        try add("actions", fields) { field throws(InvalidPayload) in
            var actions: [JSON] = []
            for entry in try field.list(atMost: Bounds.actions) {
                actions.append(try known.action(entry))
            }
            return .array(actions)
        }
        try add("script", fields) { field throws(InvalidPayload) in
            .string(try field.text(atMost: Bounds.script))
        }
    }

    private mutating func readBrowser(
        _ fields: [String: PayloadField]
    ) throws(InvalidPayload) {
        let known = self
        for name in ["javascript", "service_workers", "fresh", "fail_on_status"] {
            try add(name, fields) { field throws(InvalidPayload) in .bool(try field.flag()) }
        }
        for name in ["user_agent", "locale", "timezone"] {
            try add(name, fields) { field throws(InvalidPayload) in
                .string(try field.text(atMost: Bounds.name))
            }
        }
        try add("color_scheme", fields) { field throws(InvalidPayload) in
            .string(try field.word(of: ["light", "dark", "no-preference"]))
        }
        try add("viewport", fields) { field throws(InvalidPayload) in
            try Self.numbers(
                field,
                ["width": 1...16_384, "height": 1...16_384, "scale": 1...4])
        }
        try add("geolocation", fields) { field throws(InvalidPayload) in
            let members = try field.members(["latitude", "longitude", "accuracy"])
            for (name, range) in [("latitude", -90.0...90), ("longitude", -180.0...180)] {
                guard let number = members[name], case .number(let digits) = number.value,
                    let value = Double(digits), range.contains(value)
                else {
                    throw field.refuse("needs latitude, -90 to 90, and longitude, -180 to 180")
                }
            }
            return field.value
        }
        try add("block", fields) { field throws(InvalidPayload) in
            try Self.words(field, of: Self.resourceTypes)
        }
        try add("dialogs", fields) { field throws(InvalidPayload) in
            let members = try field.members(["accept", "text"])
            _ = try members["accept"]?.flag()
            _ = try members["text"]?.text(atMost: Bounds.text)
            return field.value
        }
        try add("headers", fields) { field throws(InvalidPayload) in try known.headers(field) }
        try add("cookies", fields) { field throws(InvalidPayload) in try known.cookies(field) }
        try add("auth", fields) { field throws(InvalidPayload) in
            let members = try field.members(["username", "password", "origin"])
            _ = try members["username"]?.text(atMost: Bounds.name)
            _ = try members["origin"]?.text(atMost: Bounds.url)
            guard members["username"] != nil, let password = members["password"] else {
                throw field.refuse("needs username and password")
            }
            try known.secret(password)
            return field.value
        }
        try add("storage", fields) { field throws(InvalidPayload) in
            try known.secret(field)
            return field.value
        }
    }

    private mutating func readOutput(
        _ fields: [String: PayloadField]
    ) throws(InvalidPayload) {
        try add("return", fields) { field throws(InvalidPayload) in
            try Self.words(field, of: Self.returns)
        }
        try add("screenshot", fields) { field throws(InvalidPayload) in
            let members = try field.members(
                ["full_page", "selector", "type", "quality", "max_height"])
            _ = try members["full_page"]?.flag()
            _ = try members["selector"]?.text(atMost: Bounds.selector)
            _ = try members["type"]?.word(of: ["png", "jpeg", "webp"])
            _ = try members["quality"]?.integer(in: 1...100)
            _ = try members["max_height"]?.integer(in: 1...16_384)
            return field.value
        }
        try add("pdf", fields) { field throws(InvalidPayload) in
            let members = try field.members(["format", "landscape", "background"])
            _ = try members["format"]?.word(of: ["A3", "A4", "A5", "Letter", "Legal", "Tabloid"])
            _ = try members["landscape"]?.flag()
            _ = try members["background"]?.flag()
            return field.value
        }
        try add("snapshot", fields) { field throws(InvalidPayload) in
            let members = try field.members(["selector", "depth", "max_bytes"])
            _ = try members["selector"]?.text(atMost: Bounds.selector)
            _ = try members["depth"]?.integer(in: 1...100)
            _ = try members["max_bytes"]?.integer(in: 1...65_536)
            return field.value
        }
    }
}

// MARK: Forms

extension BrowsePayload {
    /// An http or https address with a host and nobody's name in it.
    ///
    /// As strict as can be told without reading it as a browser does; the guest does that.
    static func address(_ field: PayloadField) throws(InvalidPayload) -> String {
        let text = try field.text(atMost: Bounds.url)
        let lower = text.lowercased()
        guard let scheme = ["https://", "http://"].first(where: { lower.hasPrefix($0) }) else {
            throw InvalidPayload(
                path: field.path, sentence: "is no http:// or https:// address",
                reason: .urlRefused)
        }
        let ends: Set<Character> = ["/", "?", "#", "\\"]
        let authority = text.dropFirst(scheme.count).prefix { !ends.contains($0) }
        guard !authority.contains("@") else {
            throw InvalidPayload(
                path: field.path, sentence: "has a name or a password in it; use auth",
                reason: .urlRefused)
        }
        let isPlain = text.unicodeScalars.allSatisfy { $0.value > 0x20 && $0.value != 0x7F }
        guard !authority.isEmpty, isPlain else {
            throw InvalidPayload(
                path: field.path, sentence: "has no host, or a blank in it", reason: .urlRefused)
        }
        return text
    }

    static func numbers(
        _ field: PayloadField, _ ranges: [String: ClosedRange<Int>]
    ) throws(InvalidPayload) -> JSON {
        for (name, entry) in try field.members(ranges.keys.sorted()) {
            _ = try entry.integer(in: ranges[name] ?? 0...0)
        }
        return field.value
    }

    static func words(
        _ field: PayloadField, of words: [String]
    ) throws(InvalidPayload) -> JSON {
        for entry in try field.list(atMost: words.count) { _ = try entry.word(of: words) }
        return field.value
    }

    static func wait(_ field: PayloadField) throws(InvalidPayload) -> JSON {
        let texts = ["selector", "text", "gone", "url", "js"]
        let times = ["idle", "ms", "timeout_ms"]
        let members = try field.members(texts + times + ["state", "strict"])
        for name in texts { _ = try members[name]?.text(atMost: Bounds.selector) }
        for name in times { _ = try members[name]?.integer(in: Bounds.milliseconds) }
        _ = try members["state"]?.word(of: ["load", "domcontentloaded", "networkidle"])
        _ = try members["strict"]?.flag()
        return field.value
    }

    /// `{"secret": NAME}` with a name of the payload's own.
    func secret(_ field: PayloadField) throws(InvalidPayload) {
        guard case .object = field.value,
            let name = try field.members(["secret"])["secret"]?.text(atMost: Bounds.name)
        else {
            throw field.refuse(
                "must not stand here in the clear: seal it into secrets, and write "
                    + "{\"secret\": NAME}")
        }
        guard secrets.contains(where: { $0.name == name }) else {
            throw field.refuse("names a secret that secrets does not have")
        }
    }
    /// A text, or a secret.
    func textOrSecret(_ field: PayloadField) throws(InvalidPayload) {
        if case .object = field.value { return try secret(field) }
        _ = try field.text(atMost: Bounds.text)
    }

    func headers(_ field: PayloadField) throws(InvalidPayload) -> JSON {
        for (name, entry) in try field.dictionary(atMost: Bounds.entries) {
            let token = Set("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz")
            guard !name.isEmpty, name.lowercased().allSatisfy(token.contains) else {
                throw entry.refuse("is no name of a header")
            }
            let isSecret = ["authorization", "cookie", "proxy-authorization"]
                .contains(name.lowercased())
            if isSecret { try secret(entry) } else { try textOrSecret(entry) }
        }
        return field.value
    }

    func cookies(_ field: PayloadField) throws(InvalidPayload) -> JSON {
        for entry in try field.list(atMost: Bounds.entries) {
            let members = try entry.members([
                "name", "value", "url", "domain", "path", "expires", "httpOnly", "secure",
                "sameSite",
            ])
            for name in ["name", "url", "domain", "path"] {
                _ = try members[name]?.text(atMost: Bounds.url)
            }
            for name in ["httpOnly", "secure"] { _ = try members[name]?.flag() }
            _ = try members["sameSite"]?.word(of: ["Strict", "Lax", "None"])
            _ = try members["expires"]?.integer(in: -1...(1 << 40))
            guard members["name"] != nil, let value = members["value"],
                members["url"] != nil || members["domain"] != nil
            else { throw entry.refuse("needs name, value, and url or domain") }
            try secret(value)
        }
        return field.value
    }
}

// MARK: Actions

extension BrowsePayload {
    private static let options = [
        "timeout_ms", "optional", "frame", "count", "button", "keys",
    ]
    static let actionNames = [
        "click", "type", "select", "check", "uncheck", "hover", "upload", "drag", "press",
        "scroll", "goto", "back", "wait", "evaluate", "screenshot", "snapshot", "page",
    ]

    func action(_ field: PayloadField) throws(InvalidPayload) -> JSON {
        let members = try field.members(Self.actionNames + Self.options)
        let names = Self.actionNames.filter { members[$0] != nil }
        guard names.count == 1, let name = names.first, let content = members[name] else {
            throw field.refuse(
                "is not one action; each is one of \(PayloadField.oneOf(Self.actionNames))")
        }
        _ = try members["timeout_ms"]?.integer(in: Bounds.milliseconds)
        for flag in ["optional", "keys"] { _ = try members[flag]?.flag() }
        _ = try members["frame"]?.text(atMost: Bounds.selector)
        _ = try members["count"]?.integer(in: 1...3)
        _ = try members["button"]?.word(of: ["left", "right", "middle"])
        switch name {
        case "click", "check", "uncheck", "hover":
            _ = try content.text(atMost: Bounds.selector)
        case "type":
            let parts = try Self.parts(content, 2...2)
            _ = try parts[0].text(atMost: Bounds.selector)
            try textOrSecret(parts[1])
        case "drag":
            for part in try Self.parts(content, 2...2) {
                _ = try part.text(atMost: Bounds.selector)
            }
        case "upload": try upload(content)
        case "select":
            let parts = try Self.parts(content, 2...2)
            _ = try parts[0].text(atMost: Bounds.selector)
            if case .array = parts[1].value {
                for entry in try parts[1].list(atMost: Bounds.entries) {
                    _ = try entry.text(atMost: Bounds.text)
                }
            } else {
                _ = try parts[1].text(atMost: Bounds.text)
            }
        case "press":
            if case .array = content.value {
                for part in try Self.parts(content, 2...2) {
                    _ = try part.text(atMost: Bounds.selector)
                }
            } else {
                _ = try content.text(atMost: Bounds.name)
            }
        case "scroll":
            if case .string = content.value {
                _ = try content.text(atMost: Bounds.selector)
            } else {
                _ = try content.integer(in: -1_000_000...1_000_000)
            }
        case "goto": _ = try Self.address(content)
        case "back": _ = try content.integer(in: 1...20)
        case "wait": _ = try Self.wait(content)
        case "evaluate": _ = try content.text(atMost: Bounds.script)
        case "page": _ = try content.integer(in: 0...20)
        default: _ = try content.text(atMost: Bounds.name)
        }
        return field.value
    }

    private static func parts(
        _ field: PayloadField, _ count: ClosedRange<Int>
    ) throws(InvalidPayload) -> [PayloadField] {
        let parts = try field.list(atMost: count.upperBound)
        guard count.contains(parts.count) else {
            throw field.refuse("has \(parts.count) entries, not \(count.lowerBound)")
        }
        return parts
    }

    private func upload(_ field: PayloadField) throws(InvalidPayload) {
        let parts = try Self.parts(field, 2...(1 + Bounds.files))
        _ = try parts[0].text(atMost: Bounds.selector)
        for part in parts.dropFirst() {
            let name = try part.text(atMost: Bounds.name)
            guard files.contains(where: { $0.name == name }) else {
                throw part.refuse("\"\(JSON.shortened(name))\" is none of files")
            }
        }
    }
}

// MARK: For the guest

extension BrowsePayload {
    /// The request with its secrets in the clear, which goes into the machine and nowhere else.
    func openedRequest(
        seconds: Int, _ opener: SecretOpener
    ) throws(AttemptError) -> (request: JSON, mask: SecretMask) {
        var texts: [String: String] = [:]
        var opened: [Secret] = []
        for field in secrets {
            let (secret, text) = try opener.open(field.sealed, at: field.path)
            texts[field.name] = text
            opened.append(secret)
        }
        var members: [JSON.Member] = []
        for var member in request {
            if member.name == "storage" {
                member.value = try Self.storage(member.value, texts)
            } else if ["actions", "headers", "cookies", "auth"].contains(member.name) {
                member.value = Self.filled(member.value, texts)
            }
            members.append(member)
        }
        if !texts.isEmpty, members.contains(where: { $0.name == "script" }) {
            let known = secrets.map {
                JSON.Member(name: $0.name, value: .string(texts[$0.name] ?? ""))
            }
            members.append(.init(name: "secrets", value: .object(known)))
        }
        members.append(
            .init(
                name: "inputs",
                value: .array(
                    files.enumerated().map { number, file in
                        ["path": .string(Self.place(number)), "name": .string(file.name)]
                    })))
        members.append(.init(name: "limits", value: ["seconds": .number(seconds)]))
        return (.object(members), SecretMask(opened))
    }

    /// What a browser has stored is JSON in a secret.
    private static func storage(
        _ value: JSON, _ texts: [String: String]
    ) throws(AttemptError) -> JSON {
        guard case .string(let text) = filled(value, texts), let state = try? JSON(parsing: text),
            case .object = state
        else {
            throw .invalidPayload(
                InvalidPayload(
                    path: "$.storage", sentence: "is not the JSON that a job returned as storage"))
        }
        return state
    }

    private static func filled(_ value: JSON, _ texts: [String: String]) -> JSON {
        switch value {
        case .object(let members):
            if members.count == 1, members[0].name == "secret",
                case .string(let name) = members[0].value, let text = texts[name]
            {
                return .string(text)
            }
            return .object(
                members.map { .init(name: $0.name, value: filled($0.value, texts)) })
        case .array(let values): return .array(values.map { filled($0, texts) })
        default: return value
        }
    }
}
