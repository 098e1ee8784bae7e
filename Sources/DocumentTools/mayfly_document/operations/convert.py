"""The operation convert, and the ways by which other operations get a type they can read."""

import json
import os
import re
import shutil

from .. import facts, kinds
from ..events import Failure, log
from ..limits import isolated
from ..readers import pdf
from . import docxwriter, fonts, office

TEXTS = frozenset("md html epub eml msg txt csv".split())
TARGETS = frozenset("pdf docx odt rtf html md txt csv json xlsx ods pptx odp png jpeg webp".split())


def decode_text(path, kind):
    """A text file as text: its mark, UTF-8, what HTML says, else a guess."""
    with open(path, "rb") as file:
        data = file.read()
    for mark, name in (
        (b"\xef\xbb\xbf", "utf-8-sig"),
        (b"\xff\xfe", "utf-16"),
        (b"\xfe\xff", "utf-16"),
    ):
        if data.startswith(mark):
            return data.decode(name, "replace")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        pass
    if kind == "html":
        match = re.search(rb"charset\s*=\s*[\"']?([\w-]+)", data[:4096], re.I)
        if match:
            try:
                return data.decode(match.group(1).decode(), "replace")
            except LookupError:
                pass
    import charset_normalizer

    best = charset_normalizer.from_bytes(data[: 1 << 20]).best()
    return data.decode(best.encoding if best else "cp1252", "replace")


def repaired(job, path):
    """A damaged PDF, rebuilt once by qpdf's library."""
    import pikepdf

    target = os.path.join(job.scratch, "repaired.pdf")
    try:
        with pikepdf.open(path, password=job.password or "") as document:
            document.save(target)
    except pikepdf.PasswordError:
        raise Failure(
            "wrong_password" if job.password else "document_encrypted",
            "the PDF is encrypted; give its `password`",
        )
    except Exception as error:
        raise Failure("document_damaged", f"the PDF cannot be repaired: {type(error).__name__}")
    return target


def by_office(job, path, kind, to, settings=None):
    """The document as LibreOffice writes it, in the scratch directory; checked to open."""
    target = os.path.join(job.scratch, f"office.{to}")
    # A sheet of a CSV is called as its file.
    stem = "Sheet1" if kind == "csv" else "office-in"
    source = os.path.join(job.scratch, f"{stem}.{kind}")
    shutil.copyfile(path, source)
    for attempt in (1, 2):
        if os.path.exists(target):
            os.unlink(target)
        office.ensure(job.limits, job.events)
        problem, end = _office_once(job, kind, source, to, target, settings)
        if end is None and problem is None:
            break
        if problem is not None and office.pid() is not None:
            raise Failure(*_refused(job, kind, path, problem))
        log(f"LibreOffice ended: {problem or end}, attempt {attempt}")
        office.stop()
        # A second try would take as long again.
        if end == "signal 14":
            raise Failure("timeout", "LibreOffice takes too long over the document")
        if attempt == 2:
            raise Failure("converter_crashed", "LibreOffice died of the document, twice")
    os.unlink(source)
    _check_output(target, to)
    return target


def _office_once(job, kind, source, to, target, settings):
    import signal

    said = []

    def action(descriptor):
        signal.alarm(job.limits.cpu())
        problem = office.convert(kind, source, to, target, job.password, settings)
        os.write(descriptor, json.dumps(problem).encode() + b"\n")

    end = isolated(action, job.limits, lambda line: said.append(json.loads(line)))
    if end == "exception":
        end = "a broken connection"
    return (said[0] if said else None), end


def _refused(job, kind, path, problem):
    if problem.startswith("load"):
        found = kinds.Detected(kind)
        if kind in kinds.OFFICE_ZIPS:
            from ..gate import Container

            found.container = Container(path, job.limits)
        if kind in ("odt", "ods", "odp", "doc", "xls", "ppt") and facts.encryption(found, path):
            if job.password:
                return ("wrong_password", "the `password` does not open the document")
            return ("document_encrypted", "the document is encrypted; give its `password`")
        return ("document_damaged", f"LibreOffice cannot load the document as {kind}")
    return ("document_damaged", "LibreOffice cannot write the document")


def _check_output(target, to):
    """LibreOffice may say nothing and write nothing."""
    if not os.path.exists(target) or not os.path.getsize(target):
        raise Failure("document_damaged", "the converter left no output")
    if to == "pdf":
        pdf.open_document(target, None).close()


def pdf_of(job, settings=None):
    """Any readable document as a PDF, in the scratch directory."""
    kind = job.detected.format
    if kind == "pdf":
        return job.path
    if kind in kinds.IMAGES:
        from . import images

        return images.to_pdf(job)
    if kind in kinds.ARCHIVES:
        raise Failure("unsupported_format", f"{kind} is not drawn")
    source, path = kind, job.path
    if kind in TEXTS - {"csv"}:
        path, source = docx_of(job), "docx"
    else:
        facts.require_password(job.detected, job.path, job.password)
        fonts.warn(job.detected, job.events)
    made = by_office(job, path, source, "pdf", settings)
    target = os.path.join(job.scratch, "drawn.pdf")
    os.replace(made, target)
    return target


def docx_of(job):
    """A text, page or message as DOCX by our own writer: LibreOffice never sees HTML."""
    from .reading import blocks_of

    blocks, _ = blocks_of(job, job.path, job.detected, job.name)
    target = os.path.join(job.scratch, "written.docx")
    docxwriter.write(blocks, target)
    return target


def run(job):
    to = job.to
    if to not in TARGETS:
        raise Failure("invalid_payload", f"`to` is {to!r}; use one of {', '.join(sorted(TARGETS))}")
    if to in ("png", "jpeg", "webp"):
        from . import images

        return images.run(job)
    if to in ("md", "txt", "html", "json"):
        return _written(job, to)
    if to == "csv":
        return _csv(job)
    if to == "pdf":
        return _pdf(job)
    return _office(job, to)


def _pdf(job):
    if job.detected.format == "pdf":
        raise Failure("invalid_payload", "the document is a PDF already; use the operation pages")
    settings = {
        key: job.options[key]
        for key in ("pdfa", "landscape", "single_page_sheets")
        if job.options.get(key)
    }
    if job.request.get("pages"):
        settings["pages"] = str(job.request["pages"])
    made = pdf_of(job, settings)
    target = job.output("converted.pdf")
    _stable_pdf(made, target, keep=bool(settings.get("pdfa")))
    with pdf.open_document(target, None) as document:
        count = len(document)
    return {"pages": count, "files": ["converted.pdf"]}


def _stable_pdf(source, target, keep):
    """The same document gives the same bytes: no dates of now, no random identity."""
    import pikepdf

    if keep:
        os.replace(source, target)
        return
    with pikepdf.open(source) as document:
        for name in ("/CreationDate", "/ModDate"):
            if name in document.docinfo:
                del document.docinfo[name]
        if "/Metadata" in document.Root:
            del document.Root["/Metadata"]
        for name in ("/ID", "/DocChecksum"):
            if name in document.trailer:
                del document.trailer[name]
        document.save(target, deterministic_id=True)


def _office(job, to):
    kind = job.detected.format
    source, path = kind, job.path
    if kind in TEXTS - {"csv"} or kind in ("pdf",) or kind in kinds.IMAGES:
        if to not in ("docx", "odt", "rtf"):
            raise _impossible(kind, to)
        path, source = (docx_of(job) if kind in TEXTS else _read_docx(job)), "docx"
        if to == "docx":
            os.replace(path, job.output("converted.docx"))
            return {"files": ["converted.docx"]}
    elif kind in kinds.ARCHIVES:
        raise _impossible(kind, to)
    facts.require_password(job.detected, job.path, job.password)
    if (office.FAMILY.get(source), to) not in office.WRITERS:
        raise _impossible(kind, to)
    made = by_office(job, path, source, to)
    name = f"converted.{to}"
    os.replace(made, job.output(name))
    return {"files": [name]}


def _impossible(kind, to):
    return Failure("unsupported_format", f"{kind} does not become {to}")


def _read_docx(job):
    """A PDF or a picture as DOCX: its text, headings and tables."""
    target = os.path.join(job.scratch, "written.docx")
    docxwriter.write(_read_all(job), target)
    return target


def _read_all(job):
    from .. import result
    from . import reading

    collected = []

    class Collector(result.Text):
        def add(self, number, page_blocks, *rest, **named):
            collected.extend(page_blocks)

    text = Collector(job, True)
    kind = job.detected.format
    if kind == "pdf":
        reading._pdf(job, text)
    elif kind in kinds.IMAGES:
        from . import ocr

        ocr.read_image(job, text)
    else:
        collected, _ = reading.blocks_of(job, job.path, job.detected, job.name)
    text.file.close()
    os.unlink(text.file.name)
    return collected


def _written(job, to):
    from .. import blocks as writing
    from ..readers import markup

    blocks = _read_all(job)
    if to == "md":
        content = writing.markdown(blocks) + "\n"
    elif to == "txt":
        content = writing.text(blocks) + "\n"
    elif to == "html":
        content = markup.to_html(writing.markdown(blocks), job.events)
    else:
        content = json.dumps([block.described() for block in blocks], ensure_ascii=False, indent=1)
    name = f"converted.{to}"
    with open(job.output(name), "w", encoding="utf-8", errors="replace") as file:
        file.write(content)
    if not any(block.text or block.rows for block in blocks):
        job.events.warn("no_text_layer", "the document has no text")
    return {"files": [name]}


def _csv(job):
    """A file for each sheet or table."""
    import csv

    tables = [block for block in _read_all(job) if block.type == "table"]
    if not tables:
        raise Failure("unsupported_format", "the document has no table")
    names = []
    for number, table in enumerate(tables[: job.limits.output_files], 1):
        names.append("converted.csv" if len(tables) == 1 else f"converted-{number:04}.csv")
        with open(
            job.output(names[-1]), "w", newline="", encoding="utf-8", errors="replace"
        ) as file:
            csv.writer(file, lineterminator="\n").writerows(table.rows)
    return {"files": names, "sheets": [table.sheet for table in tables if table.sheet]}
