"""Hostile documents, each made here, and what must become of them: a reason or a warning, in time."""

import io
import struct
import zipfile

import hostile_pdf
import makers as m
from links import field

TEXT, PDF, RENDER = (
    {"operation": "text"},
    {"operation": "convert", "to": "pdf"},
    {"operation": "render"},
)
_HEAD = '<?xml version="1.0" encoding="UTF-8"?>'
_BODY = m.paragraph("Visible words stay.")


class Case:
    """`reasons`: one of these, or empty for success; `warnings`: all of these; texts in and not in it."""

    def __init__(
        self,
        name,
        data,
        request=TEXT,
        reasons=(),
        warnings=(),
        has=(),
        lacks=(),
        seconds=20,
        gate=False,
    ):
        self.name, self.data, self.request = name, data, request
        self.reasons, self.warnings, self.has, self.lacks = set(reasons), set(warnings), has, lacks
        self.seconds, self.gate = seconds, gate


def _bomb_docx(size):
    text = "<w:p><w:r><w:t>" + "A" * 1000 + "</w:t></w:r></w:p>"
    return m.docx(text * (size // len(text)))


def _edited(data, edit):
    data = bytearray(data)
    edit(data)
    return bytes(data)


def _lying(data, name=b"word/document.xml", size=100):
    """Every header says that the part unpacks to `size` bytes."""

    def edit(out):
        at = out.rfind(b"PK\1\2", 0, out.rfind(name))
        struct.pack_into("<I", out, at + 24, size)
        local = struct.unpack_from("<I", out, at + 42)[0]
        struct.pack_into("<I", out, local + 22, size)

    return _edited(data, edit)


def _overlapping():
    """Many directory entries for the same bytes."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("[Content_Types].xml", m.types())
        file.writestr("word/document.xml", b"<x/>" + b" " * 100_000)
        first = file.infolist()[1]
        for number in range(200):
            copy = zipfile.ZipInfo(f"word/copy{number}.xml")
            copy.compress_type = first.compress_type
            copy.header_offset, copy.CRC = first.header_offset, first.CRC
            copy.compress_size, copy.file_size = first.compress_size, first.file_size
            file.filelist.append(copy)
            file.NameToInfo[copy.filename] = copy
        file._didModify = True
    return out.getvalue()


def _nested(depth):
    data = b"innermost"
    for level in range(depth):
        data = m.container([(f"level{level}.zip" if level else "a.txt", data)])
    return data


def _many_entries(count):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("[Content_Types].xml", m.types())
        for number in range(count):
            file.writestr(f"word/{number}", b"")
    return out.getvalue()


def _named(name):
    return m.docx(_BODY, extra=[(name, "x")])


def _with_xml(inner, prolog=""):
    data = m.docx(_BODY)
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        document = file.read("word/document.xml").decode()
    document = document.replace("?>", "?>" + prolog, 1).replace("<w:body>", "<w:body>" + inner)
    return m.repacked(data, replaced={"word/document.xml": document})


def _tiff(directories):
    """A TIFF of one pixel, so many times."""
    out = bytearray(b"II*\0" + struct.pack("<I", 16) + b"\xff" * 8)
    entries = [
        (256, 4, 1),
        (257, 4, 1),
        (258, 3, 8),
        (259, 3, 1),
        (262, 3, 1),
        (273, 4, 8),
        (277, 3, 1),
        (278, 4, 1),
        (279, 4, 1),
    ]
    body = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
    size = 2 + len(body) + 4
    for number in range(directories):
        following = 16 + (number + 1) * size if number + 1 < directories else 0
        out += struct.pack("<H", len(entries)) + body + struct.pack("<I", following)
    return bytes(out)


def _deep_mail(depth):
    head = b"From: a@b.c\r\nSubject: x\r\nMIME-Version: 1.0\r\n"
    out = head
    for number in range(depth):
        out += b'Content-Type: multipart/mixed; boundary="b%d"\r\n\r\n--b%d\r\n' % (number, number)
    return out + b"Content-Type: text/plain\r\n\r\ninner\r\n"


def _nested_mail(depth):
    data = m.eml("innermost", "words")
    for number in range(depth):
        data = (
            b"From: a@b.c\nTo: d@e.f\nSubject: s\nMIME-Version: 1.0\nContent-Type: message/rfc822\n\n"
            + data
        )
    return data


def cases():
    """Every hostile document with its expectation."""
    yield from _containers()
    yield from _parts()
    yield from _formats()
    yield from _pdfs()
    yield from _pictures_and_mail()


def _containers():
    for kind, request in (("text", TEXT), ("pdf", PDF)):
        yield Case(
            f"xml-bomb-{kind}.docx", _bomb_docx(121 << 20), request, ["expansion_limit"], gate=True
        )
    sheet = "<row r='1'><c r='A1' t='inlineStr'><is><t>" + "A" * (100 << 20) + "</t></is></c></row>"
    yield Case("bomb.xlsx", m.samples.xlsx(sheet), TEXT, ["expansion_limit"], gate=True)
    yield Case("bomb.epub", m.epub("A" * (80 << 20), []), TEXT, ["expansion_limit"], gate=True)
    yield Case("lying.docx", _lying(_bomb_docx(30 << 20)), TEXT, ["expansion_limit"], gate=True)
    yield Case("overlap.docx", _overlapping(), TEXT, ["expansion_limit"], gate=True)
    yield Case("nested.zip", _nested(4), TEXT, ["expansion_limit"], gate=True)
    yield Case("nested-fine.zip", _nested(2), TEXT, has=["level1.zip"])
    yield Case("entries.docx", _many_entries(100_000), TEXT, ["expansion_limit"], gate=True)
    yield Case("leaves.docx", _named("../../etc/passwd"), TEXT, ["document_damaged"])
    yield Case("absolute.docx", _named("/etc/passwd"), TEXT, ["document_damaged"])
    yield Case(
        "leaves.zip",
        m.container([("../../etc/passwd", "x"), ("a\\..\\b", "y")]),
        TEXT,
        has=["unsafe name"],
    )
    yield Case(
        "ratio.zip",
        m.container([("zeros", bytes(300 << 20))]),
        TEXT,
        ["expansion_limit"],
        gate=True,
    )
    yield Case("cut.docx", m.docx(_BODY)[:-30], TEXT, ["document_damaged"])


def _parts():
    entity = '<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]>'
    laughs = (
        "<!DOCTYPE x [<!ENTITY a 'ha'>"
        + "".join(f"<!ENTITY {chr(98 + n)} '" + f"&{chr(97 + n)};" * 10 + "'>" for n in range(9))
        + "]>"
    )
    for request, word in ((TEXT, "text"), (PDF, "pdf")):
        yield Case(
            f"xxe-{word}.docx",
            _with_xml(m.paragraph("a").replace(">a<", ">&e;<"), entity),
            request,
            ["expansion_limit"],
            lacks=["root:"],
        )
        yield Case(
            f"laughs-{word}.docx",
            _with_xml(m.paragraph("a").replace(">a<", ">&j;<"), laughs),
            request,
            ["expansion_limit"],
        )
    yield Case(
        "dtd.docx",
        _with_xml("", "<!DOCTYPE x>"),
        TEXT,
        warnings=["dtd_present"],
        has=["Visible words stay."],
    )
    yield Case(
        "deep.docx",
        _with_xml("<w:sdt><w:sdtContent>" * 5000 + "</w:sdtContent></w:sdt>" * 5000),
        TEXT,
        ["expansion_limit"],
    )
    yield Case(
        "deep-pdf.docx",
        _with_xml("<w:sdt><w:sdtContent>" * 5000 + "</w:sdtContent></w:sdt>" * 5000),
        PDF,
        ["expansion_limit"],
    )
    far = '<row r="1"><c r="A1"><v>1</v></c></row><row r="1048576"><c r="XFD1048576"><v>2</v></c></row>'
    yield Case("far.xlsx", m.samples.xlsx(far), TEXT, ["expansion_limit"])
    wide = m.repacked(m.xlsx([["one cell"]]))
    with zipfile.ZipFile(io.BytesIO(wide)) as file:
        sheet = (
            file.read("xl/worksheets/sheet1.xml")
            .decode()
            .replace("<sheetData>", '<dimension ref="A1:XFD1048576"/><sheetData>')
        )
    yield Case(
        "dimension.xlsx",
        m.repacked(wide, replaced={"xl/worksheets/sheet1.xml": sheet}),
        TEXT,
        has=["one cell"],
    )
    repeated = (
        '<office:spreadsheet><table:table table:name="a"><table:table-row table:number-rows-repeated="1048576">'
        '<table:table-cell table:number-columns-repeated="16384" office:value-type="string"><text:p>x</text:p>'
        "</table:table-cell></table:table-row></table:table></office:spreadsheet>"
    )
    yield Case(
        "repeated.ods",
        m.odf("spreadsheet", repeated),
        TEXT,
        ["expansion_limit", "out_of_memory", "timeout"],
    )
    yield Case(
        "novalue.xlsx",
        m.samples.xlsx('<row r="1"><c r="A1"><f>1+1</f></c><c r="B1"><v>7</v></c></row>'),
        TEXT,
        warnings=["formula_values_missing"],
        has=["7"],
    )
    yield Case(
        "macro.docm",
        m.docx(_BODY, extra=[("word/vbaProject.bin", "x")]),
        TEXT,
        warnings=["macros_present"],
        has=["Visible"],
    )
    yield Case(
        "fields.docx",
        m.docx(_BODY + field("DDEAUTO c:\\\\cmd.exe x") + field('INCLUDETEXT "c:\\\\a"')),
        TEXT,
        warnings=["external_references"],
    )
    yield Case(
        "objects.docx",
        m.docx(_BODY, extra=[("word/embeddings/oleObject1.bin", "x")]),
        TEXT,
        warnings=["embedded_files"],
    )
    hidden = m.paragraph("Secret orders.", marks="<w:vanish/>") + m.paragraph(
        "White orders.", marks='<w:color w:val="FFFFFF"/>'
    )
    yield Case(
        "hidden.docx",
        m.docx(_BODY + hidden),
        TEXT,
        warnings=["hidden_text"],
        has=["Visible"],
        lacks=["orders"],
    )


def _formats():
    yield Case("script.docx", b"#!/bin/sh\nrm -rf /\n", TEXT, ["format_mismatch"])
    yield Case("page.docx", b"<html><body><p>hello</p></body></html>", PDF, ["format_mismatch"])
    yield Case("text.pdf", b"just some words\n", TEXT, ["format_mismatch"])
    yield Case("program.pdf", b"MZ\x90\0" + bytes(100), TEXT, ["format_mismatch"])
    yield Case("unknown.bin", bytes(range(256)) * 4, TEXT, ["unsupported_format"])
    yield Case("empty.pdf", b"", TEXT, ["document_damaged"])
    yield Case(
        "picture.svg",
        b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"><text>x</text></svg>',
        TEXT,
        ["unsupported_format"],
    )
    yield Case(
        "wrong.docx", m.rtf(["Rich text."]), TEXT, warnings=["type_mismatch"], has=["Rich text."]
    )
    pdf = m.Pdf().text(72, 700, 12, "Words.").data()
    yield Case("zip.pdf", pdf + m.container([("a", "b")]), TEXT, ["format_mismatch"])
    yield Case("html.pdf", b"<html><script>alert(1)</script>\n" + pdf, TEXT, ["format_mismatch"])
    yield Case("js.gif", b"GIF89a/*" + bytes(20) + b"*/=1;alert(1)", TEXT, ["format_mismatch"])
    yield Case(
        "jar.docx",
        m.docx(_BODY, extra=[("META-INF/MANIFEST.MF", "x"), ("A.class", "x")]),
        TEXT,
        ["format_mismatch"],
    )
    yield Case(
        "object.rtf",
        b"{\\rtf1 Words.\\par{\\object\\objemb{\\*\\objdata 0105}}}",
        TEXT,
        warnings=["embedded_files"],
        has=["Words."],
    )
    page = (
        "<html><body><p>Seen.</p><p style='display:none'>Unseen.</p><script>alert(1)</script>"
        + "<div>" * 10_000
        + "</body></html>"
    ).encode()
    yield Case(
        "deep.html",
        page,
        TEXT,
        warnings=["hidden_text", "javascript_present"],
        has=["Seen."],
        lacks=["Unseen", "alert"],
    )
    yield Case("formula.csv", b"a,b\n\"=cmd|' /C calc'!A0\",1\n", TEXT, has=["=cmd|"])
    for name, reason in (
        ("secret.docx", "document_encrypted"),
        ("secret.odt", "document_encrypted"),
        ("secret.xls", "document_encrypted"),
    ):
        yield Case(name, m.fixture(name), TEXT, [reason])
        yield Case(
            "wrong-" + name, m.fixture(name), {**TEXT, "password": "Zq7-wrong"}, ["wrong_password"]
        )
        yield Case("right-" + name, m.fixture(name), {**TEXT, "password": "secret"}, has=["Warm"])


def _pdfs():
    yield Case(
        "bomb.pdf",
        hostile_pdf.stream_bomb(),
        TEXT,
        has=["First page is fine.", "Third page is fine."],
        seconds=60,
    )
    yield Case("bomb-render.pdf", hostile_pdf.stream_bomb(), {**RENDER, "dpi": 30}, seconds=60)
    yield Case("cycle.pdf", hostile_pdf.page_cycle(), TEXT, ["document_damaged"])
    yield Case(
        "million.pdf",
        hostile_pdf.million_pages(),
        {**TEXT, "max_pages": 20},
        warnings=["pages_skipped"],
        seconds=30,
    )
    yield Case("form.pdf", hostile_pdf.recursive_form(), TEXT, has=["Words before the form."])
    yield Case(
        "active.pdf",
        hostile_pdf.active_pdf(),
        TEXT,
        has=["Form with actions."],
        warnings=["javascript_present", "xfa_present", "embedded_files", "launch_action"],
    )
    yield Case(
        "hidden.pdf",
        hostile_pdf.hidden_pdf(),
        TEXT,
        warnings=["hidden_text"],
        has=["Visible sentence here."],
        lacks=["Ignore", "Invisible by", "Too tiny", "Far off"],
    )
    yield Case(
        "large.pdf",
        m.Pdf(14_400, 14_400).text(72, 700, 12, "Large.").data(),
        RENDER,
        warnings=["screenshot_clipped"],
        seconds=40,
    )
    yield Case(
        "vast.pdf",
        m.Pdf(2_000_000, 2_000_000).text(72, 700, 12, "Vast.").data(),
        RENDER,
        ["pixel_limit", "document_damaged"],
    )
    yield Case("empty-page.pdf", m.Pdf().data(), TEXT, warnings=["no_text_layer"])
    yield Case(
        "cut.pdf",
        m.Pdf().text(72, 700, 12, "Still there.").data()[:-180],
        TEXT,
        has=["Still there."],
    )
    yield Case("noise.pdf", b"%PDF-1.4\n" + bytes(range(1, 256)) * 50, TEXT, ["document_damaged"])
    yield Case(
        "range.pdf",
        m.Pdf().text(72, 700, 12, "One.").data(),
        {**TEXT, "pages": "5-9"},
        ["page_range"],
    )
    yield Case(
        "range-word.pdf",
        m.Pdf().text(72, 700, 12, "One.").data(),
        {**TEXT, "pages": "x"},
        ["page_range"],
    )


def _pictures_and_mail():
    yield Case("bomb.png", m.png(65_500, 65_500), {"operation": "ocr"}, ["pixel_limit"])
    yield Case("bomb-render.png", m.png(65_500, 65_500), RENDER, ["pixel_limit"])
    yield Case(
        "media.docx",
        m.docx(_BODY, extra=[("word/media/a.png", m.png(65_500, 65_500))]),
        PDF,
        ["pixel_limit", "expansion_limit"],
    )
    yield Case("cut.png", m.png(100, 100)[:60], {"operation": "ocr"}, ["document_damaged"])
    yield Case("many.tiff", _tiff(100_000), {**RENDER, "max_pages": 3}, seconds=30)
    yield Case("deep.eml", _deep_mail(1000), TEXT, ["expansion_limit"])
    yield Case("nested.eml", _nested_mail(8), TEXT, ["expansion_limit"])
    yield Case("nested-fine.eml", _nested_mail(3), TEXT, has=["words"])
    yield Case(
        "header.eml",
        b"From: a@b.c\nTo: d@e.f\nSubject: " + b"x" * (10 << 20) + b"\n\nbody words\n",
        TEXT,
        has=["body words"],
    )
    name = m.eml("s", "body words", [("../../etc/\u202epass\nwd", b"data")])
    yield Case("name.eml", name, {**TEXT, "attachments": True}, has=["body words"])
    yield Case(
        "language.png",
        m.png(50, 50),
        {"operation": "ocr", "languages": ["xyz"]},
        ["package_unavailable"],
    )
