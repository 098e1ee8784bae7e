"""Blocks as a DOCX: for text, pages and messages that become an office document or a PDF."""

import re
from xml.sax.saxutils import escape, quoteattr

from ..blocks import cell_text
from ..samples import container, rels, types

_W = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
_R = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_HEAD = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>'
_BAD = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_RTL = re.compile("[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc]")
_SIZES = {1: 36, 2: 30, 3: 26, 4: 24, 5: 22, 6: 22}


def _styles():
    out = [
        f'{_HEAD}<w:styles xmlns:w="{_W}"><w:docDefaults><w:rPrDefault><w:rPr><w:rFonts '
        'w:ascii="Liberation Sans" w:hAnsi="Liberation Sans" w:cs="Noto Sans" '
        'w:eastAsia="Noto Sans CJK SC"/><w:sz w:val="22"/></w:rPr></w:rPrDefault><w:pPrDefault><w:pPr>'
        '<w:spacing w:after="120"/></w:pPr></w:pPrDefault></w:docDefaults>'
        '<w:style w:type="paragraph" w:default="1" w:styleId="Normal"><w:name w:val="Normal"/></w:style>'
    ]
    for level, size in _SIZES.items():
        out.append(
            f'<w:style w:type="paragraph" w:styleId="Heading{level}"><w:name w:val="heading {level}"/>'
            f'<w:basedOn w:val="Normal"/><w:pPr><w:keepNext/><w:spacing w:before="240"/>'
            f'<w:outlineLvl w:val="{level - 1}"/></w:pPr><w:rPr><w:b/><w:sz w:val="{size}"/></w:rPr></w:style>'
        )
    return "".join(out) + "</w:styles>"


def _numbering():
    def levels(kind):
        out = []
        for level in range(9):
            sign = "•" if kind == "bullet" else f"%{level + 1}."
            out.append(
                f'<w:lvl w:ilvl="{level}"><w:start w:val="1"/><w:numFmt w:val="{kind}"/><w:lvlText '
                f'w:val="{sign}"/><w:pPr><w:ind w:left="{720 * (level + 1)}" w:hanging="360"/></w:pPr></w:lvl>'
            )
        return "".join(out)

    return (
        f'{_HEAD}<w:numbering xmlns:w="{_W}"><w:abstractNum w:abstractNumId="0">{levels("bullet")}'
        f'</w:abstractNum><w:abstractNum w:abstractNumId="1">{levels("decimal")}</w:abstractNum>'
        '<w:num w:numId="1"><w:abstractNumId w:val="0"/></w:num>'
        '<w:num w:numId="2"><w:abstractNumId w:val="1"/></w:num></w:numbering>'
    )


class Writer:
    def __init__(self):
        self.links, self.lists = [], 0

    def runs(self, block):
        """The inline Markdown as runs with their marks."""
        from ..readers.markup import inline_runs

        out = []
        for text, bold, italic, struck, link, code in inline_runs(block.inline):
            marks = ("<w:b/>" if bold else "") + ("<w:i/>" if italic else "")
            marks += "<w:strike/>" if struck else ""
            marks += (
                '<w:rFonts w:ascii="Liberation Mono" w:hAnsi="Liberation Mono"/>' if code else ""
            )
            run = self.run(text, marks)
            if link and re.match(r"(https?|mailto):", link, re.I):
                self.links.append(link)
                run = f'<w:hyperlink r:id="rId{len(self.links) + 2}">{run}</w:hyperlink>'
            out.append(run)
        return "".join(out)

    @staticmethod
    def run(text, marks=""):
        parts = []
        for number, line in enumerate(_BAD.sub("", text).split("\n")):
            parts.append("<w:br/>" if number else "")
            parts.append(f'<w:t xml:space="preserve">{escape(line)}</w:t>')
        rtl = "<w:rtl/>" if _RTL.search(text) else ""
        return f"<w:r><w:rPr>{marks}{rtl}</w:rPr>{''.join(parts)}</w:r>"

    def paragraph(self, block):
        properties, runs = "", ""
        if block.type == "heading":
            properties = f'<w:pStyle w:val="Heading{min(block.level or 1, 6)}"/>'
        elif block.type == "list":
            number = 2 if block.marker and block.marker[0].isdigit() else 1
            level = min((block.level or 1) - 1, 8)
            properties = f'<w:numPr><w:ilvl w:val="{level}"/><w:numId w:val="{number}"/></w:numPr>'
        elif block.type == "code":
            runs = self.run(
                block.text, '<w:rFonts w:ascii="Liberation Mono" w:hAnsi="Liberation Mono"/>'
            )
        if _RTL.search(block.text):
            properties += "<w:bidi/>"
        return f"<w:p><w:pPr>{properties}</w:pPr>{runs or self.runs(block)}</w:p>"

    def table(self, block):
        width = max((len(row) for row in block.rows), default=0)
        border = "".join(
            f'<w:{side} w:val="single" w:sz="4" w:space="0" w:color="808080"/>'
            for side in ("top", "left", "bottom", "right", "insideH", "insideV")
        )
        rows = []
        for number, row in enumerate(block.rows):
            marks = "<w:b/>" if number == 0 and block.header else ""
            cells = "".join(
                f'<w:tc><w:tcPr><w:tcW w:w="{9000 // max(width, 1)}" w:type="dxa"/></w:tcPr><w:p>'
                f"{self.run(cell_text(cell), marks)}</w:p></w:tc>"
                for cell in list(row) + [""] * (width - len(row))
            )
            head = "<w:trPr><w:tblHeader/></w:trPr>" if marks else ""
            rows.append(f"<w:tr>{head}{cells}</w:tr>")
        grid = f'<w:gridCol w:w="{9000 // max(width, 1)}"/>' * width
        look = '<w:tblLook w:val="0020" w:firstRow="1"/>' if block.header else ""
        return (
            f'<w:tbl><w:tblPr><w:tblW w:w="9000" w:type="dxa"/><w:tblBorders>{border}</w:tblBorders>{look}'
            f"</w:tblPr><w:tblGrid>{grid}</w:tblGrid>{''.join(rows)}</w:tbl><w:p/>"
        )


def write(blocks, path):
    """Writes the document; the same blocks give the same bytes."""
    writer = Writer()
    body = "".join(
        writer.table(block) if block.type == "table" and block.rows else writer.paragraph(block)
        for block in blocks
    )
    links = [("hyperlink", quoteattr(link)[1:-1], True) for link in writer.links]
    data = container(
        [
            (
                "[Content_Types].xml",
                types(
                    ("/word/document.xml", "wordprocessingml.document.main"),
                    ("/word/styles.xml", "wordprocessingml.styles"),
                    ("/word/numbering.xml", "wordprocessingml.numbering"),
                ),
            ),
            ("_rels/.rels", rels(("officeDocument", "word/document.xml"))),
            (
                "word/document.xml",
                f'{_HEAD}<w:document xmlns:w="{_W}" xmlns:r="{_R}"><w:body>{body}<w:sectPr><w:pgSz '
                'w:w="11906" w:h="16838"/><w:pgMar w:top="1134" w:right="1134" w:bottom="1134" '
                'w:left="1134"/></w:sectPr></w:body></w:document>',
            ),
            ("word/styles.xml", _styles()),
            ("word/numbering.xml", _numbering()),
            (
                "word/_rels/document.xml.rels",
                rels(("styles", "styles.xml"), ("numbering", "numbering.xml"), *links),
            ),
        ]
    )
    with open(path, "wb") as file:
        file.write(data)
