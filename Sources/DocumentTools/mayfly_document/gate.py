"""The gate before every parser: what a container says of itself, and what it really unpacks to."""

import io
import re
import struct
import zlib

from .events import Failure

_CENTRAL = struct.Struct("<4s6H3I5H2I")
_LOCAL = struct.Struct("<4s5H3I2H")
_END = struct.Struct("<4s4H2IH")
_END64 = struct.Struct("<4sQ2H2I4Q")
_XML_NAME = re.compile(r"\.(xml|rels|xhtml|html?|opf|ncx|vml)$|^mimetype$", re.I)
_CHUNK = 1 << 18
# Deflate cannot do better than this.
_DEFLATE_BEST = 1032
_FULL_COUNT = 24 << 20


class Entry:
    __slots__ = ("name", "method", "flags", "packed", "size", "offset", "raw_name", "is_link")

    @property
    def unsafe(self):
        """A name that would leave the directory it is unpacked into."""
        name = self.name.replace("\\", "/")
        return (
            name.startswith("/")
            or ".." in name.split("/")
            or "\0" in name
            or re.match(r"[A-Za-z]:", name) is not None
            or self.is_link
        )


class Container:
    """A zip by its central directory: read once, checked, never unpacked to files."""

    def __init__(self, source, limits, depth=0, budget=None):
        self.limits, self.depth = limits, depth
        self.data = _open(source)
        self.budget = budget if budget is not None else [limits.unpacked]
        self.entries = self._directory()
        self.by_name = {entry.name: entry for entry in self.entries}
        self.names = list(self.by_name)
        self._check_sizes()

    def _directory(self):
        data = self.data
        at = data.rfind(b"PK\5\6", max(0, len(data) - (1 << 16) - 22))
        if at < 0 or len(data) - at < 22:
            raise Failure("document_damaged", "the zip container has no directory at its end")
        _, _, _, _, count, size, offset, _ = _END.unpack_from(data, at)
        end = at
        if (count == 0xFFFF or size == 0xFFFFFFFF or offset == 0xFFFFFFFF) and at >= 20:
            place = struct.unpack_from("<4sIQI", data, at - 20)
            if place[0] == b"PK\6\7" and place[2] + 56 <= len(data):
                fields = _END64.unpack_from(data, place[2])
                count, size, offset, end = fields[7], fields[8], fields[9], place[2]
        if count > self.limits.entries:
            raise Failure(
                "expansion_limit",
                f"{count} entries in the container; at most {self.limits.entries}",
            )
        # What stands before the container shifts every offset.
        self.shift = end - size - offset
        at = end - size
        if at < 0 or self.shift < 0:
            raise Failure("document_damaged", "the zip container's directory is out of its file")
        entries = []
        while at + _CENTRAL.size <= end and len(entries) <= self.limits.entries:
            entry, at = self._entry(at)
            entries.append(entry)
        if len(entries) > self.limits.entries:
            raise Failure(
                "expansion_limit", f"more than {self.limits.entries} entries in the container"
            )
        if len(entries) != count:
            raise Failure("document_damaged", "the zip container's directory lies about its length")
        return entries

    def _entry(self, at):
        fields = _CENTRAL.unpack_from(self.data, at)
        if fields[0] != b"PK\1\2":
            raise Failure("document_damaged", "the zip container's directory is damaged")
        entry = Entry()
        name_length, extra_length, comment_length = fields[10:13]
        entry.flags, entry.method = fields[3], fields[4]
        entry.packed, entry.size, entry.offset = fields[8], fields[9], fields[16]
        start = at + _CENTRAL.size
        entry.raw_name = self.data[start : start + name_length]
        encoding = "utf-8" if entry.flags & 0x800 else "cp437"
        entry.name = entry.raw_name.decode(encoding, "replace")
        entry.is_link = (fields[15] >> 28) == 0xA
        extra = self.data[start + name_length : start + name_length + extra_length]
        if 0xFFFFFFFF in (entry.packed, entry.size, entry.offset):
            _zip64(entry, extra)
        entry.offset += self.shift
        return entry, start + name_length + extra_length + comment_length

    def _check_sizes(self):
        limits, end = self.limits, 0
        for entry in sorted(self.entries, key=lambda entry: entry.offset):
            if entry.offset < end:
                raise Failure("expansion_limit", "entries of the container overlap")
            end = entry.offset + _LOCAL.size + len(entry.raw_name) + entry.packed
            if entry.size > limits.ratio_from and entry.size > entry.packed * limits.ratio:
                raise Failure(
                    "expansion_limit",
                    f"{entry.name!r} unpacks {entry.packed} bytes to {entry.size}:"
                    f" more than {limits.ratio}:1",
                )
            if entry.method == 8 and entry.packed > entry.size + entry.size // 100 + 1024:
                raise Failure("expansion_limit", f"{entry.name!r} lies about its size")
        declared = sum(entry.size for entry in self.entries)
        packed = sum(entry.packed for entry in self.entries)
        self.budget[0] -= declared
        if self.budget[0] < 0:
            raise Failure(
                "expansion_limit", f"the container unpacks to more than {limits.unpacked} bytes"
            )
        if declared > limits.ratio_from and declared > packed * limits.ratio:
            raise Failure("expansion_limit", f"the container unpacks more than {limits.ratio}:1")

    def pieces(self, entry):
        """The entry's bytes, counted while they are inflated."""
        fields = (
            _LOCAL.unpack_from(self.data, entry.offset)
            if entry.offset + 30 <= len(self.data)
            else None
        )
        if fields is None or fields[0] != b"PK\3\4":
            raise Failure("document_damaged", f"{entry.name!r} is not where the directory says")
        if entry.flags & 1:
            raise Failure("document_encrypted", f"{entry.name!r} is encrypted in its container")
        start = entry.offset + _LOCAL.size + fields[9] + fields[10]
        view = memoryview(self.data)[start : start + entry.packed]
        if entry.method == 0:
            if entry.packed != entry.size:
                raise Failure("expansion_limit", f"{entry.name!r} lies about its size")
            yield bytes(view)
            return
        if entry.method != 8:
            raise Failure("unsupported_format", f"zip method {entry.method} of {entry.name!r}")
        inflater, seen = zlib.decompressobj(-15), 0
        try:
            piece = inflater.decompress(view, _CHUNK)
            while piece or inflater.unconsumed_tail:
                seen += len(piece)
                if seen > entry.size:
                    raise Failure("expansion_limit", f"{entry.name!r} lies about its size")
                yield piece
                piece = inflater.decompress(inflater.unconsumed_tail, _CHUNK)
        except zlib.error:
            raise Failure("document_damaged", f"{entry.name!r} cannot be unpacked")

    def read(self, name, at_most=None):
        """The bytes of a part; XML is bounded by its own limit."""
        entry = self.by_name[name]
        limit = at_most or (
            self.limits.xml_part if _XML_NAME.search(name) else self.limits.unpacked
        )
        if entry.size > limit:
            raise Failure("expansion_limit", f"{name!r} has {entry.size} bytes; at most {limit}")
        return b"".join(self.pieces(entry))

    def check_office(self, events, with_media):
        """Every part that a parser or converter would see. Answers nothing, or raises the Failure."""
        others = 0
        for entry in self.entries:
            if entry.unsafe:
                raise Failure(
                    "document_damaged", f"the part name {entry.name!r} leaves the container"
                )
            if _XML_NAME.search(entry.name):
                check_xml(entry.name, self.read(entry.name), self.limits, events)
            elif with_media and re.search(
                r"media/|Pictures/|\.(png|jpe?g|gif|tiff?|bmp)$", entry.name, re.I
            ):
                check_image(entry.name, self._head(entry), self.limits)
            else:
                others += entry.packed
                if others <= _FULL_COUNT:
                    self._check_nested(entry)

    def _head(self, entry):
        for piece in self.pieces(entry):
            return piece
        return b""

    def _check_nested(self, entry):
        """A container in the container counts against the same budget, and is opened the same way."""
        first, size = b"", 0
        for piece in self.pieces(entry):
            first = first or piece[:4]
            size += len(piece)
        if first == b"PK\3\4" and size <= self.limits.xml_part:
            self.nested(entry)

    def nested(self, entry):
        if self.depth + 1 > self.limits.nesting:
            raise Failure(
                "expansion_limit", f"containers are nested deeper than {self.limits.nesting}"
            )
        data = b"".join(self.pieces(entry))
        inner = Container(data, self.limits, self.depth + 1, self.budget)
        for part in inner.entries:
            inner._check_nested(part)
        return inner


def _open(source):
    if isinstance(source, bytes):
        return source
    import mmap

    with open(source, "rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _zip64(entry, extra):
    at = 0
    while at + 4 <= len(extra):
        kind, size = struct.unpack_from("<2H", extra, at)
        if kind == 1:
            numbers = [
                int.from_bytes(extra[at + 4 + i : at + 12 + i], "little") for i in range(0, size, 8)
            ]
            for field in ("size", "packed", "offset"):
                if getattr(entry, field) == 0xFFFFFFFF and numbers:
                    setattr(entry, field, numbers.pop(0))
        at += 4 + size


def check_xml(name, data, limits, events):
    """No document type with entities, no absurd depth."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff") or data[:4] in (b"<\0?\0", b"\0<\0?"):
        head = data.decode("utf-16", "replace").encode()
    else:
        head = data
    if b"<!ENTITY" in head:
        raise Failure("expansion_limit", f"{name!r} declares XML entities; none are expanded here")
    if b"<!DOCTYPE" in head and not re.search(r"\.(x?html?|ncx|opf)$", name, re.I):
        events.warn("dtd_present", f"{name!r} has a document type declaration; it is not read")
    if too_deep(data, limits.xml_depth):
        raise Failure("expansion_limit", f"{name!r} nests XML deeper than {limits.xml_depth}")


def too_deep(data, limit):
    """Counts open elements; a cheap test first: depth needs that many tags without an end."""
    if data.count(b"<") <= limit:
        return False
    # Runs of opening tags are what nests; without a long run the parser's own bound is enough.
    run = re.compile(rb"(?:<[A-Za-z_:][^<>]{0,200}(?<!/)>[^<]{0,64}){%d}" % min(limit, 200))
    return run.search(data) is not None


def check_image(name, head, limits):
    """The size that an image declares, before anything decodes it."""
    from PIL import Image

    try:
        Image.MAX_IMAGE_PIXELS = None
        with Image.open(
            io.BytesIO(head), formats=["PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP"]
        ) as image:
            width, height = image.size
    except Exception:
        return None
    if width * height > limits.image_pixels:
        raise Failure(
            "pixel_limit",
            f"{name!r} has {width} × {height} pixels; at most {limits.image_pixels} in all",
        )
    return width, height
