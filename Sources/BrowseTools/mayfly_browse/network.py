"""What pages asked of the network, what became of it, and what would allow what was refused."""

import asyncio
import time
from urllib.parse import urlsplit

from . import browser

REASON_HEADER = "x-mayfly-reason"
PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}
_DENIED = ("ERR_TUNNEL_CONNECTION_FAILED", "ERR_PROXY_CONNECTION_FAILED")


def rule(url):
    """`host:port`, as an allow-list names it; None where there is no host."""
    try:
        parts = urlsplit(url)
        port = parts.port or PORTS.get(parts.scheme)
        return f"{parts.hostname}:{port}" if parts.hostname and port else None
    except ValueError:
        return None


def request_rule(request):
    """As `rule`, of what was answered within TLS: then the proxy looks at method and path."""
    parts = urlsplit(request.url)
    if parts.scheme != "https":
        return rule(request.url)
    return f"{request.method} https://{parts.netloc.rpartition('@')[2]}{parts.path or '/'}"


def remedy(why, allow):
    """What would let it through, and in whose list."""
    if why == "above_ceiling":
        return f"the operator's list would have to have \"{allow}\""
    return f'"network": {{"allow": ["{allow}"]}} would allow it'


async def ask_proxy(destination):
    """Why the proxy opens no tunnel to there; None when it would."""
    host, port = browser.PROXY.removeprefix("http://").split(":")
    writer = None
    try:
        reader, writer = await asyncio.wait_for(asyncio.open_connection(host, int(port)), 2)
        writer.write(f"CONNECT {destination} HTTP/1.1\r\nHost: {destination}\r\n\r\n".encode())
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
    except (asyncio.TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        return "unreachable"
    except OSError:
        return "no_network"
    finally:
        if writer is not None:
            writer.close()
    lines = head.decode("latin-1").split("\r\n")
    if lines[0].split(" ")[1:2] == ["200"]:
        return None
    for line in lines[1:]:
        name, _, value = line.partition(":")
        if name.strip().lower() == REASON_HEADER:
            return value.strip()[:100]
    return "unreachable"


class Network:
    """Requests of all pages of a job. Bounded: what is over a limit is only counted."""

    def __init__(self, limits, warn):
        self.limits, self.warn = limits, warn
        self.count = 0
        self.last_change = time.monotonic()
        self.open = set()
        self.entries, self._blocked, self._failed = [], {}, []
        self._tasks, self._why = set(), {}

    def watch(self, context):
        context.on("request", self._started)
        context.on("requestfinished", lambda request: self._ended(request, None))
        context.on("requestfailed", lambda request: self._ended(request, request.failure))
        context.on("response", self._answered)

    def _started(self, request):
        self.count += 1
        self.last_change = time.monotonic()
        if len(self.open) < self.limits.requests:
            self.open.add(request)

    def _answered(self, response):
        try:
            why = response.headers.get(REASON_HEADER) if response.status == 403 else None
        except Exception:
            return
        if why:
            self._refused(response.request, why[:100], request_rule(response.request))

    def _ended(self, request, failure):
        self.last_change = time.monotonic()
        self.open.discard(request)
        if request.url.startswith(("data:", "blob:")):
            return
        if failure and any(word in failure for word in _DENIED):
            self._later(self._find_why(request))
        elif failure and len(self._failed) < 100:
            self._failed.append({"url": request.url[:2048], "error": failure[:200]})
        if len(self.entries) < self.limits.requests:
            self.entries.append(self._entry(request, failure))

    @staticmethod
    def _entry(request, failure):
        timing = request.timing
        entry = {
            "url": request.url[:2048],
            "method": request.method,
            "type": request.resource_type,
            "ms": max(0, round(timing.get("responseEnd", 0))),
        }
        if failure:
            entry["error"] = failure[:200]
        return entry

    def _later(self, coroutine):
        task = asyncio.ensure_future(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _find_why(self, request):
        allow = rule(request.url)
        self._refused(request, await self.why(allow), allow)

    async def why(self, destination):
        if destination is None:
            return "unreachable"
        if destination not in self._why:
            self._why[destination] = await ask_proxy(destination) or "unreachable"
        return self._why[destination]

    def _refused(self, request, why, allow):
        key = (allow, request.resource_type, why)
        entry = self._blocked.get(key)
        if entry:
            entry["count"] += 1
        elif len(self._blocked) < 200:
            self._blocked[key] = {
                "url": request.url[:2048],
                "type": request.resource_type,
                "reason": why,
                "allow": allow,
                "count": 1,
            }
            self.warn(
                "requests_blocked",
                f"{request.url[:300]} was not fetched ({why}); {remedy(why, allow)}",
            )

    async def settle(self):
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self.limits.time(2))

    @property
    def is_quiet(self):
        return not self.open

    def summary(self, with_entries):
        slowest = sorted(self.entries, key=lambda entry: -entry["ms"])[:5]
        out = {
            "requests": self.count,
            "blocked": list(self._blocked.values()),
            "failed": self._failed,
            "slowest": [entry for entry in slowest if entry["ms"] > 0],
        }
        if with_entries:
            out["entries"] = self.entries
        return out
