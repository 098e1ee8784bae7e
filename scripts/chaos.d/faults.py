"""What goes wrong and when: a schedule, made of the seed alone before anything begins."""

import random
from dataclasses import dataclass

from jobs import Holder
from workers import LEASE_SECONDS

# How often each kind is drawn.
WEIGHTS = {
    "pause": 5,       # SIGSTOP of a worker, mostly beyond its lease, then SIGCONT
    "kill": 3,        # kill -9 of a worker, started again soon after
    "backends": 3,    # the server ends all connections of a worker
    "hold": 4,        # a producer's transaction that stays open
    "database": 1.5,  # an immediate restart of PostgreSQL
    "outage": 1,      # PostgreSQL is stopped so, and comes back later, mostly beyond the lease
    "machine": 1.5,   # kill -9 of a hypervisor
    "stop": 1,        # SIGTERM, and a moment later another one: jobs are given back
}
SECONDS = {"pause": (3, 12), "kill": (0, 2), "hold": (2, 15), "outage": (3, 10), "stop": (0.2, 2)}
MEAN_GAP_SECONDS = 5.0
# A build takes minutes of a processor, so only long runs have them.
BUILDS_FROM_MINUTES = 5
BUILD_GAP_SECONDS = (150, 240)


@dataclass(frozen=True, order=True)
class Fault:
    at: float
    kind: str
    worker: int = 0        # the place that it strikes
    seconds: float = 0     # how long it lasts
    deed: str = ""         # of a producer that holds a transaction open
    commits: bool = True


def schedule(seed: int, minutes: float, workers: int) -> list[Fault]:
    dice = random.Random(f"{seed} faults")
    end = minutes * 60
    faults = []
    at = 2.0
    while at < end:
        kind = dice.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        faults.append(Fault(
            round(at, 2), kind, dice.randrange(workers), round(dice.uniform(*SECONDS.get(kind, (0, 0))), 1),
            dice.choice(Holder.DEEDS) if kind == "hold" else "", dice.random() < 0.7))
        at += dice.expovariate(1 / MEAN_GAP_SECONDS)
    faults += storm(dice, end, workers)
    if minutes >= BUILDS_FROM_MINUTES:
        faults += builds(random.Random(f"{seed} builds"), end)
    return sorted(faults)


def storm(dice: random.Random, end: float, workers: int) -> list[Fault]:
    """Once in every run: a restart of the server, after which nobody is declared dead for a while, and
    within that while pauses of all workers beyond their leases. Jobs are then still held by whom the
    lease has left."""
    at = dice.uniform(8, max(8, end / 2))
    return [Fault(round(at, 2), "database")] + [
        Fault(round(at + 0.5 + worker / 10, 2), "pause", worker, round(dice.uniform(1.3, 2) * LEASE_SECONDS, 1))
        for worker in range(workers)]


def builds(dice: random.Random, end: float) -> list[Fault]:
    """Image builds, some killed on the way (`seconds` is when; 0: never), and prunes."""
    faults = []
    at = dice.uniform(20, 60)
    while at < end:
        killed_after = round(dice.uniform(3, 30), 1) if dice.random() < 1 / 3 else 0
        faults.append(Fault(round(at, 2), "build", seconds=killed_after))
        # While it builds, and after it was killed.
        faults.append(Fault(round(at + dice.uniform(5, 60), 2), "prune"))
        at += dice.uniform(*BUILD_GAP_SECONDS)
    return [fault for fault in faults if fault.at < end]
