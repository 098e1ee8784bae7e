# The fork server: a Python that has imported what programs usually need, and forks a child for each
# program. Started by the guest agent as root, under its system call filter, with descriptor 3 as the
# only way to talk to it. A child joins the job's cgroup and becomes the unprivileged user before it
# reads the first byte of a job. What a program sees is what `python3 main.py` would show it.
#
# Packet in: fields separated by NUL: seed and number of the program, source, count, arguments,
# environment; with descriptors cgroup.procs, stdin, stdout, stderr and perhaps events. Or A (ahead):
# fork the next program's child now.
# Packets out: W (waiting), once; A when a child forked ahead waits; for each program P <pid>, then
# E <signal> <code>.
import gc
import os
import socket
import sys

import _mayfly_program as program
import _mayfly_rich

STANDARD = """
abc argparse array ast asyncio base64 bisect builtins bz2 calendar cmath codecs collections.abc
concurrent.futures configparser contextlib copy csv ctypes dataclasses datetime decimal difflib dis
email.message email.mime.multipart email.mime.text email.utils enum errno fnmatch fractions functools
gc getpass glob gzip hashlib heapq hmac html html.parser http.client http.server importlib.util
inspect io ipaddress itertools json keyword linecache locale logging lzma math mimetypes
multiprocessing.pool numbers operator os.path pathlib pickle pkgutil platform pprint queue random re
sched secrets select selectors shelve shlex shutil signal socket sqlite3 ssl stat statistics string
struct subprocess sys tarfile tempfile textwrap threading time timeit tokenize traceback types typing
unicodedata unittest urllib.error urllib.parse urllib.request uuid warnings weakref
xml.etree.ElementTree zipfile zlib zoneinfo
""".split()

USER, GROUP = (int(number) for number in os.environ.pop("MAYFLY_ACCOUNT").split(":"))
control = socket.socket(fileno=3)


def warm(modules):
    """Imports everything and uses it once: much is imported or compiled only when first used."""
    import contextlib
    import importlib
    import io

    for name in STANDARD + modules:
        try:
            importlib.import_module(name)
        except Exception as error:
            print(f"python: {name} cannot be imported: {error!r}", file=sys.stderr)
            if name in modules:
                # Asked for by the image's definition: without it the image is not what it says.
                sys.exit(1)
    import decimal, json, random, re, tempfile, threading, traceback

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        json.loads(json.dumps({"a": [1, 2.5, None, "é"], "b": {"c": True}}, indent=1))
        re.sub(r"(\w+)@(\w+)\.com", r"\2", "someone@example.com")
        decimal.Decimal("1.1") + 1
        random.Random(1).random()
        exec(compile("def f(x):\n return x + 1\nprint(f(1))\n", "<warm>", "exec"), {})
        try:
            raise ValueError("warm")
        except ValueError:
            traceback.print_exc()
        thread = threading.Thread(target=len, args=("",))
        thread.start()
        thread.join()
        for module, use in (("numpy", warm_numpy), ("pandas", warm_pandas)):
            if module in sys.modules:
                try:
                    use()
                except Exception as error:
                    print(f"python: {module}: {error!r}", file=sys.__stderr__)
        if "matplotlib.pyplot" in sys.modules:
            try:
                warm_matplotlib()
            except Exception as error:
                print(f"python: matplotlib: {error!r}", file=sys.__stderr__)


def warm_numpy():
    import numpy as np

    a = np.arange(12.0).reshape(3, 4)
    print(a, a.mean(axis=0), (a @ a.T).sum(), np.linalg.inv(np.eye(3)), np.sort(a)[::-1])
    print(np.array2string(a, precision=2), np.random.default_rng(1).normal(size=3))


def warm_pandas():
    import io

    import pandas as pd

    frame = pd.read_csv(io.StringIO("day,name,value\n2024-01-01,a,1\n2024-01-02,b,2.5\n"))
    frame["day"] = pd.to_datetime(frame["day"])
    print(frame, frame.describe(), frame.dtypes)
    print(frame.groupby("name")["value"].agg(["mean", "sum"]).reset_index())
    print(frame.merge(frame, on="name").sort_values("name").to_csv(), frame.to_json())
    print(frame.pivot_table(index="name", values="value").to_string(), frame["value"].cumsum())


def warm_matplotlib():
    import io

    import matplotlib.pyplot as plt

    figure, axes = plt.subplots()
    axes.plot([1, 2, 3], [1, 4, 9], label="warm")
    axes.bar([1, 2], [3, 4])
    axes.set_title("Warm $x^2$")
    axes.set_xlabel("x")
    axes.legend()
    figure.savefig(io.BytesIO(), format="png")
    plt.close("all")


def reseed(material):
    """New states for every generator that would otherwise be a copy of the snapshot's."""
    import hashlib
    import random

    digest = hashlib.sha512(material).digest()
    random.seed(digest)
    processes = sys.modules.get("multiprocessing.process")
    if processes is not None:
        # Whoever knows it can run code in the program's workers; drawn before the snapshot was made.
        processes.current_process().authkey = os.urandom(32)
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed([int.from_bytes(digest[i : i + 4], "big") for i in range(0, 32, 4)])


def serve():
    """Answers in a child only: its program, and the descriptors that came with it."""
    while True:
        packet, files = receive()
        if packet == b"A":
            job = serve_ahead()
            if job is not None:
                return job
            continue
        pid = os.fork()
        if pid == 0:
            return packet, files
        control.send(b"P %d" % pid)
        for file in files:
            os.close(file)
        report(os.waitpid(pid, 0)[1])


def receive():
    import array

    size = array.array("i").itemsize
    packet, ancillary, _, _ = control.recvmsg(1 << 17, socket.CMSG_SPACE(5 * size))
    if not packet:
        os._exit(0)
    files = array.array("i")
    for _, _, data in ancillary:
        files.frombytes(data)
    return packet, files


def report(status):
    code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else 0
    control.send(b"E %d %d" % (os.WTERMSIG(status), code))


def serve_ahead():
    """Forks the next program's child before there is a program: it takes the packet itself.

    One that dies before is no loss: the packet is then still there for the server to read."""
    taken, take = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(taken)
        touch()
        control.send(b"A")
        job = receive()
        os.write(take, b"1")
        control.send(b"P %d" % os.getpid())
        return job
    os.close(take)
    status = os.waitpid(pid, 0)[1]
    was_taken = os.read(taken, 1)
    os.close(taken)
    if was_taken:
        report(status)
    return None


def touch():
    """Uses what every program uses, so that this process has pages of its own for it. Draws no
    random numbers: the job's seed is still to come."""
    program.evaluate("f = lambda x: x * 7\nstr([f(6)])\n", "<ahead>", {})


def become(packet, files):
    """From a copy of the server to the process that a fresh python would be; answers the source."""
    os.write(files[0], b"0")
    os.setsid()
    for number, file in enumerate(files[1:]):
        os.dup2(file, number)
    os.closerange(len(files) - 1, 64)
    os.setgroups([])
    os.setresgid(GROUP, GROUP, GROUP)
    os.setresuid(USER, USER, USER)
    os.chdir("/work")
    seed, source, count, *rest = packet.split(b"\0")
    arguments = [os.fsdecode(field) for field in rest[: int(count)]]
    environment = dict(field.split(b"=", 1) for field in rest[int(count) :])
    for name in list(os.environb):
        if name not in environment:
            del os.environb[name]
    for name, value in environment.items():
        if os.environb.get(name) != value:
            os.environb[name] = value
    source = os.fsdecode(source)
    sys.argv = [source] + arguments
    sys.orig_argv = [sys.executable] + sys.argv
    reseed(seed)
    if b"TZ" in environment:
        sys.modules["time"].tzset()
    standard_streams()
    program.take_events()
    return os.path.join("/work", source)


def standard_streams():
    import io

    def stream(number, mode, name, errors, line_buffering=False):
        raw = io.FileIO(number, mode, closefd=False)
        raw.name = name
        buffer = io.BufferedReader(raw) if mode == "r" else io.BufferedWriter(raw)
        text = io.TextIOWrapper(buffer, "utf-8", errors, line_buffering=line_buffering)
        text.mode = mode
        return text

    sys.stdin = sys.__stdin__ = stream(0, "r", "<stdin>", "surrogateescape")
    sys.stdout = sys.__stdout__ = stream(1, "w", "<stdout>", "surrogateescape")
    sys.stderr = sys.__stderr__ = stream(2, "w", "<stderr>", "backslashreplace", True)


def finish(main, code, loaded):
    """What python does at its end, but for taking apart a thousand modules that nobody changed."""
    import atexit
    import threading

    try:
        threading._shutdown()
    except BaseException:
        sys.excepthook(*sys.exc_info())
    atexit._run_exitfuncs()
    code = flush(code)
    # Objects with something left to do, such as files never closed, live in the program's own modules.
    own = [main.__dict__]
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if name not in loaded and isinstance(file, str) and file.startswith("/work/"):
            own.append(module.__dict__)
    del main
    streams = sys.stdout, sys.stderr
    for names in own:
        for name in list(names):
            if name != "__builtins__":
                names[name] = None
    gc.collect()
    sys.stdout, sys.stderr = streams
    return flush(code)


def flush(code):
    try:
        if sys.stdout is not None and not sys.stdout.closed:
            sys.stdout.flush()
    except BaseException as error:
        text = f"Exception ignored in: {sys.stdout!r}\n{type(error).__name__}: {error}\n"
        try:
            sys.stderr.write(text)
        except BaseException:
            pass
        sys.stdout = None
        code = 120
    try:
        if sys.stderr is not None and not sys.stderr.closed:
            sys.stderr.flush()
    except BaseException:
        code = 120
    return code


def main():
    sys.path[0] = "/work"
    warm(sys.argv[1:])
    gc.collect()
    gc.freeze()
    loaded = frozenset(sys.modules)
    control.send(b"W")
    job = serve()
    try:
        path = become(*job)
    except BaseException as error:
        os.write(2, f"python: cannot become the job's process: {error!r}\n".encode())
        os._exit(127)
    code = program.run(path, lambda main, code: finish(main, code, loaded))
    if code == "interrupt":
        import signal

        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    os._exit(code)


main()
