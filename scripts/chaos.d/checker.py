"""What must hold at the end. It reads the tables, the process list and the run's directory, and knows
of what happened only which jobs were certainly committed."""

import os
from collections import Counter
from dataclasses import dataclass, field

from basics import *
from cluster import Cluster
from jobs import FAILING_CODE, Ledger

JOBS = """select j.id, j.state, j.attempt, j.max_attempts, j.payload, j.result, j.error,
    (select count(*) from mayfly.outcome o where o.id = j.id) as outcomes,
    extract(epoch from j.finished_at - j.created_at) as seconds from mayfly.job j order by j.id"""
ATTEMPTS = """select a.id, a.attempt, a.outcome, a.reason, a.message, a.machine, a.worker, a.reaped
    from mayfly.attempt a order by a.id, a.attempt"""
BLOBS = """select distinct j.id, f->>'name' as name, encode(mayfly.get_blob(f->>'sha256'), 'escape') as text
    from mayfly.job j, jsonb_array_elements(j.result->'files') f"""
# Outcomes of an attempt after which a job goes on.
PASSING = {"lost", "interrupted"}


# What is promised; each is one check of the summary.
RULES = {
    "stored": "every committed job is there with exactly one outcome, and no other job is",
    "true": "every outcome is the one that its job's payload asks for; none is cancelled or poison",
    "own": "every stdout, exit code and output file is its own job's",
    "attempts": "attempts are numbered without gaps, and the last one's outcome is the job's",
    "machines": "no machine ran two attempts",
    "empty": "every job came to its end, and no row is left that waits or runs",
    "workers": "no worker ended by itself, each stopped when told to, and all left or are known to be dead",
    "producers": "no producer was refused",
    "images": "every image build and prune beside the workers did its work, unless it was killed",
    "gone": "no process, directory, socket, file or server is left",
}


@dataclass
class Findings:
    violations: list[tuple[str, str]] = field(default_factory=list)
    jobs: Counter[str] = field(default_factory=Counter)
    attempts: Counter[str] = field(default_factory=Counter)
    slowest: dict[str, Any] | None = None

    def add(self, rule: str, sentence: str) -> None:
        assert rule in RULES
        self.violations.append((rule, sentence))


def check_tables(cluster: Cluster, ledger: Ledger, findings: Findings) -> None:
    jobs = cluster.table(JOBS)
    attempts: dict[str, list[dict[str, str]]] = {}
    for row in cluster.table(ATTEMPTS):
        attempts.setdefault(row["id"], []).append(row)
        findings.attempts[": ".join(filter(None, [row["outcome"], row["reason"]]))] += 1
    blobs: dict[str, list[tuple[str, str]]] = {}
    for row in cluster.table(BLOBS):
        blobs.setdefault(row["id"], []).append((row["name"], row["text"]))
    for job in jobs:
        check_job(job, attempts.pop(job["id"], []), blobs.get(job["id"], []), findings)
    if attempts:
        findings.add("stored", f"attempts of jobs that are not there: {sorted(attempts)[:5]}")
    check_ledger(jobs, ledger, findings)
    check_rest(cluster, findings)
    ended = [job for job in jobs if job["seconds"]]
    if ended:
        slowest = max(ended, key=lambda job: float(job["seconds"]))
        findings.slowest = {"id": int(slowest["id"]), "seconds": round(float(slowest["seconds"]), 1),
                            "attempts": int(slowest["attempt"])}


def check_job(job: dict[str, str], attempts: list[dict[str, str]], blobs: list[tuple[str, str]],
              findings: Findings) -> None:
    """A job against what its own payload says."""
    payload, result, error = (read_json(job[name]) for name in ["payload", "result", "error"])
    nonce, _, file, code = payload["args"]
    reason = error["reason"] if error else None
    wanted = ("failed", "exit_nonzero") if code == str(FAILING_CODE) else ("succeeded", None)
    who = f"job {job['id']}"
    findings.jobs[": ".join(filter(None, [job["state"], reason]))] += 1
    history = " ".join(f"{row['attempt']}:{row['outcome']}/{row['reason']}" for row in attempts)
    if job["outcomes"] != "1":
        findings.add("stored", f"{who} has {job['outcomes']} outcomes; attempts {history}")
        return
    if (job["state"], reason) != wanted:
        message = error["message"] if error else ""
        findings.add("true", f"{who} should be {': '.join(filter(None, wanted))} and is {job['state']}: {reason}: "
                     f"{message}; attempts {history}")
    else:
        stdout = (result or {}).get("stdout")
        if stdout != f"{nonce} begins\n{nonce} ends\n":
            findings.add("own", f"{who} printed {nonce}, and its result has {str(stdout)[:200]!r}")
        if result and result["exit_code"] != int(code):
            findings.add("own", f"{who} ended with {code}, and its result has {result['exit_code']}")
        expected = [(file, f"{nonce}\n")] if file else []
        if blobs != expected:
            findings.add("own", f"{who} left {expected}, and its result has {str(blobs)[:300]}")
    check_attempts(who, job, attempts, history, findings)


def check_attempts(who: str, job: dict[str, str], attempts: list[dict[str, str]], history: str,
                   findings: Findings) -> None:
    if [int(row["attempt"]) for row in attempts] != list(range(1, int(job["attempt"]) + 1)):
        findings.add("attempts", f"{who} was tried {job['attempt']} times, and its attempts are {history}")
        return
    if not attempts or attempts[-1]["outcome"] != job["state"]:
        findings.add("attempts", f"{who} is {job['state']}, and its attempts are {history}")
    failures = sum(row["outcome"] == "failed" for row in attempts)
    if job["state"] == "failed" and failures != int(job["max_attempts"]):
        findings.add("attempts", f"{who} may fail {job['max_attempts']} times, and its attempts are {history}")
    for row in attempts[:-1]:
        if row["outcome"] not in PASSING and not (row["outcome"] == "failed" and job["state"] == "failed"):
            findings.add("attempts", f"{who} went on after an attempt that {row['outcome']}: {history}")


def check_ledger(jobs: list[dict[str, str]], ledger: Ledger, findings: Findings) -> None:
    """The tables against what producers know."""
    stored: dict[str, int] = {}
    for job in jobs:
        nonce = read_json(job["payload"])["args"][0]
        if nonce in stored:
            findings.add("stored", f"{nonce} was enqueued once and is there twice: {stored[nonce]}, {job['id']}")
        stored[nonce] = int(job["id"])
    for nonce, id in ledger.committed.items():
        if stored.get(nonce) != id:
            findings.add("stored", f"job {id} ({nonce}) was committed and is {stored.get(nonce, 'not there')}")
    for nonce in ledger.rolled_back & stored.keys():
        findings.add("stored", f"job {stored[nonce]} ({nonce}) was rolled back and is there")
    for nonce in stored.keys() - ledger.committed.keys() - ledger.unknown - ledger.rolled_back:
        findings.add("stored", f"job {stored[nonce]} ({nonce}) was enqueued by nobody")
    if not ledger.committed:
        findings.add("stored", "no job was committed, so nothing was shown")
    for refusal in ledger.refused:
        findings.add("producers", f"a producer was refused: {refusal}")


def check_rest(cluster: Cluster, findings: Findings) -> None:
    """What must be empty, and what must be unlike."""
    for table in ["running", "ready", "delayed", "live_key"]:
        rows = cluster.table(f"select id from mayfly.{table}")
        if rows:
            findings.add("empty", f"{len(rows)} rows are left in mayfly.{table}: {[row['id'] for row in rows][:5]}")
    for row in cluster.table("select worker, name, lease_until from mayfly.worker where not dead"):
        findings.add("workers", f"worker {row['worker']} ({row['name']}) has neither left nor been declared dead; "
                     f"its lease ends {row['lease_until']}")
    for row in cluster.table("select machine, array_agg(id) as jobs from mayfly.attempt where machine is not null "
                             "group by machine having count(*) > 1"):
        findings.add("machines", f"machine {row['machine']} ran more than one attempt: {row['jobs']}")


def check_leftovers(directory: str, marks: set[str], findings: Findings) -> None:
    """Once the workers have ended: no process and no file of theirs."""
    for pid in marked(marks):
        findings.add("gone", f"process {pid} is left: {command_of(pid)}")
    for place in ["run", "tmp", "scratch"]:
        for root, _, files in os.walk(f"{directory}/{place}"):
            if root == f"{directory}/run/facts":  # what the next start need not find out again
                continue
            names = files + ([root] if os.path.dirname(root) == f"{directory}/run/hosts" else [])
            for name in names:
                findings.add("gone", f"{root}/{name} is left")


def check_gone(directory: str, marks: set[str], findings: Findings) -> None:
    """At the very end: nothing at all."""
    for pid in marked(marks | {f"{MARK}={directory}"}):
        findings.add("gone", f"process {pid} is left after all: {command_of(pid)}")
    if os.path.lexists(directory):
        findings.add("gone", f"{directory} is left")
