#!/usr/bin/env python3
"""Whether the checker of scripts/chaos sees what it is there for: tables as a good run leaves them, then
each thing that may not be, one at a time, and the promise that it must be found to break."""

import sys

sys.dont_write_bytecode = True

import json
from typing import Callable

from checker import ATTEMPTS, BLOBS, JOBS, Findings, check_tables
from jobs import FAILING_CODE, Ledger, Planner

Row = dict[str, str]


class Tables:
    """What `check_tables` asks the server, as a good run leaves it."""

    def __init__(self) -> None:
        planner = Planner(1, "steady")
        self.jobs: list[Row] = []
        self.attempts: list[Row] = []
        self.blobs: list[Row] = []
        self.rest: dict[str, list[Row]] = {}
        self.ledger = Ledger()
        for id in range(1, 41):
            self.add(id, planner)

    def add(self, id: int, planner: Planner) -> None:
        plan = planner.next()
        nonce, _, file, code = plan.payload["args"]
        fails = code == str(FAILING_CODE)
        state = "failed" if fails else "succeeded"
        outcomes = ["lost"] * (id % 3 == 0) + [state] * (plan.max_attempts if fails else 1)
        self.ledger.committed[nonce] = id
        self.jobs.append({
            "id": str(id), "state": state, "attempt": str(len(outcomes)), "outcomes": "1", "seconds": "1.5",
            "max_attempts": str(plan.max_attempts), "payload": json.dumps(plan.payload),
            "result": json.dumps({"exit_code": int(code), "stdout": f"{nonce} begins\n{nonce} ends\n"}),
            "error": '{"reason": "exit_nonzero", "message": ""}' if fails else ""})
        self.attempts += [{"id": str(id), "attempt": str(number + 1), "outcome": outcome,
                           "reason": {"lost": "lease_lost", "failed": "exit_nonzero"}.get(outcome, "")}
                          for number, outcome in enumerate(outcomes)]
        if file:
            self.blobs.append({"id": str(id), "name": file, "text": f"{nonce}\n"})

    def table(self, query: str) -> list[Row]:
        known = {JOBS: self.jobs, ATTEMPTS: self.attempts, BLOBS: self.blobs}
        return known[query] if query in known else next(
            (rows for part, rows in self.rest.items() if part in query), [])

    # The first of each sort.
    def job(self, state: str) -> Row:
        return next(job for job in self.jobs if job["state"] == state)

    def attempt(self, outcome: str) -> Row:
        return next(row for row in self.attempts if row["outcome"] == outcome)


def exchange_results(tables: Tables) -> None:
    one, other = [job for job in tables.jobs if job["state"] == "succeeded"][:2]
    one["result"], other["result"] = other["result"], one["result"]


def roll_back(tables: Tables) -> None:
    nonce = next(iter(tables.ledger.committed))
    del tables.ledger.committed[nonce]
    tables.ledger.rolled_back.add(nonce)


def ends_as(reason: str) -> Callable[[Tables], None]:
    state = reason if reason == "cancelled" else "failed"
    return lambda tables: tables.job("succeeded").update(
        state=state, error=json.dumps({"reason": reason, "message": ""}))


ATTACKS: list[tuple[str, str | None, Callable[[Tables], object]]] = [
    ("nothing", None, lambda tables: None),
    ("a job without an outcome", "stored", lambda tables: tables.jobs[3].update(outcomes="0")),
    ("a job with two outcomes", "stored", lambda tables: tables.jobs[3].update(outcomes="2")),
    ("a committed job that is gone", "stored", lambda tables: tables.jobs.pop(7)),
    ("a job that was rolled back", "stored", roll_back),
    ("a job that is there twice", "stored", lambda tables: tables.jobs.append(tables.jobs[0] | {"id": "99"})),
    ("a run without a job", "stored", lambda tables: tables.ledger.committed.clear()),
    ("a job that nobody cancelled", "true", ends_as("cancelled")),
    ("a job stopped as poison", "true", ends_as("poison")),
    ("a failure stored as success", "true", lambda tables: tables.job("failed").update(state="succeeded", error="")),
    ("results of each other", "own", exchange_results),
    ("a result without its output", "own", lambda tables: tables.job("failed").update(result="")),
    ("another job's file", "own", lambda tables: tables.blobs[0].update(text="another's\n")),
    ("a file that is gone", "own", lambda tables: tables.blobs.pop()),
    ("an attempt that is gone", "attempts", lambda tables: tables.attempts.pop(0)),
    ("a last attempt that was lost", "attempts", lambda tables: tables.attempt("succeeded").update(outcome="lost")),
    ("a try after a success", "attempts", lambda tables: tables.attempt("lost").update(outcome="succeeded")),
    ("a try after a cancel", "attempts", lambda tables: tables.attempt("lost").update(outcome="cancelled")),
    ("a row that still runs", "empty", lambda tables: tables.rest.update({"mayfly.running": [{"id": "1"}]})),
    ("a row that still waits", "empty", lambda tables: tables.rest.update({"mayfly.delayed": [{"id": "1"}]})),
    ("a worker that is not known dead", "workers", lambda tables: tables.rest.update(
        {"not dead": [{"worker": "1", "name": "w", "lease_until": "-"}]})),
    ("a machine with two attempts", "machines", lambda tables: tables.rest.update(
        {"group by machine": [{"machine": "m", "jobs": "{1,2}"}]})),
    ("a producer that was refused", "producers", lambda tables: tables.ledger.refused.append("MF001")),
]


def main() -> int:
    failed = 0
    for name, rule, attack in ATTACKS:
        tables, findings = Tables(), Findings()
        attack(tables)
        check_tables(tables, tables.ledger, findings)
        broken = {kind for kind, _ in findings.violations}
        if (rule is None and broken) or (rule is not None and rule not in broken):
            failed += 1
            print(f"{name}: should break {rule or 'nothing'}, and breaks {sorted(broken)}")
    print(f"{len(ATTACKS) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
