"""Documents that would fetch something or include a local file, if anybody let them."""

import makers as m

_BODY = m.paragraph("Visible words stay.")


def field(words):
    return (
        f'<w:p><w:r><w:fldChar w:fldCharType="begin"/></w:r><w:r><w:instrText>{words}</w:instrText></w:r>'
        '<w:r><w:fldChar w:fldCharType="end"/></w:r></w:p>'
    )


def _linked_docx(target):
    """A picture, a template and an object of outside, as Word writes them."""
    drawing = (
        '<w:p><w:r><w:drawing><wp:inline xmlns:wp="http://schemas.openxmlformats.org/drawingml/2006/wordprocessingDrawing">'
        '<wp:extent cx="914400" cy="914400"/><wp:docPr id="1" name="a"/><a:graphic xmlns:a="http://schemas.openxmlformats.org/'
        'drawingml/2006/main"><a:graphicData uri="http://schemas.openxmlformats.org/drawingml/2006/picture"><pic:pic '
        'xmlns:pic="http://schemas.openxmlformats.org/drawingml/2006/picture"><pic:nvPicPr><pic:cNvPr id="1" name="a"/>'
        '<pic:cNvPicPr/></pic:nvPicPr><pic:blipFill><a:blip r:link="rId3"/></pic:blipFill><pic:spPr><a:xfrm><a:off x="0" '
        'y="0"/><a:ext cx="914400" cy="914400"/></a:xfrm><a:prstGeom prst="rect"/></pic:spPr></pic:pic></a:graphicData>'
        "</a:graphic></wp:inline></w:drawing></w:r></w:p>"
    )
    return m.docx(
        _BODY + drawing + field(f'INCLUDEPICTURE "{target}"') + field(f'INCLUDETEXT "{target}"'),
        links=[
            ("image", target, True),
            ("attachedTemplate", target, True),
            ("oleObject", target, True),
        ],
    )


def linked(address, local):
    """Documents that would fetch `address` or include the file `local`: nobody may come."""
    yield "linked.docx", _linked_docx(f"{address}/a.png")
    yield "linked-file.docx", _linked_docx(f"file://{local}")
    image = '<text:p><draw:frame svg:width="3cm" svg:height="3cm"><draw:image xlink:href="{}"/></draw:frame></text:p>'
    section = '<text:section text:name="s"><text:section-source xlink:href="{}"/><text:p>x</text:p></text:section>'
    for name, target in (("http", f"{address}/b.png"), ("file", f"file://{local}")):
        yield (
            f"linked-{name}.odt",
            m.odt("H", ["Visible"], image.format(target) + section.format(target)),
        )
    yield (
        "webservice.ods",
        m.odf(
            "spreadsheet",
            (
                '<office:spreadsheet><table:table table:name="a"><table:table-row><table:table-cell '
                f'table:formula="of:=WEBSERVICE(&quot;{address}/c&quot;)"/></table:table-row></table:table><table:table table:name="b">'
                f'<table:table-source xlink:href="{address}/d.ods" table:table-name="x"/></table:table></office:spreadsheet>'
            ),
        ),
    )
    page = (
        f'<html><head><link rel="stylesheet" href="{address}/e.css"><style>@import url("{address}/f.css");</style></head>'
        f'<body><p>Visible</p><img src="{address}/g.png"><iframe src="file://{local}"></iframe><script src="{address}/h.js">'
        "</script></body></html>"
    ).encode()
    yield "linked.html", page
    yield (
        "linked.md",
        f'# Visible\n\n![x]({address}/i.png)\n\n<img src="{address}/j.png">\n'.encode(),
    )
    yield (
        "linked.rtf",
        (
            '{\\rtf1{\\field{\\*\\fldinst INCLUDEPICTURE "'
            + f"{address}/k.png"
            + '" }{\\fldrslt x}}'
            "{\\*\\template " + f"{address}/l.dot" + "} Visible\\par}"
        ).encode(),
    )
    macro = (
        '<office:scripts><office:script script:language="ooo:Basic"><ooo:libraries xmlns:ooo="http://openoffice.org/2004/'
        'office"><ooo:library-embedded ooo:name="Standard"><ooo:module ooo:name="M"><ooo:source-code>Sub Main\n Shell("touch '
        f'{local}.macro")\nEnd Sub</ooo:source-code></ooo:module></ooo:library-embedded></ooo:libraries></office:script>'
        '<office:event-listeners><script:event-listener script:language="ooo:script" script:event-name="dom:load" '
        'xlink:href="vnd.sun.star.script:Standard.M.Main?language=Basic&amp;location=document"/></office:event-listeners>'
        "</office:scripts>"
    )
    yield "macro.fodt", m.fodt("<text:p>Visible</text:p>", macro)
