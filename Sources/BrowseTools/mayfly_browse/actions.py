"""What a job does on its page, one action after the other."""

import json
import time

from playwright.async_api import Error, TimeoutError

from . import addresses, targets, waits
from .events import Failure


async def perform(session):
    for index, action in enumerate(session.request.get("actions") or []):
        begin = time.monotonic()
        entry = {"index": index, "ok": True}
        session.navigations = 0
        try:
            await one(session, index, action)
        except Failure as failure:
            entry.update(ok=False, error=failure.message)
            if not action.get("optional") or failure.reason != "action_failed":
                session.note_action(entry, begin)
                raise
        session.note_action(entry, begin)


async def one(session, index, action):
    name = next(key for key in action if key in ACTIONS)
    content = action[name]
    run, has_target = ACTIONS[name]
    if not has_target:
        try:
            return await session.guarded(
                run(session, content, action), _time(session, name, action)
            )
        except TimeoutError as error:
            raise Failure("action_failed", f"action {index} ({name}): {_first(error)}") from None
        except Error as error:
            raise Failure("action_failed", f"action {index} ({name}): {_first(error)}") from None
    target, *rest = content if isinstance(content, list) else [content]
    found = targets.locator(targets.scope(session.page, action), target)
    one_of_them = found.first if name == "upload" else found.filter(visible=True).first
    timeout = session.milliseconds(action.get("timeout_ms", 5000) / 1000)
    try:
        limit = timeout / 1000 / session.limits.time_factor + 2
        await session.guarded(run(session, one_of_them, rest, action, timeout), limit)
    except (TimeoutError, Error) as error:
        why = await session.guarded(targets.explained(found, error))
        raise targets.failure(index, name, target, why) from None
    # What it has set off is given a turn, and a navigation its time.
    await waits.usual(session)


def _time(session, name, action):
    """Seconds that an action without an element may take."""
    limits = session.limits
    if name == "goto":
        return limits.navigation_seconds + limits.quiet_seconds + 2
    if name == "wait":
        return action["wait"].get("timeout_ms", 15_000) / 1000 + 2
    if name in ("screenshot", "snapshot"):
        return limits.call_seconds * 3
    return action.get("timeout_ms", 5000) / 1000 + limits.quiet_seconds


def _first(error):
    return next((line for line in str(error).splitlines() if line.strip()), "")[:500]


async def _click(session, element, rest, action, timeout):
    await element.click(
        timeout=timeout, click_count=action.get("count", 1), button=action.get("button", "left")
    )


async def _type(session, element, rest, action, timeout):
    text = rest[0]
    if action.get("keys"):
        await element.press_sequentially(text, timeout=timeout)
    else:
        await element.fill(text, timeout=timeout)


async def _press(session, content, action):
    if isinstance(content, list):
        target, key = content
        await targets.locator(targets.scope(session.page, action), target).first.press(
            key, timeout=session.milliseconds(action.get("timeout_ms", 5000) / 1000)
        )
    else:
        await session.page.keyboard.press(content)
    await waits.usual(session)


async def _select(session, element, rest, action, timeout):
    values = rest[0] if isinstance(rest[0], list) else [rest[0]]
    try:
        await element.select_option(values, timeout=timeout / 2)
    except TimeoutError:
        await element.select_option(label=values, timeout=timeout / 2)


async def _check(session, element, rest, action, timeout):
    await element.check(timeout=timeout)


async def _uncheck(session, element, rest, action, timeout):
    await element.uncheck(timeout=timeout)


async def _hover(session, element, rest, action, timeout):
    await element.hover(timeout=timeout)


async def _upload(session, element, rest, action, timeout):
    await element.set_input_files([session.input(name) for name in rest], timeout=timeout)


async def _drag(session, element, rest, action, timeout):
    target = targets.locator(targets.scope(session.page, action), rest[0])
    await element.drag_to(target.filter(visible=True).first, timeout=timeout)


async def _scroll(session, content, action):
    page = session.page
    if content == "end":
        await page.evaluate("() => scrollTo(0, document.documentElement.scrollHeight)")
    elif isinstance(content, str):
        found = targets.locator(targets.scope(page, action), content).first
        await found.scroll_into_view_if_needed(timeout=session.milliseconds(5))
    else:
        await page.evaluate("by => scrollBy(0, by)", content)
    await waits.usual(session)


async def _goto(session, content, action):
    await session.navigate(addresses.checked(content))


async def _back(session, content, action):
    for _ in range(content):
        await session.page.go_back(wait_until="commit", timeout=session.milliseconds(10))
    await waits.usual(session)


async def _wait(session, content, action):
    if not await waits.wait(session, content) and content.get("strict"):
        raise Failure("wait_failed", "what an action waits for did not come")


async def _evaluate(session, content, action):
    value = await session.page.evaluate(content)
    session.add_value(value)


async def _screenshot(session, content, action):
    await session.screenshot(content, session.request.get("screenshot") or {})


async def _snapshot(session, content, action):
    session.value.setdefault("snapshots", {})[content] = await session.snapshot()


async def _page(session, content, action):
    session.choose(content)


# The name, what does it, and whether it begins with an element.
ACTIONS = {
    "click": (_click, True),
    "type": (_type, True),
    "select": (_select, True),
    "check": (_check, True),
    "uncheck": (_uncheck, True),
    "hover": (_hover, True),
    "upload": (_upload, True),
    "drag": (_drag, True),
    "press": (_press, False),
    "scroll": (_scroll, False),
    "goto": (_goto, False),
    "back": (_back, False),
    "wait": (_wait, False),
    "evaluate": (_evaluate, False),
    "screenshot": (_screenshot, False),
    "snapshot": (_snapshot, False),
    "page": (_page, False),
}


def as_json(value):
    """The value as JSON text, or None for what JSON cannot say."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return None
