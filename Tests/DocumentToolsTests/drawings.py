"""Writers of PDF and PNG, from the standard library only."""

import struct
import zlib


class Pdf:
    """Pages of Helvetica text and rules; y counts from the bottom, as in PDF."""

    def __init__(self, width=612, height=792):
        self.width, self.height, self.pages = width, height, []
        self.objects, self.root_extra, self.page_extra, self.info = {}, "", "", ""
        self.page()

    def page(self):
        self.pages.append([])
        return self

    def text(self, x, y, size, text, font="F1", mode=0, color=None):
        shown = (
            text.encode("cp1252", "replace")
            .decode("latin-1")
            .replace("\\", "\\\\")
            .replace("(", "\\(")
            .replace(")", "\\)")
        )
        paint = f"{color} rg " if color else ""
        self.pages[-1].append(
            f"q {paint}BT /{font} {size} Tf {mode} Tr {x} {y} Td ({shown}) Tj ET Q"
        )
        return self

    def lines(self, x, y, size, lines, font="F1", leading=None):
        for line in lines:
            self.text(x, y, size, line, font)
            y -= leading or size * 1.2
        return y

    def rule(self, x0, y0, x1, y1):
        self.pages[-1].append(f"0.7 w {x0} {y0} m {x1} {y1} l S")

    def grid(self, x, y, widths, height, rows, size=10, bold_first=True):
        """A ruled table whose top left corner is at x, y."""
        total = sum(widths)
        for number in range(len(rows) + 1):
            self.rule(x, y - number * height, x + total, y - number * height)
        at = x
        for width in [0] + widths:
            at += width
            self.rule(at, y, at, y - len(rows) * height)
        for r, row in enumerate(rows):
            at = x
            for width, cell in zip(widths, row):
                self.text(
                    at + 4,
                    y - (r + 1) * height + (height - size) / 2 + 2,
                    size,
                    cell,
                    "F2" if bold_first and r == 0 else "F1",
                )
                at += width
        return y - len(rows) * height

    def raw(self, content):
        self.pages[-1].append(content)
        return self

    def data(self, rotate=0, contents=None):
        fonts = " ".join(
            f"/F{n} << /Type /Font /Subtype /Type1 /BaseFont /{name} /Encoding /WinAnsiEncoding >>"
            for n, name in (
                (1, "Helvetica"),
                (2, "Helvetica-Bold"),
                (3, "Courier"),
                (4, "Helvetica-Oblique"),
            )
        )
        objects = {1: f"<< /Type /Catalog /Pages 2 0 R {self.root_extra} >>".encode("latin-1")}
        kids = " ".join(f"{10 + 2 * n} 0 R" for n in range(len(self.pages)))
        objects[2] = f"<< /Type /Pages /Kids [{kids}] /Count {len(self.pages)} >>".encode()
        objects[3] = f"<< /Producer (tests) {self.info} >>".encode("latin-1")
        for n, page in enumerate(self.pages):
            objects[10 + 2 * n] = (
                f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 {self.width} {self.height}] /Rotate {rotate} "
                f"/Resources << /Font << {fonts} >> {self.page_extra} >> /Contents {11 + 2 * n} 0 R >>"
            ).encode("latin-1")
            body = contents or zlib.compress("\n".join(page).encode("latin-1"))
            objects[11 + 2 * n] = (
                b"<< /Length %d /Filter /FlateDecode >>\nstream\n%s\nendstream" % (len(body), body)
            )
        objects.update(self.objects)
        return pdf_file(objects)


def pdf_file(objects):
    out = bytearray(b"%PDF-1.5\n%\xe2\xe3\xcf\xd3\n")
    places = {}
    for number in sorted(objects):
        places[number] = len(out)
        out += b"%d 0 obj\n%s\nendobj\n" % (number, objects[number])
    start, last = len(out), max(objects)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (last + 1)
    for number in range(1, last + 1):
        out += (
            b"%010d 00000 n \n" % places[number] if number in places else b"0000000000 00000 f \n"
        )
    out += b"trailer\n<< /Size %d /Root 1 0 R /Info 3 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (
        last + 1,
        start,
    )
    return bytes(out)


def png(width, height, rows=None):
    """A grey picture; without rows it is white and as small as its size allows."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    if rows is None:
        packer, body = zlib.compressobj(9), b""
        line = b"\0" + b"\xff" * ((width + 7) // 8)
        for _ in range(height):
            body += packer.compress(line)
        body += packer.flush()
        depth = 1
    else:
        body, depth = zlib.compress(b"".join(b"\0" + bytes(row) for row in rows), 6), 8
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0))
        + chunk(b"IDAT", body)
        + chunk(b"IEND", b"")
    )
