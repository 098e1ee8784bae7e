"""What a job returns of its page: bounded, each cut named, its whole as a file beside it."""

import asyncio
import json
import os
import shutil
from importlib import resources

from playwright.async_api import Error, TimeoutError

from . import pictures
from .events import Failure, encode, log

_SCRIPT = resources.files(__package__).joinpath("page.js").read_text("utf-8")
# The host reads no longer line.
_LINE = 1_900_000
# How the browser says that the page which was read is another one by now.
_EXCHANGED = (
    "Cannot find context",
    "Cannot find execution context",
    "context was destroyed",
    "No frame",
    "Frame was detached",
    "Inspected target navigated",
)
_TRIES = 5


async def read(session, want):
    """What the page and its frames show, in one call each."""
    limits = session.limits
    given = json.dumps([*want]), json.dumps(limits.links)
    call = f"({_SCRIPT})({limits.html}, Object.assign({given[0]}, {{links: {given[1]}}}))"
    cdp = await session.cdp_of_page()
    tree = await session.guarded(cdp.send("Page.getFrameTree"))
    frames = _frames(tree["frameTree"])
    if len(frames) > limits.frames:
        session.warn("frames_skipped", f"{len(frames)} frames; the first {limits.frames} are read")
    found = []
    for frame in frames[: limits.frames]:
        try:
            found.append(await _read_frame(session, cdp, frame["id"], call))
        except (Error, Failure):
            if not found:
                raise
    others = [frame for frame in session.page.frames if frame.parent_frame][: limits.frames]
    if len(found) < len(others) + 1:
        found += await _read_processes(session, others, call, {part["url"] for part in found})
    return found


def _frames(tree):
    out = [tree["frame"]]
    for child in tree.get("childFrames", []):
        out += _frames(child)
    return out


async def _read_frame(session, cdp, frame, call):
    world = await session.guarded(
        cdp.send("Page.createIsolatedWorld", {"frameId": frame, "worldName": "mayfly"})
    )
    answer = await session.guarded(
        cdp.send(
            "Runtime.evaluate",
            {
                "expression": call,
                "contextId": world["executionContextId"],
                "returnByValue": True,
            },
        ),
    )
    if "exceptionDetails" in answer:
        details = answer["exceptionDetails"]
        raise Error(details.get("exception", {}).get("description", details.get("text", ""))[:500])
    return answer["result"]["value"]


async def _elements(session):
    """How many the page has, by a function that it cannot exchange."""
    cdp = await session.cdp_of_page()
    tree = await session.guarded(cdp.send("Page.getFrameTree"))
    call = "Document.prototype.getElementsByTagName.call(document, '*').length"
    return await _read_frame(session, cdp, tree["frameTree"]["frame"]["id"], call)


async def _read_processes(session, frames, call, known):
    """Frames of other sites, which live in processes of their own."""
    found = []
    for frame in frames:
        if frame.url in known:
            continue
        try:
            cdp = await session.guarded(session.ready.context.new_cdp_session(frame))
            tree = await session.guarded(cdp.send("Page.getFrameTree"))
            found.append(await _read_frame(session, cdp, tree["frameTree"]["frame"]["id"], call))
        except (Error, Failure):
            continue
    return found


async def snapshot(session):
    """The accessibility tree with references that later steps can use."""
    options = session.request.get("snapshot") or {}
    given = {"mode": "ai"}
    if options.get("depth"):
        given["depth"] = options["depth"]
    page = session.page
    of = page.locator(options["selector"]).first if options.get("selector") else page
    seconds = session.limits.call_seconds
    try:
        if of == page:
            # The client describes all of them before it says a word; the page stands still for it.
            count = await _elements(session)
            if count > session.limits.elements:
                session.warn(
                    "snapshot_truncated",
                    f"no snapshot: the page has {count} elements, and one has "
                    f"{session.limits.elements} at most; `snapshot.selector` names a part of it",
                )
                return ""
        text = await session.guarded(
            of.aria_snapshot(timeout=session.milliseconds(seconds), **given), seconds + 1
        )
    except (TimeoutError, Error) as error:
        session.warn("snapshot_truncated", f"no snapshot: {str(error).splitlines()[0][:200]}")
        return ""
    limit = min(options.get("max_bytes", session.limits.snapshot), session.limits.snapshot)
    data = text.encode("utf-8", "replace")
    if len(data) > limit:
        session.warn(
            "snapshot_truncated", f"the snapshot has {len(data)} bytes; its whole is a file"
        )
        name = f"snapshot-{len(session.truncated) + 1}.yaml"
        _write(session, name, text)
        session.truncated[name.removesuffix(".yaml")] = {"bytes": len(data), "file": name}
        text = data[:limit].decode("utf-8", "ignore")
        text = text[: text.rfind("\n") + 1] or text
    return text


async def collect(session, failure):
    """Everything that was asked for, and of a failed job what helps to see why."""
    request, value = session.request, session.value
    wanted = list(request.get("return") or ["title", "text"])
    if failure:
        wanted += [name for name in ("title", "text", "console", "network") if name not in wanted]
    session.wanted = wanted
    if session.page is None or session.is_gone:
        return
    value["url"] = session.page.url[:8192]
    steps = [
        (_page, {"text", "markdown", "article", "html", "title", "links", "images", "metadata"}),
        (_snapshot, {"snapshot"}),
        (_screenshot, {"screenshot"}),
        (_pdf, {"pdf"}),
        (_storage, {"storage"}),
    ]
    if failure:
        steps.append((_failure_picture, set(wanted)))
    else:
        steps.insert(0, (_settle, {"console"}))
    faults = []
    for step, names in steps:
        if not names & set(wanted):
            continue
        try:
            await _still(session, step, wanted)
        except (Error, Failure, TimeoutError) as error:
            faults.append(error)
            if session.is_gone or session.is_stuck and len(faults) > 2:
                break
    await _finish_downloads(session)
    await session.network.settle()
    if faults and not failure:
        first = faults[0]
        reason = first.reason if isinstance(first, Failure) else "action_failed"
        session.fail(reason, f"the result could not be read: {str(first).splitlines()[0][:300]}")


async def _still(session, step, wanted):
    """A step of a page that may go elsewhere by itself while it is read."""
    before = session.navigations
    for number in range(_TRIES):
        try:
            return await step(session, wanted)
        except Error as error:
            if not any(word in str(error) for word in _EXCHANGED):
                raise
            await asyncio.sleep(session.limits.time(0.05 * 2**number))
    times = session.navigations - before
    raise Failure("redirect_loop", f"the page sent itself on {times} times while it was read")


async def _settle(session, wanted):
    """What the page throws while it loads is told by then: timers that were due run before it.
    A page whose scripts are off, that has exchanged its timers or has gone is not waited for."""
    timer = asyncio.ensure_future(session.page.evaluate("new Promise(done => setTimeout(done))"))
    await asyncio.wait({timer}, timeout=session.limits.time(0.5))
    timer.cancel()
    timer.add_done_callback(lambda end: end.cancelled() or end.exception())


async def _page(session, wanted):
    value = session.value
    want = [name for name in ("metadata",) if name in wanted]
    if {"markdown", "article"} & set(wanted):
        want.append("html")
    if "html" in wanted or "article" in wanted:
        want.append("source")
    parts = await read(session, want)
    first = parts[0]
    if "title" in wanted:
        value["title"] = first["title"]
    if "text" in wanted:
        texts = [part["text"].strip() for part in parts]
        inline(session, "text", "\n\n".join(text for text in texts if text), "text.txt")
    hidden = [entry for part in parts for entry in part["hidden"]][:20]
    if hidden:
        value["hidden_text"] = hidden
        session.warn("hidden_text", f"{len(hidden)} texts on the page are not seen by people")
    if "markdown" in wanted:
        made = await asyncio.to_thread(markdown, [part["html"] for part in parts])
        inline(session, "markdown", made, "page.md")
    if "article" in wanted:
        made = await asyncio.to_thread(article, first["source"], first["url"])
        if not made:
            session.warn("no_article", "no main content was found; `article` is the whole page")
            made = await asyncio.to_thread(markdown, [first["html"]])
        inline(session, "article", made, "article.md")
    if "html" in wanted:
        inline(session, "html", first["source"], "page.html")
    if "metadata" in wanted:
        bounded(session, "metadata", first["metadata"])
    for name in ("links", "images"):
        if name in wanted:
            bounded(session, name, [entry for part in parts for entry in part[name]])


def markdown(parts):
    import html_to_markdown

    made = []
    for part in parts:
        converted = html_to_markdown.convert(part)
        text = converted if isinstance(converted, str) else getattr(converted, "content", None)
        if text and text.strip():
            made.append(text.strip())
    return "\n\n".join(made)


def article(source, url):
    import trafilatura

    return trafilatura.extract(
        source, url=url, output_format="markdown", include_links=True, include_tables=True
    )


async def _snapshot(session, wanted):
    session.value["snapshot"] = await snapshot(session)


async def _screenshot(session, wanted):
    await pictures.take(session, "screenshot", session.request.get("screenshot") or {})


async def _failure_picture(session, wanted):
    await pictures.take(session, "failure", {})


async def _pdf(session, wanted):
    await pictures.pdf(session, session.request.get("pdf") or {})


async def _storage(session, wanted):
    """A file, never part of the row: it is as secret as a password."""
    state = await session.guarded(session.ready.context.storage_state())
    _write(session, "storage.json", json.dumps(state))
    session.value.setdefault("files", []).append("storage.json")


def redact(session):
    """A HAR without what opens somebody's account."""
    path = os.path.join(session.out, "network.har")
    secret = {"authorization", "cookie", "set-cookie", "proxy-authorization"}
    try:
        with open(path, encoding="utf-8") as file:
            archive = json.load(file)
        for entry in archive["log"]["entries"]:
            for part in (entry["request"], entry["response"]):
                part["cookies"] = []
                for header in part["headers"]:
                    if header["name"].lower() in secret:
                        header["value"] = ""
    except (OSError, ValueError, KeyError, TypeError) as error:
        log(f"the HAR is not kept: {type(error).__name__}")
        if os.path.exists(path):
            os.unlink(path)
        return
    _write(session, "network.har", json.dumps(archive))


# Downloads


async def download(session, started):
    limits = session.limits
    number = len(session.value["downloads"]) + 1
    if number > limits.downloads:
        await started.cancel()
        session.warn("downloads_cancelled", f"more than {limits.downloads} downloads", "count")
        return
    entry = {
        "url": started.url[:2048],
        "name": started.suggested_filename[:255],
        "file": None,
        "size": None,
        "complete": False,
    }
    session.value["downloads"].append(entry)
    finished = asyncio.ensure_future(started.path())
    while not finished.done():
        await asyncio.wait({finished}, timeout=0.2)
        size = session.server.download_bytes()
        if size > min(limits.download, limits.downloads_all) or session.is_over_time():
            await started.cancel()
            _cancelled(session, entry, size)
            break
    try:
        path = await finished
        size = os.path.getsize(path)
        file = f"downloads/{number}"
        os.makedirs(os.path.join(session.out, "downloads"), exist_ok=True)
        shutil.move(path, os.path.join(session.out, file))
        entry.update(file=file, size=size, complete=True)
    except Error as error:
        entry["error"] = str(error).splitlines()[0][:200]


def _cancelled(session, entry, size):
    message = f"the download of {entry['url'][:300]} was stopped after {size} bytes"
    entry["size"] = size
    if "downloads" in (session.request.get("return") or []):
        session.fail("download_limit", message)
    else:
        session.warn("downloads_cancelled", message)


async def _finish_downloads(session):
    if "downloads" in session.wanted and not session.value["downloads"]:
        # One that an action has set off may still be on its way.
        await asyncio.sleep(min(session.limits.time(0.5), session.bounded(1)))
    tasks = [task for task in session._tasks if not task.done()]
    if tasks:
        await asyncio.wait(tasks, timeout=session.bounded(session.limits.quiet_seconds))


# The value


def _write(session, name, text):
    with open(os.path.join(session.out, name), "w", encoding="utf-8", errors="replace") as file:
        file.write(text)


def inline(session, name, text, file):
    """A text in the value as far as it fits."""
    data = text.encode("utf-8", "replace")
    limit = session.limits.inline_text
    if len(data) <= limit:
        session.value[name] = text
        return
    _write(session, file, text)
    cut = data[:limit].decode("utf-8", "ignore")
    border = cut.rfind("\n")
    session.value[name] = cut[:border] if border > limit // 2 else cut
    session.truncated[name] = {"bytes": len(data), "file": file}


def bounded(session, name, items, limit=128 << 10):
    """A list or an object in the value if it fits, else its beginning; the whole is a file."""
    text = json.dumps(items, ensure_ascii=False)
    if len(text.encode("utf-8", "replace")) <= limit:
        session.value[name] = items
        return
    file = f"{name}.json"
    _write(session, file, text)
    session.truncated[name] = {"bytes": len(text), "file": file}
    kept, size = [], 0
    for item in items if isinstance(items, list) else []:
        size += len(json.dumps(item, ensure_ascii=False).encode("utf-8", "replace")) + 2
        if size > limit:
            break
        kept.append(item)
    session.value[name] = kept if isinstance(items, list) else None


def send(session):
    value, wanted = session.value, getattr(session, "wanted", [])
    for name in ("console",):
        if name not in wanted:
            value.pop(name, None)
    bounded(session, "network", session.network.summary("network" in wanted))
    if value["network"] is None:
        value["network"] = session.network.summary(False)
    for name in ("actions", "pages", "dialogs", "downloads"):
        if not value[name]:
            del value[name]
    if session.closed:
        value["pages_closed"] = session.closed
    if session.values or "value" in wanted:
        value["value"] = session.values
    if session.truncated:
        value["truncated"] = session.truncated
    while len(encode("value", value)) > _LINE:
        largest = max(value, key=lambda name: len(json.dumps(value[name])))
        _write(session, f"{largest}.json", json.dumps(value[largest], ensure_ascii=False))
        session.truncated[largest] = {
            "bytes": len(json.dumps(value[largest])),
            "file": f"{largest}.json",
        }
        value[largest] = None
        value["truncated"] = session.truncated
    session.send("value", value)
