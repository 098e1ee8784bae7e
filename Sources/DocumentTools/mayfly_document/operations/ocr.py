"""Text from pictures by tesseract, word by word with its confidence; searchable PDF."""

import csv
import glob
import io
import os

from ..blocks import Block
from ..events import Failure
from ..limits import run_tool
from ..readers import layout, pdf
from . import images

DPI = 300
_LEAST_CONFIDENCE = 0.6
_MOST_PIXELS = 16_000_000


def languages(job):
    """tesseract's word for the languages; one that is not in the image is the job's failure."""
    wanted = job.request.get("languages") or ["eng"]
    there = set()
    for path in glob.glob("/usr/share/tesseract-ocr/*/tessdata/**/*.traineddata", recursive=True):
        folder, name = os.path.split(path)
        name = name[: -len(".traineddata")]
        there.add(f"script/{name}" if folder.endswith("/script") else name)
    for name in wanted:
        if name not in there:
            raise Failure(
                "package_unavailable",
                f"OCR language {name!r} is not in the image (there: {', '.join(sorted(there - {'osd'}))});"
                f" add the package tesseract-ocr-{str(name).replace('_', '-')} to image.document.packages",
            )
    return "+".join(wanted)


class Word:
    __slots__ = ("text", "x0", "y0", "x1", "y1", "confidence", "line", "paragraph")


def words_of(job, picture, dpi, language):
    """The words of a picture; positions in pixels."""
    path = os.path.join(job.scratch, "ocr.png")
    picture.convert("L").save(path, "PNG", compress_level=1)
    result = run_tool(
        ["tesseract", path, "-", "-l", language, "--dpi", str(round(dpi)), "--psm", "3", "tsv"],
        job.limits,
        job.scratch,
        cpu=job.limits.ocr_seconds,
    )
    os.unlink(path)
    if result.status != 0:
        if result.status == -24:
            raise Failure("timeout", f"OCR of a page takes more than {job.limits.ocr_seconds} s")
        raise Failure("converter_crashed", f"tesseract: {result.last_line()}")
    words = []
    text = result.output.decode("utf-8", "replace")
    for row in csv.DictReader(io.StringIO(text), delimiter="\t", quoting=csv.QUOTE_NONE):
        if row["level"] != "5" or not (row["text"] or "").strip():
            continue
        word = Word()
        word.text = row["text"].strip()
        word.x0, word.y0 = int(row["left"]), int(row["top"])
        word.x1, word.y1 = word.x0 + int(row["width"]), word.y0 + int(row["height"])
        word.confidence = max(float(row["conf"]), 0) / 100
        word.paragraph = (int(row["block_num"]), int(row["par_num"]))
        word.line = (*word.paragraph, int(row["line_num"]))
        words.append(word)
    return words


def blocks_of(words, number, scale):
    """Paragraphs as tesseract found them; `scale` is points per pixel."""
    out, groups = [], {}
    for word in words:
        groups.setdefault(word.paragraph, []).append(word)
    for group in groups.values():
        lines = {}
        for word in group:
            lines.setdefault(word.line, []).append(word.text)
        text = layout.joined_texts([" ".join(line) for line in lines.values()])
        box = (
            min(w.x0 for w in group) * scale,
            min(w.y0 for w in group) * scale,
            max(w.x1 for w in group) * scale,
            max(w.y1 for w in group) * scale,
        )
        out.append(Block("paragraph", text, page=number, bbox=box))
    return out


def confidence_of(words):
    """The mean over the letters."""
    letters = sum(len(word.text) for word in words)
    return sum(word.confidence * len(word.text) for word in words) / letters if letters else None


class PageReader:
    """Reads those pages of a PDF by OCR that want it."""

    def __init__(self, job, document):
        self.job, self.document, self.done = job, document, 0
        self.mode = "force" if job.operation == "ocr" else job.request.get("ocr") or "auto"
        self.language = None
        self.words = {}

    def wants(self, page):
        if self.mode == "never":
            return False
        if self.mode == "auto" and (
            page.has_text or page.image_area < 0.01 * page.width * page.height
        ):
            return False
        if self.done >= self.job.limits.ocr_pages:
            self.job.events.warn(
                "pages_skipped",
                f"OCR of more than {self.job.limits.ocr_pages} pages; the others have no text",
            )
            return False
        self.done += 1
        return True

    def read(self, page):
        """Blocks and the confidence."""
        if self.language is None:
            self.language = languages(self.job)
        size = (page.width, page.height)
        most = (_MOST_PIXELS / max(page.width * page.height, 1)) ** 0.5
        scale = min(DPI / 72, most, images.scale_of(size, DPI, self.job.limits, page.number)[0])
        picture = images.draw(self.document, page.number, scale)
        words = words_of(self.job, picture, scale * 72, self.language)
        self.words[page.number] = described(words, 1 / scale)
        confidence = confidence_of(words)
        judge(self.job, words, confidence, page.number)
        return blocks_of(words, page.number, 1 / scale), confidence


def described(words, scale):
    return [
        {
            "text": w.text,
            "bbox": [round(v * scale, 1) for v in (w.x0, w.y0, w.x1, w.y1)],
            "confidence": round(w.confidence, 2),
        }
        for w in words
    ]


def judge(job, words, confidence, number):
    if not words:
        job.events.warn("no_text_layer", "OCR found no text", number)
    elif confidence < _LEAST_CONFIDENCE:
        job.events.warn("low_confidence", f"OCR is {confidence:.0%} sure of its words", number)


def read_image(job, text):
    """A picture's text: the pages of `text`."""
    if job.request.get("ocr") == "never" and job.operation != "ocr":
        for number, picture, dpi, count in images.frames(job):
            text.add(number, [], picture.width * 72 / dpi, picture.height * 72 / dpi)
        job.events.warn("no_text_layer", "a picture has no text without OCR")
        return {"pages": count}, []
    language, count = languages(job), 1
    for number, picture, dpi, count in images.frames(job):
        if number > job.limits.ocr_pages:
            job.events.warn("pages_skipped", f"OCR of more than {job.limits.ocr_pages} pages")
            break
        job.at(number)
        # A screenshot says 72 dpi and has letters of 10 pixels: tesseract wants them larger.
        factor = 2 if dpi < 120 and picture.width * picture.height * 4 <= _MOST_PIXELS else 1
        if factor > 1:
            picture = picture.resize((picture.width * factor, picture.height * factor))
        words = words_of(job, picture, max(dpi * factor, 150), language)
        confidence = confidence_of(words)
        judge(job, words, confidence, number)
        scale = 72 / dpi / factor
        blocks = blocks_of(words, number, scale)
        text.add(number, blocks, picture.width * scale, picture.height * scale, "ocr", confidence)
        if job.operation == "ocr" and job.request.get("layout"):
            text.per_page[-1]["words"] = described(words, scale)
    job.at(None)
    return {"pages": count}, []


def run(job):
    """OCR of every page, or with `"to": "pdf"` a PDF that can be searched."""
    if job.to == "pdf":
        return _searchable(job)
    from . import reading

    return reading.run(job)


def _searchable(job):
    import pikepdf

    from .convert import pdf_of
    from .reading import open_pdf

    path = pdf_of(job)
    document = open_pdf(job, path) if path == job.path else pdf.open_document(path, None)
    reader = PageReader(job, document)
    reader.mode = job.request.get("ocr") or "auto"
    language, done = languages(job), []
    with pikepdf.open(path, password=job.password or "") as target:
        for number in job.wanted(len(document)):
            if number in job.skipped:
                continue
            job.at(number)
            page = pdf.read_page(document, number - 1)
            if page is None or not reader.wants(page):
                continue
            _overlay(job, document, page, target, language)
            done.append(number)
            job.events.page({"page": number, "source": "ocr"})
        job.at(None)
        count = len(document)
        document.close()
        target.save(job.output("converted.pdf"), deterministic_id=not target.is_encrypted)
    return {"pages": count, "pages_done": done, "files": ["converted.pdf"]}


def _overlay(job, document, page, target, language):
    """tesseract's invisible text, laid over the page as it is."""
    import pikepdf

    size = (page.width, page.height)
    most = (_MOST_PIXELS / max(page.width * page.height, 1)) ** 0.5
    scale = min(DPI / 72, most, images.scale_of(size, DPI, job.limits, page.number)[0])
    path, base = os.path.join(job.scratch, "ocr.png"), os.path.join(job.scratch, "ocr-text")
    images.draw(document, page.number, scale).convert("L").save(path, "PNG", compress_level=1)
    result = run_tool(
        [
            "tesseract",
            path,
            base,
            "-l",
            language,
            "--dpi",
            str(round(scale * 72)),
            "-c",
            "textonly_pdf=1",
            "pdf",
        ],
        job.limits,
        job.scratch,
        cpu=job.limits.ocr_seconds,
    )
    if result.status != 0 or not os.path.exists(base + ".pdf"):
        raise Failure("converter_crashed", f"tesseract: {result.last_line()}")
    with pikepdf.open(base + ".pdf") as layer:
        target.pages[page.number - 1].add_overlay(layer.pages[0])
    os.unlink(base + ".pdf")
