"""Which addresses a page may be sent to. Read as browsers read them: WHATWG's rules, in short."""

import re
from urllib.parse import urlsplit

from .events import Failure

_SPACE = "".join(map(chr, range(33)))


def checked(url):
    """The address as the browser will read it; a Failure for any that is not http or https."""
    # Browsers drop these wherever they stand, and spaces around.
    plain = re.sub(r"[\t\r\n]", "", url.strip(_SPACE))
    scheme = re.match(r"[A-Za-z][A-Za-z0-9+.-]*(?=:)", plain)
    name = scheme.group().lower() if scheme else ""
    if name not in ("http", "https"):
        raise Failure(
            "url_refused",
            f"{plain[:200]!r} is no http or https address; pages come from nowhere else",
        )
    rest = plain[len(name) + 1 :].replace("\\", "/").lstrip("/")
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if "@" in authority:
        raise Failure("url_refused", "the address has a name or password in it; use `auth`")
    try:
        parts = urlsplit(f"{name}://{rest}")
        if not parts.hostname or parts.port == 0:
            raise ValueError
    except ValueError:
        raise Failure("url_refused", f"{plain[:200]!r} has no host") from None
    return f"{name}://{rest}"
