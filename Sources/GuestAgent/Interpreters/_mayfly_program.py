# How a program runs as `__main__`, and what of its end becomes data: the value of its last expression
# and its exception go to the descriptor in MAYFLY_EVENTS, one JSON object a line. Without the variable
# MAYFLY_VALUES a program runs as `python3 main.py` runs it, and nothing here looks at it. Used by python.py in the
# process that it forks, and by fresh.py in a process of the job's own: so it imports nothing that a
# file of the job's could stand in for, and nothing that takes time.
import os
import sys

import _ast
import _json
import fcntl

from importlib.machinery import SourceFileLoader
from types import ModuleType

# What one job's events may hold; the host has bounds of its own.
TEXT = 64 << 10
DATA = 256 << 10
INLINE = 1 << 20
# A source beyond this is compiled without a tree of Python objects, which takes 200 times its size:
# its last expression is a statement like any other.
SOURCE = 256 << 10
SIMPLE = frozenset((type(None), bool, int, float, complex, str, bytes))


class Unfit(Exception):
    """The value is nothing that JSON holds, or too much of it."""


class Events:
    """The way out for what is neither text for people nor a file."""

    def __init__(self, number):
        # Out of the way of programs that count on their next descriptor, or close the first hundred.
        self.file = fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, 1000)
        os.close(number)
        self.status = self.identity()
        self.process = os.getpid()
        self.room = INLINE

    def identity(self):
        status = os.fstat(self.file)
        return status.st_dev, status.st_ino

    def send(self, name, value):
        """`value`: JSON text. Nothing of a copy of the program, and nothing into a file of its own
        that got our number: a program may close what it likes."""
        try:
            if os.getpid() != self.process or self.identity() != self.status:
                return
            data = memoryview(f'{{"{name}":{value}}}\n'.encode("ascii"))
            while data:
                data = data[os.write(self.file, data) :]
        except OSError:
            pass

    def warn(self, code, message):
        self.send("warning", f'{{"code":{quote(code)},"message":{quote(message)}}}')


events = None


def take_events():
    """Takes the variable away: what the program starts has no such descriptor."""
    global events
    if os.environ.pop("MAYFLY_VALUES", None) is None:
        return None
    number = os.environ.pop("MAYFLY_EVENTS", None)
    if number is not None:
        try:
            events = Events(int(number))
        except (OSError, ValueError):
            pass
    return events


def quote(text):
    """A JSON string; half a surrogate pair, which JSON cannot hold, as Python shows it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        text = text.encode("utf-8", "backslashreplace").decode()
    return _json.encode_basestring_ascii(text)


def cut(text, limit=TEXT):
    if len(text) <= limit:
        return text
    head, tail = limit * 2 // 5, limit * 3 // 5
    return f"{text[:head]}\n[… {len(text) - head - tail} characters left out …]\n{text[-tail:]}"


# MARK: Running


def run(path, finish):
    """Runs the program as `__main__` and answers the exit code that python would give."""
    try:
        with open(path, "rb") as file:
            text = file.read()
    except OSError as error:
        sys.stderr.write(
            f"{sys.executable}: can't open file {path!r}: [Errno {error.errno}] {error.strerror}\n"
        )
        return 2
    if not getattr(sys.flags, "safe_path", False):
        sys.path[0] = os.path.dirname(path)
        sys.path_importer_cache.pop(sys.path[0], None)
    main = ModuleType("__main__")
    main.__dict__.update(
        __file__=path, __cached__=None, __loader__=SourceFileLoader("__main__", path),
        __builtins__=sys.modules["builtins"],
    )
    sys.modules["__main__"] = main
    code = execute(text, path, main)
    return finish(main, code)


def execute(text, path, main):
    rich = None
    try:
        if events is None:
            exec(compile(text, path, "exec", dont_inherit=True), main.__dict__)
            return 0
        import _mayfly_rich as rich

        rich.start(os.path.dirname(path))
        value = evaluate(text, path, main.__dict__)
        if value is not None:
            rich.last(value)
        return 0
    except SystemExit as exit:
        return exit_code(exit)
    except BaseException as error:
        trace = error.__traceback__ = own_frames(error.__traceback__, path)
        sys.last_type, sys.last_value, sys.last_traceback = type(error), error, trace
        if rich is not None:
            rich.failed(error, path)
        try:
            sys.excepthook(type(error), error, trace)
        except SystemExit as exit:
            return exit_code(exit)
        except BaseException as second:
            sys.__excepthook__(type(second), second, second.__traceback__)
            sys.__excepthook__(type(error), error, trace)
        return "interrupt" if isinstance(error, KeyboardInterrupt) else 1
    finally:
        if rich is not None:
            rich.end()


def own_frames(trace, path):
    """The part of a traceback that is the program's: from its own first frame on."""
    first = trace
    while first is not None and first.tb_frame.f_code.co_filename != path:
        first = first.tb_next
    if first is not None:
        return first
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    return trace


def evaluate(text, path, names):
    """Runs a program and answers the value of its last statement, where that is an expression.

    Awaiting outside a function, a syntax error elsewhere, runs in a loop of its own."""
    if len(text) > SOURCE:
        exec(compile(text, path, "exec", dont_inherit=True), names)
        return None
    awaits = 0x2000  # PyCF_ALLOW_TOP_LEVEL_AWAIT
    tree = compile(text, path, "exec", 0x400, dont_inherit=True)  # PyCF_ONLY_AST
    last = None
    # A lone string is a docstring first.
    if tree.body and isinstance(tree.body[-1], _ast.Expr):
        if len(tree.body) > 1 or not isinstance(tree.body[-1].value, _ast.Constant):
            last = tree.body.pop().value
    # All of it is compiled before anything runs.
    body, flags = None, 0
    if tree.body:
        body = compile(tree, path, "exec", awaits, dont_inherit=True)
        flags = body.co_flags & 0x1FE0000  # what it took from __future__
    if last is not None:
        last = compile(_ast.Expression(last), path, "eval", awaits | flags, dont_inherit=True)
    codes = [code for code in (body, last) if code is not None]
    if any(code.co_flags & 0x80 for code in codes):  # CO_COROUTINE
        return run_in_loop(codes, names)
    value = None
    for code in codes:
        value = eval(code, names)
    return value if last is not None else None


def run_in_loop(codes, names):
    import asyncio

    async def program():
        value = None
        for code in codes:
            value = eval(code, names)
            if code.co_flags & 0x80:
                value = await value
        return value

    return asyncio.run(program())


def exit_code(exit):
    if exit.code is None:
        return 0
    if isinstance(exit.code, int):
        return exit.code & 0xFF
    print(exit.code, file=sys.stderr)
    return 1
