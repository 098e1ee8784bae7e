"""How an element is named: CSS, `text=`, `role=`, `label=`, `xpath=`, or `ref=` of a snapshot."""

from .events import Failure


def locator(scope, name):
    """All that fit; `scope` is a page or a frame's locator."""
    if name.startswith("ref="):
        return scope.locator(f"aria-ref={name[4:]}")
    for prefix, method in (
        ("label=", "get_by_label"),
        ("placeholder=", "get_by_placeholder"),
        ("title=", "get_by_title"),
        ("alt=", "get_by_alt_text"),
        ("testid=", "get_by_test_id"),
    ):
        if name.startswith(prefix):
            return getattr(scope, method)(name[len(prefix) :].strip("\"'"))
    return scope.locator(name)


def scope(page, action):
    frame = action.get("frame")
    return page.frame_locator(frame) if frame else page


async def explained(found, error):
    """Why an element could not be used, in few words."""
    text = str(error)
    first = next((line.strip() for line in text.splitlines() if line.strip()), "")[:300]
    try:
        count = await found.count()
        if count == 0:
            return "nothing on the page fits it"
        if not await found.first.is_visible():
            return f"{count} found, hidden"
    except Exception:
        return first
    for line in text.splitlines():
        if "intercepts pointer events" in line:
            return "covered: " + line.strip(" -")[:300]
        if "not enabled" in line or "is disabled" in line:
            return "it is disabled"
        if "not stable" in line:
            return "it does not stop moving"
        if "detached" in line:
            return "it was removed from the page meanwhile"
    return first


def failure(index, name, target, why):
    return Failure("action_failed", f"action {index} ({name}) on {target!r}: {why}")
