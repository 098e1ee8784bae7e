"""Writers of small documents of every type, from the standard library only."""

import os
import struct
import sys
from xml.sax.saxutils import escape

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../../Sources/DocumentTools"))
from drawings import Pdf, pdf_file, png  # noqa: E402, F401
from mayfly_document import samples  # noqa: E402

container, rels, types = samples.container, samples.rels, samples.types
_HEAD = '<?xml version="1.0" encoding="UTF-8"?>'


# --- DOCX: a body of paragraphs, lists and tables ---


def run(text, marks=""):
    return f'<w:r><w:rPr>{marks}</w:rPr><w:t xml:space="preserve">{escape(text)}</w:t></w:r>'


def paragraph(text, style=None, marks="", number=None, before=""):
    properties = f'<w:pStyle w:val="{style}"/>' if style else ""
    if number:
        properties += (
            f'<w:numPr><w:ilvl w:val="{number[1]}"/><w:numId w:val="{number[0]}"/></w:numPr>'
        )
    return f"<w:p><w:pPr>{properties}</w:pPr>{before}{run(text, marks)}</w:p>"


def table(rows):
    side = '<w:{} w:val="single" w:sz="4" w:space="0" w:color="000000"/>'
    borders = "".join(
        side.format(name) for name in ("top", "left", "bottom", "right", "insideH", "insideV")
    )
    body = "".join(
        "<w:tr>"
        + "".join(
            f'<w:tc><w:tcPr><w:tcW w:w="{9000 // len(row)}" w:type="dxa"/></w:tcPr>{paragraph(cell)}</w:tc>'
            for cell in row
        )
        + "</w:tr>"
        for row in rows
    )
    grid = f'<w:gridCol w:w="{9000 // len(rows[0])}"/>' * len(rows[0])
    return (
        f'<w:tbl><w:tblPr><w:tblW w:w="9000" w:type="dxa"/><w:tblBorders>{borders}</w:tblBorders>'
        f"</w:tblPr><w:tblGrid>{grid}</w:tblGrid>{body}</w:tbl>"
    )


def docx(body, extra=(), links=()):
    """Headings by the styles Heading1…3, bullets by number 1 and numerals by number 2."""
    word = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
    styles = "".join(
        f'<w:style w:type="paragraph" w:styleId="Heading{n}"><w:name w:val="heading {n}"/><w:pPr>'
        f'<w:outlineLvl w:val="{n - 1}"/></w:pPr><w:rPr><w:b/><w:sz w:val="{40 - 6 * n}"/></w:rPr></w:style>'
        for n in (1, 2, 3)
    )
    levels = "".join(
        f'<w:abstractNum w:abstractNumId="{i}">'
        + "".join(
            f'<w:lvl w:ilvl="{n}"><w:start w:val="1"/><w:numFmt w:val="{kind}"/><w:lvlText w:val="{sign % (n + 1) if "%" in sign else sign}"/>'
            f'<w:pPr><w:ind w:left="{720 * (n + 1)}" w:hanging="360"/></w:pPr></w:lvl>'
            for n in (0, 1, 2)
        )
        + "</w:abstractNum>"
        for i, kind, sign in ((0, "bullet", "•"), (1, "decimal", "%%%d."))
    )
    base = samples.docx(body)
    parts = [
        ("word/styles.xml", f"{_HEAD}<w:styles {word}>{styles}</w:styles>"),
        (
            "word/numbering.xml",
            f'{_HEAD}<w:numbering {word}>{levels}<w:num w:numId="1"><w:abstractNumId '
            'w:val="0"/></w:num><w:num w:numId="2"><w:abstractNumId w:val="1"/></w:num></w:numbering>',
        ),
        (
            "word/_rels/document.xml.rels",
            rels(("styles", "styles.xml"), ("numbering", "numbering.xml"), *links),
        ),
        *extra,
    ]
    return repacked(
        base,
        parts,
        {
            "[Content_Types].xml": types(
                ("/word/document.xml", "wordprocessingml.document.main"),
                ("/word/styles.xml", "wordprocessingml.styles"),
                ("/word/numbering.xml", "wordprocessingml.numbering"),
                ("/word/footnotes.xml", "wordprocessingml.footnotes"),
            )
        },
    )


def repacked(data, parts=(), replaced=None):
    """The container with more parts, or other content in some."""
    import io
    import zipfile

    with zipfile.ZipFile(io.BytesIO(data)) as file:
        old = [(name, (replaced or {}).get(name, file.read(name))) for name in file.namelist()]
    return container(old + list(parts))


# --- The other Office containers ---


def xlsx(rows, name="Sheet1"):
    def cell(r, c, value):
        at = f"{chr(65 + c)}{r}"
        if isinstance(value, bool):
            return f'<c r="{at}" t="b"><v>{int(value)}</v></c>'
        if isinstance(value, (int, float)):
            return f'<c r="{at}"><v>{value}</v></c>'
        return f'<c r="{at}" t="inlineStr"><is><t>{escape(value)}</t></is></c>' if value else ""

    body = "".join(
        f'<row r="{r}">' + "".join(cell(r, c, value) for c, value in enumerate(row)) + "</row>"
        for r, row in enumerate(rows, 1)
    )
    return samples.xlsx(body)


def pptx(title, lines):
    data = samples.pptx()
    import io
    import zipfile

    with zipfile.ZipFile(io.BytesIO(data)) as file:
        slide = file.read("ppt/slides/slide1.xml").decode()
    body = "".join(f"<a:p><a:r><a:t>{escape(line)}</a:t></a:r></a:p>" for line in lines)
    shape = (
        '<p:sp><p:nvSpPr><p:cNvPr id="3" name="b"/><p:cNvSpPr/><p:nvPr><p:ph idx="1"/></p:nvPr></p:nvSpPr>'
        '<p:spPr><a:xfrm><a:off x="900000" y="2000000"/><a:ext cx="6000000" cy="3000000"/></a:xfrm></p:spPr>'
        f"<p:txBody><a:bodyPr/>{body}</p:txBody></p:sp>"
    )
    slide = slide.replace("Warm", escape(title)).replace("</p:spTree>", shape + "</p:spTree>")
    return repacked(data, replaced={"ppt/slides/slide1.xml": slide})


_ODF = (
    " ".join(
        f'xmlns:{short}="urn:oasis:names:tc:opendocument:xmlns:{long}:1.0"'
        for short, long in (
            ("office", "office"),
            ("text", "text"),
            ("table", "table"),
            ("draw", "drawing"),
            ("style", "style"),
            ("fo", "xsl-fo-compatible"),
            ("presentation", "presentation"),
            ("svg", "svg-compatible"),
            ("script", "script"),
        )
    )
    + ' xmlns:xlink="http://www.w3.org/1999/xlink"'
)


def odf(kind, body, automatic="", extra=()):
    mime = f"application/vnd.oasis.opendocument.{kind}"
    content = (
        f'{_HEAD}<office:document-content {_ODF} office:version="1.2"><office:automatic-styles>{automatic}'
        f"</office:automatic-styles><office:body>{body}</office:body></office:document-content>"
    )
    manifest = (
        f'{_HEAD}<manifest:manifest xmlns:manifest="urn:oasis:names:tc:opendocument:xmlns:manifest:1.0">'
        f'<manifest:file-entry manifest:full-path="/" manifest:media-type="{mime}"/><manifest:file-entry '
        'manifest:full-path="content.xml" manifest:media-type="text/xml"/></manifest:manifest>'
    )
    return container(
        [("mimetype", mime), ("content.xml", content), ("META-INF/manifest.xml", manifest), *extra]
    )


def odt(heading, lines, inner=""):
    body = (
        f'<text:h text:outline-level="1">{escape(heading)}</text:h>'
        + "".join(f"<text:p>{escape(line)}</text:p>" for line in lines)
        + inner
    )
    return odf("text", f"<office:text>{body}</office:text>")


def fodt(body, scripts=""):
    return (
        f'{_HEAD}<office:document {_ODF} office:version="1.2" office:mimetype="application/vnd.oasis.'
        f'opendocument.text">{scripts}<office:body><office:text>{body}</office:text></office:body>'
        "</office:document>"
    ).encode()


def ods(rows):
    def cell(value):
        if isinstance(value, (int, float)):
            return (
                f'<table:table-cell office:value-type="float" office:value="{value}"><text:p>{value}</text:p>'
                "</table:table-cell>"
            )
        return f'<table:table-cell office:value-type="string"><text:p>{escape(value)}</text:p></table:table-cell>'

    body = "".join(
        "<table:table-row>" + "".join(map(cell, row)) + "</table:table-row>" for row in rows
    )
    return odf(
        "spreadsheet",
        f'<office:spreadsheet><table:table table:name="Sheet1">{body}</table:table></office:spreadsheet>',
    )


def odp(title, lines):
    frame = (
        '<draw:frame presentation:class="{}" svg:x="2cm" svg:y="{}cm" svg:width="20cm" svg:height="4cm"><draw:text-box>'
        "{}</draw:text-box></draw:frame>"
    )
    body = "".join(f"<text:p>{escape(line)}</text:p>" for line in lines)
    page = frame.format("title", 1, f"<text:p>{escape(title)}</text:p>") + frame.format(
        "outline", 6, body
    )
    return odf(
        "presentation",
        f'<office:presentation><draw:page draw:name="p1">{page}</draw:page></office:presentation>',
    )


def epub(title, lines):
    page = (
        f'{_HEAD}<html xmlns="http://www.w3.org/1999/xhtml"><head><title>{escape(title)}</title></head><body>'
        f"<h1>{escape(title)}</h1>"
        + "".join(f"<p>{escape(line)}</p>" for line in lines)
        + "</body></html>"
    )
    package = (
        f'{_HEAD}<package xmlns="http://www.idpf.org/2007/opf" version="3.0"><metadata xmlns:dc="http://purl.org'
        f'/dc/elements/1.1/"><dc:title>{escape(title)}</dc:title></metadata><manifest><item id="a" href="a.xhtml" '
        'media-type="application/xhtml+xml"/></manifest><spine><itemref idref="a"/></spine></package>'
    )
    root = (
        f'{_HEAD}<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container" version="1.0"><rootfiles>'
        '<rootfile full-path="OEBPS/a.opf" media-type="application/oebps-package+xml"/></rootfiles></container>'
    )
    return container(
        [
            ("mimetype", "application/epub+zip"),
            ("META-INF/container.xml", root),
            ("OEBPS/a.opf", package),
            ("OEBPS/a.xhtml", page),
        ]
    )


def rtf(lines):
    def encoded(text):
        out = []
        for unit in struct.unpack(
            f"<{len(text.encode('utf-16-le')) // 2}H", text.encode("utf-16-le")
        ):
            if unit < 128:
                out.append(("\\" if chr(unit) in "\\{}" else "") + chr(unit))
            else:
                out.append(f"\\u{unit if unit < 32768 else unit - 65536}?")
        return "".join(out)

    return (
        "{\\rtf1\\ansi\\deff0{\\fonttbl{\\f0 Arial;}}\n"
        + "".join(f"{encoded(line)}\\par\n" for line in lines)
        + "}"
    ).encode()


def eml(subject, body, attachments=(), html=None):
    from email.message import EmailMessage

    message = EmailMessage()
    message["Subject"], message["From"], message["To"] = (
        subject,
        "Ann <ann@example.com>",
        "bob@example.com",
    )
    message["Date"] = "Thu, 01 Jan 2026 10:00:00 +0000"
    message.set_content(body)
    if html:
        message.add_alternative(html, subtype="html")
    for name, data in attachments:
        message.add_attachment(data, maintype="application", subtype="octet-stream", filename=name)
    # The boundary is random else.
    if message.is_multipart():
        message.set_boundary("=-=boundary=-=")
    return message.as_bytes()


# --- MSG: an OLE file, all of its streams in full sectors ---


def ole(tree):
    """`tree`: name → bytes or another such dict."""
    entries, sectors = [], []

    def allocate(data):
        start = len(sectors)
        for at in range(0, max(len(data), 1), 512):
            sectors.append(data[at : at + 512].ljust(512, b"\0"))
        return start

    fat = []

    def add(name, content):
        index = len(entries)
        entries.append(None)
        child, start, size, kind = 0xFFFFFFFF, 0, 0, 1
        if isinstance(content, dict):
            # Children are a chain to the right, in the order that OLE wants: by length, then name.
            order = sorted(content, key=lambda n: (len(n), n.upper()))
            numbers = [add(n, content[n]) for n in order]
            for left, right in zip(numbers, numbers[1:]):
                entries[left][2] = right
            child = numbers[0] if numbers else child
        else:
            kind = 2
            data = content.ljust(4096, b"\0") if len(content) < 4096 else content
            size = len(content) if len(content) >= 4096 else 4096
            start = allocate(data)
            fat.append((start, len(sectors)))
        entries[index] = [name, kind if index else 5, 0xFFFFFFFF, child, start, size]
        return index

    add("Root Entry", tree)
    entries[0][4], entries[0][5] = 0xFFFFFFFE, 0
    directory = b"".join(_ole_entry(entry) for entry in entries)
    start = allocate(directory)
    fat.append((start, len(sectors)))
    table = [0xFFFFFFFF] * (((len(sectors) + 8) // 128 + 1) * 128)
    for first, last in fat:
        for number in range(first, last):
            table[number] = number + 1 if number + 1 < last else 0xFFFFFFFE
    fat_start = len(sectors)
    count = len(table) // 128
    for number in range(count):
        table[fat_start + number] = 0xFFFFFFFD
    body = b"".join(sectors) + struct.pack(f"<{len(table)}I", *table)
    numbers = [fat_start + n for n in range(count)] + [0xFFFFFFFF] * (109 - count)
    head = (
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
        + bytes(16)
        + struct.pack("<5H", 0x3E, 3, 0xFFFE, 9, 6)
        + bytes(6)
        + struct.pack("<9I", 0, count, start, 0, 4096, 0xFFFFFFFE, 0, 0xFFFFFFFE, 0)
        + struct.pack("<109I", *numbers)
    )
    return head + body


def _ole_entry(entry):
    name, kind, right, child, start, size = entry
    text = name.encode("utf-16-le") + b"\0\0"
    return (
        text.ljust(64, b"\0")
        + struct.pack("<HBB3I", len(text), kind, 1, 0xFFFFFFFF, right, child)
        + bytes(16 + 4 + 16)
        + struct.pack("<IQ", start, size)
    )


def msg(subject, body, attachments=()):
    def text(value):
        # Streams are padded here; a NUL ends the text for every reader.
        return value.encode("utf-16-le")

    tree = {
        "__properties_version1.0": bytes(32)
        + struct.pack("<IIQ", 0x00390040, 6, 134_116_452_000_000_000),
        "__substg1.0_0037001F": text(subject),
        "__substg1.0_1000001F": text(body),
        "__substg1.0_0C1A001F": text("Ann"),
        "__substg1.0_5D01001F": text("ann@example.com"),
        "__substg1.0_0E04001F": text("bob@example.com"),
    }
    for number, (name, data) in enumerate(attachments):
        tree[f"__attach_version1.0_#{number:08X}"] = {
            "__properties_version1.0": bytes(24),
            "__substg1.0_3707001F": text(name),
            "__substg1.0_37010102": data.ljust(4096, b"\0"),
        }
    return ole(tree)


def fixture(name):
    """A file of old formats, made by LibreOffice."""
    import lzma

    with lzma.open(os.path.join(os.path.dirname(__file__), "fixtures", name + ".xz")) as file:
        return file.read()
