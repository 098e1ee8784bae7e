"""The process that holds the browser: started before the snapshot, it waits for a machine's job."""

import asyncio
import json
import os
import signal
import subprocess
import sys

from . import browser, content, session, trust
from .events import Failure, encode, log

_PID = os.path.join(browser.HOME, "pid")
SOCKET = os.path.join(browser.HOME, "socket")
_FRESH = (
    "user_agent",
    "locale",
    "timezone",
    "geolocation",
    "javascript",
    "auth",
    "storage",
    "color_scheme",
)
_REQUEST_BYTES = 64 << 20


class Server:
    def __init__(self):
        self.playwright = self.client = self.browser = self.ready = None
        self._crashes = []
        self._last = self._job = None

    async def start(self, driver_is_up=lambda: None):
        self.playwright, self.client = await browser.start_client()
        driver_is_up()
        await self.launch()

    async def launch(self):
        self.browser = await browser.launch(self.playwright)
        whole = await self.browser.new_browser_cdp_session()
        whole.on("Target.targetCrashed", lambda event: self._crashes.append(event))
        whole.on("Target.targetCreated", self._target_created)
        await whole.send("Target.setDiscoverTargets", {"discover": True})
        self.ready = await browser.Ready.make(self.browser)

    def _target_created(self, event):
        target = event["targetInfo"]
        if self._job and target["type"] == "page" and target.get("openerId"):
            self._job.window_opened()

    def crash_was_memory(self):
        """Of the last page that crashed: V8's own limit, or the kernel's."""
        last = self._crashes[-1] if self._crashes else {}
        log(f"a page's process ended: {last.get('status')} {last.get('errorCode')}")
        return last.get("status") in ("oom", "oom-killed") or last.get("errorCode") in (9, 5, 133)

    @staticmethod
    def download_bytes():
        directory = os.path.join(browser.HOME, "downloads")
        total = 0
        for entry in os.scandir(directory):
            try:
                total += entry.stat().st_size
            except OSError:
                pass
        return total

    async def take(self, request, job):
        """The page that waits, or one with options of its own in a process of its own."""
        viewport = request.get("viewport") or {}
        given = request.get("return") or []
        is_fresh = (
            request.get("fresh")
            or any(name in request for name in _FRESH)
            or viewport.get("scale", 1) != 1
            or "har" in given
            or request.get("service_workers")
            or self.ready is None
        )
        job.value["page"] = "fresh" if is_fresh else "waiting"
        if self._last is not None:
            await self._last.context.close()
        if is_fresh:
            ready = await self._fresh(request, job, viewport, given)
        else:
            ready, self.ready = self.ready, None
            if viewport:
                await ready.page.set_viewport_size(
                    {"width": viewport.get("width", 1280), "height": viewport.get("height", 800)}
                )
        self._last = ready
        return ready

    async def _fresh(self, request, job, viewport, given):
        options = dict(browser.OPTIONS)
        options["viewport"] = {
            "width": viewport.get("width", 1280),
            "height": viewport.get("height", 800),
        }
        options["device_scale_factor"] = viewport.get("scale", 1)
        for name, option in (
            ("user_agent", "user_agent"),
            ("locale", "locale"),
            ("timezone", "timezone_id"),
            ("javascript", "java_script_enabled"),
            ("auth", "http_credentials"),
            ("storage", "storage_state"),
            ("color_scheme", "color_scheme"),
        ):
            if name in request:
                options[option] = request[name]
        if "geolocation" in request:
            options["geolocation"] = request["geolocation"]
            options["permissions"] = ["geolocation"]
        if request.get("service_workers"):
            options["service_workers"] = "allow"
        if "har" in given:
            options["record_har_path"] = os.path.join(job.out, "network.har")
            options["record_har_content"] = "omit"
        try:
            context = await self.browser.new_context(**options)
        except Exception as error:
            first = str(error).splitlines()[0][:300]
            raise Failure("invalid_payload", f"the browser refuses the options: {first}") from None
        page = await context.new_page()
        return browser.Ready(context, page, await context.new_cdp_session(page))

    @staticmethod
    def _trust(authority):
        """Without it the page is not loaded, and its certificate is the reason."""
        try:
            trust.add(authority)
        except (OSError, ValueError, AttributeError) as error:
            log(f"the authority that ends TLS for this job is not trusted: {error}")

    async def serve(self, connection):
        """One job, on one connection: the request, then lines of events."""
        reader, writer = connection
        try:
            size = int.from_bytes(await reader.readexactly(8), "little")
            if size > _REQUEST_BYTES:
                raise ValueError(f"a request of {size} bytes")
            request = json.loads(await reader.readexactly(size))
            if "authority" in request:
                self._trust(request["authority"])
            job = session.Session(
                self,
                request["request"],
                request["root"],
                lambda member, content: writer.write(encode(member, content)),
            )
            self._job = job
            try:
                await job.run()
            except Failure as failure:
                job.send("failure", {"reason": failure.reason, "message": failure.message[:1000]})
            finally:
                self._job = None
            if "har" in (job.request.get("return") or []) and self._last is not None:
                # It is written when its context ends.
                await asyncio.wait_for(self._last.context.close(), job.limits.time(5))
                self._last = None
                content.redact(job)
            writer.write(encode("end", True))
            await writer.drain()
        except Exception as error:
            log(f"the job broke: {type(error).__name__}: {error}")
            if "-v" in sys.argv:
                raise
        finally:
            writer.close()


async def main(driver_is_up=lambda: None, is_ready=lambda: None, prepare=None):
    """Serves for ever; `prepare` uses the page that waits before anybody else does."""
    os.umask(0o077)
    with open(_PID, "w") as file:
        file.write(str(os.getpid()))
    server = Server()
    await server.start(driver_is_up)
    if prepare:
        await prepare(server)
    await browser.prime(server.ready)
    try:
        os.unlink(SOCKET)
    except FileNotFoundError:
        pass
    lock = asyncio.Lock()

    async def accept(reader, writer):
        async with lock:
            await server.serve((reader, writer))

    listener = await asyncio.start_unix_server(accept, SOCKET, limit=1 << 20)
    is_ready()
    # The browser ending is a page's doing, and no reason to leave: the job that has it is told.
    async with listener:
        await listener.serve_forever()


def restart():
    """Another browser in the place of the one that waits, as if there had been none."""
    with open(_PID) as file:
        os.kill(int(file.read()), signal.SIGKILL)
    child = subprocess.Popen(
        [sys.executable, "-m", __name__], stdout=subprocess.PIPE, cwd=browser.HOME
    )
    if child.stdout.readline() != b"ready\n":
        raise OSError("the browser did not come up")


if __name__ == "__main__":
    os.makedirs(browser.HOME, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    asyncio.run(main(is_ready=lambda: print("ready", flush=True)))
