"""Leaves nothing behind, whatever ends the run, kill -9 included: a process of its own that waits for
the run's end and then removes what is left of it."""

import os, shutil, signal, subprocess, time

from basics import *


class Guardian:
    def __init__(self, directory: str):
        """Must be made before any thread and any child."""
        self.directory = directory
        reading, self.writing = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self.writing)
            watch(reading, directory)
        os.close(reading)

    def finish(self) -> None:
        """Has everything removed and waits for it."""
        os.close(self.writing)
        os.waitpid(self.pid, 0)


def watch(reading: int, directory: str) -> None:
    """Child: returns never."""
    try:
        os.setsid()  # a keyboard's interrupt is for the run, not for us
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
            signal.signal(number, signal.SIG_IGN)
        os.read(reading, 1)  # until the run has ended
        remove(directory)
    finally:
        os._exit(0)


def remove(directory: str) -> None:
    postmaster = postmaster_of(directory)
    if postmaster:
        end([postmaster], signal.SIGQUIT)
    for _ in range(3):  # what is starting just now may not have been there the first time
        left = marked(marks(directory))
        if not left:
            break
        end(left, signal.SIGKILL)
    shutil.rmtree(directory, ignore_errors=True)


def marks(directory: str) -> set[str]:
    """By which processes of the run are known."""
    hosts = f"{directory}/run/hosts"
    names = os.listdir(hosts) if os.path.isdir(hosts) else []
    return {f"{MARK}={directory}"} | {f"MAYFLY_HOST={name.lstrip('.')}" for name in names}


def postmaster_of(directory: str) -> int | None:
    try:
        with open(f"{directory}/postgres/data/postmaster.pid") as file:
            pid = int(file.readline())
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return pid if directory.encode() in file.read() else None
    except (OSError, ValueError):
        return None


def end(pids: list[int], number: int) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
            os.kill(pid, signal.SIGCONT)
        except OSError:
            continue
    deadline = time.monotonic() + 10
    while any(is_alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
