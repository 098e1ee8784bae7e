"""What a job says: JSON lines on one descriptor, with closed lists of warnings and reasons."""

import json
import os

WARNINGS = frozenset(
    """macros_present external_references embedded_files javascript_present launch_action xfa_present
    dtd_present active_content_removed hidden_text fonts_substituted no_text_layer low_confidence
    repaired type_mismatch pages_skipped formula_values_missing columns_uncertain
    screenshot_clipped""".split()
)
REASONS = frozenset(
    """unsupported_format format_mismatch document_damaged document_encrypted wrong_password page_range
    expansion_limit pixel_limit converter_crashed invalid_payload out_of_memory timeout output_limit
    package_unavailable""".split()
)
# The host keeps 4 MiB of events: the pages' own texts take at most this, the value has the rest.
PAGE_TEXT_BYTES = 160 << 10
MAX_WARNINGS = 200


class Failure(Exception):
    """The document's or the request's own fault, in the words of the closed list."""

    def __init__(self, reason, message):
        assert reason in REASONS, reason
        super().__init__(message)
        self.reason, self.message = reason, message


def encode(member, content):
    text = json.dumps({member: content}, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    # A lone surrogate has no UTF-8.
    return text.encode("utf-8", "replace") + b"\n"


class Events:
    """Writes to a descriptor, and remembers what a failed job still returns."""

    def __init__(self, descriptor):
        self.descriptor = descriptor
        self.warnings = []
        self._seen = set()

    def send(self, member, content):
        data = encode(member, content)
        while data:
            data = data[os.write(self.descriptor, data) :]

    def warn(self, code, message, page=None):
        """Once for each code and page, so that a million faults are one line."""
        assert code in WARNINGS, code
        if (code, page) in self._seen or len(self._seen) >= MAX_WARNINGS:
            return
        self._seen.add((code, page))
        self.send("warning", {"code": code, "message": message, "page": page})

    def page(self, content):
        self.send("page", content)

    def progress(self, done, total):
        self.send("progress", {"done": done, "total": total})


def log(text):
    """For the operator; never a password, never the document's content."""
    os.write(2, f"document: {text}\n".encode("utf-8", "replace"))
