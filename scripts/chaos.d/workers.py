"""Worker processes: started, killed, paused and stopped, each by its own number."""

import glob, os, signal, subprocess, time
from typing import Callable

from basics import *

LEASE_SECONDS = 5
SLOTS = 2
STOP_SECONDS = 90


class Worker:
    """One place for a worker process; who dies here is started again here."""

    def __init__(self, number: int, program: str, directory: str, environment: dict[str, str],
                 url: Callable[[str, str], str]):
        self.name = f"chaos-{number}"
        self.log = f"{directory}/logs/{self.name}.log"
        self.runtime = environment["MAYFLY_RUNTIME_DIRECTORY"]
        self.command = [program, "worker", "--slots", str(SLOTS), "--set", f"worker.lease={LEASE_SECONDS}s",
                        "--set", f"worker.name={self.name}"]
        self.environment = environment | {"DATABASE_URL": url("worker", self.name)}
        self.process: subprocess.Popen[bytes] | None = None
        self.is_paused = False
        self.is_stopping = False
        self.starts = 0
        self.marks: set[str] = set()   # of its machines, one for each process that it was

    def start(self) -> None:
        with open(self.log, "ab") as log:
            log.write(f"---- start {self.starts + 1}\n".encode())
            self.process = subprocess.Popen(self.command, env=self.environment, stdin=subprocess.DEVNULL,
                                            stdout=log, stderr=log, start_new_session=True)
        self.starts += 1
        self.is_paused = self.is_stopping = False

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def pid(self) -> int:
        return self.process.pid if self.process else 0

    def look(self) -> None:
        """Remembers the mark of its machines."""
        for path in glob.glob(f"{self.runtime}/hosts/{self.pid}-*"):
            self.marks.add("MAYFLY_HOST=" + os.path.basename(path))

    def has_logged(self, words: bytes) -> bool:
        """Since the last start."""
        with open(self.log, "rb") as log:
            return words in log.read().rpartition(b"---- start ")[2]

    @property
    def was_ready(self) -> bool:
        """Whether this process came as far as claiming jobs."""
        return self.has_logged(b"worker ready")

    def kill(self) -> None:
        self.look()
        if self.process:
            self.process.kill()
            self.process.wait()

    def pause(self) -> None:
        self.process.send_signal(signal.SIGSTOP)
        self.is_paused = True

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.is_paused = False

    def machines(self) -> list[int]:
        self.look()
        return marked({mark for mark in self.marks if mark.startswith(f"MAYFLY_HOST={self.pid}-")})

    def stop(self) -> None:
        """SIGTERM; its end is waited for elsewhere."""
        self.look()
        self.is_stopping = True
        self.process.send_signal(signal.SIGTERM)
