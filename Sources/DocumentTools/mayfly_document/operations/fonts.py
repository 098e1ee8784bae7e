"""The fonts that a document names and this machine has not: its lines break elsewhere then."""

import re
import subprocess

_NAMES = re.compile(
    rb'(?:w:font\s+w:name|w:ascii|typeface|svg:font-family|style:font-name|<name\s+val)="([^"]{1,64})"'
)
# What is the same in width under another name, and what stands for no font.
_METRIC = {
    "arial": "liberation sans",
    "times new roman": "liberation serif",
    "calibri": "carlito",
    "courier new": "liberation mono",
    "cambria": "caladea",
    "helvetica": "liberation sans",
    "times": "liberation serif",
    "courier": "liberation mono",
}
_PARTS = re.compile(
    r"^(word/(document|styles|fontTable)\.xml|xl/styles\.xml|ppt/(slides/[^/]+|theme/theme1)\.xml|"
    r"content\.xml|styles\.xml)$"
)
_SYMBOLS = re.compile(
    r"^(symbol|wingdings|webdings|opensymbol|\+m[nj]-|noto |dejavu |open symbol)", re.I
)


def named(container):
    names = set()
    for part in container.names:
        if _PARTS.match(part) and part != "word/fontTable.xml":
            for name in _NAMES.findall(container.read(part)):
                names.add(name.decode("utf-8", "replace").strip("'\" ").split(";")[0])
    return sorted(name for name in names if name and not _SYMBOLS.match(name))


def warn(found, events):
    if found.container is None or not found.container.names:
        return
    missing = []
    for name in named(found.container)[:60]:
        try:
            answer = subprocess.run(
                ["fc-match", "-f", "%{family}", name.replace("-", "\\-").replace(":", "")],
                capture_output=True,
                timeout=60,
                env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
            ).stdout.decode("utf-8", "replace")
        except (OSError, subprocess.TimeoutExpired):
            return
        families = [family.strip().lower() for family in answer.split(",")]
        if name.lower() in families or _METRIC.get(name.lower()) in families:
            continue
        missing.append(f"{name} → {answer.split(',')[0]}")
    if missing:
        events.warn("fonts_substituted", f"not in the image: {'; '.join(missing)[:500]}")
