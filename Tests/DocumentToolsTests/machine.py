#!/usr/bin/env python3
"""The checks in real machines. Usage: machine.py --program MAYFLY [--all]

First document jobs, a machine each; then one script's documents and the hostile ones, many to a
machine, for each of them costs seconds under emulation. --all takes every document of the corpus.
The last line counts: N passed, N failed."""
import argparse
import base64
import json
import os
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import corpus  # noqa: E402
import hostile  # noqa: E402
import makers  # noqa: E402
from native import Native  # noqa: E402
from run import Report, check_corpus, check_hostile, in_order  # noqa: E402

# So many documents share a machine; what a job may leave is set accordingly.
BATCH = 40


def encoded(name, data):
    return {"name": name, "base64": base64.b64encode(data).decode()}


def mayfly(program, payload, *arguments):
    """(exit code, what --json printed, what was said) of one run."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(payload, file)
        file.flush()
        ended = subprocess.run([program, "run", "--payload", file.name, "--json", *arguments],
                               capture_output=True, text=True)
    return ended.returncode, json.loads(ended.stdout) if ended.stdout else {}, ended.stderr


class Machines:
    """As `Native`, with `batch.py` as a program in a machine of the document image."""

    def __init__(self, program):
        self.program = program

    def execute_many(self, items):
        return [ended for start in range(0, len(items), BATCH) for ended in self._batch(items[start:start + BATCH])]

    def _batch(self, items):
        described, files = [], []
        for number, (request, inputs, timeout) in enumerate(items):
            paths = []
            for place, (name, data) in enumerate(inputs, 1):
                paths.append({"path": f"input/{place}", "name": name})
                files.append(encoded(f"{number}/input/{place}", data))
            # Emulation takes its time; what a document may take is for the checks outside of it.
            described.append({"root": f"/work/{number}", "timeout": timeout * 10, "request": {**request, "inputs": paths}})
        files.append({"name": "batch.json", "text": json.dumps({"items": described})})
        with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "batch.py")) as file:
            source = file.read()
        payload = {"language": "python", "source": source, "args": ["batch.json"], "files": files,
                   "outputs": ["*/events", "*/ended", "*/stderr", "*/out/**"]}
        with tempfile.TemporaryDirectory() as top:
            code, _, said = mayfly(self.program, payload, "--timeout", "20min", "--out", top,
                                   "--set", "code.image=document", "--set", "code.output.files=1000")
            if code != 0:
                raise SystemExit(f"the batch ended with {code}: {said[-2000:]}")
            return [Native._ended(os.path.join(top, str(number))) for number in range(len(items))]


def check_jobs(program, report):
    """What a producer sees: payload in, result and files out, each in a machine of its own."""
    docx = makers.docx(makers.paragraph("Quarter", "Heading1") + makers.paragraph("Größe und Maß."))
    sheet = makers.xlsx([["name", "n"], ["a", 1], ["b", 2.5]])
    pdf = makers.Pdf()
    pdf.text(72, 700, 12, "A page of text.")
    cases = [
        ("text of DOCX", {"operation": "text", "input": encoded("a.docx", docx)}, None,
         lambda value, files: in_order(value["text"], ["Quarter", "Größe und Maß."])),
        ("DOCX to Markdown", {"operation": "markdown", "input": encoded("a.docx", docx)}, None,
         lambda value, files: in_order(value["text"], ["# Quarter", "Größe und Maß."])),
        ("DOCX to PDF by the office that runs in the snapshot",
         {"operation": "convert", "to": "pdf", "input": encoded("a.docx", docx)}, None,
         lambda value, files: [] if any(data.startswith(b"%PDF-") for data in files.values()) else [f"no PDF in {sorted(files)}"]),
        ("XLSX as data", {"operation": "tables", "input": encoded("a.xlsx", sheet)}, None,
         lambda value, files: [] if value["tables"][0]["rows"] == [["name", "n"], ["a", 1], ["b", 2.5]] else [str(value["tables"])]),
        ("PDF to PNG", {"operation": "render", "dpi": 50, "input": encoded("a.pdf", pdf.data())}, None,
         lambda value, files: [] if files.get("page-0001.png", b"").startswith(b"\x89PNG") else [f"no PNG in {sorted(files)}"]),
        ("CSV to WebP", {"operation": "convert", "to": "webp", "options": {"quality": 60}, "input": {"name": "a.csv", "text": "a,b\n1,2\n"}}, None,
         lambda value, files: [] if files.get("page-0001.webp", b"")[8:12] == b"WEBP" else [f"no WebP in {sorted(files)}"]),
        ("a password that is missing", {"operation": "text", "input": encoded("a.docx", makers.fixture("secret.docx"))},
         "document_encrypted", None),
        ("a password from a file", {"operation": "text", "input": encoded("a.docx", makers.fixture("secret.docx"))}, None,
         lambda value, files: in_order(value["text"], ["Warm"])),
        ("a text that says it is a DOCX", {"operation": "text", "input": {"name": "a.docx", "text": "#!/bin/sh\nid\n"}},
         "format_mismatch", None),
        ("a page that is not there", {"operation": "text", "pages": "9", "input": encoded("a.pdf", pdf.data())}, "page_range", None),
    ]
    for name, payload, reason, check in cases:
        with tempfile.TemporaryDirectory() as out, tempfile.NamedTemporaryFile("w") as password:
            password.write("secret\n")
            password.flush()
            secrets = ["--secret", f"password=@{password.name}"] if name == "a password from a file" else []
            code, printed, said = mayfly(program, payload, "--kind", "document", "--timeout", "5min", "--out", out, *secrets)
            files = {}
            for base, _, names in os.walk(out):
                for file in names:
                    with open(os.path.join(base, file), "rb") as opened:
                        files[os.path.relpath(os.path.join(base, file), out)] = opened.read()
        found = printed.get("error", {}).get("reason")
        if found != reason or (code == 0) != (reason is None):
            report.check(name, [f"{code}, {found}: {said[-500:]}"])
            continue
        report.check(name, check(printed["result"]["value"], files) if check else [])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", required=True)
    parser.add_argument("--all", action="store_true")
    options = parser.parse_args()
    report = Report()
    check_jobs(options.program, report)
    machines = Machines(options.program)
    if not options.all:
        few = [item for item in corpus.documents() if item[0].startswith(("arabic.", "cjk.docx", "cjk.odt", "plain"))]
        corpus.documents = lambda: iter(few)
        cases = [case for case in hostile.cases() if case.gate]
        hostile.cases = lambda: iter(cases)
    check_corpus(machines, report)
    check_hostile(machines, report)
    print(f"{report.passed} passed, {report.failed} failed")
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
