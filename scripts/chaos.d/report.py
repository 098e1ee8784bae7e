"""What a run says at its end, and what it keeps when something did not hold."""

import argparse, csv, json, os, shutil
from collections import Counter
from typing import Any

from basics import *
from checker import ATTEMPTS, JOBS, RULES
from conductor import Conductor

SHOWN = 20  # violations of one rule


def keep(evidence: str, conductor: Conductor) -> None:
    """Logs, timeline and tables into a directory that outlives the run."""
    shutil.copytree(f"{conductor.directory}/logs", evidence)
    with open(f"{evidence}/timeline.json", "w") as file:
        json.dump(conductor.timeline.events, file, indent=1)
    if os.path.exists(f"{conductor.directory}/postgres/server.log"):
        shutil.copy(f"{conductor.directory}/postgres/server.log", evidence)
    for name, query in [("jobs", JOBS), ("attempts", ATTEMPTS), ("workers", "select * from mayfly.worker")]:
        try:
            rows = conductor.cluster.table(query)
        except ChaosError as error:
            conductor.timeline.note("evidence", f"without {name}: {error}")
            continue
        with open(f"{evidence}/{name}.csv", "w") as file:
            writer = csv.DictWriter(file, rows[0] if rows else [])
            writer.writeheader()
            writer.writerows(rows)
    conductor.timeline.note("evidence", evidence)


def summary(chosen: argparse.Namespace, conductor: Conductor) -> dict[str, Any]:
    findings, ledger = conductor.findings, conductor.ledger
    counts = Counter(rule for rule, _ in findings.violations)
    return {
        "passed": not findings.violations, "seed": chosen.seed, "minutes": chosen.minutes,
        "seconds": round(conductor.timeline.now, 1), "program": chosen.program,
        "jobs": dict(sorted(findings.jobs.items())), "attempts": dict(sorted(findings.attempts.items())),
        "faults": {kind: count for kind, count in sorted(conductor.faults.items()) if count},
        "worker_starts": sum(worker.starts for worker in conductor.workers),
        "failed_starts": conductor.failed_starts,
        "committed": len(ledger.committed), "rolled_back": len(ledger.rolled_back),
        "commit_unknown": len(ledger.unknown), "slowest_enqueue_ms": round(ledger.slowest_enqueue * 1000),
        "slowest_job": findings.slowest, "violations": [sentence for _, sentence in findings.violations],
        "rules": {rule: {"promise": promise, "violations": counts[rule]} for rule, promise in RULES.items()},
    }


def show(chosen: argparse.Namespace, conductor: Conductor, evidence: str) -> int:
    """The summary on stdout; the exit code."""
    facts = summary(chosen, conductor)
    if chosen.json:
        print(json.dumps(facts | {"timeline": conductor.timeline.events}))
        return 0 if facts["passed"] else 1
    for name in ["jobs", "attempts", "faults"]:
        print(f"{name} {sum(facts[name].values())}")
        for kind, count in facts[name].items():
            print(f"  {kind:28} {count:6}")
    print(f"worker starts {facts['worker_starts']}, of which failed {facts['failed_starts']}")
    print(f"enqueued: committed {facts['committed']}, rolled back {facts['rolled_back']}, "
          f"not known {facts['commit_unknown']}")
    print(f"slowest enqueue {facts['slowest_enqueue_ms']} ms")
    if slowest := facts["slowest_job"]:
        print(f"slowest job {slowest['id']}: {slowest['seconds']} s in {slowest['attempts']} attempts")
    for rule, promise in facts["rules"].items():
        broken = [sentence for kind, sentence in conductor.findings.violations if kind == rule]
        print(f"{'failed' if broken else 'passed'}  {promise['promise']}")
        for sentence in broken[:SHOWN]:
            print(f"        {sentence}")
        if len(broken) > SHOWN:
            print(f"        and {len(broken) - SHOWN} more")
    if not facts["passed"]:
        print(f"evidence in {evidence}")
    print(f"seed {chosen.seed}, {chosen.minutes:g} min, {facts['seconds']} s in all")
    failed = sum(promise["violations"] > 0 for promise in facts["rules"].values())
    print(f"{len(RULES) - failed} passed, {failed} failed")
    return 0 if facts["passed"] else 1
