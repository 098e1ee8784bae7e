"""The operations text, markdown and tables, for every type."""

import csv
import os

from .. import facts, kinds
from ..events import Failure
from ..readers import (
    archives,
    docx,
    layout,
    mail,
    markup,
    odf,
    pdf,
    pptx,
    ruled,
    sheets,
)
from ..result import TABLES_BYTES, Text, bounded
from . import metadata, ocr
from .convert import by_office, decode_text, repaired

# Pages that are read before the first is written: what the sizes of the text are.
SAMPLE = 8


def run(job):
    as_markdown = job.operation == "markdown" or job.to == "md"
    text = Text(job, as_markdown)
    kind = job.detected.format
    if kind == "pdf":
        extra, tables = _pdf(job, text)
    elif kind in kinds.IMAGES:
        extra, tables = ocr.read_image(job, text)
    else:
        extra, tables = _document(job, text)
    if job.operation == "tables":
        value = {"pages": extra.pop("pages"), "pages_done": [e["page"] for e in text.per_page]}
        value.update(bounded(job, "tables", [table.table() for table in tables], TABLES_BYTES))
        text.value(0)
        if text.cut:
            os.unlink(job.output(text.name))
        if job.to == "csv":
            value["files"] = _csv_files(job, tables)
        return {**value, **extra, **job.attached()}
    return {**text.value(extra.pop("pages")), **extra, **job.attached()}


def _csv_files(job, tables):
    names = []
    for number, table in enumerate(tables[: job.limits.output_files], 1):
        names.append(f"table-{number:04}.csv")
        with open(
            job.output(names[-1]), "w", newline="", encoding="utf-8", errors="replace"
        ) as file:
            csv.writer(file).writerows(table.rows)
    return names


def open_pdf(job, path=None):
    """pdfium's document; a damaged one is repaired once."""
    path = path or job.path
    try:
        document = pdf.open_document(path, job.password)
        if len(document):
            return document
        document.close()
    except Failure as failure:
        if failure.reason != "document_damaged":
            raise
    document = pdf.open_document(repaired(job, path), job.password)
    if not len(document):
        raise Failure("document_damaged", "the PDF has no pages")
    job.events.warn("repaired", "the PDF was damaged; what is returned is of its repaired form")
    return document


def _pdf(job, text):
    document = open_pdf(job)
    metadata.pdf_facts(job)
    count = len(document)
    job.part("pages", count)
    wanted = [number for number in job.wanted(count) if number not in job.skipped]
    early = {}
    for number in wanted[:SAMPLE]:
        job.at(number)
        early[number] = pdf.read_page(document, number - 1)
    statistics = layout.Statistics([page for page in early.values() if page is not None])
    reader = ocr.PageReader(job, document)
    tables, without = [], []
    for done, number in enumerate(wanted, 1):
        job.at(number)
        page = early.pop(number) if number in early else pdf.read_page(document, number - 1)
        if page is None:
            job.events.warn("pages_skipped", f"page {number} cannot be loaded", number)
            continue
        _report_hidden(job, page)
        source, confidence = "text", None
        if reader.wants(page):
            blocks, confidence = reader.read(page)
            source = "ocr"
        else:
            found = ruled.find(page)
            blocks = layout.read(page, statistics, found, job.events)
            if not page.has_text and not found:
                without.append(number)
        tables += [block for block in blocks if block.type == "table"]
        text.add(number, blocks, page.width, page.height, source, confidence)
        if job.operation == "ocr" and job.request.get("layout") and number in reader.words:
            text.per_page[-1]["words"] = reader.words[number]
        if done % 10 == 0 or done == len(wanted):
            job.events.progress(done, len(wanted))
    job.at(None)
    document.close()
    if not text.per_page and not job.skipped:
        raise Failure("document_damaged", "no page of the PDF can be loaded")
    if without:
        names = ", ".join(map(str, without[:20])) + (" …" if len(without) > 20 else "")
        job.events.warn("no_text_layer", f"no text on page {names}")
    return {"pages": count}, tables


def _report_hidden(job, page):
    if page.hidden:
        why = ", ".join(sorted(page.hidden_why))
        job.events.warn(
            "hidden_text",
            f"{page.hidden} characters are not to be seen ({why}); left out",
            page.number,
        )


def blocks_of(job, path, detected, name):
    """The blocks of a document that is no PDF and no image, and how many pages it has or None."""
    kind, container = detected.format, detected.container
    if kind == "docx":
        return docx.read(container, job.events), docx_pages(container)
    if kind in ("doc", "rtf", "fodt", "ppt"):
        to = "pptx" if kind == "ppt" else "docx"
        made = by_office(job, path, kind, to)
        return blocks_of(job, made, job.detect(made, f"converted.{to}"), name)
    if kind in ("xlsx", "xls", "ods"):
        if kind != "xlsx" and facts.encryption(detected, path):
            facts.require_password(detected, path, job.password)
            path, kind = by_office(job, path, kind, "xlsx"), "xlsx"
        return _sheets(job, path, kind)
    if kind == "pptx":
        return pptx.read(container, job.events)
    if kind in ("odt", "odp"):
        if job.password and facts.encryption(detected, path):
            made = by_office(job, path, kind, kind)
            detected = job.detect(made, f"decrypted.{kind}")
            container = detected.container
        return odf.read(container, job.events, kind)
    if kind in ("eml", "msg"):
        return mail.read(job, path, kind)
    if kind in kinds.ARCHIVES:
        return archives.read(job, path, kind, container)
    if kind == "epub":
        return markup.read_epub(container, job.events)
    text = decode_text(path, kind)
    if kind == "html":
        return markup.read_html(text, job.events), None
    if kind == "md":
        return markup.read_markdown(text, job.events), None
    if kind == "csv":
        return sheets.read_csv(text, job.limits), 1
    return markup.read_plain(text), None


def docx_pages(container):
    """What the writer of the document has noted of its pages."""
    name = "docProps/app.xml"
    if name in container.by_name:
        for item in docx.parse(container.read(name), name):
            if (
                isinstance(item.tag, str)
                and item.tag.endswith("}Pages")
                and (item.text or "").isdigit()
            ):
                return int(item.text)
    return None


def _sheets(job, path, kind):
    # The parser takes the type from the name's ending.
    link = os.path.join(job.scratch, f"book.{kind}")
    if os.path.lexists(link):
        os.unlink(link)
    os.symlink(os.path.abspath(path), link)
    path, wanted = link, None
    if job.request.get("pages"):
        _, count, _ = sheets.read(path, job.limits, wanted=())
        wanted = set(job.wanted(count))
    blocks, count, hidden = sheets.read(path, job.limits, wanted)
    if hidden:
        job.events.warn(
            "hidden_text", f"hidden sheets, read all the same: {', '.join(hidden)[:300]}"
        )
    return blocks, count


def _document(job, text):
    blocks, count = blocks_of(job, job.path, job.detected, job.name)
    numbered = any(block.page is not None for block in blocks)
    if not numbered:
        if job.request.get("pages") and job.detected.format not in ("xlsx", "xls", "ods"):
            job.events.warn(
                "pages_skipped", "this type has no pages before it is converted; all of it is read"
            )
        for start in range(0, max(len(blocks), 1), 50):
            text.add(None, blocks[start : start + 50])
    else:
        count = max(count or 0, max(block.page or 0 for block in blocks))
        by_page = {}
        for block in blocks:
            by_page.setdefault(block.page or 1, []).append(block)
        for number in job.wanted(count):
            text.add(number, by_page.get(number, []))
    if not text.whole:
        job.events.warn("no_text_layer", "the document has no text")
    tables = [block for block in blocks if block.type == "table"]
    return {"pages": count}, tables
