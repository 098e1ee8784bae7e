"""Waiting for a page: for what the job names, or for a load and then some quiet."""

import asyncio
import time

from playwright.async_api import Error, TimeoutError

from . import targets

UNLOADED = "the page has not finished loading; what is there is returned"


async def quiet(session, seconds, idle=0.5, since=0.0):
    """No request for `idle` seconds after `since`, or `seconds` are over: pages that never rest are
    usual."""
    end = time.monotonic() + seconds
    network = session.network
    while time.monotonic() < end:
        still = time.monotonic() - max(network.last_change, since)
        if network.is_quiet and still >= idle:
            return True
        await asyncio.sleep(0.05 if still >= idle else max(0.02, min(idle - still, 0.1)))
    return False


async def usual(session):
    """After a navigation or an action that names nothing to wait for."""
    page, limits = session.page, session.limits
    # What was set off shows itself: a request, a window, a dialog.
    await asyncio.sleep(limits.time(0.05))
    try:
        await page.wait_for_load_state("load", timeout=session.milliseconds(limits.quiet_seconds))
    except TimeoutError:
        session.warn("wait_lapsed", UNLOADED)
        return
    # A page of the payload's own that asks for nothing need not be waited for.
    if session.network.count:
        await quiet(session, session.bounded(limits.quiet_seconds))


async def wait(session, given):
    """What `wait` asks for, one after the other. True when all came."""
    page = session.page
    seconds = given.get("timeout_ms", 15_000) / 1000
    deadline = session.deadline(seconds)

    def left():
        return max(1.0, (deadline - time.monotonic()) * 1000)

    lapsed = []

    async def one(what, awaitable):
        try:
            await asyncio.wait_for(awaitable, left() / 1000 + 1)
        except (TimeoutError, asyncio.TimeoutError):
            lapsed.append(what)
        except Error as error:
            lapsed.append(f"{what}: {str(error).splitlines()[0][:200]}")

    if "state" in given:
        await one(
            f"state {given['state']}", page.wait_for_load_state(given["state"], timeout=left())
        )
    if "url" in given:
        await one(f"url {given['url']!r}", page.wait_for_url(given["url"], timeout=left()))
    for key, state in (("selector", "visible"), ("gone", "hidden")):
        if key in given:
            found = targets.locator(page, given[key]).first
            await one(f"{key} {given[key]!r}", found.wait_for(state=state, timeout=left()))
    if "text" in given:
        found = page.get_by_text(given["text"]).first
        await one(f"text {given['text']!r}", found.wait_for(state="visible", timeout=left()))
    if "js" in given:
        await one("js", page.wait_for_function(given["js"], timeout=left()))
    if "idle" in given:
        idle = given["idle"] / 1000
        # Before its scripts have run, a page is quiet because it has not begun; one whose load never
        # comes is not waited for so long.
        try:
            patience = min(left() / 2, session.milliseconds(session.limits.quiet_seconds))
            await page.wait_for_load_state("load", timeout=patience)
        except (TimeoutError, Error):
            pass
        since = session.loaded.get(page, 0.0)
        if not await quiet(session, left() / 1000, idle, since):
            lapsed.append(f"idle {given['idle']} ms")
    if "ms" in given:
        await asyncio.sleep(min(given["ms"] / 1000, left() / 1000))
    for what in lapsed:
        session.warn("wait_lapsed", f"after {seconds:g} s still without {what}")
    return not lapsed
