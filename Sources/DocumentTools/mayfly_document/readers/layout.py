"""From the pieces of a page to blocks in reading order: columns, lines, paragraphs, headings, lists."""

import re
import statistics
from collections import Counter

from ..blocks import Block, escape
from .pdf import Piece

_BULLET = re.compile(
    r"^([•◦▪▫●○■□‣⁃–—*\-]|\(?\d{1,3}[.)]|[a-zA-Z][.)]|\(?[ivxIVX]{1,5}[.)])\s+(?=\S)"
)
_SENTENCE_END = re.compile(r"[.!?:。！？؟…]['\"”’)]*$")


class Line:
    __slots__ = ("pieces", "text", "x0", "y0", "x1", "y1", "size", "bold", "mono", "block")

    def __init__(self, pieces):
        rtl = sum(len(p.text) for p in pieces if p.rtl) * 2 > sum(len(p.text) for p in pieces)
        self.pieces = sorted(pieces, key=lambda p: -p.x1 if rtl else p.x0)
        self.text = " ".join(p.text.strip() for p in self.pieces if p.text.strip())
        self.x0, self.x1 = min(p.x0 for p in pieces), max(p.x1 for p in pieces)
        self.y0, self.y1 = min(p.y0 for p in pieces), max(p.y1 for p in pieces)
        sizes = Counter()
        for piece in pieces:
            sizes[round(piece.size, 1)] += len(piece.text)
        self.size = max(sizes.items(), key=lambda item: (item[1], item[0]))[0]
        self.bold = all(p.bold for p in pieces if p.text.strip())
        self.mono = all(p.mono for p in pieces)
        self.block = pieces[0].block


def lines_of(pieces):
    """Pieces that stand beside each other, from top to bottom."""
    rows = []
    for piece in sorted(pieces, key=lambda p: ((p.y0 + p.y1) / 2, p.x0)):
        middle = (piece.y0 + piece.y1) / 2
        for row in rows[-3:]:
            tallest = row[0]
            if (
                piece.block is None
                and tallest.block is None
                and (
                    tallest.y0 <= middle <= tallest.y1
                    and min(tallest.y1, piece.y1) - max(tallest.y0, piece.y0)
                    > 0.5 * min(tallest.y1 - tallest.y0, piece.y1 - piece.y0)
                )
            ):
                row.append(piece)
                break
        else:
            rows.append([piece])
    return [Line(row) for row in rows]


class Statistics:
    """Of a document: the size of its text and the sizes of its headings."""

    def __init__(self, pages):
        sizes = Counter()
        for page in pages:
            for piece in page.pieces:
                sizes[round(piece.size * 2) / 2] += len(piece.text)
        self.body = sizes.most_common(1)[0][0] if sizes else 10
        self.levels = sorted((s for s in sizes if s >= self.body * 1.14), reverse=True)[:5]

    def level(self, size):
        """1 to 6 for a size that is a heading's, else None."""
        size = round(size * 2) / 2
        if size < self.body * 1.14:
            return None
        return sum(1 for known in self.levels if known > size + 0.25) + 1


def read(page, statistics_, tables, events):
    """The blocks of a page."""
    pieces = [p for p in page.pieces if p.text.strip()]
    for table in tables:
        x0, y0, x1, y1 = table.bbox
        pieces.append(Piece(x0, y0, x1, y1, block=table, text=""))
    doubt = []
    regions = _ordered(pieces, doubt, 0)
    if doubt:
        events.warn("columns_uncertain", "the order of the columns is a guess", page.number)
    blocks = []
    for region in regions:
        blocks += _blocks(region, page, statistics_)
    return blocks + [Block("paragraph", text, page=page.number) for text in page.tilted]


def _ordered(pieces, doubt, depth):
    """Regions in reading order: each one is read line by line."""
    if len(pieces) < 4 or depth > 12:
        return [pieces] if pieces else []
    cut = _gutter(pieces, doubt)
    if cut is None:
        return [pieces]
    at, crossing = cut
    if not crossing:
        left = [p for p in pieces if p.x1 <= at]
        right = [p for p in pieces if p.x1 > at]
        if sum(p.rtl for p in pieces) * 2 > len(pieces):
            left, right = right, left
        return _ordered(left, doubt, depth + 1) + _ordered(right, doubt, depth + 1)
    # What spans both columns parts them into bands.
    spanning = sorted((p for p in pieces if p.x0 < at < p.x1), key=lambda p: p.y0)
    rest = [p for p in pieces if not p.x0 < at < p.x1]
    regions = []
    band = []
    for piece in spanning:
        above = [p for p in rest if (p.y0 + p.y1) / 2 < piece.y0]
        if above:
            regions += [band] if band else []
            band = []
            rest = [p for p in rest if (p.y0 + p.y1) / 2 >= piece.y0]
            regions += _ordered(above, doubt, depth + 1)
        beside = [
            p for p in rest if piece.y0 <= (p.y0 + p.y1) / 2 <= piece.y1 and piece.block is None
        ]
        rest = [p for p in rest if not any(p is b for b in beside)]
        band += [piece] + beside
    if band:
        regions.append(band)
    return regions + _ordered(rest, doubt, depth + 1)


def _gutter(pieces, doubt):
    """An x that parts two columns of text, and whether something spans it; None without one."""
    left, right = min(p.x0 for p in pieces), max(p.x1 for p in pieces)
    width = right - left
    if width < 100:
        return None
    size = (
        statistics.median(p.size for p in pieces if p.block is None)
        if any(p.block is None for p in pieces)
        else 10
    )
    best = None
    step = max(2.0, width / 200)
    at = left + 0.2 * width
    while at < right - 0.2 * width:
        crossing = [p for p in pieces if p.x0 < at < p.x1]
        on_left = [p for p in pieces if p.x1 <= at]
        on_right = [p for p in pieces if p.x0 >= at]
        if len(on_left) >= 3 and len(on_right) >= 3:
            gap = min(p.x0 for p in on_right) - max(p.x1 for p in on_left)
            key = (len(crossing), -gap)
            if gap >= 0.8 * size and (best is None or key < best[0]):
                best = (key, at, crossing, on_left, on_right)
        at += step
    if best is None:
        return None
    _, at, crossing, on_left, on_right = best
    if len(crossing) > 0.4 * min(len(on_left), len(on_right)):
        return None
    verdicts = [_is_text_column(group) for group in (on_left, on_right)]
    if verdicts == [False, False]:
        return None
    if verdicts != [True, True]:
        # One side is prose: a margin note, or a table whose last column is long.
        if sum(len(p.text) for p in pieces) > 400:
            doubt.append(at)
        return None
    return at, bool(crossing)


def _is_text_column(pieces):
    """Lines that fill most of their column, not the short cells of a table."""
    rows = lines_of(pieces)
    if len(rows) < 3:
        return False
    width = max(r.x1 for r in rows) - min(r.x0 for r in rows)
    fill = statistics.median((r.x1 - r.x0) / width for r in rows) if width else 0
    return fill > 0.55 and statistics.mean(len(r.text) for r in rows) >= 15


def _blocks(pieces, page, statistics_):
    lines = lines_of(pieces)
    out, at = [], 0
    gaps = [b.y0 - a.y1 for a, b in zip(lines, lines[1:]) if b.y0 >= a.y0]
    usual = statistics.median(gaps) if gaps else 0
    right = max((line.x1 for line in lines if line.block is None), default=0)
    left = min((line.x0 for line in lines if line.block is None), default=0)
    indents = _indents(lines)
    paragraph = []

    def flush():
        if paragraph:
            out.append(_paragraph(list(paragraph), page, statistics_, indents))
            paragraph.clear()

    while at < len(lines):
        line = lines[at]
        if line.block is not None:
            flush()
            out.append(line.block)
            at += 1
            continue
        rows = _aligned(lines, at)
        if rows:
            flush()
            out.append(_aligned_table(rows, page))
            at += len(rows)
            continue
        if paragraph and _begins(paragraph, line, usual, left, right, statistics_):
            flush()
        paragraph.append(line)
        at += 1
    flush()
    return out


def _indents(lines):
    """The left edges of list items, for their depth."""
    edges = []
    for x in sorted(line.x0 for line in lines if _BULLET.match(line.text)):
        if not edges or x - edges[-1] > 6:
            edges.append(x)
    return edges


def _begins(paragraph, line, usual, left, right, statistics_):
    """Whether a line begins a new paragraph."""
    before, first = paragraph[-1], paragraph[0]
    size = max(before.size, 1)
    if abs(line.size - before.size) > 0.12 * size or line.mono != before.mono:
        return True
    gap = line.y0 - before.y1
    if gap > max(usual, 0) + 0.45 * size:
        return True
    if _BULLET.match(line.text):
        return True
    if before.bold != line.bold and len(before.text) < 100 and (first is before or line.bold):
        return True
    if statistics_.level(line.size) is None and not _BULLET.match(first.text):
        indent = line.x0 - before.x0
        if (
            0.8 * size < indent < 6 * size
            and abs(before.x0 - left) < 2
            and len(paragraph) >= 1
            and (_SENTENCE_END.search(before.text))
        ):
            return True
        if before.x1 < right - 0.25 * (right - left) and _SENTENCE_END.search(before.text):
            return not re.match(r"[a-z]", line.text)
    return False


def joined_texts(lines):
    """The lines of a paragraph as one, words that were hyphenated put together."""
    text = ""
    for part in lines:
        if not text:
            text = part
        elif text.endswith("\u00ad") or (
            re.search(r"[a-zà-ÿ]-$", text) and re.match(r"[a-zà-ÿ]", part)
        ):
            text = text[:-1] + part
        elif re.search(r"[\u3040-\u30ff\u3400-\u9fff\uff00-\uffef]$", text) and re.match(
            r"[\u3001-\u30ff\u3400-\u9fff\uff00-\uffef]", part
        ):
            text += part
        else:
            text += " " + part
    return text.replace("\u00ad", "-")


def _paragraph(lines, page, statistics_, indents):
    box = (
        min(line.x0 for line in lines),
        min(line.y0 for line in lines),
        max(line.x1 for line in lines),
        max(line.y1 for line in lines),
    )
    if all(line.mono for line in lines) and len(lines) > 1:
        return Block("code", _indented(lines), page=page.number, bbox=box)
    text = joined_texts([line.text for line in lines])
    level = statistics_.level(lines[0].size) if len(lines) <= 4 and len(text) <= 250 else None
    bold = all(line.bold for line in lines)
    if level is None and bold and len(text) <= 120 and len(lines) <= 2 and re.search(r"\w", text):
        if not re.search(r"[.,;:]$", text) and lines[0].size >= 0.9 * statistics_.body:
            level = min(len(statistics_.levels) + 1, 6)
    match = _BULLET.match(text)
    if level is not None and re.search(r"\w", text):
        return Block("heading", text, level=level, page=page.number, bbox=box)
    if match and len(text) > match.end():
        depth = sum(1 for edge in indents if edge <= lines[0].x0 + 3) or 1
        mark = match.group(1)
        marker = mark.strip("()").rstrip(".)") + "." if mark.strip("()")[0].isdigit() else mark
        return Block(
            "list", text[match.end() :], level=depth, page=page.number, bbox=box, marker=marker
        )
    inline = escape(text)
    if bold and re.search(r"\w", text):
        inline = f"**{inline}**"
    return Block("paragraph", text, inline, page=page.number, bbox=box)


def _indented(lines):
    left = min(line.x0 for line in lines)
    out = []
    for line in lines:
        width = (line.x1 - line.x0) / max(len(line.text), 1)
        out.append(" " * (round((line.x0 - left) / width) if width else 0) + line.text)
    return "\n".join(out)


def _aligned(lines, at):
    """Lines from here on whose pieces stand in columns: a table without rules. At least three."""
    first = lines[at]
    if first.block is not None or len(first.pieces) < 2:
        return []
    columns = [[p.x0, p.x1] for p in sorted(first.pieces, key=lambda p: p.x0)]
    rows = [first]
    for line in lines[at + 1 :]:
        pieces = sorted(line.pieces, key=lambda p: p.x0)
        if line.block is not None or len(pieces) != len(columns):
            break
        if line.y0 - rows[-1].y1 > 2.5 * line.size:
            break
        fits = all(
            min(column[1], piece.x1) - max(column[0], piece.x0) > 0
            for column, piece in zip(columns, pieces)
        )
        if not fits:
            break
        for column, piece in zip(columns, pieces):
            column[0], column[1] = min(column[0], piece.x0), max(column[1], piece.x1)
        if any(b[0] <= a[1] for a, b in zip(columns, columns[1:])):
            break
        rows.append(line)
    if len(rows) < 3 or statistics.mean(len(p.text) for r in rows for p in r.pieces) > 40:
        return []
    if all(_BULLET.match(row.text) or len(row.pieces[0].text) == 1 for row in rows):
        return []
    return rows


def _aligned_table(rows, page):
    cells = [[p.text.strip() for p in sorted(r.pieces, key=lambda p: p.x0)] for r in rows]
    box = (
        min(r.x0 for r in rows),
        rows[0].y0,
        max(r.x1 for r in rows),
        rows[-1].y1,
    )
    return Block("table", rows=cells, header=rows[0].bold, page=page.number, bbox=box)
