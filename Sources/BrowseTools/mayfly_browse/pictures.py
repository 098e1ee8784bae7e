"""Pictures and PDFs of a page, within a budget of pixels."""

import base64
import os

from playwright.async_api import Error

from . import targets
from .events import Failure


def name_of(name, kind):
    safe = "".join(c if c.isalnum() or c in "-_" else "_" for c in name)[:60] or "screenshot"
    return f"{safe}.{'jpg' if kind == 'jpeg' else kind}"


async def take(session, name, options, is_last_word=False):
    """A picture of what is seen, of the whole page, or of an element, as a file of the job."""
    kind = options.get("type", "png")
    clip, scale = await _clip(session, options)
    given = {
        "format": kind,
        "captureBeyondViewport": bool(options.get("full_page")) or "selector" in options,
    }
    if kind != "png":
        given["quality"] = options.get("quality", 80)
    if clip:
        clip, was_cut = _within(clip, scale, session.limits, options)
        given["clip"] = {**clip, "scale": 1}
        if was_cut:
            session.warn(
                "screenshot_clipped",
                f"{name}: the picture has the first {clip['height']:.0f} pixels of the page",
            )
    cdp = await session.cdp_of_page()
    answer = await session.guarded(
        cdp.send("Page.captureScreenshot", given), session.limits.call_seconds * 2
    )
    file = name_of(name, kind)
    with open(os.path.join(session.out, file), "wb") as opened:
        opened.write(base64.b64decode(answer["data"]))
    session.value.setdefault("files", []).append(file)


async def _clip(session, options):
    cdp = await session.cdp_of_page()
    metrics = await session.guarded(cdp.send("Page.getLayoutMetrics"))
    view = metrics["cssVisualViewport"]
    scale = (session.request.get("viewport") or {}).get("scale", 1)
    if options.get("selector"):
        found = targets.locator(session.page, options["selector"]).first
        try:
            await session.guarded(found.scroll_into_view_if_needed(timeout=session.milliseconds(3)))
            box = await session.guarded(found.bounding_box(timeout=session.milliseconds(3)))
        except Error as error:
            why = await session.guarded(targets.explained(found, error))
            raise Failure(
                "action_failed", f"screenshot of {options['selector']!r}: {why}"
            ) from None
        if not box:
            raise Failure("action_failed", f"screenshot of {options['selector']!r}: it is hidden")
        metrics = await session.guarded(cdp.send("Page.getLayoutMetrics"))
        view = metrics["cssVisualViewport"]
        box["x"] += view["pageX"]
        box["y"] += view["pageY"]
        return box, scale
    if options.get("full_page"):
        size = metrics["cssContentSize"]
        return {"x": 0, "y": 0, "width": size["width"], "height": size["height"]}, scale
    return None, scale


def _within(clip, scale, limits, options):
    width = min(clip["width"], limits.height / scale)
    height = min(clip["height"], options.get("max_height", limits.height), limits.height / scale)
    if width * height * scale * scale > limits.pixels:
        height = max(1, int(limits.pixels / (width * scale * scale)))
    cut = width < clip["width"] or height < clip["height"]
    if width < 1 or height < 1:
        raise Failure("pixel_limit", "there is nothing to take a picture of")
    return {**clip, "width": width, "height": height}, cut


async def pdf(session, options):
    data = await session.guarded(
        session.page.pdf(
            format=options.get("format", "A4"),
            landscape=options.get("landscape", False),
            print_background=options.get("background", True),
        ),
        session.limits.call_seconds * 3,
    )
    with open(os.path.join(session.out, "page.pdf"), "wb") as file:
        file.write(data)
    session.value.setdefault("files", []).append("page.pdf")
