"""What no two machines may have in common, a line each: asked of every new image's clones.

What the page that waits draws, what a fresh one draws, and what the browser and the client's own
Node say first in a TLS connection. Random numbers of a stream that is the same but shifted differ
at their first: so there are many."""

import asyncio
import json
import os
import sys

from . import job

DRAWS = 300
# Of anything here: clones are proven at the same time, on a host that may have other work.
_SECONDS = 300
_SCRIPT = """
import mayfly_browse.canary as canary
await canary.within(page, context, browser)
"""
_DRAW = f"""() => {{
  const drawn = [];
  const hexadecimal = bytes => [...bytes].map(b => b.toString(16).padStart(2, '0')).join('');
  for (let i = 0; i < {DRAWS}; i++)
    drawn.push(hexadecimal(crypto.getRandomValues(new Uint8Array(16))));
  // Only a secure context has it, and the page that waits is none: it draws from the same source.
  const uuid = crypto.randomUUID ? [crypto.randomUUID(), crypto.randomUUID()] : [];
  return {{drawn: drawn.concat(uuid), math: [Math.random(), Math.random(), Math.random()]}};
}}"""


class _Listener:
    """Takes what tunnels ask for and reads the first words of whoever comes, then hangs up."""

    def __init__(self):
        self.hellos = asyncio.Queue()

    async def __aenter__(self):
        self.server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_):
        self.server.close()

    async def _accept(self, reader, writer):
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"CONNECT "):
                # A page of a place that browsers trust: only there they make UUIDs.
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                await writer.drain()
                return
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            record = await reader.readexactly(5)
            hello = await reader.readexactly(int.from_bytes(record[3:5], "big"))
            self.hellos.put_nowait(fields(hello))
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            writer.close()

    async def next(self):
        return await asyncio.wait_for(self.hellos.get(), _SECONDS)


def fields(hello):
    """Random, session id and key shares of a ClientHello, in hexadecimal."""
    at = 4 + 2
    out = {"random": hello[at : at + 32].hex()}
    at += 32
    size = hello[at]
    out["session"] = hello[at + 1 : at + 1 + size].hex()
    at += 1 + size
    at += 2 + int.from_bytes(hello[at : at + 2], "big")
    at += 1 + hello[at]
    end = at + 2 + int.from_bytes(hello[at : at + 2], "big")
    at += 2
    while at + 4 <= end:
        kind, size = (
            int.from_bytes(hello[at : at + 2], "big"),
            int.from_bytes(hello[at + 2 : at + 4], "big"),
        )
        if kind == 51:
            share, stop = at + 6, at + 4 + size
            while share + 4 <= stop:
                group = int.from_bytes(hello[share : share + 2], "big")
                length = int.from_bytes(hello[share + 2 : share + 4], "big")
                # GREASE, whose one byte is of no use to anybody.
                if length > 1:
                    out[f"share {group}"] = hello[share + 4 : share + 4 + length].hex()
                share += 4 + length
        at += 4 + size
    return out


async def within(page, context, running):
    """Inside the browser's process: prints each value that must be this machine's alone."""
    from playwright.async_api import Error

    drawn = await page.evaluate(_DRAW)
    _say("getRandomValues of the waiting page", drawn["drawn"])
    async with _Listener() as listener:
        fresh = await running.new_context(proxy={"server": f"http://127.0.0.1:{listener.port}"})
        fresh.set_default_timeout(_SECONDS * 1000)
        other = await fresh.new_page()
        await other.goto("http://localhost/", wait_until="commit")
        drawn = await other.evaluate(_DRAW)
        if len(drawn["drawn"]) == DRAWS:
            raise OSError("the fresh page makes no UUIDs")
        _say("getRandomValues of a fresh page", drawn["drawn"])
        _say("Math.random of a fresh page", [repr(number) for number in drawn["math"]])
        for who, go in (
            ("browser", lambda: other.goto("https://canary.invalid/", wait_until="commit")),
            ("client", lambda: fresh.request.get("https://canary.invalid/")),
        ):
            task = asyncio.ensure_future(go())
            hello = await listener.next()
            try:
                await task
            except Error:
                pass
            shares = [name for name in hello if name.startswith("share")]
            if not shares or len(hello["random"]) != 64:
                raise OSError(f"the ClientHello of the {who} cannot be read")
            for name, value in hello.items():
                if value:
                    _say(f"{name} of the {who}'s ClientHello", [value])
        await fresh.close()


def _say(what, values):
    for value in values:
        print(f"{what}: {value}")


def main():
    root = os.path.join("/tmp", "canary")
    os.makedirs(root, exist_ok=True)
    request = {
        "html": "",
        "script": _SCRIPT,
        "return": ["title"],
        "limits": {"seconds": 600, "values": 1 << 20},
    }
    said = {}

    def take(line):
        said.update(json.loads(line))

    if not job.ask(request, root, take):
        words = "the browser ended before it answered, most likely for want of memory"
        print(f"canary: {words}", file=sys.stderr)
        return 1
    if "failure" in said:
        print(f"canary: {said['failure']}", file=sys.stderr)
        return 1
    if said["value"]["page"] != "waiting":
        print("canary: it was not the page that waits", file=sys.stderr)
        return 1
    sys.stdout.write(said["value"]["printed"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
