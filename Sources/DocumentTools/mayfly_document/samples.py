"""The smallest documents that LibreOffice converts, for the warm-up."""

import io
import zipfile

_HEAD = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>'
_TYPES = "http://schemas.openxmlformats.org/package/2006/content-types"
_RELS = "http://schemas.openxmlformats.org/package/2006/relationships"
_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_W = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
_S = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
_P = "http://schemas.openxmlformats.org/presentationml/2006/main"
_A = "http://schemas.openxmlformats.org/drawingml/2006/main"


def container(parts):
    """A zip of texts, the same bytes each time."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        for name, text in parts:
            data = text if isinstance(text, bytes) else text.encode()
            file.writestr(zipfile.ZipInfo(name, (2000, 1, 1, 0, 0, 0)), data, zipfile.ZIP_DEFLATED)
    return out.getvalue()


def rels(*items):
    """Relationships from (type, target) pairs; external ones as (type, target, True)."""
    lines = []
    for number, (kind, target, *external) in enumerate(items, 1):
        mode = ' TargetMode="External"' if external and external[0] else ""
        uri = kind if "://" in kind else f"{_OFFICE}/{kind}"
        lines.append(f'<Relationship Id="rId{number}" Type="{uri}" Target="{target}"{mode}/>')
    return f'{_HEAD}<Relationships xmlns="{_RELS}">{"".join(lines)}</Relationships>'


def types(*overrides):
    base = "application/vnd.openxmlformats-officedocument."
    lines = "".join(
        f'<Override PartName="{name}" ContentType="{base}{kind}+xml"/>' for name, kind in overrides
    )
    return (
        f'{_HEAD}<Types xmlns="{_TYPES}"><Default Extension="rels" '
        'ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
        f'<Default Extension="xml" ContentType="application/xml"/>{lines}</Types>'
    )


def docx(body=None, extra=()):
    body = body or (
        "<w:p><w:r><w:rPr><w:b/><w:sz w:val='32'/></w:rPr><w:t>Warm</w:t></w:r>"
        "</w:p><w:p><w:r><w:t>Grün Привет مرحبا 你好 text</w:t></w:r></w:p><w:tbl><w:tr><w:tc><w:p>"
        "<w:r><w:t>a</w:t></w:r></w:p></w:tc><w:tc><w:p/></w:tc></w:tr></w:tbl><w:p/>"
    )
    return container(
        [
            (
                "[Content_Types].xml",
                types(("/word/document.xml", "wordprocessingml.document.main")),
            ),
            ("_rels/.rels", rels(("officeDocument", "word/document.xml"))),
            (
                "word/document.xml",
                f'{_HEAD}<w:document xmlns:w="{_W}" xmlns:r="{_OFFICE}"><w:body>{body}'
                "<w:sectPr/></w:body></w:document>",
            ),
            *extra,
        ]
    )


def xlsx(rows=None, extra=()):
    rows = rows or (
        '<row r="1"><c r="A1" t="inlineStr"><is><t>Warm</t></is></c><c r="B1"><v>1</v></c></row>'
        '<row r="2"><c r="A2"><f>B1+1</f><v>2</v></c></row>'
    )
    return container(
        [
            (
                "[Content_Types].xml",
                types(
                    ("/xl/workbook.xml", "spreadsheetml.sheet.main"),
                    ("/xl/worksheets/sheet1.xml", "spreadsheetml.worksheet"),
                ),
            ),
            ("_rels/.rels", rels(("officeDocument", "xl/workbook.xml"))),
            (
                "xl/workbook.xml",
                f'{_HEAD}<workbook xmlns="{_S}" xmlns:r="{_OFFICE}"><sheets>'
                '<sheet name="Sheet1" sheetId="1" r:id="rId1"/></sheets></workbook>',
            ),
            ("xl/_rels/workbook.xml.rels", rels(("worksheet", "worksheets/sheet1.xml"))),
            (
                "xl/worksheets/sheet1.xml",
                f'{_HEAD}<worksheet xmlns="{_S}"><sheetData>{rows}</sheetData></worksheet>',
            ),
            *extra,
        ]
    )


def pptx():
    tree = (
        '<p:cSld><p:spTree><p:nvGrpSpPr><p:cNvPr id="1" name=""/><p:cNvGrpSpPr/><p:nvPr/>'
        "</p:nvGrpSpPr><p:grpSpPr/>{}</p:spTree></p:cSld>"
    )
    shape = (
        '<p:sp><p:nvSpPr><p:cNvPr id="2" name="t"/><p:cNvSpPr/><p:nvPr><p:ph type="title"/></p:nvPr>'
        '</p:nvSpPr><p:spPr><a:xfrm><a:off x="900000" y="900000"/><a:ext cx="6000000" cy="900000"/>'
        "</a:xfrm></p:spPr><p:txBody><a:bodyPr/><a:p><a:r><a:t>Warm</a:t></a:r></a:p></p:txBody></p:sp>"
    )
    spaces = f'xmlns:p="{_P}" xmlns:a="{_A}" xmlns:r="{_OFFICE}"'
    mapping = (
        '<p:clrMap bg1="lt1" tx1="dk1" bg2="lt2" tx2="dk2" accent1="accent1" accent2="accent2" '
        'accent3="accent3" accent4="accent4" accent5="accent5" accent6="accent6" hlink="hlink" '
        'folHlink="folHlink"/>'
    )
    return container(
        [
            (
                "[Content_Types].xml",
                types(
                    ("/ppt/presentation.xml", "presentationml.presentation.main"),
                    ("/ppt/slides/slide1.xml", "presentationml.slide"),
                    ("/ppt/slideLayouts/slideLayout1.xml", "presentationml.slideLayout"),
                    ("/ppt/slideMasters/slideMaster1.xml", "presentationml.slideMaster"),
                ),
            ),
            ("_rels/.rels", rels(("officeDocument", "ppt/presentation.xml"))),
            (
                "ppt/presentation.xml",
                f'{_HEAD}<p:presentation {spaces}><p:sldMasterIdLst><p:sldMasterId id="2147483648" '
                'r:id="rId1"/></p:sldMasterIdLst><p:sldIdLst><p:sldId id="256" r:id="rId2"/>'
                '</p:sldIdLst><p:sldSz cx="9144000" cy="6858000"/><p:notesSz cx="6858000" '
                'cy="9144000"/></p:presentation>',
            ),
            (
                "ppt/_rels/presentation.xml.rels",
                rels(
                    ("slideMaster", "slideMasters/slideMaster1.xml"), ("slide", "slides/slide1.xml")
                ),
            ),
            ("ppt/slides/slide1.xml", f"{_HEAD}<p:sld {spaces}>{tree.format(shape)}</p:sld>"),
            (
                "ppt/slides/_rels/slide1.xml.rels",
                rels(("slideLayout", "../slideLayouts/slideLayout1.xml")),
            ),
            (
                "ppt/slideLayouts/slideLayout1.xml",
                f"{_HEAD}<p:sldLayout {spaces}>{tree.format('')}</p:sldLayout>",
            ),
            (
                "ppt/slideLayouts/_rels/slideLayout1.xml.rels",
                rels(("slideMaster", "../slideMasters/slideMaster1.xml")),
            ),
            (
                "ppt/slideMasters/slideMaster1.xml",
                f"{_HEAD}<p:sldMaster {spaces}>{tree.format('')}{mapping}<p:sldLayoutIdLst>"
                '<p:sldLayoutId id="2147483649" r:id="rId1"/></p:sldLayoutIdLst></p:sldMaster>',
            ),
            (
                "ppt/slideMasters/_rels/slideMaster1.xml.rels",
                rels(("slideLayout", "../slideLayouts/slideLayout1.xml")),
            ),
        ]
    )
