"""Archives as lists of their entries; nothing is unpacked to files."""

import gzip
import tarfile
import zlib

from ..blocks import Block
from ..events import Failure


def read(job, path, kind, container):
    """One table: name, size, note."""
    if kind == "zip":
        rows = _zip(container)
    else:
        rows = _tar(path, job.limits, kind == "gz")
    return [Block("table", rows=[["name", "size", "note"]] + rows, header=True)], None


def _zip(container):
    rows = []
    for entry in container.entries:
        note = "unsafe name" if entry.unsafe else "encrypted" if entry.flags & 1 else ""
        if not entry.flags & 1 and entry.method in (0, 8):
            container._check_nested(entry)
        rows.append([entry.name, entry.size, note])
    return rows


class _Counted:
    """A packed stream that ends when it unpacks to more than it may."""

    def __init__(self, file, limit):
        self.file, self.left, self.limit = file, limit, limit

    def read(self, size=-1):
        data = self.file.read(min(size, 1 << 20) if size and size > 0 else 1 << 20)
        self.left -= len(data)
        if self.left < 0:
            raise Failure("expansion_limit", f"the archive unpacks to more than {self.limit} bytes")
        return data


def _tar(path, limits, packed):
    rows = []
    try:
        source = gzip.open(path, "rb") if packed else open(path, "rb")
        with source:
            if packed:
                first = source.read(512)
                source.seek(0)
                if first[257:262] != b"ustar":
                    return [_gzip_row(source, limits)]
            counted = _Counted(source, limits.unpacked)
            with tarfile.open(fileobj=counted, mode="r|", errorlevel=1) as archive:
                for member in archive:
                    if len(rows) >= limits.entries:
                        raise Failure(
                            "expansion_limit", f"more than {limits.entries} entries in the archive"
                        )
                    unsafe = member.name.startswith("/") or ".." in member.name.split("/")
                    note = "unsafe name" if unsafe else "" if member.isfile() else _kind(member)
                    rows.append([member.name, member.size, note])
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        if not rows:
            raise Failure("document_damaged", f"the archive cannot be read: {type(error).__name__}")
    return rows


def _kind(member):
    if member.isdir():
        return "directory"
    return "link" if member.issym() or member.islnk() else "special file"


def _gzip_row(source, limits):
    size, counted = 0, _Counted(source, limits.unpacked)
    while True:
        data = counted.read(1 << 20)
        if not data:
            break
        size += len(data)
    return ["(content)", size, ""]
