"""Tables by their rules: lines and boxes that are drawn on a page, joined to a grid."""

import ctypes

import pypdfium2.raw as raw

from ..blocks import Block

_MAX_RULES = 4000
_THIN = 2.5
_NEAR = 3.0


def path_rules(item, frame, page):
    """Horizontal and vertical rules of a path, and the boxes that it fills with a colour."""
    bounds = [ctypes.c_float() for _ in range(4)]
    if len(page.horizontal) + len(page.vertical) > _MAX_RULES:
        return
    if not raw.FPDFPageObj_GetBounds(item, *bounds):
        return
    x0, y0, x1, y1 = frame.rect(*(value.value for value in bounds))
    fill, stroke = ctypes.c_int(), ctypes.c_int()
    raw.FPDFPath_GetDrawMode(item, fill, stroke)
    if not (fill.value or stroke.value):
        return
    if x1 - x0 <= _THIN or y1 - y0 <= _THIN:
        _add(page, x0, y0, x1, y1)
        return
    if fill.value:
        colors = [ctypes.c_uint() for _ in range(4)]
        raw.FPDFPageObj_GetFillColor(item, *colors)
        if min(color.value for color in colors[:3]) < 200 and colors[3].value > 60:
            page.fills.append((x0, y0, x1, y1))
    if stroke.value or fill.value:
        _segments(item, frame, page, closed_only=not stroke.value)


def _segments(item, frame, page, closed_only):
    count = raw.FPDFPath_CountSegments(item)
    if count < 2 or count > 2000:
        return
    matrix = raw.FS_MATRIX()
    raw.FPDFPageObj_GetMatrix(item, matrix)
    x, y = ctypes.c_float(), ctypes.c_float()
    first = last = None
    parts = []
    for number in range(count):
        segment = raw.FPDFPath_GetPathSegment(item, number)
        kind = raw.FPDFPathSegment_GetType(segment)
        raw.FPDFPathSegment_GetPoint(segment, x, y)
        point = (
            matrix.a * x.value + matrix.c * y.value + matrix.e,
            matrix.b * x.value + matrix.d * y.value + matrix.f,
        )
        if kind == raw.FPDF_SEGMENT_MOVETO:
            first = point
        elif kind == raw.FPDF_SEGMENT_LINETO and last is not None:
            parts.append((last, point))
        if raw.FPDFPathSegment_GetClose(segment) and first is not None:
            parts.append((point, first))
        last = point
    boxes = [
        frame.rect(min(a[0], b[0]), min(a[1], b[1]), max(a[0], b[0]), max(a[1], b[1]))
        for a, b in parts
    ]
    if closed_only:
        # A filled outline: only thin parts of it are rules, such as a border drawn as a polygon.
        boxes = _thin_parts(boxes)
    for box in boxes:
        if box[2] - box[0] <= _THIN or box[3] - box[1] <= _THIN:
            _add(page, *box)


def _thin_parts(boxes):
    """Edges that run beside another one: the two sides of a rule drawn as an area."""
    out = []
    flat = [b for b in boxes if b[3] - b[1] <= 0.5 and b[2] - b[0] > _THIN]
    tall = [b for b in boxes if b[2] - b[0] <= 0.5 and b[3] - b[1] > _THIN]
    for group, low in ((flat, 1), (tall, 0)):
        for box in group:
            if any(other is not box and abs(other[low] - box[low]) <= _THIN for other in group):
                out.append(box)
    return out


def _add(page, x0, y0, x1, y1):
    if x1 - x0 >= y1 - y0:
        if x1 - x0 > 5:
            page.horizontal.append(((y0 + y1) / 2, x0, x1))
    elif y1 - y0 > 5:
        page.vertical.append(((x0 + x1) / 2, y0, y1))


def _merged(rules):
    """Rules in one line that touch are one rule."""
    out = []
    for at, low, high in sorted(rules):
        for other in reversed(out[-40:]):
            if abs(other[0] - at) <= 1.5 and low <= other[2] + _NEAR and high >= other[1] - _NEAR:
                other[1], other[2] = min(other[1], low), max(other[2], high)
                break
        else:
            out.append([at, low, high])
    return out


def _components(horizontal, vertical):
    """Groups of rules that cross each other."""
    parent = list(range(len(horizontal) + len(vertical)))

    def root(n):
        while parent[n] != n:
            parent[n] = parent[parent[n]]
            n = parent[n]
        return n

    for i, (y, left, right) in enumerate(horizontal):
        for j, (x, top, bottom) in enumerate(vertical):
            if left - _NEAR <= x <= right + _NEAR and top - _NEAR <= y <= bottom + _NEAR:
                parent[root(i)] = root(len(horizontal) + j)
    groups = {}
    for n in range(len(parent)):
        h, v = groups.setdefault(root(n), ([], []))
        if n < len(horizontal):
            h.append(horizontal[n])
        else:
            v.append(vertical[n - len(horizontal)])
    return groups.values()


def _positions(rules):
    out = []
    for at in sorted(rule[0] for rule in rules):
        if not out or at - out[-1] > _NEAR:
            out.append(at)
    return out


def find(page):
    """The page's ruled tables; their text is taken out of the page's pieces."""
    if len(page.horizontal) < 2 or len(page.vertical) < 2:
        return []
    horizontal, vertical = _merged(page.horizontal), _merged(page.vertical)
    if len(horizontal) * len(vertical) > 250_000:
        return []
    tables = []
    for h, v in _components(horizontal, vertical):
        xs, ys = _positions(v), _positions(h)
        if len(xs) < 2 or len(ys) < 2 or (len(xs) - 1) * (len(ys) - 1) < 2:
            continue
        if len(xs) > 200 or len(ys) > 1000:
            continue
        table = _table(page, h, v, xs, ys)
        if table is not None:
            tables.append(table)
    return sorted(tables, key=lambda block: (block.bbox[1], block.bbox[0]))


def _covers(rules, at, point):
    return any(
        abs(rule[0] - at) <= _NEAR and rule[1] - _NEAR <= point <= rule[2] + _NEAR for rule in rules
    )


def _owners(h, v, xs, ys):
    """For each place of the grid, the place whose cell it belongs to."""
    rows, columns = len(ys) - 1, len(xs) - 1
    owner = {}
    for i in range(rows):
        for j in range(columns):
            middle_x, middle_y = (xs[j] + xs[j + 1]) / 2, (ys[i] + ys[i + 1]) / 2
            if j and not _covers(v, xs[j], middle_y):
                owner[i, j] = owner[i, j - 1]
            elif i and not _covers(h, ys[i], middle_x):
                owner[i, j] = owner[i - 1, j]
            else:
                owner[i, j] = (i, j)
    return owner


def _table(page, h, v, xs, ys):
    owner = _owners(h, v, xs, ys)
    if len(set(owner.values())) < 2:
        return None
    cells, kept = {}, []
    for piece in page.pieces:
        x, y = (piece.x0 + piece.x1) / 2, (piece.y0 + piece.y1) / 2
        place = _place(xs, x), _place(ys, y)
        if None in place:
            kept.append(piece)
        else:
            cells.setdefault(owner[place[1], place[0]], []).append(piece)
    if not cells:
        return None
    page.pieces = kept
    rows = [
        [_cell_text(cells.get((i, j), [])) for j in range(len(xs) - 1)] for i in range(len(ys) - 1)
    ]
    rows = [row for row in rows if any(row)]
    filled = [j for j in range(len(xs) - 1) if any(row[j] for row in rows)]
    rows = [[row[j] for j in filled] for row in rows]
    first = [piece for (i, _), group in cells.items() if i == 0 for piece in group]
    header = len(rows) > 1 and bool(first) and all(piece.bold for piece in first)
    return Block(
        "table", rows=rows, header=header, page=page.number, bbox=(xs[0], ys[0], xs[-1], ys[-1])
    )


def _place(edges, at):
    if not edges[0] <= at <= edges[-1]:
        return None
    low, high = 0, len(edges) - 1
    while high - low > 1:
        middle = (low + high) // 2
        if edges[middle] <= at:
            low = middle
        else:
            high = middle
    return low


def _cell_text(pieces):
    from .layout import lines_of

    return "\n".join(line.text for line in lines_of(pieces)).replace("\u00ad\n", "")
