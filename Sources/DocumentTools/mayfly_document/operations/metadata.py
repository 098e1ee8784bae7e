"""The operation metadata: what a document says of itself, its outline, what is attached."""

import json
import os
import re

from .. import kinds
from ..blocks import cell_value
from ..limits import isolated
from ..readers import mail, markup, pptx
from ..readers.docx import parse

_MAX_OBJECTS = 60_000
_FACTS_SECONDS = 15


def run(job):
    kind = job.detected.format
    if kind == "pdf":
        return _pdf(job)
    value = {"metadata": {"encrypted": False, "signed": False}}
    meta = value["metadata"]
    container = job.detected.container
    if isinstance(container, kinds.EncryptedOffice):
        meta["encrypted"] = True
    elif kind in ("docx", "xlsx", "pptx"):
        meta.update(_core(container))
        meta["signed"] = any(name.startswith("_xmlsignatures/") for name in container.names)
        value["pages"] = _office_pages(job, kind, container)
        _embedded(job, container, re.compile(r"/embeddings/"))
    elif kind in ("odt", "ods", "odp"):
        meta.update(_odf(container))
        meta["signed"] = "META-INF/documentsignatures.xml" in container.by_name
        _embedded(job, container, re.compile(r"^(Object [^/]+|Pictures/.+)$"))
    elif kind == "epub":
        meta.update(markup.epub_metadata(container))
    elif kind in ("doc", "xls", "ppt"):
        meta.update(_ole(job.path))
    elif kind in ("eml", "msg"):
        message = mail.message_of(job, job.path, kind)
        meta.update(title=message.subject, author=message.headers.get("From", ""))
        value["headers"] = message.headers
        for attachment in message.attachments:
            job.attach(attachment.name, attachment.type, attachment.data)
    elif kind in kinds.IMAGES:
        value.update(_image(job, meta))
    elif kind == "html":
        from .convert import decode_text

        meta["title"] = markup.html_title(decode_text(job.path, kind))
    value["metadata"] = {key: item for key, item in meta.items() if item not in (None, "")}
    value.update(job.attached())
    return value


def _office_pages(job, kind, container):
    if kind == "pptx":
        return sum(1 for _ in pptx.slides(container))
    if kind == "xlsx":
        return sum(1 for name in container.names if re.match(r"xl/worksheets/[^/]+\.xml$", name))
    from .reading import docx_pages

    return docx_pages(container)


def _core(container):
    out = {}
    name = "docProps/core.xml"
    if name in container.by_name:
        words = {
            "title": "title",
            "creator": "author",
            "subject": "subject",
            "keywords": "keywords",
            "created": "created",
            "modified": "modified",
            "language": "language",
        }
        for item in parse(container.read(name), name):
            word = item.tag.rsplit("}", 1)[-1] if isinstance(item.tag, str) else ""
            if word in words and item.text:
                out[words[word]] = item.text.strip()[:2000]
    return out


def _odf(container):
    out = {}
    if "meta.xml" in container.by_name:
        words = {
            "title": "title",
            "initial-creator": "author",
            "creator": "author",
            "subject": "subject",
            "creation-date": "created",
            "date": "modified",
            "language": "language",
        }
        for item in parse(container.read("meta.xml"), "meta.xml").iter():
            word = item.tag.rsplit("}", 1)[-1] if isinstance(item.tag, str) else ""
            if word in words and item.text:
                out.setdefault(words[word], item.text.strip()[:2000])
    return out


def _ole(path):
    import olefile

    out = {}
    with olefile.OleFileIO(path) as ole:
        meta = ole.get_metadata()
        for key, name in (
            ("title", "title"),
            ("author", "author"),
            ("subject", "subject"),
            ("create_time", "created"),
            ("last_saved_time", "modified"),
        ):
            value = getattr(meta, key, None)
            if isinstance(value, bytes):
                value = value.decode(
                    "utf-8" if meta.codepage == 65001 else "cp1252", "replace"
                ).strip("\0")
            if value:
                out[name] = cell_value(value)
    return out


def _image(job, meta):
    from .images import open_image

    with open_image(job.path, job.limits) as image:
        frames = getattr(image, "n_frames", 1) if job.detected.format == "tiff" else 1
        meta.update(width=image.width, height=image.height, mode=image.mode)
        return {"pages": min(frames, job.limits.pages)}


def _embedded(job, container, pattern):
    for entry in container.entries:
        if pattern.search(entry.name) and entry.size and not entry.name.endswith("/"):
            job.attach(
                mail.clean_name(entry.name), "application/octet-stream", container.read(entry.name)
            )


def _date(text):
    """A PDF's date as ISO 8601."""
    match = re.match(
        r"D?:?(\d{4})(\d\d)?(\d\d)?(\d\d)?(\d\d)?(\d\d)?([Z+-])?(\d\d)?'?(\d\d)?", text
    )
    if not match:
        return text[:100]
    year, month, day, hour, minute, second, sign, hours, minutes = match.groups()
    out = f"{year}-{month or '01'}-{day or '01'}T{hour or '00'}:{minute or '00'}:{second or '00'}"
    return out + ("Z" if sign in (None, "Z") or not hours else f"{sign}{hours}:{minutes or '00'}")


def _pdf(job):
    from .reading import open_pdf

    document = open_pdf(job)
    meta = {}
    for key, name in (
        ("Title", "title"),
        ("Author", "author"),
        ("Subject", "subject"),
        ("Keywords", "keywords"),
        ("Creator", "creator"),
        ("Producer", "producer"),
    ):
        text = document.get_metadata_value(key).strip()
        if text:
            meta[name] = text[:2000]
    for key, name in (("CreationDate", "created"), ("ModDate", "modified")):
        text = document.get_metadata_value(key)
        if text:
            meta[name] = _date(text)
    version = document.get_version()
    if version:
        meta["version"] = f"{version // 10}.{version % 10}"
    pages = []
    for index in range(min(len(document), job.limits.pages)):
        width, height = document.get_page_size(index)
        pages.append({"page": index + 1, "width": round(width, 1), "height": round(height, 1)})
    found = pdf_facts(job, attachments=True)
    meta["encrypted"] = bool(found.get("encrypted"))
    meta["signed"] = bool(found.get("signed"))
    value = {
        "pages": len(document),
        "metadata": meta,
        "outline": outline(document),
        "per_page": pages,
    }
    document.close()
    for number, item in enumerate(found.get("attachments", [])):
        path = os.path.join(job.scratch, f"attached-{number}")
        with open(path, "rb") as file:
            job.attach(item["name"], item["type"], file.read())
        os.unlink(path)
    value.update(job.attached())
    return value


def outline(document):
    out = []
    for item in document.get_toc(max_depth=10):
        target = item.get_dest() if hasattr(item, "get_dest") else None
        index = target.get_index() if target is not None else None
        title = (item.get_title() if hasattr(item, "get_title") else item.title) or ""
        out.append(
            {
                "level": item.level + 1,
                "title": title[:500],
                "page": index + 1 if index is not None else None,
            }
        )
        if len(out) >= 2000:
            break
    return out


def pdf_facts(job, attachments=False):
    """What only the PDF's structure tells, by qpdf's library in a child: it may not come back."""
    said = {}

    def action(descriptor):
        facts = _structure(job, attachments)
        os.write(descriptor, json.dumps(facts).encode() + b"\n")

    limits = job.limits
    cpu = limits.tool_cpu
    limits.tool_cpu = _FACTS_SECONDS
    try:
        end = isolated(action, limits, lambda line: said.update(json.loads(line)))
    finally:
        limits.tool_cpu = cpu
    if end is not None:
        from ..events import log

        log(f"the PDF's structure was not read: {end}")
    warnings = (
        ("javascript", "javascript_present", "the PDF has JavaScript; it is not run"),
        (
            "launch",
            "launch_action",
            "the PDF starts programs or opens other files; nothing is opened",
        ),
        ("xfa", "xfa_present", "the PDF is an XFA form; only its static pages are read"),
        ("embedded", "embedded_files", "files are embedded in the PDF; they are not opened"),
        (
            "layers",
            "hidden_text",
            "the PDF has layers that are switched off; their text may be read",
        ),
        (
            "external",
            "external_references",
            "the PDF refers to files or forms outside; nothing was fetched",
        ),
    )
    for key, code, message in warnings:
        if said.get(key):
            job.events.warn(code, message)
    return said


def _structure(job, attachments):
    import pikepdf

    out = {}
    try:
        document = pikepdf.open(job.path, password=job.password or "", attempt_recovery=True)
    except pikepdf.PasswordError:
        return {"encrypted": True}
    except Exception:
        return {}
    with document:
        out["encrypted"] = document.is_encrypted
        root = document.Root
        form = root.get("/AcroForm")
        if form is not None:
            out["xfa"] = "/XFA" in form
            out["signed"] = bool(int(form.get("/SigFlags", 0)) & 1)
        layers = root.get("/OCProperties")
        if layers is not None and "/D" in layers:
            out["layers"] = len(layers.D.get("/OFF", [])) > 0
        for number, item in enumerate(document.objects):
            if number > _MAX_OBJECTS:
                break
            if isinstance(item, (pikepdf.Dictionary, pikepdf.Stream)):
                _object(item, out)
        if attachments:
            out["attachments"] = _attachments(job, document)
    return out


def _object(item, out):
    import pikepdf

    action = item.get("/S")
    if "/JS" in item or action == "/JavaScript":
        out["javascript"] = True
    if action in ("/Launch",):
        out["launch"] = True
    if action in ("/GoToR", "/SubmitForm", "/ImportData", "/GoToE"):
        out["external"] = True
    if (
        item.get("/Type") == "/EmbeddedFile"
        or "/EF" in item
        or item.get("/Subtype") == "/RichMedia"
    ):
        out["embedded"] = True
    # Actions stand within annotations as often as by themselves.
    for key in ("/A", "/AA", "/OpenAction"):
        inner = item.get(key)
        if isinstance(inner, pikepdf.Dictionary) and not inner.is_indirect:
            for action in [inner, *(inner[name] for name in inner.keys())]:
                if isinstance(action, pikepdf.Dictionary) and not action.is_indirect:
                    _object(action, out)


def _attachments(job, document):
    out = []
    for number, (name, spec) in enumerate(sorted(document.attachments.items())):
        if number >= 100:
            break
        try:
            file = spec.get_file()
            data = file.read_bytes()
        except Exception:
            continue
        with open(os.path.join(job.scratch, f"attached-{len(out)}"), "wb") as target:
            target.write(data)
        out.append(
            {
                "name": mail.clean_name(spec.filename or name),
                "type": file.mime_type or "application/octet-stream",
            }
        )
    return out
