// What the interpreter of a `code` job said of its program: the last expression's value, what was
// shown, the exception. Forms and sizes are held against the contract here; the words are the
// guest's.

import Machines
import StrictJSON

/// The events of one program of a `code` job, as they are stored.
struct CodeEvents: Sendable {
    /// `{"type", "text"}` with `"json"` where it can be, and `"rows"` of a table.
    private(set) var value = JSON.null
    private(set) var displays: [JSON] = []
    /// `{"type", "message", "line", "traceback"}`.
    private(set) var exception = JSON.null
    private(set) var warnings: [(code: String, message: String)] = []

    /// What a harness of ours warns of; anything else is not from it.
    static let warningCodes = [
        "figure_scaled", "figures_dropped", "displays_dropped", "value_unreadable",
    ]
    private enum Bounds {
        static let name = 1000
        static let text = 512 << 10  // twice what the harness sends, in UTF-8
        static let displays = 200
        static let forms = 20
        static let warnings = 100
    }

    /// `files`: the names that came back; a display that is another file is none.
    init(_ output: CapturedOutput, files: [String]) {
        guard output.total.bytes > 0 else { return }
        let events = JobEvents(output)
        var unreadable = events.unreadableCount
        for warning in events.warnings.prefix(Bounds.warnings) {
            if Self.warningCodes.contains(warning.code) {
                warnings.append((warning.code, warning.message))
            } else {
                unreadable += 1
            }
        }
        if let value = events.value {
            if Self.isValue(value) { self.value = value } else { unreadable += 1 }
        }
        if let exception = events.exception {
            if Self.isException(exception) { self.exception = exception } else { unreadable += 1 }
        }
        var lost = max(0, events.displays.count - Bounds.displays)
        let names = Set(files.map { Array($0.utf8) })
        for display in events.displays.prefix(Bounds.displays) {
            guard let forms = Self.forms(of: display) else {
                unreadable += 1
                continue
            }
            let kept = forms.filter { form in
                form.value["file"].map { names.contains(Array(($0.string ?? "").utf8)) } ?? true
            }
            lost += forms.count - kept.count
            displays.append(
                [
                    "seq": .number(displays.count + 1), "source": display["source"] ?? .null,
                    "data": .object(kept),
                ])
        }
        if lost > 0 {
            warnings.append(
                ("displays_dropped", "\(lost) displays or their files did not come back"))
        }
        if unreadable > 0 {
            warnings.append(
                (
                    "events_unreadable",
                    "\(unreadable) messages of the interpreter could not be read"
                ))
        }
    }

    private static func members(_ value: JSON, _ names: [String]) -> [JSON.Member]? {
        guard case .object(let members) = value,
            members.allSatisfy({ names.contains($0.name) })
        else { return nil }
        return members
    }
    private static func isText(_ value: JSON?, atMost limit: Int) -> Bool {
        value?.string.map { $0.utf8.count <= limit } ?? false
    }
    private static func isCount(_ value: JSON) -> Bool { value.int.map { $0 >= 0 } ?? false }

    private static func isValue(_ value: JSON) -> Bool {
        members(value, ["type", "text", "json", "rows"]) != nil
            && isText(value["type"], atMost: Bounds.name)
            && isText(value["text"], atMost: Bounds.text)
            && value["rows"].map(isCount) ?? true
    }
    private static func isException(_ value: JSON) -> Bool {
        members(value, ["type", "message", "line", "traceback"])?.count == 4
            && isText(value["type"], atMost: Bounds.name)
            && isText(value["message"], atMost: Bounds.text)
            && isText(value["traceback"], atMost: Bounds.text)
            && (value["line"] == .null || value["line"].map(isCount) ?? false)
    }

    /// The MIME types of a display with their content, `nil` when it is none.
    private static func forms(of display: JSON) -> [JSON.Member]? {
        guard members(display, ["source", "data"])?.count == 2,
            ["show", "display", "last"].contains(display["source"]?.string),
            case .object(let forms) = display["data"], (1...Bounds.forms).contains(forms.count),
            forms.allSatisfy({ isForm($0) })
        else { return nil }
        return forms
    }
    private static func isForm(_ form: JSON.Member) -> Bool {
        let mime = form.name.utf8
        guard mime.count <= 100, mime.contains(UInt8(ascii: "/")),
            mime.allSatisfy({ (0x21..<0x7F).contains($0) })
        else { return false }
        if isText(form.value, atMost: Bounds.text) || form.name.hasSuffix("json") { return true }
        return members(form.value, ["file"])?.count == 1
            && isText(form.value["file"], atMost: Bounds.name)
    }
}
