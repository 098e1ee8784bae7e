"""What pages asked of the network, what became of it, and what would allow what was refused."""

import asyncio
import dataclasses
import time
from urllib.parse import urlsplit

from . import browser

REASON_HEADER = "x-mayfly-reason"
PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}
# Before each sentence of the proxy's.
_SAID = "mayfly: "
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


@dataclasses.dataclass
class Refusal:
    """What the proxy said in place of a server: by a rule, or because it could not be done."""

    reason: str
    sentence: str
    is_denial: bool

    @classmethod
    def of(cls, headers, status, sentence):
        """Of a response; None when it does not look like the proxy's. Within TLS a server can look
        like it, which says nothing of anybody else."""
        reason = headers.get(REASON_HEADER)
        if not reason or status not in (400, 403, 502, 504) or not sentence.startswith(_SAID):
            return None
        return cls(reason[:100], sentence.removeprefix(_SAID)[:500], status < 500)

    def remedy(self, allow):
        """What would let it through, and in whose list; what was wrong where no list would."""
        if self.reason == "above_ceiling":
            return f"the operator's list would have to have \"{allow}\""
        if self.reason in ("not_allowed", "no_network"):
            return f'"network": {{"allow": ["{allow}"]}} would allow it'
        return self.sentence


_UNREACHABLE = Refusal("unreachable", "it could not be reached", False)
_NO_NETWORK = Refusal("no_network", "this job has no network", True)


async def ask_proxy(destination):
    """Why the proxy opens no tunnel to there."""
    host, port = browser.PROXY.removeprefix("http://").split(":")
    writer = None
    try:
        reader, writer = await asyncio.wait_for(asyncio.open_connection(host, int(port)), 2)
        writer.write(f"CONNECT {destination} HTTP/1.1\r\nHost: {destination}\r\n\r\n".encode())
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
    except (asyncio.TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        return _UNREACHABLE
    except OSError:
        return _NO_NETWORK
    finally:
        if writer is not None:
            writer.close()
    first, *lines = head.decode("latin-1").split("\r\n")
    status, _, sentence = first.partition(" ")[2].partition(" ")
    fields = [line.partition(":") for line in lines]
    headers = {name.strip().lower(): value.strip() for name, _, value in fields}
    return Refusal.of(headers, int(status) if status.isdecimal() else 0, sentence) or _UNREACHABLE


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
            refusal = Refusal.of(response.headers, response.status, response.status_text)
        except Exception:
            return
        if refusal:
            self._refused(response.request, refusal, request_rule(response.request))

    def _ended(self, request, failure):
        self.last_change = time.monotonic()
        self.open.discard(request)
        if request.url.startswith(("data:", "blob:")):
            return
        if failure and any(word in failure for word in _DENIED):
            self._later(self._find_why(request))
        elif failure:
            self._fail(request, failure)
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
            return _UNREACHABLE
        if destination not in self._why:
            self._why[destination] = await ask_proxy(destination)
        return self._why[destination]

    def _fail(self, request, error):
        if len(self._failed) < 100:
            self._failed.append({"url": request.url[:2048], "error": error[:200]})

    def _refused(self, request, refusal, allow):
        if not refusal.is_denial:
            return self._fail(request, refusal.reason)
        why = refusal.reason
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
                f"{request.url[:300]} was not fetched ({why}); {refusal.remedy(allow)}",
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
