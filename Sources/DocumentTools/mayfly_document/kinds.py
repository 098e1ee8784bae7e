"""What a document really is: by its content and its container's listing; the name is only a hint."""

import os
import re

from .events import Failure
from .gate import Container

MIME = {
    "pdf": "application/pdf",
    "docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    "pptx": "application/vnd.openxmlformats-officedocument.presentationml.presentation",
    "doc": "application/msword",
    "xls": "application/vnd.ms-excel",
    "ppt": "application/vnd.ms-powerpoint",
    "msg": "application/vnd.ms-outlook",
    "odt": "application/vnd.oasis.opendocument.text",
    "ods": "application/vnd.oasis.opendocument.spreadsheet",
    "odp": "application/vnd.oasis.opendocument.presentation",
    "fodt": "application/vnd.oasis.opendocument.text-flat-xml",
    "epub": "application/epub+zip",
    "rtf": "application/rtf",
    "html": "text/html",
    "md": "text/markdown",
    "csv": "text/csv",
    "txt": "text/plain",
    "eml": "message/rfc822",
    "zip": "application/zip",
    "tar": "application/x-tar",
    "gz": "application/gzip",
    "png": "image/png",
    "jpeg": "image/jpeg",
    "gif": "image/gif",
    "tiff": "image/tiff",
    "bmp": "image/bmp",
    "webp": "image/webp",
}
IMAGES = frozenset("png jpeg gif tiff bmp webp".split())
ARCHIVES = frozenset("zip tar gz".split())
OFFICE_ZIPS = frozenset("docx xlsx pptx odt ods odp epub".split())
# Names that promise a binary format, so that a text in it is no document.
_BINARY_NAMES = frozenset("pdf docx xlsx pptx doc xls ppt msg odt ods odp epub".split()) | IMAGES
_ALIASES = {
    "jpg": "jpeg",
    "tif": "tiff",
    "htm": "html",
    "xhtml": "html",
    "markdown": "md",
    "text": "txt",
    "docm": "docx",
    "dotx": "docx",
    "dotm": "docx",
    "xlsm": "xlsx",
    "xltx": "xlsx",
    "pptm": "pptx",
    "ppsx": "pptx",
    "tgz": "gz",
    "tsv": "csv",
    "log": "txt",
    "mht": "eml",
    "dot": "doc",
}
_MAGIC = [
    (b"%PDF-", "pdf"),
    (b"{\\rtf", "rtf"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"\xff\xd8\xff", "jpeg"),
    (b"GIF87a", "gif"),
    (b"GIF89a", "gif"),
    (b"II*\0", "tiff"),
    (b"MM\0*", "tiff"),
    (b"BM", "bmp"),
    (b"\x1f\x8b", "gz"),
]
_PROGRAMS = [
    (b"MZ", "a Windows program"),
    (b"\x7fELF", "an ELF program"),
    (b"#!", "a script"),
    (b"\xca\xfe\xba\xbe", "a Java class"),
    (b"\xcf\xfa\xed\xfe", "a Mach-O program"),
]
_HTML = re.compile(rb"<(!doctype\s+html|html|head|body|script|iframe|div|table|p|h1)[\s>]", re.I)
_HEADER = re.compile(rb"^[A-Za-z][A-Za-z0-9-]*:[ \t]?[^\r\n]*\r?\n")
_MAIL = re.compile(
    rb"^(from|to|subject|date|message-id|received|return-path|mime-version):", re.I | re.M
)


def extension(name):
    text = os.path.splitext(name)[1][1:].lower()
    return _ALIASES.get(text, text)


class Detected:
    def __init__(self, format, container=None):
        self.format, self.container = format, container
        self.mime = MIME[format]


def detect(path, name, limits, events):
    """The type of a file, or the Failure that says why it is none; a wrong name is a warning."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        head = file.read(1 << 16)
        file.seek(max(0, size - (1 << 16)))
        tail = file.read()
    if not head:
        raise Failure("document_damaged", f"{name!r} is empty")
    hint = extension(name)
    detected = _by_content(path, head, hint, limits)
    if detected is None:
        raise Failure(
            "unsupported_format", f"{name!r}: the content is of no type that is read here"
        )
    _refuse_polyglots(detected, head, tail, name)
    expected = {"xhtml": "html"}.get(hint, hint)
    if detected.format in ("html", "txt", "md", "csv", "eml") and expected in _BINARY_NAMES:
        kind = "HTML" if detected.format == "html" else "text"
        raise Failure("format_mismatch", f"{name!r} is named {hint} and its content is {kind}")
    if expected in MIME and expected != detected.format:
        events.warn("type_mismatch", f"named {hint}, read by its content as {detected.format}")
    return detected


def _by_content(path, head, hint, limits):
    for magic, what in _PROGRAMS:
        if head.startswith(magic):
            raise Failure("format_mismatch", f"the content is {what}, not a document")
    if head.startswith(b"PK\3\4") or head.startswith(b"PK\5\6"):
        return _zip_kind(path, limits)
    if head.startswith(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"):
        return _ole_kind(path)
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return Detected("webp")
    for magic, kind in _MAGIC:
        if head.startswith(magic):
            return Detected(kind)
    if head[257:262] == b"ustar":
        return Detected("tar")
    if b"%PDF-" in head[:1024]:
        return Detected("pdf")
    return _text_kind(head, hint)


def _zip_kind(path, limits):
    container = Container(path, limits)
    names = container.names
    if "[Content_Types].xml" in names:
        for kind, part in (("docx", "word/"), ("xlsx", "xl/"), ("pptx", "ppt/")):
            if any(name.startswith(part) for name in names):
                return Detected(kind, container)
    if "mimetype" in names:
        mime = container.read("mimetype", 256).strip().decode("ascii", "replace")
        mime = mime.replace("-template", "")
        for kind in ("odt", "ods", "odp", "epub"):
            if MIME[kind] == mime:
                return Detected(kind, container)
    if "META-INF/container.xml" in names:
        return Detected("epub", container)
    if "content.xml" in names and "META-INF/manifest.xml" in names:
        return Detected("odt", container)
    return Detected("zip", container)


def _ole_kind(path):
    import olefile

    try:
        with olefile.OleFileIO(path) as ole:
            names = {"/".join(entry) for entry in ole.listdir(streams=True)}
    except Exception as error:
        raise Failure(
            "document_damaged", f"the OLE container cannot be read: {type(error).__name__}"
        )
    if "EncryptedPackage" in names:
        return Detected("docx", EncryptedOffice(path))
    for kind, streams in (
        ("doc", ["WordDocument"]),
        ("xls", ["Workbook", "Book"]),
        ("ppt", ["PowerPoint Document"]),
        ("msg", ["__properties_version1.0"]),
    ):
        if any(stream in names for stream in streams):
            return Detected(kind)
    return None


class EncryptedOffice:
    """An Office Open XML package in its encryption: only a password says which of the three."""

    names = ()

    def __init__(self, path):
        self.path = path


def _text_kind(head, hint):
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        head = head.decode("utf-16", "replace").encode()
    elif b"\0" in head[:4096]:
        return None
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if sum(byte < 9 or 13 < byte < 27 for byte in head[:4096]) > len(head[:4096]) // 50:
        return None
    if start.startswith(b"<?xml") or start.startswith(b"<office:"):
        if b"office:document" in head and b"opendocument" in head:
            return Detected("fodt")
        if b"<svg" in head[:4096]:
            raise Failure("unsupported_format", "SVG is drawn by a browser: use a browse job")
    if _HTML.search(head[:2048]) and start.startswith(b"<"):
        return Detected("html")
    if hint in ("html", "csv", "md", "eml"):
        return Detected(hint)
    headers = head.split(b"\n\n", 1)[0].split(b"\r\n\r\n", 1)[0]
    if _HEADER.match(start) and len(_MAIL.findall(headers)) >= 2:
        return Detected("eml")
    return Detected("txt")


def _refuse_polyglots(detected, head, tail, name):
    kind = detected.format
    other = None
    if kind == "pdf":
        before = head[: head.find(b"%PDF-")] if not head.startswith(b"%PDF-") else b""
        if detected.container is None and _ends_as_zip(tail):
            other = "zip"
        elif _HTML.search(before) or re.search(
            rb"^%PDF-[^\r\n]*[\r\n]+\s*<(html|script)", head, re.I
        ):
            other = "html"
        elif before.startswith((b"GIF8", b"\x89PNG", b"\xff\xd8")):
            other = "an image"
    elif kind in OFFICE_ZIPS or kind == "zip":
        names = detected.container.names
        if kind in ("docx", "xlsx", "pptx", "odt", "ods", "odp"):
            if b"%PDF-" in head[:1024]:
                other = "pdf"
            elif "META-INF/MANIFEST.MF" in names or any(n.endswith(".class") for n in names):
                other = "a Java archive"
    elif kind == "gif" and head[6:8] in (b"/*", b'="'):
        other = "JavaScript"
    elif kind in IMAGES and (_ends_as_zip(tail) or re.search(rb"<script[\s>]", tail, re.I)):
        other = "zip" if _ends_as_zip(tail) else "html"
    if other:
        raise Failure("format_mismatch", f"{name!r} is two formats at once: {kind} and {other}")


def _ends_as_zip(tail):
    at = tail.rfind(b"PK\5\6")
    if at < 0 or len(tail) - at < 22:
        return False
    size = int.from_bytes(tail[at + 12 : at + 16], "little")
    entries = int.from_bytes(tail[at + 10 : at + 12], "little")
    return entries > 0 and (size > at or tail[at - size : at - size + 4] == b"PK\1\2")
