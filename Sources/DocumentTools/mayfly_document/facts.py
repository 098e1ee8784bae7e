"""What a document holds beside its text: macros, links, embedded files, encryption."""

import re

from .events import Failure

_EXTERNAL = re.compile(
    rb'<(?:\w+:)?Relationship\b[^>]*TargetMode\s*=\s*["\']External["\'][^>]*>', re.I
)
_TYPE = re.compile(rb'\bType\s*=\s*["\'][^"\']*/([A-Za-z]+)["\']')
_FIELDS = re.compile(rb"\b(INCLUDETEXT|INCLUDEPICTURE|DDEAUTO|DDE|LINK|IMPORT|DATABASE|RD)\b")
_INSTRUCTION = re.compile(rb"<w:instrText[^>]*>([^<]*)|w:instr\s*=\s*[\"']([^\"']*)")
_ODF_LINK = re.compile(
    rb"<(?:text:section-source|table:table-source|office:dde-source|text:dde-connection-decl|"
    rb'table:cell-range-source)\b|<draw:(?:image|object|plugin|floating-frame)\b[^>]*xlink:href="'
    rb"(?!\./|Pictures/|ObjectReplacements/|Object |#|media/)[a-z/\\]",
    re.I,
)
_FORMULA_LINK = re.compile(
    rb"WEBSERVICE\s*\(|\bDDE\s*\(|(?:file|https?|ftp):/{2,3}[^\"'<]*'#", re.I
)
_HREF = re.compile(
    rb"<(?:img|iframe|link|script|embed|object|source|video|audio|frame)\b[^>]*?(?:src|href|data)\s*=\s*"
    rb"[\"']?\s*(?:[a-z]+:)?(?://|\\\\|file:)|@import",
    re.I,
)
_SCRIPT = re.compile(rb"<script\b|\bon(?:load|error|click)\s*=|javascript:", re.I)


def warn(found, path, events):
    """Warnings of what is in the document and is never run, fetched or opened."""
    kind = found.format
    if kind in ("docx", "xlsx", "pptx") and found.container.names:
        _ooxml(found.container, events)
    elif kind in ("odt", "ods", "odp"):
        _odf(found.container, events)
    elif kind in ("doc", "xls", "ppt", "msg"):
        _ole(path, kind, events)
    elif kind in ("html", "fodt", "rtf", "md"):
        with open(path, "rb") as file:
            _text(file.read(64 << 20), kind, events)


def _ooxml(container, events):
    links, macros, embedded = set(), False, 0
    for name in container.names:
        low = name.lower()
        if low.endswith("vbaproject.bin") or low.startswith("xl/macrosheets/"):
            macros = True
        elif "/embeddings/" in low or "/activex/" in low:
            embedded += 1
        elif low.startswith("xl/externallinks/") and low.endswith(".xml"):
            links.add("external workbook")
        elif low.endswith(".rels"):
            for match in _EXTERNAL.findall(container.read(name)):
                kind = _TYPE.search(match)
                word = kind.group(1).decode("ascii", "replace") if kind else "unknown"
                if word != "hyperlink":
                    links.add(word)
            if b"aFChunk" in container.read(name):
                embedded += 1
        elif low.endswith(".xml") and (low.startswith("word/") or low.startswith("xl/worksheets/")):
            links |= _instructions(container.read(name))
    if macros:
        events.warn("macros_present", "the document has macros; they are not run")
    if embedded:
        events.warn("embedded_files", f"{embedded} embedded objects; they are not opened")
    _links(links, events)


def _instructions(data):
    found = set()
    if b"instr" in data:
        words = b"".join(a or b for a, b in _INSTRUCTION.findall(data))
        found |= {word.decode() for word in _FIELDS.findall(words)}
    if b"WEBSERVICE" in data or b"ddeLink" in data:
        found.add("WEBSERVICE")
    return found


def _links(links, events):
    if links:
        events.warn(
            "external_references",
            f"links to outside ({', '.join(sorted(links))[:200]}); nothing was fetched",
        )


def _odf(container, events):
    if any(name.startswith(("Basic/", "Scripts/")) for name in container.names):
        events.warn("macros_present", "the document has macros; they are not run")
    embedded = sum(
        1 for name in container.names if re.match(r"Object \d+$|Object \d+/content.xml", name)
    )
    if embedded:
        events.warn("embedded_files", f"{embedded} embedded objects; they are not opened")
    data = container.read("content.xml") if "content.xml" in container.by_name else b""
    if _ODF_LINK.search(data) or _FORMULA_LINK.search(data):
        _links({"linked content"}, events)


def _ole(path, kind, events):
    import olefile

    with olefile.OleFileIO(path) as ole:
        names = ["/".join(entry) for entry in ole.listdir()]
        if any(
            "VBA" in name.upper().split("/") or "_VBA_PROJECT" in name.upper() for name in names
        ):
            events.warn("macros_present", "the document has macros; they are not run")
        if kind == "doc" and any(name.startswith("ObjectPool/") for name in names):
            events.warn("embedded_files", "embedded objects; they are not opened")


def _text(data, kind, events):
    if kind == "fodt":
        if (
            b"<office:scripts" in data
            and b"script:" in data
            and b"<ooo:" in data
            or b"script:event-listener" in data
        ):
            events.warn("macros_present", "the document has macros; they are not run")
        if _ODF_LINK.search(data) or _FORMULA_LINK.search(data):
            _links({"linked content"}, events)
    elif kind == "rtf":
        if b"\\objdata" in data or b"\\objemb" in data:
            events.warn("embedded_files", "embedded objects; they are not opened")
        words = {
            word.decode()
            for word in re.findall(
                rb"\\fldinst[^}]*?\b(INCLUDETEXT|INCLUDEPICTURE|DDEAUTO|DDE)\b", data
            )
        }
        if b"\\*\\template" in data or b"\\objautlink" in data:
            words.add("template")
        _links(words, events)
    else:
        if _HREF.search(data):
            _links({"resources of the page"}, events)
        if _SCRIPT.search(data):
            events.warn("javascript_present", "the page has scripts; they are not run")


def encryption(found, path):
    """Whether the document is encrypted, for types that only LibreOffice decrypts."""
    if found.format in ("odt", "ods", "odp"):
        names = found.container.by_name
        return "META-INF/manifest.xml" in names and b"encryption-data" in found.container.read(
            "META-INF/manifest.xml"
        )
    if found.format in ("doc", "xls", "ppt"):
        import olefile

        with olefile.OleFileIO(path) as ole:
            if found.format == "doc":
                return bool(
                    ole.openstream("WordDocument").read(12)[11:12]
                    and ole.openstream("WordDocument").read(12)[11] & 1
                )
            if found.format == "xls":
                name = "Workbook" if ole.exists("Workbook") else "Book"
                return _has_filepass(ole.openstream(name).read(4096))
            return ole.exists("EncryptedSummary")
    return bool(found.container is not None and not found.container.names)


def _has_filepass(data):
    at = 0
    while at + 4 <= len(data):
        kind = int.from_bytes(data[at : at + 2], "little")
        if kind == 0x2F:
            return True
        at += 4 + int.from_bytes(data[at + 2 : at + 4], "little")
    return False


def require_password(found, path, password):
    if encryption(found, path) and not password:
        raise Failure("document_encrypted", "the document is encrypted; give its `password`")
