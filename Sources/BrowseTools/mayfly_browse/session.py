"""One job: its page, what happens on it, and how it ends."""

import asyncio
import mimetypes
import os
import random
import time

from playwright.async_api import Error, TimeoutError

from . import actions, addresses, content, network, pictures, script, waits
from .events import WARNINGS, Failure, log
from .limits import Limits

# So much of a job's time is for what it returns.
_RESERVE = 0.25
_MAX_WARNINGS = 200
_UNRESPONSIVE = "the page's scripts ran without end and were stopped"


class Session:
    def __init__(self, server, request, root, send):
        self.server, self.request, self.root, self.send = server, request, root, send
        self.limits = Limits.of(request.get("limits"))
        self.out = os.path.join(root, "out")
        os.makedirs(self.out, exist_ok=True)
        self.begin = time.monotonic()
        self.end = self.begin + self.limits.seconds * (1 - _RESERVE)
        self.value = {"actions": [], "pages": [], "dialogs": [], "downloads": [], "console": []}
        self.values, self.truncated = [], {}
        self.network = network.Network(self.limits, self.warn)
        self.pages, self.page, self.cdp = [], None, None
        self.opened = self.windows = self.closed = self.navigations = 0
        self.console_bytes = 0
        self.is_over = self.is_stuck = self.is_gone = False
        self._ended = asyncio.get_running_loop().create_future()
        self._tasks, self._warned, self._sessions = set(), set(), {}
        # When each page's last load was over.
        self.loaded = {}

    # What the job says

    def warn(self, code, message, key=None):
        """Each code once for each `key`, the message unless said."""
        assert code in WARNINGS, code
        key = (code, key or message)
        if key not in self._warned and len(self._warned) < _MAX_WARNINGS:
            self._warned.add(key)
            self.send("warning", {"code": code, "message": message[:1000]})

    def fail(self, reason, message):
        """From wherever it is noticed: ends what is under way."""
        if not self._ended.done():
            self._ended.set_result(Failure(reason, message))

    def note_action(self, entry, begin):
        entry["ms"] = round((time.monotonic() - begin) * 1000)
        entry["url"] = self.page.url[:2048] if self.page else None
        self.value["actions"].append(entry)

    def add_value(self, value):
        text = actions.as_json(value)
        if text is None:
            raise Failure("action_failed", "the value cannot be said in JSON")
        self.limits.values -= len(text)
        if self.limits.values < 0:
            raise Failure("action_failed", "the values are larger than a result may hold")
        self.values.append(value)

    def input(self, name):
        for item in self.request.get("inputs") or []:
            if item["name"] == name:
                with open(os.path.join(self.root, item["path"]), "rb") as file:
                    kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
                    return {"name": name, "mimeType": kind, "buffer": file.read()}
        raise Failure("invalid_payload", f"upload: `files` has no {name!r}")

    # Time

    def deadline(self, seconds):
        return min(time.monotonic() + self.limits.time(seconds), self._last_moment())

    def _last_moment(self):
        return self.begin + self.limits.seconds - 1 if self.is_over else self.end

    def bounded(self, seconds):
        """Seconds from now, under emulation more, and never beyond the job's."""
        return max(0.1, self.deadline(seconds) - time.monotonic())

    def milliseconds(self, seconds):
        return self.bounded(seconds) * 1000

    async def guarded(self, awaitable, seconds=None):
        """A call with a deadline of its own: the client has none for most, and a page that is busy
        never answers. One that is late is freed, and the job is over."""
        task = asyncio.ensure_future(awaitable)
        done, _ = await asyncio.wait(
            {task}, timeout=self.bounded(seconds or self.limits.call_seconds)
        )
        if done:
            return task.result()
        is_alive = await self.free()
        task.cancel()
        # What it says after that is of no interest, but must be heard.
        task.add_done_callback(lambda late: late.cancelled() or late.exception())
        if is_alive:
            raise TimeoutError("it did not end in time")
        raise Failure("page_unresponsive", _UNRESPONSIVE)

    async def _answers(self, seconds):
        try:
            await asyncio.wait_for(
                self.cdp.send("Runtime.evaluate", {"expression": "1"}), self.limits.time(seconds)
            )
            return True
        except (Error, asyncio.TimeoutError):
            return False

    async def free(self):
        """Stops what keeps the page busy. True when nothing did."""
        if self.cdp is None or await self._answers(1):
            return True
        self.is_stuck = True
        for method, given in (
            ("Emulation.setScriptExecutionDisabled", {"value": True}),
            ("Runtime.terminateExecution", {}),
        ):
            try:
                await asyncio.wait_for(self.cdp.send(method, given), 2)
            except (Error, asyncio.TimeoutError):
                pass
        if not await self._answers(2):
            self.is_gone = True
            try:
                await asyncio.wait_for(self.cdp.send("Page.crash"), 2)
            except (Error, asyncio.TimeoutError):
                pass
        return False

    def is_over_time(self):
        return time.monotonic() > self.end

    # The browser

    async def cdp_of_page(self):
        """The page's own session, beside the client."""
        if self.page == self.ready.page:
            return self.cdp
        if self.page not in self._sessions:
            session = await self.guarded(self.ready.context.new_cdp_session(self.page))
            self._sessions[self.page] = session
        return self._sessions[self.page]

    async def open(self):
        ready = await self.server.take(self.request, self)
        self.ready, self.page, self.cdp = ready, ready.page, ready.cdp
        context = ready.context
        self.pages = [self.page]
        self.network.watch(context)
        context.on("page", self._page_opened)
        context.on("console", self._said)
        context.on("weberror", self._broke)
        self._follow(self.page)
        await self.cdp.send("Page.enable")
        self.cdp.on("Page.frameNavigated", self._navigated)
        await self._configure(context)

    async def _configure(self, context):
        request = self.request
        if request.get("headers"):
            await context.set_extra_http_headers(request["headers"])
        if request.get("cookies"):
            try:
                await context.add_cookies(request["cookies"])
            except Error as error:
                raise Failure("invalid_payload", f"cookies: {str(error)[:300]}") from None
        blocked = request.get("block")
        if blocked:

            async def decide(route):
                if route.request.resource_type in blocked:
                    await route.abort()
                else:
                    await route.fallback()

            await context.route("**/*", decide)

    def _follow(self, page):
        page.on("dialog", lambda dialog: self._later(self._answer(dialog)))
        page.on("download", lambda download: self._later(content.download(self, download)))
        page.on("crash", lambda _: self._crashed(page))
        page.on("load", lambda _: self.loaded.__setitem__(page, time.monotonic()))

    def _later(self, coroutine):
        task = asyncio.ensure_future(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task):
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error and not isinstance(error, (Error, Failure)):
            log(f"{type(error).__name__}: {error}")

    def choose(self, number):
        if not 0 <= number < len(self.pages):
            raise Failure(
                "action_failed", f"there is no page {number}; there are {len(self.pages)}"
            )
        self.page = self.pages[number]

    def window_opened(self):
        """Said by the browser at once; by the client when the page's script has let go."""
        self.windows += 1
        self._bound_windows(self.windows)

    def _bound_windows(self, count):
        if count == self.limits.pages_opened + 1:
            self._later(self._stop_scripts())
            self.fail("page_storm", f"the page opened more than {self.limits.pages_opened} windows")

    def _page_opened(self, page):
        self.opened += 1
        self._bound_windows(self.opened)
        opener = next((i for i, known in enumerate(self.pages) if known == self.page), None)
        if len(self.pages) < self.limits.pages:
            self.pages.append(page)
            self.value["pages"].append({"url": page.url[:2048], "opener": opener})
            self._follow(page)
        else:
            self.closed += 1
            self._later(page.close())
            self.warn("popups_closed", "windows over the limit were closed as they opened", "all")

    async def _stop_scripts(self):
        for method, given in (
            ("Emulation.setScriptExecutionDisabled", {"value": True}),
            ("Runtime.terminateExecution", {}),
        ):
            try:
                await asyncio.wait_for(self.cdp.send(method, given), 2)
            except (Error, asyncio.TimeoutError):
                pass

    def _navigated(self, event):
        if event["frame"].get("parentId"):
            return
        self.navigations += 1
        if self.navigations > self.limits.navigations:
            self._later(self._stop_scripts())
            self.fail("redirect_loop", f"the page sent itself on {self.navigations} times")

    async def _answer(self, dialog):
        given = self.request.get("dialogs") or {}
        number = len(self.value["dialogs"])
        accepts = bool(given.get("accept"))
        if number < self.limits.dialogs:
            self.value["dialogs"].append(
                {
                    "type": dialog.type,
                    "message": dialog.message[:1000],
                    "action": "accepted" if accepts else "dismissed",
                }
            )
            if not accepts and dialog.type != "beforeunload":
                self.warn(
                    "dialogs_dismissed", "dialogs were dismissed; `dialogs` says otherwise", "all"
                )
        elif number == self.limits.dialogs:
            self.value["dialogs"].append(
                {"type": dialog.type, "message": "", "action": "dismissed"}
            )
            await self._stop_scripts()
            self.fail("dialog_storm", f"the page opened more than {self.limits.dialogs} dialogs")
        if accepts or dialog.type == "beforeunload":
            await dialog.accept(given.get("text", ""))
        else:
            await dialog.dismiss()

    def _said(self, message):
        if message.text.startswith("Service Worker registration blocked"):
            self.warn("service_worker_blocked", "the page may not register a service worker", "all")
            return
        location = message.location or {}
        self._note(message.type, message.text, location.get("url"), location.get("lineNumber"))

    def _broke(self, error):
        self._note("exception", str(error.error), None, None)

    def _note(self, level, text, url, line):
        text = text[: self.limits.console_text]
        entries = self.value["console"]
        self.console_bytes += len(text)
        entries.append(
            {"level": level, "text": text, "url": (url or "")[:500] or None, "line": line}
        )
        # The last ones tell what went wrong.
        while len(entries) > self.limits.console or self.console_bytes > 128 << 10:
            self.console_bytes -= len(entries.pop(0)["text"])

    def _crashed(self, page):
        if page != self.page or self.is_gone:
            return
        self.is_gone = True
        self._later(self._explain_crash())

    async def _explain_crash(self):
        # The word of what it died of comes on another way.
        await asyncio.sleep(self.limits.time(0.2))
        if self.server.crash_was_memory():
            self.fail("out_of_memory", "the page wanted more memory than it may have")
        else:
            self.fail("page_crashed", "the page's process has ended by itself")

    # Going somewhere

    async def navigate(self, url):
        self.value["requested_url"] = url[:8192]
        try:
            response = await self.page.goto(
                url, wait_until="commit", timeout=self.milliseconds(self.limits.navigation_seconds)
            )
        except TimeoutError:
            if await self.free():
                raise Failure("navigation_failed", f"no answer from {url[:300]} in time") from None
            raise Failure("page_unresponsive", "the page before did not let go") from None
        except Error as error:
            return await self._not_there(url, str(error))
        if response:
            await self._answered(url, response)

    async def _answered(self, url, response):
        self.value["status"] = response.status
        redirects, request = [], response.request
        while request.redirected_from and len(redirects) < 20:
            request = request.redirected_from
            redirects.insert(0, request.url[:2048])
        self.value["redirects"] = redirects
        headers = response.headers
        self.value["type"] = headers.get("content-type", "")[:200]
        refusal = network.Refusal.of(headers, response.status, response.status_text)
        if refusal:
            raise self._refused(response.url, refusal, network.request_rule(response.request))
        if self.request.get("fail_on_status") and response.status >= 400:
            raise Failure("http_status", f"{url[:300]} was answered with status {response.status}")

    @staticmethod
    def _refused(url, refusal, allow):
        why = refusal.reason
        if not refusal.is_denial:
            return Failure("navigation_failed", f"{url[:300]}: {refusal.sentence} ({why})")
        return Failure(
            "network_denied",
            f"{url[:300]} may not be reached ({why}); {refusal.remedy(allow)}",
        )

    async def _not_there(self, url, error):
        code = next(
            (word for word in error.replace(":", " ").split() if word.startswith("ERR_")), ""
        )
        if "Download is starting" in error or code == "ERR_ABORTED":
            # A document that the browser does not show, such as a PDF: the file is the result.
            deadline = self.deadline(2)
            while time.monotonic() < deadline:
                if self.value["downloads"]:
                    return
                await asyncio.sleep(0.02)
        if any(word in error for word in network._DENIED):
            allow = network.rule(url)
            raise self._refused(url, await self.network.why(allow), allow)
        if code == "ERR_TOO_MANY_REDIRECTS":
            raise Failure("redirect_loop", f"{url[:300]} was redirected again and again")
        if code.startswith("ERR_CERT_"):
            self.warn("certificate_error", f"{url[:300]}: {code}")
        words = {
            "ERR_NAME_NOT_RESOLVED": "its host is not known",
            "ERR_CONNECTION_REFUSED": "nobody listens there",
            "ERR_CONNECTION_RESET": "the connection was reset",
            "ERR_EMPTY_RESPONSE": "the answer was empty",
            "ERR_UNSAFE_REDIRECT": "it was redirected to where a page may not go",
        }.get(code, "it could not be loaded")
        raise Failure("navigation_failed", f"{url[:300]}: {words} ({code or error[:200]})")

    async def load(self):
        if "url" in self.request:
            await self.navigate(addresses.checked(self.request["url"]))
        elif "html" in self.request:
            html = self.page.set_content(self.request["html"], wait_until="load", timeout=0)
            try:
                await self.guarded(html)
            except TimeoutError:
                self.warn("wait_lapsed", waits.UNLOADED)
        await self.wait()

    async def wait(self):
        given = self.request.get("wait")
        if not given:
            await waits.usual(self)
        elif not await waits.wait(self, given) and given.get("strict"):
            raise Failure("wait_failed", "what the page was waited for did not come")

    async def screenshot(self, name, options):
        await pictures.take(self, name, options)

    async def snapshot(self):
        return await content.snapshot(self)

    # The whole

    async def perform(self):
        await self.open()
        await self.load()
        await actions.perform(self)
        if self.request.get("script"):
            await script.run(self)

    async def run(self):
        """The job; `value` and, if it failed, `failure` are sent at the end."""
        random.seed(os.urandom(32))
        failure = None
        task = asyncio.ensure_future(self.perform())
        await asyncio.wait(
            {task, self._ended},
            timeout=max(1, self.end - time.monotonic()),
            return_when=asyncio.FIRST_COMPLETED,
        )
        if self.is_gone and not self.is_stuck:
            await asyncio.wait({self._ended}, timeout=self.limits.time(1))
        if self._ended.done():
            failure = self._ended.result()
        elif not task.done():
            await self.free()
            late = f"the job was not done after {self.end - self.begin:.0f} s; the rest of its time"
            failure = (
                Failure("page_unresponsive", _UNRESPONSIVE)
                if self.is_stuck
                else Failure("timeout", f"{late} is for its result")
            )
        else:
            failure = self._fault(task)
        task.cancel()
        task.add_done_callback(lambda late: late.cancelled() or late.exception())
        self.is_over = True
        try:
            await asyncio.wait_for(content.collect(self, failure), self.bounded(3600))
        except (asyncio.TimeoutError, Error, Failure) as error:
            log(f"the result is not whole: {type(error).__name__}")
        if self._ended.done() and failure is None:
            failure = self._ended.result()
        content.send(self)
        if failure:
            self.send("failure", {"reason": failure.reason, "message": failure.message[:1000]})

    @staticmethod
    def _fault(task):
        error = task.exception()
        if error is None or isinstance(error, Failure):
            return error
        if isinstance(error, (TimeoutError, asyncio.TimeoutError)):
            return Failure("timeout", str(error).splitlines()[0][:300])
        if isinstance(error, Error):
            return Failure("action_failed", str(error).splitlines()[0][:300])
        raise error
