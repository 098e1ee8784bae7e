"""What a job says: JSON lines, with closed lists of warnings and reasons."""

import json
import os

WARNINGS = frozenset(
    """wait_lapsed requests_blocked dialogs_dismissed popups_closed downloads_cancelled
    screenshot_clipped snapshot_truncated certificate_error service_worker_blocked hidden_text
    no_article frames_skipped""".split()
)
REASONS = frozenset(
    """url_refused network_denied navigation_failed redirect_loop http_status action_failed
    wait_failed page_unresponsive page_crashed dialog_storm page_storm download_limit pixel_limit
    out_of_memory timeout invalid_payload""".split()
)


class Failure(Exception):
    """The page's or the request's own fault, in the words of the closed list."""

    def __init__(self, reason, message):
        assert reason in REASONS, reason
        super().__init__(message)
        self.reason, self.message = reason, message


def encode(member, content):
    text = json.dumps({member: content}, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    # A lone surrogate has no UTF-8.
    return text.encode("utf-8", "replace") + b"\n"


def log(text):
    """A line for the operator; never a secret, never what a page says."""
    os.write(2, f"browse: {text}\n".encode("utf-8", "replace"))
