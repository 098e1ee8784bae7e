// The Python package that document jobs run in the guest, as files for its image. Put into the root
// disk by whoever builds the image; nothing of it runs on the host.

/// The tools for documents: what they are is in mayfly_document/job.py.
package enum DocumentTools {
    /// Guest path and bytes of each file.
    package static var files: [(path: String, bytes: [UInt8])] {
        modules.map { ("\(directory)/\($0)", $1) } + [(pathFile, Array("\(home)\n".utf8))]
    }
    private static let home = "/usr/local/lib/mayfly"
    private static let directory = "\(home)/mayfly_document"
    /// Puts `home` on every Python's path.
    private static let pathFile = "/usr/lib/python3/dist-packages/mayfly.pth"

    private static let modules: [(name: String, bytes: [UInt8])] = [
        ("__init__.py", PackageResources.__init___py),
        ("blocks.py", PackageResources.blocks_py),
        ("convert.py", PackageResources.convert_py),
        ("docx.py", PackageResources.docx_py),
        ("docxwriter.py", PackageResources.docxwriter_py),
        ("events.py", PackageResources.events_py),
        ("facts.py", PackageResources.facts_py),
        ("fonts.py", PackageResources.fonts_py),
        ("gate.py", PackageResources.gate_py),
        ("job.py", PackageResources.job_py),
        ("kinds.py", PackageResources.kinds_py),
        ("layout.py", PackageResources.layout_py),
        ("limits.py", PackageResources.limits_py),
        ("office.py", PackageResources.office_py),
        ("pdf.py", PackageResources.pdf_py),
        ("reading.py", PackageResources.reading_py),
        ("result.py", PackageResources.result_py),
        ("ruled.py", PackageResources.ruled_py),
        ("samples.py", PackageResources.samples_py),
        ("sheets.py", PackageResources.sheets_py),
        ("warm.py", PackageResources.warm_py),
    ]
}
