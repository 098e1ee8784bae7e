#!/usr/bin/env python3
"""Counts the cases in the xunit file that swift-testing writes: `passed failed skipped` on one line,
then a line for each case that was skipped, with its reason. Called by scripts/test and lab.d/check.

  scripts/results.py FILE
  scripts/results.py --slowest N FILE    the N cases that took longest, with their seconds
  scripts/results.py --failed FILE       the cases that failed, each with what it found
"""

import sys
import xml.etree.ElementTree as xml


def main(path: str) -> None:
    counts = {"passed": 0, "failed": 0, "skipped": 0}
    skipped: list[str] = []
    for case in xml.parse(path).iter("testcase"):
        if case.find("failure") is not None or case.find("error") is not None:
            counts["failed"] += 1
        elif (reason := case.find("skipped")) is not None:
            counts["skipped"] += 1
            skipped.append(f"{case.get('name')}: {reason.text or reason.get('message') or 'no reason'}")
        else:
            counts["passed"] += 1
    print(*counts.values())
    print(*sorted(set(skipped)), sep="\n", end="\n" if skipped else "")


def slowest(count: int, path: str) -> None:
    cases = [(float(case.get("time") or 0), f"{case.get('classname')}: {case.get('name')}")
             for case in xml.parse(path).iter("testcase")]
    for seconds, name in sorted(cases, reverse=True)[:count]:
        print(f"{seconds:7.1f} s  {name}")
    print(f"{sum(seconds for seconds, _ in cases):7.1f} s  all {len(cases)}")


def failed(path: str) -> None:
    for case in xml.parse(path).iter("testcase"):
        for failure in [*case.iter("failure"), *case.iter("error")]:
            found = " ".join((failure.get("message") or failure.text or "").split())
            print(f"{case.get('classname')}: {case.get('name')}: {found[:600]}")


if __name__ == "__main__":
    if sys.argv[1] == "--slowest":
        slowest(int(sys.argv[2]), sys.argv[3])
    elif sys.argv[1] == "--failed":
        failed(sys.argv[2])
    else:
        main(sys.argv[1])
