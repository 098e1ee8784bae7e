"""HTML, Markdown, EPUB and plain text as blocks, and Markdown as HTML; nothing is fetched or run."""

import re
from urllib.parse import unquote

from lxml import etree, html

from ..blocks import Block, escape, joined_runs
from ..events import Failure
from .docx import parse

_SKIPPED = frozenset(
    "script style noscript template head iframe object embed svg math select".split()
)
_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_BLOCKS = frozenset(
    """address article aside blockquote body center dd details dialog div dl dt fieldset figcaption
    figure footer form header hgroup hr html legend li main nav ol p pre section summary table ul
    h1 h2 h3 h4 h5 h6""".split()
)
_HIDDEN = re.compile(
    r"display\s*:\s*none|visibility\s*:\s*hidden|font-size\s*:\s*0(?:\D|$)|opacity\s*:\s*0(?:\.0+)?\s*(?:;|$)",
    re.I,
)
_SPACE = re.compile(r"[ \t\r\n\f]+")


class Reader:
    """Walks a tree once; text between blocks becomes paragraphs."""

    def __init__(self, events=None, resolve=None):
        self.events, self.hidden, self.runs, self.out = events, 0, [], []
        self.resolve = resolve or (lambda link: link)

    def read(self, root):
        self.block(root, 0)
        self.flush()
        if self.hidden and self.events is not None:
            self.events.warn(
                "hidden_text", f"{self.hidden} characters are hidden by style; left out"
            )
        return self.out

    def flush(self, type="paragraph", level=None, marker=None):
        runs, self.runs = self.runs, []
        plain, inline = joined_runs(_tidied(runs))
        if plain.strip():
            self.out.append(Block(type, plain.strip(), inline.strip(), level, marker=marker))
            return True
        return False

    def block(self, element, depth):
        self.text(element.text, ())
        for child in element:
            self.child(child, depth, ())
            self.text(child.tail, ())

    def child(self, child, depth, marks):
        tag = child.tag if isinstance(child.tag, str) else None
        tag = tag.rsplit("}", 1)[-1].lower() if tag else None
        if tag is None or tag in _SKIPPED:
            return
        if self._is_hidden(child):
            return
        if tag in _BLOCKS:
            self.flush()
            self._block(child, tag, depth)
        else:
            self._inline(child, tag, depth, marks)

    def _is_hidden(self, element):
        style = element.get("style")
        if element.get("hidden") is not None or (style and _HIDDEN.search(style)):
            self.hidden += len("".join(element.itertext()).strip())
            return True
        return False

    def _block(self, element, tag, depth):
        if tag in _HEADINGS:
            self.block(element, depth)
            self.flush("heading", _HEADINGS[tag])
        elif tag in ("ul", "ol"):
            self._list(element, tag == "ol", depth + 1)
        elif tag == "table":
            self._table(element)
        elif tag == "pre":
            text = "".join(element.itertext()).strip("\n")
            if text:
                self.out.append(Block("code", text))
        elif tag == "hr":
            pass
        elif tag == "blockquote":
            start = len(self.out)
            self.block(element, depth)
            self.flush()
            for item in self.out[start:]:
                if item.type == "paragraph":
                    item.inline = "> " + item.inline.replace("\n", "\n> ")
                    item.type = "quote"
        else:
            self.block(element, depth)
            self.flush()

    def _list(self, element, ordered, depth):
        number = int(element.get("start") or 1) if (element.get("start") or "1").isdigit() else 1
        for item in element:
            tag = item.tag.rsplit("}", 1)[-1].lower() if isinstance(item.tag, str) else ""
            if tag in ("ul", "ol"):
                self._list(item, tag == "ol", depth + 1)
                continue
            if tag != "li" or self._is_hidden(item):
                continue
            marker = f"{number}." if ordered else "•"
            number += 1
            start = len(self.out)
            self.block(item, depth)
            self.flush()
            for index, block in enumerate(self.out[start:]):
                # The item's own first paragraph; what follows stands as it is.
                if index == 0 and block.type == "paragraph":
                    block.type, block.level, block.marker = "list", depth, marker

    def _table(self, element):
        rows, header = [], False
        spans = {}
        for row in element.iter("tr", "{*}tr"):
            table = next(row.iterancestors("table", "{*}table"), None)
            if table is not element or self._is_hidden(row):
                continue
            cells, column = [], 0
            for cell in row:
                tag = cell.tag.rsplit("}", 1)[-1].lower() if isinstance(cell.tag, str) else ""
                if tag not in ("td", "th"):
                    continue
                while spans.get(column, 0) > 0:
                    spans[column] -= 1
                    cells.append("")
                    column += 1
                header = header or (not rows and tag == "th")
                cells.append(self._cell(cell))
                wide, high = _number(cell.get("colspan")), _number(cell.get("rowspan"))
                for extra in range(wide):
                    if high > 1:
                        spans[column + extra] = high - 1
                    if extra:
                        cells.append("")
                column += wide
            if cells:
                rows.append(cells)
        if rows and any(cell for row in rows for cell in row):
            width = max(len(row) for row in rows)
            self.out.append(
                Block(
                    "table", rows=[row + [""] * (width - len(row)) for row in rows], header=header
                )
            )

    def _cell(self, cell):
        reader = Reader(None, self.resolve)
        parts = []
        for block in reader.read(cell):
            parts.append(
                "\n".join(" ".join(map(str, row)) for row in block.rows)
                if block.type == "table"
                else block.text
            )
        return "\n".join(parts)

    def _inline(self, element, tag, depth, marks):
        if tag == "br":
            self.runs.append(("\n", False, False, False, None, False))
            return
        if tag == "img":
            alt = (element.get("alt") or "").strip()
            if alt:
                self.text(alt, marks)
            return
        if tag in ("b", "strong"):
            marks = (*marks, "bold")
        elif tag in ("i", "em", "cite"):
            marks = (*marks, "italic")
        elif tag in ("s", "del", "strike"):
            marks = (*marks, "struck")
        elif tag in ("code", "kbd", "samp", "tt"):
            marks = (*marks, "code")
        elif tag == "a" and element.get("href"):
            link = self.resolve(element.get("href").strip())
            if re.match(r"(https?|mailto|ftp):", link, re.I):
                marks = (*marks, f"link:{link}")
        self.text(element.text, marks)
        for child in element:
            self.child(child, depth, marks)
            self.text(child.tail, marks)

    def text(self, text, marks):
        if text:
            link = next((mark[5:] for mark in marks if mark.startswith("link:")), None)
            self.runs.append(
                (
                    _SPACE.sub(" ", text),
                    "bold" in marks,
                    "italic" in marks,
                    "struck" in marks,
                    link,
                    "code" in marks,
                )
            )


def _number(text):
    return min(int(text), 100) if text and text.isdigit() and int(text) else 1


def _tidied(runs):
    """White space as a browser shows it: one space between, none at a line's ends."""
    out, space = [], True
    for text, *marks in runs:
        if text == "\n":
            if out:
                out[-1] = (out[-1][0].rstrip(" "), *out[-1][1:])
            space = True
        else:
            text = text.lstrip(" ") if space else text
            space = text.endswith(" ") if text else space
        if text:
            out.append((text, *marks))
    return out


def _tree(text):
    text = re.sub(r"^\s*<\?xml[^>]*\?>", "", text).replace("\0", "")
    parser = html.HTMLParser(
        encoding="utf-8", huge_tree=False, remove_comments=True, remove_pis=True
    )
    try:
        return html.document_fromstring(text.encode("utf-8", "replace"), parser=parser)
    except etree.ParserError:
        return None


def read_html(text, events):
    root = _tree(text)
    if root is None:
        return []
    body = root.find("body")
    return Reader(events).read(body if body is not None else root)


def html_title(text):
    root = _tree(text)
    found = root.find(".//title") if root is not None else None
    return " ".join((found.text or "").split()) if found is not None else None


def _markdown_parser():
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])


def read_markdown(text, events):
    text = re.sub(r"\A---\n.*?\n(?:---|\.\.\.)\n", "", text, flags=re.S)
    return read_html(_markdown_parser().render(text), events)


def inline_runs(inline):
    """Inline Markdown as (text, bold, italic, struck, link, code)."""
    marks, link, out = {"strong": 0, "em": 0, "s": 0}, None, []
    tokens = _markdown_parser().parseInline(inline)
    for token in tokens[0].children or [] if tokens else []:
        if token.type in ("text", "code_inline"):
            out.append(
                (
                    token.content,
                    marks["strong"] > 0,
                    marks["em"] > 0,
                    marks["s"] > 0,
                    link,
                    token.type == "code_inline",
                )
            )
        elif token.type in ("softbreak", "hardbreak"):
            out.append(("\n", False, False, False, None, False))
        elif token.type == "link_open":
            link = token.attrGet("href")
        elif token.type == "link_close":
            link = None
        elif token.tag in marks:
            marks[token.tag] += token.nesting
        elif token.content:
            out.append((token.content, False, False, False, link, False))
    return out


def to_html(markdown, events):
    """Markdown as a page by itself: only what an allow-list lets through."""
    import nh3

    rendered = _markdown_parser().render(markdown)
    clean = nh3.clean(rendered, link_rel=None)
    if re.search(r"<(script|iframe|object|embed|form)\b", rendered, re.I):
        events.warn("active_content_removed", "scripts and frames are not in the output")
    return (
        f'<!DOCTYPE html>\n<html><head><meta charset="utf-8"></head><body>\n{clean}</body></html>\n'
    )


def read_plain(text):
    """Paragraphs parted by empty lines; nothing in a plain text is markup."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\0", "")
    out = []
    for part in re.split(r"\n[ \t]*\n+", text):
        part = part.strip("\n")
        if part.strip():
            out.append(Block("paragraph", part, escape(part)))
    return out


def read_epub(container, events):
    """The spine's documents in order; each one is a page."""
    path, package = _package(container)
    folder = path.rpartition("/")[0]
    names = {}
    for item in package.iter("{*}item"):
        if item.get("id") and item.get("href"):
            target = unquote(item.get("href").split("#")[0])
            names[item.get("id")] = f"{folder}/{target}" if folder else target
    out, number = [], 0
    for item in package.iter("{*}itemref"):
        name = names.get(item.get("idref"))
        if name is None or name not in container.by_name:
            continue
        number += 1
        text = container.read(name).decode("utf-8", "replace")
        for block in read_html(text, events):
            block.page = number
            out.append(block)
    return out, number


def _package(container):
    name = "META-INF/container.xml"
    if name not in container.by_name:
        raise Failure("document_damaged", "the EPUB has no META-INF/container.xml")
    found = next(parse(container.read(name), name).iter("{*}rootfile"), None)
    path = found.get("full-path") if found is not None else None
    if path not in container.by_name:
        raise Failure("document_damaged", "the EPUB names no package")
    return path, parse(container.read(path), path)


def epub_metadata(container):
    _, package = _package(container)
    out = {}
    for key, tag in (
        ("title", "title"),
        ("author", "creator"),
        ("language", "language"),
        ("created", "date"),
    ):
        found = next(package.iter("{http://purl.org/dc/elements/1.1/}" + tag), None)
        if found is not None and found.text:
            out[key] = found.text.strip()
    return out
