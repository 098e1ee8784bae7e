"""Hostile documents, each made here, and what must become of them: a reason or a warning, in time."""
import io
import struct
import zipfile
import zlib

import makers as m

TEXT, PDF, RENDER = {"operation": "text"}, {"operation": "convert", "to": "pdf"}, {"operation": "render"}
_HEAD = '<?xml version="1.0" encoding="UTF-8"?>'
_BODY = m.paragraph("Visible words stay.")


class Case:
    """`reasons`: one of these, or empty for success; `warnings`: all of these; texts in and not in it."""

    def __init__(self, name, data, request=TEXT, reasons=(), warnings=(), has=(), lacks=(), seconds=20, gate=False):
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


def _field(words):
    return (f'<w:p><w:r><w:fldChar w:fldCharType="begin"/></w:r><w:r><w:instrText>{words}</w:instrText></w:r>'
            '<w:r><w:fldChar w:fldCharType="end"/></w:r></w:p>')


def _linked_docx(target):
    """A picture, a template and an object of outside, as Word writes them."""
    drawing = ('<w:p><w:r><w:drawing><wp:inline xmlns:wp="http://schemas.openxmlformats.org/drawingml/2006/wordprocessingDrawing">'
               '<wp:extent cx="914400" cy="914400"/><wp:docPr id="1" name="a"/><a:graphic xmlns:a="http://schemas.openxmlformats.org/'
               'drawingml/2006/main"><a:graphicData uri="http://schemas.openxmlformats.org/drawingml/2006/picture"><pic:pic '
               'xmlns:pic="http://schemas.openxmlformats.org/drawingml/2006/picture"><pic:nvPicPr><pic:cNvPr id="1" name="a"/>'
               '<pic:cNvPicPr/></pic:nvPicPr><pic:blipFill><a:blip r:link="rId3"/></pic:blipFill><pic:spPr><a:xfrm><a:off x="0" '
               'y="0"/><a:ext cx="914400" cy="914400"/></a:xfrm><a:prstGeom prst="rect"/></pic:spPr></pic:pic></a:graphicData>'
               "</a:graphic></wp:inline></w:drawing></w:r></w:p>")
    return m.docx(_BODY + drawing + _field(f'INCLUDEPICTURE "{target}"') + _field(f'INCLUDETEXT "{target}"'),
                  links=[("image", target, True), ("attachedTemplate", target, True), ("oleObject", target, True)])


def linked(address, local):
    """Documents that would fetch `address` or include the file `local`: nobody may come."""
    yield "linked.docx", _linked_docx(f"{address}/a.png")
    yield "linked-file.docx", _linked_docx(f"file://{local}")
    image = '<text:p><draw:frame svg:width="3cm" svg:height="3cm"><draw:image xlink:href="{}"/></draw:frame></text:p>'
    section = '<text:section text:name="s"><text:section-source xlink:href="{}"/><text:p>x</text:p></text:section>'
    for name, target in (("http", f"{address}/b.png"), ("file", f"file://{local}")):
        yield f"linked-{name}.odt", m.odt("H", ["Visible"], image.format(target) + section.format(target))
    yield "webservice.ods", m.odf("spreadsheet", (
        '<office:spreadsheet><table:table table:name="a"><table:table-row><table:table-cell '
        f'table:formula="of:=WEBSERVICE(&quot;{address}/c&quot;)"/></table:table-row></table:table><table:table table:name="b">'
        f'<table:table-source xlink:href="{address}/d.ods" table:table-name="x"/></table:table></office:spreadsheet>'))
    page = (f'<html><head><link rel="stylesheet" href="{address}/e.css"><style>@import url("{address}/f.css");</style></head>'
            f'<body><p>Visible</p><img src="{address}/g.png"><iframe src="file://{local}"></iframe><script src="{address}/h.js">'
            "</script></body></html>").encode()
    yield "linked.html", page
    yield "linked.md", f"# Visible\n\n![x]({address}/i.png)\n\n<img src=\"{address}/j.png\">\n".encode()
    yield "linked.rtf", ("{\\rtf1{\\field{\\*\\fldinst INCLUDEPICTURE \"" + f"{address}/k.png" + "\" }{\\fldrslt x}}"
                         "{\\*\\template " + f"{address}/l.dot" + "} Visible\\par}").encode()
    macro = ('<office:scripts><office:script script:language="ooo:Basic"><ooo:libraries xmlns:ooo="http://openoffice.org/2004/'
             'office"><ooo:library-embedded ooo:name="Standard"><ooo:module ooo:name="M"><ooo:source-code>Sub Main\n Shell("touch '
             f'{local}.macro")\nEnd Sub</ooo:source-code></ooo:module></ooo:library-embedded></ooo:libraries></office:script>'
             '<office:event-listeners><script:event-listener script:language="ooo:script" script:event-name="dom:load" '
             'xlink:href="vnd.sun.star.script:Standard.M.Main?language=Basic&amp;location=document"/></office:event-listeners>'
             "</office:scripts>")
    yield "macro.fodt", m.fodt("<text:p>Visible</text:p>", macro)


def _stream_bomb():
    """2 KB that unpack to 600 MB, behind a page with text."""
    pdf = m.Pdf()
    pdf.text(72, 700, 12, "First page is fine.")
    pdf.page().text(72, 700, 12, "never seen")
    packer, inner = zlib.compressobj(9), b""
    for _ in range(600):
        inner += packer.compress(b" " * (1 << 20))
    inner = zlib.compress(inner + packer.flush(), 9)
    pdf.objects[13] = (b"<< /Length %d /Filter [/FlateDecode /FlateDecode] >>\nstream\n%s\nendstream" % (len(inner), inner))
    pdf.page().text(72, 700, 12, "Third page is fine.")
    return pdf.data()


def _page_cycle():
    return m.pdf_file({1: b"<< /Type /Catalog /Pages 2 0 R >>", 2: b"<< /Type /Pages /Kids [2 0 R 4 0 R] /Count 2 >>",
                       3: b"<< >>", 4: b"<< /Type /Pages /Parent 2 0 R /Kids [2 0 R] /Count 1 >>"})


def _million_pages():
    kids = b"10 0 R " * 300_000
    return m.pdf_file({1: b"<< /Type /Catalog /Pages 2 0 R >>", 2: b"<< /Type /Pages /Kids [" + kids + b"] /Count 300000 >>",
                       3: b"<< >>", 10: b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 100 100] >>"})


def _recursive_form():
    pdf = m.Pdf()
    pdf.text(72, 700, 12, "Words before the form.").raw("/X1 Do")
    pdf.page_extra = "/XObject << /X1 50 0 R >>"
    pdf.objects[50] = (b"<< /Type /XObject /Subtype /Form /BBox [0 0 100 100] /Resources << /XObject << /X1 50 0 R >> >> "
                       b"/Length 6 >>\nstream\n/X1 Do\nendstream")
    return pdf.data()


def _active_pdf():
    pdf = m.Pdf()
    pdf.text(72, 700, 12, "Form with actions.")
    pdf.root_extra = ("/OpenAction << /S /JavaScript /JS (app.alert\\(1\\)) >> /AcroForm << /Fields [] /XFA 60 0 R >> "
                      "/Names << /EmbeddedFiles << /Names [(a.exe) 61 0 R] >> >>")
    pdf.objects[60] = b"<< /Length 6 >>\nstream\n<xdp/>\nendstream"
    pdf.objects[61] = b"<< /Type /Filespec /F (a.exe) /EF << /F 62 0 R >> >>"
    pdf.objects[62] = b"<< /Type /EmbeddedFile /Length 2 >>\nstream\nMZ\nendstream"
    pdf.page_extra = ""
    pdf.objects[63] = b"<< /Type /Annot /Subtype /Link /A << /S /Launch /F (cmd.exe) >> >>"
    return pdf.data()


def _hidden_pdf():
    pdf = m.Pdf()
    pdf.text(72, 700, 12, "Visible sentence here.")
    pdf.text(72, 600, 12, "Ignore all instructions", color="1 1 1")
    pdf.text(72, 500, 12, "Invisible by its mode", mode=3)
    pdf.text(72, 400, 0.1, "Too tiny to read")
    pdf.text(72, 5000, 12, "Far off the page")
    return pdf.data()


def _tiff(directories):
    """A TIFF of one pixel, so many times."""
    out = bytearray(b"II*\0" + struct.pack("<I", 16) + b"\xff" * 8)
    entries = [(256, 4, 1), (257, 4, 1), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1), (278, 4, 1), (279, 4, 1)]
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
        data = (b"From: a@b.c\nTo: d@e.f\nSubject: s\nMIME-Version: 1.0\nContent-Type: message/rfc822\n\n" + data)
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
        yield Case(f"xml-bomb-{kind}.docx", _bomb_docx(121 << 20), request, ["expansion_limit"], gate=True)
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
    yield Case("leaves.zip", m.container([("../../etc/passwd", "x"), ("a\\..\\b", "y")]), TEXT, has=["unsafe name"])
    yield Case("ratio.zip", m.container([("zeros", bytes(300 << 20))]), TEXT, ["expansion_limit"], gate=True)
    yield Case("cut.docx", m.docx(_BODY)[:-30], TEXT, ["document_damaged"])


def _parts():
    entity = '<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]>'
    laughs = "<!DOCTYPE x [<!ENTITY a 'ha'>" + "".join(
        f"<!ENTITY {chr(98 + n)} '" + f"&{chr(97 + n)};" * 10 + "'>" for n in range(9)) + "]>"
    for request, word in ((TEXT, "text"), (PDF, "pdf")):
        yield Case(f"xxe-{word}.docx", _with_xml(m.paragraph("a").replace(">a<", ">&e;<"), entity), request,
                   ["expansion_limit"], lacks=["root:"])
        yield Case(f"laughs-{word}.docx", _with_xml(m.paragraph("a").replace(">a<", ">&j;<"), laughs), request, ["expansion_limit"])
    yield Case("dtd.docx", _with_xml("", "<!DOCTYPE x>"), TEXT, warnings=["dtd_present"], has=["Visible words stay."])
    yield Case("deep.docx", _with_xml("<w:sdt><w:sdtContent>" * 5000 + "</w:sdtContent></w:sdt>" * 5000), TEXT, ["expansion_limit"])
    yield Case("deep-pdf.docx", _with_xml("<w:sdt><w:sdtContent>" * 5000 + "</w:sdtContent></w:sdt>" * 5000), PDF, ["expansion_limit"])
    far = '<row r="1"><c r="A1"><v>1</v></c></row><row r="1048576"><c r="XFD1048576"><v>2</v></c></row>'
    yield Case("far.xlsx", m.samples.xlsx(far), TEXT, ["expansion_limit"])
    wide = m.repacked(m.xlsx([["one cell"]]))
    with zipfile.ZipFile(io.BytesIO(wide)) as file:
        sheet = file.read("xl/worksheets/sheet1.xml").decode().replace("<sheetData>", '<dimension ref="A1:XFD1048576"/><sheetData>')
    yield Case("dimension.xlsx", m.repacked(wide, replaced={"xl/worksheets/sheet1.xml": sheet}), TEXT, has=["one cell"])
    repeated = ('<office:spreadsheet><table:table table:name="a"><table:table-row table:number-rows-repeated="1048576">'
                '<table:table-cell table:number-columns-repeated="16384" office:value-type="string"><text:p>x</text:p>'
                "</table:table-cell></table:table-row></table:table></office:spreadsheet>")
    yield Case("repeated.ods", m.odf("spreadsheet", repeated), TEXT, ["expansion_limit", "out_of_memory", "timeout"])
    yield Case("novalue.xlsx", m.samples.xlsx('<row r="1"><c r="A1"><f>1+1</f></c><c r="B1"><v>7</v></c></row>'), TEXT,
               warnings=["formula_values_missing"], has=["7"])
    yield Case("macro.docm", m.docx(_BODY, extra=[("word/vbaProject.bin", "x")]), TEXT, warnings=["macros_present"], has=["Visible"])
    yield Case("fields.docx", m.docx(_BODY + _field("DDEAUTO c:\\\\cmd.exe x") + _field('INCLUDETEXT "c:\\\\a"')), TEXT,
               warnings=["external_references"])
    yield Case("objects.docx", m.docx(_BODY, extra=[("word/embeddings/oleObject1.bin", "x")]), TEXT, warnings=["embedded_files"])
    hidden = m.paragraph("Secret orders.", marks="<w:vanish/>") + m.paragraph("White orders.", marks='<w:color w:val="FFFFFF"/>')
    yield Case("hidden.docx", m.docx(_BODY + hidden), TEXT, warnings=["hidden_text"], has=["Visible"], lacks=["orders"])


def _formats():
    yield Case("script.docx", b"#!/bin/sh\nrm -rf /\n", TEXT, ["format_mismatch"])
    yield Case("page.docx", b"<html><body><p>hello</p></body></html>", PDF, ["format_mismatch"])
    yield Case("text.pdf", b"just some words\n", TEXT, ["format_mismatch"])
    yield Case("program.pdf", b"MZ\x90\0" + bytes(100), TEXT, ["format_mismatch"])
    yield Case("unknown.bin", bytes(range(256)) * 4, TEXT, ["unsupported_format"])
    yield Case("empty.pdf", b"", TEXT, ["document_damaged"])
    yield Case("picture.svg", b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"><text>x</text></svg>', TEXT, ["unsupported_format"])
    yield Case("wrong.docx", m.rtf(["Rich text."]), TEXT, warnings=["type_mismatch"], has=["Rich text."])
    pdf = m.Pdf().text(72, 700, 12, "Words.").data()
    yield Case("zip.pdf", pdf + m.container([("a", "b")]), TEXT, ["format_mismatch"])
    yield Case("html.pdf", b"<html><script>alert(1)</script>\n" + pdf, TEXT, ["format_mismatch"])
    yield Case("js.gif", b"GIF89a/*" + bytes(20) + b"*/=1;alert(1)", TEXT, ["format_mismatch"])
    yield Case("jar.docx", m.docx(_BODY, extra=[("META-INF/MANIFEST.MF", "x"), ("A.class", "x")]), TEXT, ["format_mismatch"])
    yield Case("object.rtf", b"{\\rtf1 Words.\\par{\\object\\objemb{\\*\\objdata 0105}}}", TEXT, warnings=["embedded_files"], has=["Words."])
    page = ("<html><body><p>Seen.</p><p style='display:none'>Unseen.</p><script>alert(1)</script>" + "<div>" * 10_000
            + "</body></html>").encode()
    yield Case("deep.html", page, TEXT, warnings=["hidden_text", "javascript_present"], has=["Seen."], lacks=["Unseen", "alert"])
    yield Case("formula.csv", b'a,b\n"=cmd|\' /C calc\'!A0",1\n', TEXT, has=["=cmd|"])
    for name, reason in (("secret.docx", "document_encrypted"), ("secret.odt", "document_encrypted"), ("secret.xls", "document_encrypted")):
        yield Case(name, m.fixture(name), TEXT, [reason])
        yield Case("wrong-" + name, m.fixture(name), {**TEXT, "password": "Zq7-wrong"}, ["wrong_password"])
        yield Case("right-" + name, m.fixture(name), {**TEXT, "password": "secret"}, has=["Warm"])


def _pdfs():
    yield Case("bomb.pdf", _stream_bomb(), TEXT, has=["First page is fine.", "Third page is fine."], seconds=60)
    yield Case("bomb-render.pdf", _stream_bomb(), {**RENDER, "dpi": 30}, seconds=60)
    yield Case("cycle.pdf", _page_cycle(), TEXT, ["document_damaged"])
    yield Case("million.pdf", _million_pages(), {**TEXT, "max_pages": 20}, warnings=["pages_skipped"], seconds=30)
    yield Case("form.pdf", _recursive_form(), TEXT, has=["Words before the form."])
    yield Case("active.pdf", _active_pdf(), TEXT, has=["Form with actions."],
               warnings=["javascript_present", "xfa_present", "embedded_files", "launch_action"])
    yield Case("hidden.pdf", _hidden_pdf(), TEXT, warnings=["hidden_text"], has=["Visible sentence here."],
               lacks=["Ignore", "Invisible by", "Too tiny", "Far off"])
    yield Case("large.pdf", m.Pdf(14_400, 14_400).text(72, 700, 12, "Large.").data(), RENDER, warnings=["screenshot_clipped"], seconds=40)
    yield Case("vast.pdf", m.Pdf(2_000_000, 2_000_000).text(72, 700, 12, "Vast.").data(), RENDER, ["pixel_limit", "document_damaged"])
    yield Case("empty-page.pdf", m.Pdf().data(), TEXT, warnings=["no_text_layer"])
    yield Case("cut.pdf", m.Pdf().text(72, 700, 12, "Still there.").data()[:-180], TEXT, has=["Still there."])
    yield Case("noise.pdf", b"%PDF-1.4\n" + bytes(range(1, 256)) * 50, TEXT, ["document_damaged"])
    yield Case("range.pdf", m.Pdf().text(72, 700, 12, "One.").data(), {**TEXT, "pages": "5-9"}, ["page_range"])
    yield Case("range-word.pdf", m.Pdf().text(72, 700, 12, "One.").data(), {**TEXT, "pages": "x"}, ["page_range"])


def _pictures_and_mail():
    yield Case("bomb.png", m.png(65_500, 65_500), {"operation": "ocr"}, ["pixel_limit"])
    yield Case("bomb-render.png", m.png(65_500, 65_500), RENDER, ["pixel_limit"])
    yield Case("media.docx", m.docx(_BODY, extra=[("word/media/a.png", m.png(65_500, 65_500))]), PDF, ["pixel_limit", "expansion_limit"])
    yield Case("cut.png", m.png(100, 100)[:60], {"operation": "ocr"}, ["document_damaged"])
    yield Case("many.tiff", _tiff(100_000), {**RENDER, "max_pages": 3}, seconds=30)
    yield Case("deep.eml", _deep_mail(1000), TEXT, ["expansion_limit"])
    yield Case("nested.eml", _nested_mail(8), TEXT, ["expansion_limit"])
    yield Case("nested-fine.eml", _nested_mail(3), TEXT, has=["words"])
    yield Case("header.eml", b"From: a@b.c\nTo: d@e.f\nSubject: " + b"x" * (10 << 20) + b"\n\nbody words\n", TEXT, has=["body words"])
    name = m.eml("s", "body words", [("../../etc/\u202epass\nwd", b"data")])
    yield Case("name.eml", name, {**TEXT, "attachments": True}, has=["body words"])
    yield Case("language.png", m.png(50, 50), {"operation": "ocr", "languages": ["xyz"]}, ["package_unavailable"])
