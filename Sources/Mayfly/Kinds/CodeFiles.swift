// The input files of a `code` payload: names that stay in the job's directory, content as text,
// base64 or blob. Called by CodePayload; blobs are fetched only when everything else is right.

import Jobs
import Machines
import StrictJSON
import Wire

extension CodePayload {
    mutating func readFiles(_ field: PayloadField) throws(InvalidPayload) {
        // By bytes: Swift's String calls names equal that are two files to Linux.
        var places: [[UInt8]: String] = [:]
        for step in steps { places[Array(step.language.sourceName.utf8)] = "the program itself" }
        for entry in try field.list(atMost: Bounds.files) {
            let file = try Self.readFile(entry)
            let name = Array(file.name.utf8)
            if let other = places[name] {
                throw InvalidPayload(
                    path: "\(file.path).name",
                    sentence: "\"\(file.name)\" is taken by \(other); use another name")
            }
            places[name] = file.path
            files.append(file)
        }
        try checkDirectories(places)
    }

    /// No file may stand where another one needs a directory.
    private func checkDirectories(_ places: [[UInt8]: String]) throws(InvalidPayload) {
        for file in files {
            let name = Array(file.name.utf8)
            for (index, byte) in name.enumerated() where byte == UInt8(ascii: "/") {
                guard let other = places[Array(name[..<index])] else { continue }
                throw InvalidPayload(
                    path: "\(file.path).name",
                    sentence: "\"\(file.name)\" needs a directory where \(other) is a file; "
                        + "use another name")
            }
        }
    }

    private static func readFile(_ field: PayloadField) throws(InvalidPayload) -> File {
        let fields = try field.members(["name", "text", "base64", "blob"])
        guard let nameField = fields["name"] else { throw field.refuse("\"name\" is missing") }
        let name = try nameField.text(atMost: .kibibytes(16))
        do throws(WireError) { try GuestPath.validate(name) } catch {
            let shown = JSON.shortened(name)
            // By bytes, as Linux reads it.
            let leaves =
                name.utf8.first == UInt8(ascii: "/")
                || GuestPath.segments(of: name).contains("..")
            throw nameField.refuse(
                leaves
                    ? "\"\(shown)\" leaves the job's directory; use a plain relative name"
                    : "\"\(shown)\" has \(error.reason); use a plain relative name")
        }
        return File(path: field.path, name: name, content: try content(of: field, fields))
    }

    /// What a FILE holds: text, base64 or the address of a blob.
    static func content(
        of field: PayloadField, _ fields: [String: PayloadField]
    ) throws(InvalidPayload) -> File.Content {
        let given = ["text", "base64", "blob"].filter { fields[$0] != nil }
        guard given.count == 1 else {
            throw field.refuse(
                given.isEmpty
                    ? "has no content; use text, base64 or blob"
                    : "has \(given.joined(separator: " and ")); use one of them")
        }
        if let text = fields["text"] {
            return .bytes(Array(try text.text(atMost: Bounds.input).utf8))
        }
        if let base64 = fields["base64"] {
            let text = try base64.text(atMost: ByteCount(bytes: Bounds.input.bytes / 3 * 4 + 4))
            guard let bytes = Base64.decode(text) else {
                throw base64.refuse(
                    "is not base64; use the standard alphabet with padding, without line breaks")
            }
            return .bytes(bytes)
        }
        guard let blob = fields["blob"] else { throw field.refuse("has no content") }
        let digest = try blob.text(atMost: .kibibytes(1))
        let isDigest =
            digest.utf8.count == 64
            && digest.utf8.allSatisfy { (48...57).contains($0) || (97...102).contains($0) }
        guard isDigest else {
            throw blob.refuse(
                "is not the address of a blob; use the 64 hex digits that mayfly.put_blob returned")
        }
        return .blob(digest)
    }

    /// The files, of which blobs are read while they are sent.
    func resolvedFiles(
        _ blobs: any BlobSource, _ limits: InputLimits
    ) async throws(AttemptError) -> [GuestFile] {
        var inputs = InputFiles(limits, from: blobs, beside: inlineByteCount)
        for file in files { try await inputs.add(file.content, as: file.name, at: file.path) }
        return inputs.files
    }
}
