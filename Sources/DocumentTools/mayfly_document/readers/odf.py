"""ODT and ODP: headings, lists, tables, notes; slides are pages, and soft breaks where they are noted."""

from ..blocks import Block, joined_runs
from ..events import Failure
from .docx import parse

T = "{urn:oasis:names:tc:opendocument:xmlns:text:1.0}"
O = "{urn:oasis:names:tc:opendocument:xmlns:office:1.0}"
TB = "{urn:oasis:names:tc:opendocument:xmlns:table:1.0}"
D = "{urn:oasis:names:tc:opendocument:xmlns:drawing:1.0}"
S = "{urn:oasis:names:tc:opendocument:xmlns:style:1.0}"
F = "{urn:oasis:names:tc:opendocument:xmlns:xsl-fo-compatible:1.0}"
PR = "{urn:oasis:names:tc:opendocument:xmlns:presentation:1.0}"
X = "{http://www.w3.org/1999/xlink}"


class Reader:
    def __init__(self, tree, styles_tree, events):
        self.tree, self.events = tree, events
        self.page, self.has_pages, self.hidden, self.notes = 1, False, 0, []
        self.fonts, self.numbered = {}, {}
        for root in (styles_tree, tree):
            if root is not None:
                self._styles(root)

    def _styles(self, root):
        """Style name → (bold, italic, struck, hidden, break before)."""
        for style in root.iter(S + "style"):
            text, paragraph = (
                style.find(S + "text-properties"),
                style.find(S + "paragraph-properties"),
            )
            get = (lambda key: text.get(key)) if text is not None else (lambda key: None)
            struck = get(S + "text-line-through-style") not in (None, "none")
            breaks = paragraph is not None and paragraph.get(F + "break-before") == "page"
            self.fonts[style.get(S + "name")] = (
                get(F + "font-weight") == "bold",
                get(F + "font-style") == "italic",
                struck,
                get(T + "display") == "none" or get(F + "font-size") in ("0pt", "0.1pt", "1pt"),
                breaks,
            )
            parent = style.get(S + "parent-style-name")
            if parent in self.fonts and text is None:
                old = self.fonts[parent]
                self.fonts[style.get(S + "name")] = (*old[:4], breaks or old[4])
        for style in root.iter(T + "list-style"):
            self.numbered[style.get(S + "name")] = {
                int(level.get(T + "level") or 1)
                for level in style.iter(T + "list-level-style-number")
                if level.get(S + "num-format")
            }

    def read_text(self):
        body = self.tree.find(f"{O}body/{O}text")
        if body is None:
            raise Failure("document_damaged", "the document has no text body")
        blocks = list(self.blocks(body, 0, None))
        return self._finish(blocks), None

    def read_slides(self):
        body = self.tree.find(f"{O}body/{O}presentation")
        if body is None:
            raise Failure("document_damaged", "the document has no presentation")
        blocks, count = [], 0
        for count, page in enumerate(body.iter(D + "page"), 1):
            self.page, self.has_pages = count, True
            for frame in page:
                if frame.tag in (PR + "notes",):
                    texts = [b.text for b in self._frame(frame) if b.text]
                    if texts:
                        blocks.append(Block("paragraph", "Notes: " + "\n".join(texts), page=count))
                    continue
                title = frame.get(PR + "class") == "title"
                found = list(self._frame(frame))
                if title:
                    text = " ".join(block.text for block in found).strip()
                    found = [Block("heading", text, level=1, page=count)] if text else []
                blocks += found
        return self._finish(blocks), count

    def _finish(self, blocks):
        if self.hidden:
            self.events.warn("hidden_text", f"{self.hidden} characters are hidden; left out")
        for mark, item in self.notes:
            texts = list(self.blocks(item, 0, None))
            plain = "\n".join(block.text for block in texts)
            inline = " ".join(block.inline for block in texts)
            blocks.append(
                Block("paragraph", f"[{mark}] {plain}", f"[^{mark}]: {inline}", page=self.page)
            )
        if not self.has_pages:
            for block in blocks:
                block.page = None
        return blocks

    def _frame(self, frame):
        if frame.tag == D + "g" or frame.tag == PR + "notes":
            for child in frame:
                yield from self._frame(child)
            return
        if frame.find(D + "text-box") is not None:
            yield from self.blocks(frame.find(D + "text-box"), 0, None)
        for table in frame.findall(TB + "table"):
            yield from self.blocks(frame, 0, None)
            break
        if frame.tag == D + "custom-shape" or frame.find(T + "p") is not None:
            yield from self.blocks(frame, 0, None)

    def blocks(self, parent, depth, style):
        number = 0
        for child in parent:
            tag = child.tag
            if tag == T + "h":
                yield from self._paragraph(
                    child, "heading", int(child.get(T + "outline-level") or 1)
                )
            elif tag == T + "p":
                yield from self._paragraph(child, "paragraph", None)
            elif tag == T + "list":
                yield from self._list(child, depth + 1, child.get(T + "style-name") or style)
            elif tag == TB + "table":
                yield self._table(child)
            elif tag == T + "soft-page-break":
                self._new_page()
            elif tag in (
                T + "section",
                T + "index-body",
                T + "table-of-content",
                O + "annotation-end",
                T + "index-title",
                T + "alphabetical-index",
            ):
                if child.get(T + "display") == "none":
                    self.hidden += len("".join(child.itertext()))
                else:
                    yield from self.blocks(child, depth, style)
            elif tag in (D + "frame", D + "g", D + "custom-shape"):
                yield from self._frame(child)
            number += 1

    def _list(self, element, depth, style):
        numbered = depth in self.numbered.get(style, ())
        number = 0
        for item in element:
            if item.tag not in (T + "list-item", T + "list-header"):
                continue
            number += item.tag == T + "list-item"
            first = True
            for block in self.blocks(item, depth, style):
                if first and block.type == "paragraph":
                    block.type, block.level = "list", depth
                    block.marker = f"{number}." if numbered else "•"
                first = False
                yield block

    def _new_page(self):
        self.page, self.has_pages = self.page + 1, True

    def _paragraph(self, element, type, level):
        font = self.fonts.get(element.get(T + "style-name"), (False,) * 5)
        if font[4]:
            self._new_page()
        page, boxes = self.page, []
        own = (False, False, font[2], font[3]) if type == "heading" else font[:4]
        plain, inline = joined_runs(list(self._runs(element, own, None, boxes)))
        if plain.strip():
            yield Block(type, plain.strip(), inline.strip(), level, page)
        for box in boxes:
            yield from self._frame(box)

    def _runs(self, element, font, link, boxes):
        yield from self._text(element.text, font, link)
        for child in element:
            tag = child.tag
            if tag == T + "span":
                own = self.fonts.get(child.get(T + "style-name"), (False,) * 5)[:4]
                both = tuple(a or b for a, b in zip(font, own))
                yield from self._runs(child, both, link, boxes)
            elif tag == T + "a":
                target = child.get(X + "href") or ""
                target = target if target.startswith(("http:", "https:", "mailto:")) else None
                yield from self._runs(child, font, target, boxes)
            elif tag == T + "s":
                count = child.get(T + "c") or "1"
                yield from self._text(
                    " " * min(int(count) if count.isdigit() else 1, 1000), font, link, True
                )
            elif tag == T + "tab":
                yield ("\t", False, False, False, None)
            elif tag == T + "line-break":
                yield ("\n", False, False, False, None)
            elif tag == T + "soft-page-break":
                self._new_page()
            elif tag == T + "note":
                body = child.find(T + "note-body")
                if body is not None:
                    self.notes.append((len(self.notes) + 1, body))
                    yield (f"[^{len(self.notes)}]", False, False, False, "footnote")
            elif tag in (D + "frame", D + "g", D + "custom-shape"):
                boxes.append(child)
            elif tag not in (O + "annotation", T + "tracked-changes", T + "deletion"):
                if isinstance(tag, str):
                    yield from self._runs(child, font, link, boxes)
            yield from self._text(child.tail, font, link)

    def _text(self, text, font, link, exact=False):
        if not text:
            return
        if not exact:
            text = " ".join(text.split()).join(
                (
                    " " if text[0].isspace() else "",
                    " " if text[-1].isspace() and len(text) > 1 else "",
                )
            )
        if font[3]:
            self.hidden += len(text)
        else:
            yield (text, font[0], font[1], font[2], link)

    def _table(self, table):
        rows = []
        for row in table.iter(TB + "table-row"):
            if next(row.iterancestors(TB + "table")) is not table:
                continue
            cells = []
            for cell in row:
                if cell.tag not in (TB + "table-cell", TB + "covered-table-cell"):
                    continue
                texts = [
                    b.text
                    if b.type != "table"
                    else "\n".join(" ".join(map(str, r)) for r in b.rows)
                    for b in self.blocks(cell, 0, None)
                ]
                times = cell.get(TB + "number-columns-repeated") or "1"
                cells += ["\n".join(texts)] * min(int(times) if times.isdigit() else 1, 100)
            rows.append(cells)
        width = max((len(row) for row in rows), default=0)
        header = table.find(TB + "table-header-rows") is not None
        rows = [row + [""] * (width - len(row)) for row in rows]
        return Block("table", rows=rows, header=header, page=self.page)


def read(container, events, kind):
    if "content.xml" not in container.by_name:
        raise Failure("document_damaged", "the container has no content.xml")
    if b"encryption-data" in (
        container.read("META-INF/manifest.xml")
        if "META-INF/manifest.xml" in container.by_name
        else b""
    ):
        raise Failure("document_encrypted", "the document is encrypted; give its `password`")
    styles = (
        parse(container.read("styles.xml"), "styles.xml")
        if "styles.xml" in container.by_name
        else None
    )
    reader = Reader(parse(container.read("content.xml"), "content.xml"), styles, events)
    return reader.read_slides() if kind == "odp" else reader.read_text()
