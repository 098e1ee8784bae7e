"""XLSX, XLS, ODS and CSV: every sheet a table, cells with their types."""

import csv
import io
import re

from ..blocks import Block, cell_value
from ..events import Failure

_REF = re.compile(rb'<(?:\w+:)?c\b[^>]*?\br="([A-Z]{1,3})(\d{1,7})"')
_EMPTY_FORMULA = re.compile(
    rb"</(?:\w+:)?f>\s*(?:<(?:\w+:)?v\s*/>|<(?:\w+:)?v></|</(?:\w+:)?c>)|<(?:\w+:)?f[^>]*/>\s*</(?:\w+:)?c>"
)


def _column(letters):
    number = 0
    for letter in letters:
        number = number * 26 + letter - 64
    return number


def check_xlsx(container, limits, events):
    """The area that the cells really span: a parser allocates all of it."""
    missing = 0
    for name in container.names:
        if not re.match(r"xl/worksheets/[^/]+\.xml$", name):
            continue
        data = container.read(name)
        columns, rows, count = 0, 0, 0
        low_column, low_row = 1 << 20, 1 << 30
        for letters, digits in _REF.findall(data):
            column, row, count = _column(letters), int(digits), count + 1
            columns, rows = max(columns, column), max(rows, row)
            low_column, low_row = min(low_column, column), min(low_row, row)
        if count > limits.cells:
            raise Failure("expansion_limit", f"{count} cells in {name!r}; at most {limits.cells}")
        area = (columns - low_column + 1) * (rows - low_row + 1) if count else 0
        if area > max(8 * limits.cells, 16):
            raise Failure(
                "expansion_limit",
                f"{count} cells of {name!r} are spread over {columns} × {rows}; at most "
                f"{8 * limits.cells} places",
            )
        missing += len(_EMPTY_FORMULA.findall(data))
    if missing:
        events.warn(
            "formula_values_missing", f"{missing} formulas have no stored value; they are null"
        )


_REPEATED = re.compile(rb"<table:table-row\b([^>]*)>|<table:table-cell\b([^>]*?)(/?)>")
_TIMES = re.compile(rb'number-(?:rows|columns)-repeated="(\d{1,9})"')


def check_ods(container, limits):
    """Rows and cells with content that are repeated: a parser writes out each of them."""
    data = container.read("content.xml") if "content.xml" in container.by_name else b""
    if b"-repeated=" not in data:
        return
    total, times = 0, 1
    for row, cell, closed in _REPEATED.findall(data):
        if cell:
            if b"office:value" in cell or b"calcext:value" in cell or not closed:
                found = _TIMES.search(cell)
                total += times * (int(found.group(1)) if found else 1)
                if total > limits.cells:
                    raise Failure(
                        "expansion_limit", f"more than {limits.cells} cells by repetition"
                    )
        else:
            found = _TIMES.search(row)
            times = int(found.group(1)) if found else 1


def read(path, limits, wanted=None):
    """A heading and a table for each sheet; `page` is the sheet's number."""
    import python_calamine

    try:
        book = python_calamine.CalamineWorkbook.from_path(path)
        sheets = list(zip(book.sheets_metadata, book.sheet_names))
    except Exception as error:
        text = str(error)
        if "password" in text.lower() or "encrypt" in text.lower():
            raise Failure("document_encrypted", "the workbook is encrypted; give its `password`")
        raise Failure("document_damaged", f"the workbook cannot be read: {text[:200]}")
    blocks, hidden, cells = [], [], 0
    for number, (meta, name) in enumerate(sheets, 1):
        if "Visible" not in str(meta.visible):
            hidden.append(name)
        if wanted is not None and number not in wanted:
            continue
        try:
            rows = book.get_sheet_by_name(name).to_python(skip_empty_area=True)
        except Exception:
            # A chart or a macro sheet has no cells.
            rows = []
        rows = [[cell_value(value) if value != "" else None for value in row] for row in rows]
        rows = trimmed(rows)
        cells += sum(len(row) for row in rows)
        if cells > limits.cells:
            raise Failure("expansion_limit", f"more than {limits.cells} cells")
        blocks.append(Block("heading", name, level=2, page=number, sheet=name))
        if rows:
            blocks.append(
                Block("table", rows=rows, header=_has_header(rows), page=number, sheet=name)
            )
    return blocks, len(sheets), hidden


def trimmed(rows):
    """Without the empty rows and columns at the end."""
    while rows and all(value in (None, "") for value in rows[-1]):
        rows.pop()
    width = max(
        (index + 1 for row in rows for index, value in enumerate(row) if value not in (None, "")),
        default=0,
    )
    return [(row + [None] * width)[:width] for row in rows]


def _has_header(rows):
    first = rows[0]
    return len(rows) > 1 and all(isinstance(value, str) and value for value in first)


def read_csv(text, limits):
    """Cells stay text: a formula in a CSV is a text, too."""
    sample = text[: 1 << 16]
    counts = {mark: 0 for mark in ",;\t|"}
    for line in sample.splitlines()[:50]:
        for mark in counts:
            counts[mark] += line.count(mark)
    delimiter = max(counts, key=lambda mark: (counts[mark], mark == ","))
    csv.field_size_limit(1 << 27)
    rows, cells = [], 0
    try:
        for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter):
            cells += len(row)
            if cells > limits.cells:
                raise Failure("expansion_limit", f"more than {limits.cells} cells")
            rows.append(row)
    except csv.Error as error:
        raise Failure("document_damaged", f"the CSV cannot be read: {error}")
    rows = [[value or None for value in row] for row in rows]
    rows = trimmed(rows)
    return [Block("table", rows=rows, header=_has_header(rows), page=1)] if rows else []
