"""PPTX: slides in order, each one a page: title, text by its level, tables, notes."""

from ..blocks import Block, joined_runs
from .docx import R, main_part, parse, relations

P = "{http://schemas.openxmlformats.org/presentationml/2006/main}"
A = "{http://schemas.openxmlformats.org/drawingml/2006/main}"


def slides(container):
    """The parts of the slides, in the order of the presentation, and whether each is hidden."""
    main = main_part(container, "ppt/presentation.xml")
    rels = relations(container, main)
    for item in parse(container.read(main), main).iter(P + "sldId"):
        _, target, external = rels.get(item.get(R + "id"), (None, "", True))
        if not external and target in container.by_name:
            yield target


def read(container, events):
    blocks, count, hidden = [], 0, []
    for count, part in enumerate(slides(container), 1):
        tree = parse(container.read(part), part)
        if tree.get("show") == "0":
            hidden.append(count)
        rels = relations(container, part)
        found = list(_shapes(tree.find(f"{P}cSld/{P}spTree"), rels))
        # What is read first is what stands first; the title leads.
        found.sort(key=lambda item: (not item[0], item[1]))
        for _, _, shape in found:
            blocks += [_on(block, count) for block in shape]
        blocks += [_on(block, count) for block in _notes(container, rels)]
    if hidden:
        names = ", ".join(map(str, hidden[:30]))
        events.warn("hidden_text", f"hidden slides, read all the same: {names}")
    return blocks, count


def _on(block, page):
    block.page = page
    return block


def _position(shape):
    """From the top, then from the left, in steps that forgive a crooked row."""
    offset = shape.find(f"{P}spPr/{A}xfrm/{A}off")
    if offset is None:
        offset = shape.find(f"{P}xfrm/{A}off")
    if offset is None:
        offset = shape.find(f"{P}grpSpPr/{A}xfrm/{A}off")
    if offset is None:
        return 0, 0
    return int(offset.get("y") or 0) // 300_000, int(offset.get("x") or 0)


def _shapes(tree, rels):
    if tree is None:
        return
    for shape in tree:
        if shape.tag == P + "grpSp":
            inner = sorted(_shapes(shape, rels), key=lambda item: (not item[0], item[1]))
            flat = [block for _, _, blocks in inner for block in blocks]
            yield any(item[0] for item in inner), _position(shape), flat
        elif shape.tag == P + "sp":
            holder = shape.find(f"{P}nvSpPr/{P}nvPr/{P}ph")
            kind = holder.get("type") if holder is not None else None
            if kind in ("sldNum", "dt", "ftr", "hdr"):
                continue
            title = kind in ("title", "ctrTitle")
            body = shape.find(P + "txBody")
            if body is not None:
                listed = (
                    holder is not None
                    and kind in (None, "body", "obj")
                    and len(body.findall(A + "p")) > 1
                )
                yield title, _position(shape), list(_text(body, rels, title, listed))
        elif shape.tag == P + "graphicFrame":
            for table in shape.iter(A + "tbl"):
                yield False, _position(shape), [_table(table)]


def _text(body, rels, title, listed):
    if title:
        lines = [_runs(paragraph, rels) for paragraph in body.iter(A + "p")]
        plain = " ".join(" ".join(line[0].split()) for line in lines if line[0].strip())
        if plain:
            yield Block("heading", plain, level=1)
        return
    numbers = {}
    for paragraph in body.iter(A + "p"):
        plain, inline = _runs(paragraph, rels)
        if not plain.strip():
            continue
        properties = paragraph.find(A + "pPr")
        level, marked, numbered = 0, listed, False
        if properties is not None:
            level = int(properties.get("lvl") or 0)
            numbered = properties.find(A + "buAutoNum") is not None
            if properties.find(A + "buNone") is not None:
                marked = False
            elif numbered or properties.find(A + "buChar") is not None:
                marked = True
        if not marked:
            yield Block("paragraph", plain.strip(), inline.strip())
            continue
        numbers = {key: value for key, value in numbers.items() if key <= level}
        numbers[level] = numbers.get(level, 0) + 1
        marker = f"{numbers[level]}." if numbered else "•"
        yield Block("list", plain.strip(), inline.strip(), level + 1, marker=marker)


def _runs(paragraph, rels):
    runs = []
    for item in paragraph:
        if item.tag == A + "br":
            runs.append(("\n", False, False, False, None))
        elif item.tag in (A + "r", A + "fld"):
            properties, link = item.find(A + "rPr"), None
            bold = properties is not None and properties.get("b") == "1"
            italic = properties is not None and properties.get("i") == "1"
            click = properties.find(A + "hlinkClick") if properties is not None else None
            if click is not None:
                _, target, external = rels.get(click.get(R + "id"), (None, None, False))
                link = target if external else None
            text = item.find(A + "t")
            if text is not None and text.text:
                runs.append((text.text, bold, italic, False, link))
    return joined_runs(runs)


def _table(table):
    rows = []
    for row in table.iter(A + "tr"):
        cells = []
        for cell in row.findall(A + "tc"):
            if cell.get("hMerge") == "1" or cell.get("vMerge") == "1":
                cells.append("")
                continue
            texts = ["".join(t.text or "" for t in p.iter(A + "t")) for p in cell.iter(A + "p")]
            cells.append("\n".join(text for text in texts if text))
        rows.append(cells)
    properties = table.find(A + "tblPr")
    return Block(
        "table", rows=rows, header=properties is not None and properties.get("firstRow") == "1"
    )


def _notes(container, rels):
    for kind, target, external in rels.values():
        if kind != "notesSlide" or external or target not in container.by_name:
            continue
        tree = parse(container.read(target), target)
        for shape in tree.iter(P + "sp"):
            holder = shape.find(f"{P}nvSpPr/{P}nvPr/{P}ph")
            body = shape.find(P + "txBody")
            if holder is not None and holder.get("type") == "body" and body is not None:
                texts = [_runs(paragraph, {})[0] for paragraph in body.iter(A + "p")]
                text = "\n".join(text for text in texts if text.strip())
                if text:
                    yield Block("paragraph", f"Notes: {text}")
