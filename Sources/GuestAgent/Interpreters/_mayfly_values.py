# What a value is as text, as JSON and as a table: bounded, and guarded against objects that loop, raise
# or want a gigabyte. Used by _mayfly_rich.py; everything of a program's own is called in Guard only.
import os
import sys

import _mayfly_program as program
from _mayfly_program import DATA, SIMPLE, TEXT, Unfit, cut, quote

ROWS = 1000
CELLS = 100_000
SECONDS = 10


class TooLong(BaseException):
    """Raised by the clock into whatever runs; a program's `except Exception` does not hold it."""


class Guard:
    """For code of the program's that runs after the program: so much time, so much memory."""

    depth = 0

    def __init__(self, memory, seconds):
        self.memory, self.seconds = memory, seconds

    def __enter__(self):
        Guard.depth += 1
        self.is_outer = Guard.depth == 1
        if self.is_outer:
            self.limit_memory()
            self.limit_time()

    def limit_memory(self):
        self.old = None
        try:
            import resource

            with open("/proc/self/statm", "rb") as file:
                used = int(file.read().split()[0]) * resource.getpagesize()
            soft, hard = resource.getrlimit(resource.RLIMIT_AS)
            if soft == resource.RLIM_INFINITY:
                resource.setrlimit(resource.RLIMIT_AS, (used + self.memory, hard))
                self.old = resource, soft, hard
        except Exception:
            pass

    def limit_time(self):
        import signal
        import threading

        self.handler = None
        self.alarms = 0
        # Displays of other threads have their program's time only.
        if threading.current_thread() is not threading.main_thread():
            return
        self.signal = signal
        self.handler = signal.signal(signal.SIGALRM, self.ring)
        self.timer = signal.setitimer(signal.ITIMER_REAL, self.seconds, 1)

    def ring(self, number, frame):
        self.alarms += 1
        # It holds every exception: the program was over, what it left is stored, and that is the end.
        if self.alarms > 5:
            program.events.warn("value_unreadable", "an object's own code did not end")
            os._exit(0)
        raise TooLong

    def __exit__(self, kind, error, trace):
        Guard.depth -= 1
        if self.is_outer:
            if self.handler is not None:
                self.signal.setitimer(self.signal.ITIMER_REAL, *self.timer)
                self.signal.signal(self.signal.SIGALRM, self.handler)
            if self.old is not None:
                resource, soft, hard = self.old
                resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def attempt(function, *arguments, memory=256 << 20, seconds=SECONDS):
    """What it answers; `Unfit` with a reason for people when it raises, loops or wants too much."""
    try:
        with Guard(memory, seconds):
            return function(*arguments)
    except Unfit:
        raise
    except TooLong:
        raise Unfit(f"did not end within {seconds} s") from None
    except MemoryError:
        raise Unfit("wants too much memory") from None
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise Unfit(f"raises {type(error).__name__}") from None


# MARK: Text and JSON


def describe(value):
    """`repr`, in at most TEXT characters and the time for it."""
    kind = type(value)
    try:
        if kind is str or kind is bytes:
            return cut(repr(value[:TEXT]) if len(value) > TEXT else repr(value))
        if kind in SIMPLE and kind is not int:
            return repr(value)
        if kind in (list, tuple, dict, set, frozenset) and not fits(value, 20_000):
            return cut(attempt(describe_large, value))
        text = attempt(repr, value)
        return cut(text if type(text) is str else str.__str__(text))
    except Unfit as reason:
        return f"<{kind.__name__}: its repr {reason}>"


def fits(value, room):
    """Whether no more than so many values are in it, none of them long; `room` is a bound on time."""
    left = [value]
    seen = 0
    while left:
        value = left.pop()
        kind = type(value)
        seen += 1
        if kind in (list, tuple, set, frozenset):
            if seen + len(left) + len(value) > room:
                return False
            left += value
        elif kind is dict:
            if seen + len(left) + 2 * len(value) > room:
                return False
            left += value.keys()
            left += value.values()
        elif (kind is str or kind is bytes) and len(value) > TEXT:
            return False
        if seen > room:
            return False
    return True


def describe_large(value):
    """The first values of a container of very many."""
    import itertools

    kind = type(value)
    some = list(itertools.islice(value.items() if kind is dict else value, 500))
    if kind is dict:
        parts = [f"{describe_part(key)}: {describe_part(item)}" for key, item in some]
    else:
        parts = [describe_part(item) for item in some]
    more = f", … {len(value) - len(some)} more" if len(value) > len(some) else ""
    opening, closing = {list: "[]", tuple: "()", dict: "{}", set: "{}"}.get(kind, ("frozenset({", "})"))
    return f"{opening}{', '.join(parts)}{more}{closing}"


def describe_part(value):
    if fits(value, 200):
        return cut(describe(value), 1000)
    return cut(describe(value), 1000) if type(value) in SIMPLE else f"<{type(value).__name__}: …>"


def as_json(value, limit=DATA):
    """JSON text of plain data; `Unfit` for anything else."""
    room = limit

    def write(value, depth):
        nonlocal room
        kind = type(value)
        if depth > 32:
            raise Unfit("is nested too deep")
        if value is None or kind is bool:
            text = {None: "null", True: "true", False: "false"}[value]
        elif kind is int:
            if value.bit_length() > 3000:
                raise Unfit("holds a number that is too large")
            text = int.__repr__(value)
        elif kind is float:
            if value != value or value in (float("inf"), float("-inf")):
                raise Unfit("holds a number that JSON does not have")
            text = float.__repr__(value)
        elif kind is str:
            if len(value) > room:
                raise Unfit("is too large")
            text = quote(value)
        elif kind is list or kind is tuple:
            room -= 2 * len(value)
            if room < 0:
                raise Unfit("is too large")
            return f"[{','.join([write(item, depth + 1) for item in value])}]"
        elif kind is dict:
            room -= 4 * len(value)
            if room < 0:
                raise Unfit("is too large")
            members = {}
            for key, item in value.items():
                if type(key) is int:
                    key = str(key)
                if type(key) is not str or key in members:
                    raise Unfit("has keys that JSON does not have")
                members[key] = f"{write(key, depth)}:{write(item, depth + 1)}"
            return f"{{{','.join(members.values())}}}"
        else:
            return write(plain(value), depth + 1)
        room -= len(text)
        if room < 0:
            raise Unfit("is too large")
        return text

    return write(value, 0)


def plain(value):
    """Of the libraries that every image has: numpy's numbers and small arrays, dates."""
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        if isinstance(value, numpy.generic):
            item = value.item()
            if type(item) is not type(value):
                return item
        if type(value) is numpy.ndarray and value.size <= 10_000:
            return value.tolist()
    datetime = sys.modules.get("datetime")
    if datetime is not None and isinstance(value, (datetime.date, datetime.time)):
        text = value.isoformat()
        if type(text) is str:
            return text
    raise Unfit("is no JSON")


def table(value):
    """A data frame's first rows as records, what it is indexed by among them, and its length."""
    pandas = sys.modules.get("pandas")
    frame_type = getattr(pandas, "DataFrame", None)
    series_type = getattr(pandas, "Series", None)
    if frame_type is None or not isinstance(value, (frame_type, series_type)):
        return None
    rows = len(value)
    if isinstance(value, series_type):
        some = value.head(ROWS).to_frame(value.name if value.name is not None else "value")
    else:
        some = value.head(min(ROWS, max(1, CELLS // max(1, value.shape[1]))))
    if not isinstance(some.index, pandas.RangeIndex):
        try:
            some = some.reset_index()
        except ValueError:
            pass  # a column has the index's name
    while True:
        text = some.to_json(orient="records", date_format="iso")
        if len(text) <= DATA:
            return text, rows, len(some)
        some = some.head(len(some) * DATA // len(text) * 9 // 10)
