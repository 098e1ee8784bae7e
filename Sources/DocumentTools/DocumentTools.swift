// The Python package that a document job runs inside the guest, as the files of its image.

package enum DocumentTools {
    /// Absolute paths in the guest and what stands there; readable by all, owned by root.
    package static let files: [(path: String, bytes: [UInt8])] =
        [
            module("__init__", PackageResources.__init___py),
            module("blocks", PackageResources.blocks_py),
            module("decrypt", PackageResources.decrypt_py),
            module("events", PackageResources.events_py),
            module("facts", PackageResources.facts_py),
            module("gate", PackageResources.gate_py),
            module("job", PackageResources.job_py),
            module("kinds", PackageResources.kinds_py),
            module("limits", PackageResources.limits_py),
            module("parked", PackageResources.parked_py),
            module("ranges", PackageResources.ranges_py),
            module("result", PackageResources.result_py),
            module("samples", PackageResources.samples_py),
            module("warm", PackageResources.warm_py),
            module("operations/convert", PackageResources.convert_py),
            module("operations/docxwriter", PackageResources.docxwriter_py),
            module("operations/fonts", PackageResources.fonts_py),
            module("operations/images", PackageResources.images_py),
            module("operations/metadata", PackageResources.metadata_py),
            module("operations/ocr", PackageResources.ocr_py),
            module("operations/office", PackageResources.office_py),
            module("operations/pages", PackageResources.pages_py),
            module("operations/reading", PackageResources.reading_py),
            module("readers/archives", PackageResources.archives_py),
            module("readers/docx", PackageResources.docx_py),
            module("readers/layout", PackageResources.layout_py),
            module("readers/mail", PackageResources.mail_py),
            module("readers/markup", PackageResources.markup_py),
            module("readers/odf", PackageResources.odf_py),
            module("readers/pdf", PackageResources.pdf_py),
            module("readers/pptx", PackageResources.pptx_py),
            module("readers/ruled", PackageResources.ruled_py),
            module("readers/sheets", PackageResources.sheets_py),
        ] + [(path: searchPath, bytes: Array("\(directory)\n".utf8))]

    private static let directory = "/usr/local/lib/mayfly"
    /// Puts the directory on the path of every Python in the image.
    private static let searchPath = "/usr/lib/python3/dist-packages/mayfly.pth"

    private static func module(
        _ name: String, _ bytes: [UInt8]
    ) -> (path: String, bytes: [UInt8]) {
        ("\(directory)/mayfly_document/\(name).py", bytes)
    }
}
