"""Ranges of pages, as `1-3,7`."""

from .events import Failure


def page_numbers(text, count):
    """ "1-3,7" as sorted numbers that exist."""
    if not text:
        return list(range(1, count + 1))
    out = set()
    for part in str(text).split(","):
        first, dash, last = part.strip().partition("-")
        try:
            low = int(first) if first else 1
            high = (int(last) if last else count) if dash else low
        except ValueError:
            raise Failure("page_range", f"{text!r} is no range of pages; write 1-3,7")
        if low < 1 or high < low:
            raise Failure("page_range", f"{text!r} is no range of pages; write 1-3,7")
        out.update(range(low, min(high, count) + 1))
    if not out:
        raise Failure("page_range", f"no page of {text!r} exists: the document has {count}")
    return sorted(out)
