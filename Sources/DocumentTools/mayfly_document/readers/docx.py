"""DOCX: paragraphs, headings, lists, tables, footnotes; pages where Word has noted them."""

import re

from lxml import etree

from ..blocks import Block, escape, joined_runs
from ..events import Failure

W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
R = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}"
M = "{http://schemas.openxmlformats.org/officeDocument/2006/math}"
MC = "{http://schemas.openxmlformats.org/markup-compatibility/2006}"
_STRICT = b"http://purl.oclc.org/ooxml/"
_TINY_HALF_POINTS = 3


def parse(data, name):
    """A part as a tree: no entities, no network, libxml2's own bounds on depth and size."""
    if _STRICT in data[:4096]:
        for part, old in (
            (b"wordprocessingml/main", b"wordprocessingml/2006/main"),
            (b"officeDocument/relationships", b"officeDocument/2006/relationships"),
            (b"officeDocument/math", b"officeDocument/2006/math"),
            (b"presentationml/main", b"presentationml/2006/main"),
            (b"drawingml/main", b"drawingml/2006/main"),
        ):
            data = data.replace(_STRICT + part, b"http://schemas.openxmlformats.org/" + old)
    parser = etree.XMLParser(
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        huge_tree=False,
        remove_comments=True,
        remove_pis=True,
    )
    try:
        return etree.fromstring(data, parser)
    except etree.XMLSyntaxError as error:
        if "depth" in str(error).lower():
            raise Failure("expansion_limit", f"{name!r} nests XML too deep")
        raise Failure("document_damaged", f"{name!r} is not XML: {error}")


def relations(container, part):
    """Id → (type's last word, target, is external) of a part."""
    folder, _, file = part.rpartition("/")
    name = f"{folder}/_rels/{file}.rels" if folder else f"_rels/{file}.rels"
    if name not in container.by_name:
        return {}
    out = {}
    for item in parse(container.read(name), name):
        kind = (item.get("Type") or "").rsplit("/", 1)[-1]
        target = item.get("Target") or ""
        external = item.get("TargetMode") == "External"
        if not external:
            path = target.lstrip("/") if target.startswith("/") else f"{folder}/{target}"
            parts = []
            for word in path.split("/"):
                if word == "..":
                    parts = parts[:-1]
                elif word not in ("", "."):
                    parts.append(word)
            target = "/".join(parts)
        out[item.get("Id")] = (kind, target, external)
    return out


def main_part(container, fallback):
    for kind, target, external in relations(container, "").values():
        if kind == "officeDocument" and not external and target in container.by_name:
            return target
    if fallback in container.by_name:
        return fallback
    raise Failure("document_damaged", f"the container has no {fallback}")


def _on(element):
    return element is not None and element.get(W + "val") not in ("0", "false", "none", "off")


class Reader:
    def __init__(self, container, events):
        self.container, self.events = container, events
        self.part = main_part(container, "word/document.xml")
        self.rels = relations(container, self.part)
        self.page, self.hidden, self.notes = 1, 0, {}
        self.has_pages = False
        self.styles = self._styles()
        self.numbering = self._numbering()
        self.counters = {}

    def _related(self, kind):
        for word, target, external in self.rels.values():
            if word == kind and not external and target in self.container.by_name:
                return parse(self.container.read(target), target)
        return None

    def _styles(self):
        """Style id → (heading level, hidden, list's (id, level))."""
        tree, raw = self._related("styles"), {}
        if tree is None:
            return {}
        for style in tree.iter(W + "style"):
            name = (
                (style.find(W + "name").get(W + "val") or "")
                if style.find(W + "name") is not None
                else ""
            )
            match = re.fullmatch(r"(?:heading|Heading|Überschrift|Titre|Título)\s*([1-9])", name)
            level = int(match.group(1)) if match else (1 if name in ("Title", "title") else None)
            outline = style.find(f"{W}pPr/{W}outlineLvl")
            if level is None and outline is not None and (outline.get(W + "val") or "9") < "9":
                level = int(outline.get(W + "val")) + 1
            based = style.find(W + "basedOn")
            number = style.find(f"{W}pPr/{W}numPr")
            raw[style.get(W + "styleId")] = [
                level,
                _on(style.find(f"{W}rPr/{W}vanish")),
                self._number(number),
                based.get(W + "val") if based is not None else None,
            ]
        for key in raw:
            seen, at = set(), raw[key][3]
            while at in raw and at not in seen:
                seen.add(at)
                for place in (0, 2):
                    raw[key][place] = (
                        raw[key][place] if raw[key][place] is not None else raw[at][place]
                    )
                at = raw[at][3]
        return raw

    @staticmethod
    def _number(element):
        if element is None:
            return None
        level, number = element.find(W + "ilvl"), element.find(W + "numId")
        if number is None or number.get(W + "val") == "0":
            return None
        return number.get(W + "val"), int(level.get(W + "val") or 0) if level is not None else 0

    def _numbering(self):
        """Number id → level → format."""
        tree = self._related("numbering")
        if tree is None:
            return {}
        abstract = {}
        for item in tree.iter(W + "abstractNum"):
            formats = {}
            for level in item.iter(W + "lvl"):
                kind = level.find(W + "numFmt")
                formats[int(level.get(W + "ilvl") or 0)] = (
                    kind.get(W + "val") if kind is not None else "decimal"
                )
            abstract[item.get(W + "abstractNumId")] = formats
        out = {}
        for item in tree.iter(W + "num"):
            ref = item.find(W + "abstractNumId")
            out[item.get(W + "numId")] = (
                abstract.get(ref.get(W + "val"), {}) if ref is not None else {}
            )
        return out

    def read(self):
        """The blocks of the document, with its foot- and endnotes last."""
        body = parse(self.container.read(self.part), self.part).find(W + "body")
        if body is None:
            raise Failure("document_damaged", "the document has no body")
        blocks = list(self.blocks(body))
        for kind, word in (("footnotes", "footnote"), ("endnotes", "endnote")):
            blocks += self._notes(kind, word)
        if self.hidden:
            self.events.warn("hidden_text", f"{self.hidden} characters are hidden; left out")
        if not self.has_pages:
            for block in blocks:
                block.page = None
        return blocks

    def _notes(self, kind, word):
        wanted = [key for key in self.notes if key[0] == word]
        tree = self._related(kind) if wanted else None
        if tree is None:
            return
        by_id = {item.get(W + "id"): item for item in tree.iter(W + word)}
        for key in wanted:
            item = by_id.get(key[1])
            if item is None:
                continue
            texts = [block for block in self.blocks(item)]
            plain = "\n".join(block.text for block in texts).strip()
            inline = " ".join(block.inline for block in texts).strip()
            mark = self.notes[key]
            yield Block("paragraph", f"[{mark}] {plain}", f"[^{mark}]: {inline}", page=self.page)

    def blocks(self, parent):
        for child in parent:
            tag = child.tag
            if tag == W + "p":
                yield from self._paragraph(child)
            elif tag == W + "tbl":
                rows, header = self._table(child)
                if any(cell for row in rows for cell in row):
                    yield Block("table", rows=rows, header=header, page=self.page)
            elif tag in (W + "sdt", W + "sdtContent", W + "ins", W + "customXml", W + "smartTag"):
                yield from self.blocks(child)
            elif tag == MC + "AlternateContent":
                choice = child.find(MC + "Choice")
                yield from self.blocks(choice if choice is not None else child)

    def _paragraph(self, element):
        properties = element.find(W + "pPr")
        style, level, number = None, None, None
        if properties is not None:
            name = properties.find(W + "pStyle")
            style = self.styles.get(name.get(W + "val")) if name is not None else None
            outline = properties.find(W + "outlineLvl")
            if outline is not None and (outline.get(W + "val") or "9") < "9":
                level = int(outline.get(W + "val")) + 1
            number = self._number(properties.find(W + "numPr"))
            if (
                _on(properties.find(W + "pageBreakBefore"))
                and properties.find(W + "pageBreakBefore") is not None
            ):
                self._new_page()
        if style is not None:
            level = level or style[0]
            number = number or style[2]
        runs, boxes = [], []
        page = None
        for item in self._runs(element, None, boxes, style is not None and style[1]):
            if page is None and item[0].strip():
                page = self.page
            runs.append(item)
        plain, inline = joined_runs(runs)
        page = page or self.page
        if plain.strip():
            yield self._block(plain.strip(), inline.strip(), level, number, page)
        for box in boxes:
            yield from self.blocks(box)

    def _block(self, plain, inline, level, number, page):
        if level is not None:
            return Block("heading", plain, escape(plain) if "**" in inline else inline, level, page)
        if number is not None:
            key, depth = number
            kind = self.numbering.get(key, {}).get(depth, "bullet")
            marker = "•"
            if kind not in ("bullet", "none"):
                for deeper in [k for k in self.counters if k[0] == key and k[1] > depth]:
                    del self.counters[deeper]
                self.counters[(key, depth)] = self.counters.get((key, depth), 0) + 1
                marker = f"{self.counters[(key, depth)]}."
            return Block("list", plain, inline, depth + 1, page, marker=marker)
        return Block("paragraph", plain, inline, page=page)

    def _new_page(self):
        self.page += 1
        self.has_pages = True

    def _runs(self, parent, link, boxes, hidden):
        for child in parent:
            tag = child.tag
            if tag == W + "r":
                yield from self._run(child, link, boxes, hidden)
            elif tag == W + "hyperlink":
                target = self.rels.get(child.get(R + "id"), (None, None, False))
                yield from self._runs(child, target[1] if target[2] else link, boxes, hidden)
            elif tag in (
                W + "ins",
                W + "smartTag",
                W + "sdt",
                W + "sdtContent",
                W + "fldSimple",
                W + "moveTo",
                W + "customXml",
                W + "dir",
                W + "bdo",
            ):
                yield from self._runs(child, link, boxes, hidden)
            elif tag == MC + "AlternateContent":
                choice = child.find(MC + "Choice")
                yield from self._runs(choice if choice is not None else child, link, boxes, hidden)
            elif tag in (M + "oMath", M + "oMathPara"):
                yield (
                    "".join(t.text or "" for t in child.iter(M + "t")),
                    False,
                    False,
                    False,
                    None,
                )

    def _run(self, run, link, boxes, hidden):
        properties = run.find(W + "rPr")
        bold = italic = struck = False
        if properties is not None:
            bold, italic = _on(properties.find(W + "b")), _on(properties.find(W + "i"))
            struck = _on(properties.find(W + "strike"))
            hidden = _on(properties.find(W + "vanish")) or hidden or self._unseen(properties)
        for child in run:
            tag, text = child.tag, ""
            if tag == W + "t":
                text = child.text or ""
            elif tag == W + "tab" or tag == W + "ptab":
                text = "\t"
            elif tag == W + "noBreakHyphen":
                text = "-"
            elif tag == W + "sym":
                text = chr(int(child.get(W + "char") or "20", 16) & 0xFFFF)
            elif tag == W + "lastRenderedPageBreak":
                self._new_page()
            elif tag in (W + "br", W + "cr"):
                if child.get(W + "type") == "page":
                    # Word notes the same break once more on the next run.
                    self.has_pages = True
                    if not self._rendered(run):
                        self._new_page()
                else:
                    text = "\n"
            elif tag in (W + "footnoteReference", W + "endnoteReference"):
                key = (tag[len(W) : -len("Reference")], child.get(W + "id"))
                mark = self.notes.setdefault(key, len(self.notes) + 1)
                yield (f"[^{mark}]", False, False, False, "footnote")
            elif tag in (W + "drawing", W + "pict", W + "object", MC + "AlternateContent"):
                source = child.find(MC + "Choice") if tag == MC + "AlternateContent" else child
                if source is not None:
                    boxes.extend(source.iter(W + "txbxContent"))
            if text and hidden:
                self.hidden += len(text)
            elif text:
                yield (text, bold, italic, struck, link)

    def _rendered(self, run):
        """Whether the renderer's own mark follows this break, and counts for it."""
        following = run.getparent().getnext()
        return (
            following is not None
            and next(following.iter(W + "lastRenderedPageBreak"), None) is not None
        )

    @staticmethod
    def _unseen(properties):
        size, color = properties.find(W + "sz"), properties.find(W + "color")
        if size is not None and (size.get(W + "val") or "").isdigit():
            if int(size.get(W + "val")) <= _TINY_HALF_POINTS:
                return True
        if color is not None and (color.get(W + "val") or "").upper() == "FFFFFF":
            return properties.find(W + "shd") is None and properties.find(W + "highlight") is None
        return False

    def _table(self, element):
        rows = []
        header = False
        look = element.find(f"{W}tblPr/{W}tblLook")
        if look is not None:
            value = look.get(W + "val") or "0"
            header = look.get(W + "firstRow") == "1" or bool(int(value, 16) & 0x20)
        for row in element.iter(W + "tr"):
            if next(row.iterancestors(W + "tbl")) is not element:
                continue
            header = header or (not rows and row.find(f"{W}trPr/{W}tblHeader") is not None)
            rows.append(self._cells(row))
        width = max((len(row) for row in rows), default=0)
        return [row + [""] * (width - len(row)) for row in rows], header

    def _cells(self, row):
        cells = []
        for cell in row.iter(W + "tc"):
            if next(cell.iterancestors(W + "tr")) is not row:
                continue
            span, merge = cell.find(f"{W}tcPr/{W}gridSpan"), cell.find(f"{W}tcPr/{W}vMerge")
            texts = []
            for block in self.blocks(cell):
                texts.append(
                    "\n".join(" ".join(map(str, r)) for r in block.rows)
                    if block.type == "table"
                    else block.text
                )
            continued = merge is not None and merge.get(W + "val") != "restart"
            cells.append("" if continued else "\n".join(texts))
            width = int(span.get(W + "val") or 1) if span is not None else 1
            cells.extend([""] * min(width - 1, 100))
        return cells


def read(container, events):
    return Reader(container, events).read()
