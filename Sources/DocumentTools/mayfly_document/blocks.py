"""What every reader makes and every operation writes: blocks in reading order."""

import datetime
import math
import re


class Block:
    """A heading, paragraph, list item, table, code or image.

    `text` is plain; `inline` is the same as Markdown. Rows of a table are lists of values."""

    __slots__ = (
        "type",
        "text",
        "inline",
        "level",
        "page",
        "bbox",
        "rows",
        "header",
        "marker",
        "sheet",
    )

    def __init__(
        self,
        type,
        text="",
        inline=None,
        level=None,
        page=None,
        bbox=None,
        rows=None,
        header=False,
        marker=None,
        sheet=None,
    ):
        self.type, self.text, self.level = type, text, level
        self.inline = escape(text) if inline is None else inline
        self.page, self.bbox, self.rows = page, bbox, rows
        self.header, self.marker, self.sheet = header, marker, sheet

    def described(self):
        """As in the result's `blocks`."""
        out = {"page": self.page, "type": "paragraph" if self.type == "quote" else self.type}
        if self.level is not None:
            out["level"] = self.level
        out["text"] = self.text if self.type != "table" else table_text(self.rows)
        if self.bbox is not None:
            out["bbox"] = [round(value, 1) for value in self.bbox]
        return out

    def table(self):
        """As in the result's `tables`."""
        out = {"page": self.page, "header": self.header, "rows": self.rows}
        if self.sheet is not None:
            out["sheet"] = self.sheet
        if self.bbox is not None:
            out["bbox"] = [round(value, 1) for value in self.bbox]
        return out


_SPECIAL = re.compile(r"([\\`*\[\]]|(?<!\w)_|_(?!\w)|<(?=[A-Za-z/!?])|&(?=#?\w+;))")
_LEADING = re.compile(r"^(\s*)(#{1,6}(?=\s)|[-+](?=\s)|>|={3,}|-{3,}|~{3,}|\d+(?=[.)]\s))")


def escape(text):
    """Plain text as inline Markdown: only what would otherwise be read as markup."""
    return _SPECIAL.sub(r"\\\1", text)


def _protected(inline):
    """A paragraph whose first characters would make it something else."""
    match = _LEADING.match(inline)
    if not match:
        return inline
    lead = match.group(2)
    if lead[0].isdigit():
        return f"{match.group(1)}{lead}\\{inline[match.end() :]}"
    return f"{match.group(1)}\\{inline[match.start(2) :]}"


def cell_value(value):
    """A cell as JSON: number, bool, ISO date or text."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            return str(value)
        return int(value) if value.is_integer() and abs(value) < 1 << 53 else value
    if isinstance(value, datetime.datetime):
        midnight = value.time() == datetime.time()
        return value.date().isoformat() if midnight else value.isoformat(timespec="seconds")
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        seconds = value.total_seconds()
        return f"PT{int(seconds)}S" if seconds == int(seconds) else f"PT{seconds}S"
    return str(value)


def cell_text(value):
    if value is None:
        return ""
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    return str(value)


def table_text(rows):
    return "\n".join(
        "\t".join(re.sub(r"\s*\n\s*", " ", cell_text(cell)) for cell in row) for row in rows
    )


def table_markdown(rows):
    """GFM: the first row is the heading, `|` is escaped, a line break in a cell is `<br>`."""
    width = max((len(row) for row in rows), default=0)
    if not width:
        return ""
    lines = []
    for number, row in enumerate(rows):
        cells = [
            re.sub(r"\s*\n\s*", "<br>", escape(cell_text(cell)).replace("|", "\\|").strip())
            for cell in row
        ]
        cells += [""] * (width - len(cells))
        lines.append("| " + " | ".join(cells) + " |")
        if number == 0:
            lines.append("|" + " --- |" * width)
    return "\n".join(lines)


def text(blocks):
    """Plain text: blocks parted by an empty line, items of a list by a line's end."""
    return _joined(blocks, _block_text)


def markdown(blocks):
    return _joined(blocks, _block_markdown)


def _joined(blocks, render):
    parts, before = [], None
    for block in blocks:
        content = render(block)
        if not content.strip():
            continue
        if parts:
            tight = before is not None and before.type == "list" and block.type == "list"
            parts.append("\n" if tight else "\n\n")
        parts.append(content)
        before = block
    return "".join(parts)


def _block_text(block):
    if block.type == "table":
        return table_text(block.rows)
    if block.type == "list":
        mark = block.marker if block.marker else "•"
        return "  " * ((block.level or 1) - 1) + f"{mark} {block.text}"
    return block.text


def _block_markdown(block):
    if block.type == "table":
        return table_markdown(block.rows)
    if block.type == "heading":
        line = re.sub(r"\s*\n\s*", " ", block.inline).strip()
        return "#" * min(block.level or 1, 6) + " " + line if line else ""
    if block.type == "list":
        mark = block.marker if block.marker and block.marker[0].isdigit() else "-"
        indent = "    " * ((block.level or 1) - 1)
        body = block.inline.strip().replace("\n", "\n" + indent + "    ")
        return f"{indent}{mark} {body}" if body else ""
    if block.type == "code":
        fence = "```"
        while fence in block.text:
            fence += "`"
        return f"{fence}\n{block.text}\n{fence}"
    if block.type == "image":
        return f"![{escape(block.text)}]()" if block.text else ""
    if block.type == "quote":
        return block.inline
    return "\n".join(_protected(line) for line in block.inline.split("\n"))


def emphasized(text, bold=False, italic=False, struck=False, link=None, code=False):
    """A run as Markdown; spaces stay outside of the marks, as CommonMark wants them."""
    core = text.strip()
    if not core:
        return text
    before = text[: len(text) - len(text.lstrip())]
    after = text[len(text.rstrip()) :]
    inline = f"`{core}`" if code and "`" not in core else escape(core)
    if italic:
        inline = f"*{inline}*"
    if bold:
        inline = f"**{inline}**"
    if struck:
        inline = f"~~{inline}~~"
    if link:
        target = link.replace(" ", "%20").replace("(", "%28").replace(")", "%29")
        inline = f"[{inline}]({target})"
    return before + inline + after


def joined_runs(runs):
    """Runs of (text, bold, italic, struck, link[, code]) as (plain, Markdown); equal neighbours are one."""
    merged = []
    for run in runs:
        if merged and merged[-1][1:] == run[1:]:
            merged[-1] = (merged[-1][0] + run[0], *run[1:])
        elif run[0]:
            merged.append(run)
    plain = "".join(run[0] for run in merged)
    inline = "".join(
        run[0]
        if run[0].startswith("[^") and run[4] == "footnote"
        else emphasized(run[0], *run[1:4], link=run[4], code=len(run) > 5 and run[5])
        for run in merged
    )
    return plain, inline
