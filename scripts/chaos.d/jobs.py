"""What is enqueued, and by whom: jobs that say who they are, a producer that goes on whatever happens,
and producers that keep their transactions open."""

import json, random, threading, time
from dataclasses import dataclass, field

from basics import *
from cluster import Cluster, Disconnected, Refused, Session

TENANTS = ["", "ash", "birch", "cedar"]
QUEUES = ["default", "mail", "reports"]
FAILING_CODE = 3
# The producer waits while so many jobs have not ended, so that what is left at the end is bounded.
BACKLOG_MAX = 24

# Each is called with: its nonce, the seconds to sleep, the file to leave ('' for none), the exit code.
SOURCES = {
    "bash": 'echo "$1 begins"; sleep "$2"; [ -z "$3" ] || echo "$1" > "$3"; echo "$1 ends"; exit "$4"',
    "python": "import sys, time\n_, nonce, seconds, file, code = sys.argv\nprint(nonce, 'begins', flush=True)\n"
              "time.sleep(float(seconds))\nif file: open(file, 'w').write(nonce + '\\n')\n"
              "print(nonce, 'ends', flush=True)\nsys.exit(int(code))\n",
}


@dataclass(frozen=True)
class Plan:
    """One job, as the seed wants it."""
    nonce: str
    tenant: str
    queue: str
    payload: dict[str, object]
    max_attempts: int
    priority: int

    @property
    def call(self) -> str:
        payload = json.dumps(self.payload).replace("'", "''")
        return (f"select mayfly.enqueue('code', '{payload}', queue => '{self.queue}', tenant => '{self.tenant}', "
                f"timeout => '2 min', max_attempts => {self.max_attempts}, priority => {self.priority})")


class Planner:
    """The jobs of one producer, in order; the same for the same seed."""

    def __init__(self, seed: int, producer: str):
        self.random = random.Random(f"{seed} jobs {producer}")
        self.prefix = f"{seed}-{producer}"
        self.count = 0

    def next(self) -> Plan:
        dice = self.random
        self.count += 1
        nonce = f"{self.prefix}-{self.count}-{dice.randrange(1 << 64):016x}"
        seconds = round(dice.uniform(1, 8), 1) if dice.random() < 0.4 else 0
        file = f"{nonce}.txt" if dice.random() < 0.3 else ""
        code = FAILING_CODE if dice.random() < 0.15 else 0
        language = "python" if dice.random() < 0.3 else "bash"
        payload: dict[str, object] = {
            "language": language, "source": SOURCES[language],
            "args": [nonce, str(seconds), file, str(code)]}
        if file:
            payload["outputs"] = ["*.txt"]
        return Plan(nonce, dice.choice(TENANTS), dice.choice(QUEUES), payload,
                    max_attempts=2 if dice.random() < 0.2 else 1,
                    priority=dice.choice([0, 0, 0, 5]))


@dataclass
class Ledger:
    """What producers know by themselves: which nonces were certainly committed, and which certainly not."""
    committed: dict[str, int] = field(default_factory=dict)
    rolled_back: set[str] = field(default_factory=set)
    unknown: set[str] = field(default_factory=set)   # the connection went away under the commit
    refused: list[str] = field(default_factory=list)
    slowest_enqueue: float = 0.0


class Actor:
    """A thread with an end; an exception in it is kept for whoever waits for it."""

    def __init__(self, body):
        self.failure: BaseException | None = None
        self.ending = threading.Event()
        self.thread = threading.Thread(target=self.guarded, args=(body,), daemon=True)
        self.thread.start()

    def guarded(self, body) -> None:
        try:
            body(self.ending)
        except BaseException as error:  # told to the main thread by `finish`
            self.failure = error

    def finish(self, seconds: float) -> None:
        self.ending.set()
        self.thread.join(seconds)
        if self.thread.is_alive():
            raise ChaosError("a producer does not come to its end")
        if self.failure:
            raise self.failure


class Producer:
    """Enqueues at the pace of the seed, one committed job at a time."""

    def __init__(self, cluster: Cluster, ledger: Ledger, seed: int, backlog):
        self.cluster, self.ledger, self.backlog = cluster, ledger, backlog
        self.planner = Planner(seed, "steady")
        self.pace = random.Random(f"{seed} pace")

    def produce(self, ending: threading.Event) -> None:
        session: Session | None = None
        try:
            while not ending.wait(self.pace.expovariate(1 / 0.5)):
                if self.backlog() >= BACKLOG_MAX:
                    continue
                plan = self.planner.next()
                session = session or self.cluster.session("producer", "steady-producer")
                try:
                    self.ledger.committed[plan.nonce] = int(session.ask(plan.call))
                except Disconnected:
                    self.ledger.unknown.add(plan.nonce)
                    session.close()
                    session = None
                except Refused as error:
                    self.ledger.refused.append(str(error))
                if session:
                    self.ledger.slowest_enqueue = max(self.ledger.slowest_enqueue, session.slowest)
        finally:
            if session:
                session.close()


class Holder:
    """A transaction that does something and then stays open for a while."""
    DEEDS = ["enqueue", "cancel of nothing", "select"]

    def __init__(self, cluster: Cluster, ledger: Ledger, planner: Planner, deed: str, seconds: float,
                 commits: bool):
        self.cluster, self.ledger, self.seconds, self.commits = cluster, ledger, seconds, commits
        self.deed = deed
        self.plan = planner.next()  # drawn here, so that the order is the seed's

    def hold(self, ending: threading.Event) -> None:
        session = self.cluster.session("producer", "slow-producer")
        plan = self.plan
        try:
            session.ask("begin")
            job = self.act(session)
            ending.wait(self.seconds)
            if job is not None:  # from here on it may be committed, whatever we hear
                (self.ledger.unknown if self.commits else self.ledger.rolled_back).add(plan.nonce)
            session.ask("commit" if self.commits else "rollback")
            if job is not None and self.commits:
                self.ledger.unknown.discard(plan.nonce)
                self.ledger.committed[plan.nonce] = job
        except Disconnected:
            pass
        except Refused as error:
            self.ledger.refused.append(str(error))
        finally:
            session.close()

    def act(self, session: Session) -> int | None:
        if self.deed == "enqueue":
            return int(session.ask(self.plan.call))
        if self.deed == "select":
            session.ask("select count(*), max(result->>'stdout') from mayfly.job")
            return None
        session.ask("savepoint before")
        try:
            session.ask("select mayfly.cancel(1)")
        except Refused:
            session.ask("rollback to before")
        return None
