"""The image's warm-up: the browser started, used and left waiting, for the snapshot. Run as root.

Any fault ends with a line on stderr and status 1."""

import asyncio
import os
import select
import sys
import time

from . import browser, server, trust

USER = 1000
# OpenSSL inside Playwright's Node keeps a generator of its own, whose state would be the same in
# every clone. It seeds itself anew when the clock stands before its last seeding: so Node starts
# under a clock far ahead, and every clock that a machine is given is before that.
_AHEAD = 10 * 366 * 86400
_PAGES = [
    """<title>Warm</title><h1>Warm</h1>
    <form><label>Name <input name=n></label><input type=checkbox>
    <select><option>a<option>b</select>
    <button type=button onclick="this.textContent='done'">Go</button></form>
    <table><tr><th>a<th>b<tr><td>1<td>2</table><p>שלום مرحبا 你好 😀</p>
    <script>
    const rows = [...Array(20).keys()], table = document.querySelector('table');
    for (const row of rows) table.insertRow().insertCell().textContent = row;
    setTimeout(() => document.title = 'Warm ' + rows.length, 1);
    </script>""",
    """<title>Warm</title><body style="background:linear-gradient(red,blue)">
    <a href="https://example.com/">link</a><svg width=40 height=40><circle r=20 /></svg>
    <canvas id=c></canvas><img alt=i src="data:image/gif;base64,R0lGODlhAQABAAAAACw=">
    <script>c.getContext('2d').fillRect(0, 0, 9, 9)</script>""",
]
_RETURNS = (
    "title text markdown article links metadata snapshot screenshot pdf network console".split()
)


async def _use(running, html, directory):
    """A job that nobody asked for."""
    from .session import Session

    page = running.ready.page
    kept = running.ready
    request = {
        "html": html,
        "fresh": False,
        "return": _RETURNS,
        "actions": [{"evaluate": "1 + 1"}, {"scroll": 10}],
        "limits": {"seconds": 900},
    }
    if "form" in html:
        request["actions"] += [
            {"type": ["label=Name", "warm"]},
            {"press": "Tab"},
            {"click": "text=Go"},
            {"check": "[type=checkbox]"},
            {"select": ["select", "b"]},
        ]
    said = []
    job = Session(running, request, directory, lambda member, what: said.append((member, what)))
    await job.run()
    failures = [what for member, what in said if member == "failure"]
    if failures:
        raise OSError(f"a page of the warm-up went wrong: {failures[0]}")
    running.ready, running._last = kept, None
    await page.goto("about:blank")


async def prepare(running):
    """Pages as jobs have them, so that what they need is in memory; then a page as new."""
    directory = os.path.join(browser.HOME, "warm")
    os.makedirs(directory, exist_ok=True)
    for html in _PAGES + _PAGES:
        await _use(running, html, directory)
    # The pages that were used have left listeners of theirs: a job's page has none.
    await running.ready.context.close()
    running.ready = await browser.Ready.make(running.browser)


def _serve(driver, ready):
    os.setsid()
    # Renderers go first, by Chromium's own score; this process, with the browser, last.
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("-500")
    os.setgroups([])
    os.setresgid(USER, USER, USER)
    os.setresuid(USER, USER, USER)
    os.chdir(browser.HOME)
    for name in ("HOME", "TMPDIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
        os.environ[name] = os.path.join(browser.HOME, "home")
    os.environ["LANG"] = "C.UTF-8"
    trust.add_local()

    def up():
        os.write(driver, b"1")
        # Until the clock is right again.
        while not os.path.exists(os.path.join(browser.HOME, "clock")):
            time.sleep(0.01)

    asyncio.run(server.main(up, lambda: os.write(ready, b"1"), prepare))


def _wait(descriptor, pid, what):
    if not select.select([descriptor], [], [], 900)[0] or not os.read(descriptor, 1):
        raise OSError(f"{what} did not come up")


def main():
    for name in ("", "home", "downloads"):
        path = os.path.join(browser.HOME, name)
        os.makedirs(path, mode=0o700, exist_ok=True)
        os.chown(path, USER, USER)
    driver, ready = os.pipe(), os.pipe()
    before = time.clock_gettime(time.CLOCK_REALTIME), time.monotonic()
    time.clock_settime(time.CLOCK_REALTIME, before[0] + _AHEAD)
    pid = os.fork()
    if pid == 0:
        try:
            os.close(driver[0])
            os.close(ready[0])
            _serve(driver[1], ready[1])
        except Exception as error:
            print(f"browse warm-up: {error!r}", file=sys.stderr, flush=True)
        finally:
            os._exit(1)
    os.close(driver[1])
    os.close(ready[1])
    try:
        _wait(driver[0], pid, "the client's driver")
    finally:
        passed = time.monotonic() - before[1]
        time.clock_settime(time.CLOCK_REALTIME, before[0] + passed)
    path = os.path.join(browser.HOME, "clock")
    with open(path, "w"):
        pass
    _wait(ready[0], pid, "the browser")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Exception as error:
        print(f"browse warm-up: {error!r}", file=sys.stderr)
        sys.exit(1)
