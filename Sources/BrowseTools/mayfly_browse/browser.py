"""The browser, the client that drives it, and the page that waits for a job."""

import asyncio
import os

import greenlet
from playwright._impl.out_of_process import PlaywrightClient
from playwright.async_api import Error
from playwright.async_api._generated import Playwright

HOME = "/var/lib/mayfly-browse"
EXECUTABLE = os.environ.get("MAYFLY_BROWSER", "/usr/lib/chromium/chromium-headless-shell")
PROXY = "http://127.0.0.1:3128"
VIEWPORT = {"width": 1280, "height": 800}

# Whatever the browser would like to do by itself: fetch, report, look up, or go round the proxy.
ARGUMENTS = [
    # The spelling that the headless shell reads.
    "--force-webrtc-ip-handling-policy=disable_non_proxied_udp",
    "--disable-quic",
    "--dns-prefetch-disable",
    # No name is looked up in the guest, whatever a page tries: the proxy does that.
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
    "--js-flags=--max-old-space-size=384",
    "--no-pings",
    "--disable-domain-reliability",
    "--disable-blink-features=WebTransport,DirectSockets",
    "--disable-gpu",
]
# Ours beside those that the client would switch off: the browser reads one such list only.
_FEATURES_OFF = [
    # A renderer kept in reserve would have drawn its random numbers before the snapshot.
    "SpareRendererForSitePerProcess",
    "WebTransport",
    "DirectSockets",
    "Translate",
]
# The client switches these protections of Chromium's off; and shared memory has its own place.
_KEPT = ["--disable-ipc-flooding-protection", "--disable-popup-blocking", "--disable-dev-shm-usage"]
_FEATURES = "--disable-features="

OPTIONS = {
    "accept_downloads": True,
    "locale": "en-US",
    "timezone_id": "UTC",
    "viewport": VIEWPORT,
    "service_workers": "block",
}


async def start_client():
    """Playwright's own program, connected. Its callbacks may be those of its blocking interface:
    a job's script chooses. The loop must run in this greenlet."""
    client = PlaywrightClient(greenlet.getcurrent())
    return Playwright(await client._playwright), client


async def _arguments(playwright):
    """The client's own arguments, of a browser that it cannot start: it says what it tried."""
    try:
        await playwright.chromium.launch(executable_path="/bin/false", chromium_sandbox=True)
    except Error as error:
        words = str(error).split()
        return next((word for word in words if word.startswith(_FEATURES)), _FEATURES)
    raise OSError("/bin/false is a browser")


async def launch(playwright):
    theirs = await _arguments(playwright)
    features = [word for word in theirs.removeprefix(_FEATURES).split(",") if word]
    for name in ("downloads", "artifacts"):
        os.makedirs(os.path.join(HOME, name), exist_ok=True)
    return await playwright.chromium.launch(
        executable_path=EXECUTABLE,
        chromium_sandbox=os.environ.get("MAYFLY_BROWSER_SANDBOX", "yes") == "yes",
        args=ARGUMENTS + [_FEATURES + ",".join(features + _FEATURES_OFF)],
        ignore_default_args=_KEPT + [theirs],
        proxy={"server": PROXY, "bypass": "<-loopback>"},
        downloads_path=os.path.join(HOME, "downloads"),
        timeout=900_000,
    )


class Ready:
    """A context with the usual options, its page, and the sessions that a job needs at once."""

    def __init__(self, context, page, cdp):
        self.context, self.page, self.cdp = context, page, cdp

    @classmethod
    async def make(cls, browser):
        context = await browser.new_context(**OPTIONS)
        page = await context.new_page()
        return cls(context, page, await context.new_cdp_session(page))


async def prime(ready):
    """What a navigation throws away of the client's own is there again after this."""
    page = ready.page
    await page.goto("about:blank")
    await page.inner_text("body")
    await page.evaluate("1")
    await page.title()
    await page.locator("body").count()
    await page.screenshot()
    await asyncio.sleep(0)
