"""One run: everything started, everything struck at its time, everything drained, stopped and looked at."""

import heapq, itertools, os, signal, subprocess, time
from collections import Counter
from typing import Callable

from basics import *
from checker import Findings, check_leftovers, check_tables
from cluster import Cluster
from faults import Fault
from guardian import is_alive
from jobs import Actor, Holder, Ledger, Planner, Producer
from workers import LEASE_SECONDS, STOP_SECONDS, Worker

READY_SECONDS = 180      # an image is verified first, under emulation and on busy processors
DRAIN_SECONDS = 240
SWEEP_SECONDS = 45       # live workers sweep every 30 s
BUILD_SECONDS = 600
GRACE_SECONDS = 15       # mayfly.setting.restart_grace: after a restart nobody is dead for a while
# Pauses between two tries double with each loss; a run shall not wait minutes for the last one.
SETTINGS = "update mayfly.setting set backoff_max = '5 s'"
ROLES = """create role producer login; create role worker login;
    grant mayfly_producer to producer; grant mayfly_worker to worker; select mayfly.grant_tenant('producer', '*')"""


class Conductor:
    def __init__(self, program: str, state: str, directory: str, seed: int, worker_count: int,
                 timeline: Timeline):
        self.program, self.directory, self.seed, self.timeline = program, directory, seed, timeline
        for name in ["run", "tmp", "logs"]:
            os.mkdir(f"{directory}/{name}", 0o700)
        environment = {name: value for name, value in os.environ.items()
                       if not name.startswith(("MAYFLY_", "PG", "DATABASE_URL"))}
        self.environment = environment | {
            MARK: directory, "MAYFLY_STATE_DIRECTORY": state, "TMPDIR": f"{directory}/tmp",
            "MAYFLY_RUNTIME_DIRECTORY": f"{directory}/run", "SWIFT_BACKTRACE": "enable=no"}
        self.cluster = Cluster(directory, self.environment)
        self.workers = [Worker(number + 1, program, directory, self.environment, self.cluster.url)
                        for number in range(worker_count)]
        self.ledger, self.findings = Ledger(), Findings()
        self.faults: Counter[str] = Counter()
        self.failed_starts = 0
        self.actors: list[Actor] = []
        self.planner = Planner(seed, "slow")
        self.backlog = 0
        self.is_draining = False
        self.build: subprocess.Popen[bytes] | None = None
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.order = itertools.count()
        self.begin = 0.0

    # ---- The way of a run ----------------------------------------------------------------------

    def start(self) -> None:
        self.cluster.create()
        run([self.program, "migrate", "--database", self.cluster.url("postgres", "migrate")], self.environment)
        self.cluster.execute(f"{ROLES}; {SETTINGS}")
        for worker in self.workers:
            worker.start()
        self.wait_until("workers", "the workers are ready", READY_SECONDS,
                        lambda: all(worker.was_ready for worker in self.workers))
        self.timeline.note("ready", f"{len(self.workers)} workers")

    def wreak(self, faults: list[Fault], minutes: float) -> None:
        self.begin = self.timeline.now
        producer = Producer(self.cluster, self.ledger, self.seed, lambda: self.backlog)
        self.actors.append(Actor(producer.produce))
        for fault in faults:
            self.at(fault.at, lambda fault=fault: self.strike(fault))
        self.at(0, self.count_backlog)
        while (now := self.timeline.now - self.begin) < minutes * 60:
            if self.events and self.events[0][0] <= now:
                heapq.heappop(self.events)[2]()
            else:
                self.mind_workers()
                time.sleep(0.1)

    def drain(self) -> None:
        """Ends what is wrong, and waits until nothing is left to do."""
        self.is_draining = True
        self.end_outage()
        for actor in self.actors:
            actor.finish(90)
        for worker in self.workers:
            if worker.is_running and worker.is_paused:
                worker.resume()
        self.wait_until("workers", "every worker runs", READY_SECONDS,
                        lambda: all(worker.is_running and not worker.is_stopping for worker in self.workers))
        self.timeline.note("drain", f"{self.alive()} jobs have not ended")
        self.wait_until("empty", "every job has ended", DRAIN_SECONDS, lambda: self.alive() == 0)
        self.end_build()
        names = {f"{worker.pid}-" for worker in self.workers}
        self.wait_until("gone", "dead workers' directories are gone", SWEEP_SECONDS, lambda: all(
            any(entry.startswith(name) for name in names) for entry in os.listdir(f"{self.directory}/run/hosts")))
        self.wait_until("workers", "dead workers are known to be dead", GRACE_SECONDS + 3 * LEASE_SECONDS,
                        lambda: self.count("select count(*) from mayfly.worker where not dead")
                        <= len(self.workers))

    def stop(self) -> None:
        for worker in self.workers:
            if worker.is_running:
                worker.stop()
        deadline = time.monotonic() + STOP_SECONDS
        for worker in self.workers:
            while worker.is_running and time.monotonic() < deadline:
                time.sleep(0.02)
            if worker.is_running:
                self.findings.add("workers", f"{worker.name} still runs {STOP_SECONDS} s after SIGTERM")
                worker.kill()
            elif worker.process and worker.process.returncode != 0:
                self.findings.add("workers", f"{worker.name} was told to stop and ended with "
                                  f"{worker.process.returncode}")
        self.timeline.note("stopped", "all workers")

    def check(self) -> None:
        check_leftovers(self.directory, self.marks, self.findings)
        check_tables(self.cluster, self.ledger, self.findings)

    @property
    def marks(self) -> set[str]:
        return {mark for worker in self.workers for mark in worker.marks}

    # ---- Beside everything -----------------------------------------------------------------------

    def at(self, seconds: float, act: Callable[[], None]) -> None:
        heapq.heappush(self.events, (seconds, next(self.order), act))

    def after(self, seconds: float, act: Callable[[], None]) -> None:
        self.at(self.timeline.now - self.begin + seconds, act)

    def mind_workers(self) -> None:
        """Whoever is not running is started again; whoever ended without our doing is a finding."""
        for worker in self.workers:
            if not worker.is_running and worker.process:
                status = worker.process.returncode
                worker.process = None
                if worker.is_stopping:
                    # The second signal may find it past its own handlers.
                    if status not in (0, -signal.SIGTERM):
                        self.findings.add("workers", f"{worker.name} was told to stop and ended with {status}")
                elif worker.has_logged(b"draining:"):
                    self.findings.add("workers", f"{worker.name} drained because of a signal that is not this "
                                      "run's: somebody else's, or its own fault")
                elif worker.was_ready:
                    self.findings.add("workers", f"{worker.name} ended by itself with {status}; its log says why")
                else:  # the server may be away while it starts; whoever supervises it tries again
                    self.failed_starts += 1
                self.timeline.note("restart", f"{worker.name} (it ended with {status})")
                self.after(0.5, worker.start)
            elif worker.is_running:
                worker.look()

    def wait_until(self, rule: str, what: str, seconds: float, holds: Callable[[], bool]) -> None:
        begin = time.monotonic()
        while not holds():
            if time.monotonic() - begin > seconds:
                self.findings.add(rule, f"not within {seconds:.0f} s: {what}")
                return
            while self.events and self.events[0][0] <= self.timeline.now - self.begin:
                heapq.heappop(self.events)[2]()
            self.mind_workers()
            time.sleep(0.2)
        self.timeline.note("reached", f"{what} ({time.monotonic() - begin:.1f} s)")

    def count(self, query: str) -> int:
        return int(self.cluster.table(query)[0]["count"])

    def alive(self) -> int:
        return self.count("""select (select count(*) from mayfly.ready) + (select count(*) from mayfly.delayed)
            + (select count(*) from mayfly.running) as count""")

    def count_backlog(self) -> None:
        if self.cluster.is_up:
            self.backlog = self.alive()
        self.after(1, self.count_backlog)

    # ---- Faults ----------------------------------------------------------------------------------

    def strike(self, fault: Fault) -> None:
        if self.is_draining:
            return
        self.faults[fault.kind] += 1
        getattr(self, f"strike_{fault.kind}")(fault, self.workers[fault.worker])

    def miss(self, fault: Fault, why: str) -> None:
        self.faults[fault.kind] -= 1
        self.timeline.note(fault.kind, f"nothing to strike: {why}")

    def strike_pause(self, fault: Fault, worker: Worker) -> None:
        if not worker.is_running or worker.is_paused or worker.is_stopping:
            return self.miss(fault, f"{worker.name} does not run")
        self.timeline.note("pause", f"{worker.name} for {fault.seconds} s")
        process = worker.process
        worker.pause()
        self.after(fault.seconds, lambda: self.resume(worker, process))

    def resume(self, worker: Worker, process: object) -> None:
        if worker.process is process and worker.is_running:
            self.timeline.note("resume", worker.name)
            worker.resume()

    def strike_kill(self, fault: Fault, worker: Worker) -> None:
        if not worker.is_running:
            return self.miss(fault, f"{worker.name} does not run")
        self.timeline.note("kill", f"{worker.name}, back after {fault.seconds} s")
        worker.kill()
        worker.process = None
        self.after(fault.seconds, worker.start)

    def strike_stop(self, fault: Fault, worker: Worker) -> None:
        if not worker.is_running or worker.is_paused or worker.is_stopping or not worker.was_ready:
            return self.miss(fault, f"{worker.name} does not run")
        self.timeline.note("stop", f"{worker.name}: SIGTERM, and again after {fault.seconds} s")
        process = worker.process
        worker.stop()
        self.after(fault.seconds, lambda: process.poll() is None and process.send_signal(signal.SIGTERM))

    def strike_database(self, fault: Fault, _: Worker) -> None:
        if not self.cluster.is_up:
            return self.miss(fault, "PostgreSQL is away")
        self.timeline.note("database", "immediate restart")
        self.cluster.crash()
        self.cluster.start()

    def strike_outage(self, fault: Fault, _: Worker) -> None:
        if not self.cluster.is_up:
            return self.miss(fault, "PostgreSQL is away")
        self.timeline.note("outage", f"PostgreSQL is away for {fault.seconds} s")
        self.cluster.crash()
        self.after(fault.seconds, self.end_outage)

    def end_outage(self) -> None:
        if not self.cluster.is_up:
            self.cluster.start()
            self.timeline.note("outage", "PostgreSQL is back")

    def strike_backends(self, fault: Fault, worker: Worker) -> None:
        if not self.cluster.is_up:
            return self.miss(fault, "PostgreSQL is away")
        ended = self.count("select count(pg_terminate_backend(pid)) from pg_stat_activity "
                           f"where application_name = '{worker.name}'")
        self.timeline.note("backends", f"{ended} of {worker.name}")

    def strike_machine(self, fault: Fault, worker: Worker) -> None:
        machines = sorted(worker.machines()) if worker.is_running else []
        if not machines:
            return self.miss(fault, f"{worker.name} has no machine")
        self.timeline.note("machine", f"kill -9 of the oldest of {len(machines)} of {worker.name}")
        os.kill(machines[0], signal.SIGKILL)

    def strike_hold(self, fault: Fault, _: Worker) -> None:
        self.timeline.note("hold", f"{fault.deed}, {fault.seconds} s, then "
                           f"{'commit' if fault.commits else 'rollback'}")
        holder = Holder(self.cluster, self.ledger, self.planner, fault.deed, fault.seconds, fault.commits)
        self.actors.append(Actor(holder.hold))

    def strike_build(self, fault: Fault, _: Worker) -> None:
        if self.build:
            return self.miss(fault, "another build still runs")
        self.timeline.note("build", "image build code --force"
                           + (f", killed after {fault.seconds} s" if fault.seconds else ""))
        with open(f"{self.directory}/logs/build.log", "ab") as log:
            self.build = subprocess.Popen(
                [self.program, "image", "build", "code", "--force"], env=self.environment,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        if fault.seconds:
            self.after(fault.seconds, self.kill_build)
        else:
            self.after(1, self.look_at_build)

    def kill_build(self) -> None:
        self.build.kill()
        self.build.wait()
        self.build = None
        self.timeline.note("build", "killed")

    def look_at_build(self) -> None:
        if self.build and self.build.poll() is None:
            return self.after(1, self.look_at_build)
        self.end_build()

    def end_build(self) -> None:
        if not self.build:
            return
        try:
            status = self.build.wait(BUILD_SECONDS)
        except subprocess.TimeoutExpired:
            status = f"no end within {BUILD_SECONDS} s"
            self.build.kill()
            self.build.wait()
        self.build = None
        self.timeline.note("build", f"ended with {status}")
        if status != 0:
            self.findings.add("images", f"mayfly image build code --force ended with {status}; see build.log")

    def strike_prune(self, fault: Fault, _: Worker) -> None:
        try:
            self.timeline.note("prune", run([self.program, "image", "prune"], self.environment).strip()[:100])
        except ChaosError as error:
            self.findings.add("images", str(error))
