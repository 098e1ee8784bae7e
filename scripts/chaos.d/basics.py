"""What every part of scripts/chaos uses: errors, words, the timeline, processes by their environment."""

import json, os, subprocess, sys, time
from dataclasses import dataclass, field
from typing import Any

CHECKOUT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
STATE = os.environ.get("MAYFLY_STATE_DIRECTORY") or (
    "/var/lib/mayfly" if os.geteuid() == 0 else os.path.expanduser("~/.local/state/mayfly"))

# In the environment of every process that a run starts, with the run's own directory as its value.
MARK = "CHAOS_RUN"


class ChaosError(Exception):
    """The run itself cannot go on; one sentence: what happened and what to do."""


class UsageError(ChaosError):
    """What was asked for, or what this host has, does not allow a run."""


@dataclass
class Timeline:
    """What was done when: shown as it happens, and kept."""
    quiet: bool = False
    begin: float = field(default_factory=time.monotonic)
    events: list[dict[str, Any]] = field(default_factory=list)

    @property
    def now(self) -> float:
        return time.monotonic() - self.begin

    def note(self, what: str, detail: str = "") -> None:
        at = round(self.now, 2)
        self.events.append({"at": at, "what": what, "detail": detail})
        if not self.quiet:
            print(f"chaos [{at:7.2f} s] {what:9} {detail}".rstrip(), file=sys.stderr, flush=True)


def run(command: list[str], environment: dict[str, str] | None = None, seconds: float = 120) -> str:
    """Runs a step that must work; what it said."""
    try:
        done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, errors="replace", timeout=seconds,
                              start_new_session=True)
    except subprocess.TimeoutExpired:
        raise ChaosError(f"{' '.join(command[:4])} … still ran after {seconds:.0f} s") from None
    except OSError as error:
        raise ChaosError(f"{command[0]} does not start: {error.strerror}") from None
    if done.returncode != 0:
        tail = "\n".join(done.stdout.splitlines()[-10:])
        raise ChaosError(f"{' '.join(command[:4])} … failed ({done.returncode})\n{tail}")
    return done.stdout


def read_json(text: str) -> Any:
    return json.loads(text) if text else None


def marked(variables: set[str]) -> list[int]:
    """Live processes whose environment has one of these `NAME=value`; not this one."""
    wanted = {variable.encode() for variable in variables}
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            with open(f"/proc/{entry}/environ", "rb") as file:
                environment = set(file.read().split(b"\0"))
        except OSError:  # it ended, or is not ours to look at
            continue
        if wanted & environment:
            found.append(int(entry))
    return found


def command_of(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read().replace(b"\0", b" ").decode(errors="replace")[:120].strip()
    except OSError:
        return "ended by now"
