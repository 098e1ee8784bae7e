"""A script of the job, as agents write it: Playwright's `page` is in scope, awaited or not."""

import ast
import asyncio
import contextlib
import inspect
import io
import signal
import traceback

import greenlet
from playwright.async_api import Error
from playwright.sync_api import _generated as blocking

from .events import Failure

_NAME = "<script>"
_PRINTED = 64 << 10


class _Late(BaseException):
    """Raised inside a script that does not come back by itself."""


class _Printed(io.StringIO):
    def write(self, text):
        left = _PRINTED - self.tell()
        return super().write(text[:left]) if left > 0 else 0


def _compiled(source):
    """The code but for its last expression, and that: its value is the script's."""
    tree = ast.parse(source, _NAME)
    last = None
    if tree.body and isinstance(tree.body[-1], ast.Expr):
        last = ast.Expression(tree.body.pop().value)
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    body = compile(tree, _NAME, "exec", flags)
    value = compile(ast.fix_missing_locations(last), _NAME, "eval", flags) if last else None
    awaits = any(code and code.co_flags & inspect.CO_COROUTINE for code in (body, value))
    return body, value, awaits


async def run(session):
    """Runs it to its end, within the job's time."""
    source = session.request["script"]
    try:
        body, value, awaits = _compiled(source)
    except (SyntaxError, ValueError) as error:
        raise Failure("action_failed", f"script: {error}") from None
    names = {"__name__": "__main__", "secrets": dict(session.request.get("secrets") or {})}
    printed = _Printed()
    late = session.bounded(1e6)
    # Where it goes is its own wish.
    session.navigations = -(10**9)

    def alarm(_, frame):
        # While the loop waits for the page, the end of the time is the loop's to notice: raised
        # there, this would end the browser's process.
        while frame and frame.f_code.co_filename != _NAME:
            frame = frame.f_back
        if frame:
            raise _Late

    previous = signal.signal(signal.SIGALRM, alarm)
    # Also for one that blocks: then nothing else in this process has a turn. Each second again, for
    # one that catches it and goes on.
    signal.setitimer(signal.ITIMER_REAL, late + 0.5, 1)
    try:
        with contextlib.redirect_stdout(printed):
            run_it = _awaiting if awaits else _blocking
            result = await run_it(session, names, body, value)
    except (_Late, asyncio.TimeoutError):
        raise Failure("timeout", f"script: not done after {late:.0f} s") from None
    except Failure:
        raise
    except SystemExit:
        result = None
    except BaseException as error:
        if isinstance(error, asyncio.CancelledError):
            raise
        raise Failure("action_failed", _explained(error)) from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
        if printed.getvalue():
            session.value["printed"] = printed.getvalue()
    if result is not None:
        session.add_value(result)


async def _awaiting(session, names, body, value):
    ready = session.ready
    names.update(page=session.page, context=ready.context, browser=ready.context.browser)
    result = eval(body, names)
    if inspect.isawaitable(result):
        await asyncio.wait_for(result, session.bounded(1e6))
    if value is None:
        return None
    result = eval(value, names)
    if inspect.isawaitable(result):
        result = await asyncio.wait_for(result, session.bounded(1e6))
    return result


async def _blocking(session, names, body, value):
    """In a greenlet of its own: its calls let this loop go on meanwhile."""
    ready = session.ready
    names.update(
        page=blocking.Page(session.page._impl_obj),
        context=blocking.BrowserContext(ready.context._impl_obj),
        browser=blocking.Browser(ready.context.browser._impl_obj),
    )
    ended = asyncio.get_running_loop().create_future()

    def inside():
        try:
            exec(body, names)
            result = eval(value, names) if value is not None else None
            if not ended.done():
                ended.set_result(result)
        except BaseException as error:
            if not ended.done():
                ended.set_result(None if isinstance(error, SystemExit) else _Raised(error))

    asyncio.get_running_loop().call_soon(greenlet.greenlet(inside).switch)
    result = await asyncio.wait_for(ended, session.bounded(1e6))
    if isinstance(result, _Raised):
        raise result.error
    return result


class _Raised:
    def __init__(self, error):
        self.error = error


def _explained(error):
    """With the line of the script, and none of ours."""
    lines = [at.lineno for at in traceback.extract_tb(error.__traceback__) if at.filename == _NAME]
    place = f"line {lines[-1]}: " if lines else ""
    text = str(error).strip()
    if isinstance(error, Error):
        text = text.splitlines()[0] if text else ""
    return f"script, {place}{type(error).__name__}: {text[:500]}"
