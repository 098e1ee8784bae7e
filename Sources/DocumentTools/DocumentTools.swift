// The Python package that a document job runs inside the guest, as the files of its image.

package enum DocumentTools {
    /// Absolute paths in the guest and what stands there; readable by all, owned by root.
    package static let files: [(path: String, bytes: [UInt8])] =
        [
            module("__init__", PackageResources.__init___py),
            module("archives", PackageResources.archives_py),
            module("blocks", PackageResources.blocks_py),
            module("convert", PackageResources.convert_py),
            module("decrypt", PackageResources.decrypt_py),
            module("docx", PackageResources.docx_py),
            module("docxwriter", PackageResources.docxwriter_py),
            module("events", PackageResources.events_py),
            module("facts", PackageResources.facts_py),
            module("fonts", PackageResources.fonts_py),
            module("gate", PackageResources.gate_py),
            module("images", PackageResources.images_py),
            module("job", PackageResources.job_py),
            module("kinds", PackageResources.kinds_py),
            module("layout", PackageResources.layout_py),
            module("limits", PackageResources.limits_py),
            module("mail", PackageResources.mail_py),
            module("markup", PackageResources.markup_py),
            module("metadata", PackageResources.metadata_py),
            module("ocr", PackageResources.ocr_py),
            module("odf", PackageResources.odf_py),
            module("office", PackageResources.office_py),
            module("pages", PackageResources.pages_py),
            module("pdf", PackageResources.pdf_py),
            module("pptx", PackageResources.pptx_py),
            module("ranges", PackageResources.ranges_py),
            module("reading", PackageResources.reading_py),
            module("result", PackageResources.result_py),
            module("ruled", PackageResources.ruled_py),
            module("samples", PackageResources.samples_py),
            module("sheets", PackageResources.sheets_py),
            module("warm", PackageResources.warm_py),
        ] + [(path: searchPath, bytes: Array("\(directory)\n".utf8))]

    private static let directory = "/usr/local/lib/mayfly"
    /// Puts the directory on the path of every Python in the image.
    private static let searchPath = "/usr/local/lib/python3.11/dist-packages/mayfly.pth"

    private static func module(
        _ name: String, _ bytes: [UInt8]
    ) -> (path: String, bytes: [UInt8]) {
        ("\(directory)/mayfly_document/\(name).py", bytes)
    }
}
