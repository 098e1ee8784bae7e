"""What a job left, against what its case wants."""
import json
import os


class Report:
    def __init__(self):
        self.passed = self.failed = 0

    def check(self, name, problems, seconds=None):
        took = f" ({seconds:.1f} s)" if seconds is not None else ""
        if problems:
            self.failed += 1
            print(f"✘ {name}{took}: {'; '.join(str(problem) for problem in problems)[:1500]}", flush=True)
        else:
            self.passed += 1
            print(f"✔ {name}{took}", flush=True)


def read(directory):
    """The value, the codes of the warnings, the failure, and the files."""
    value, codes, failure, files = {}, set(), None, {}
    with open(os.path.join(directory, "events"), encoding="utf-8") as lines:
        for line in lines:
            member, content = next(iter(json.loads(line).items()))
            if member == "value":
                value = content
            elif member == "warning":
                codes.add(content["code"])
            elif member == "failure":
                failure = content
    out = os.path.join(directory, "out")
    for base, _, names in os.walk(out):
        for name in names:
            with open(os.path.join(base, name), "rb") as file:
                files[os.path.relpath(os.path.join(base, name), out)] = file.read()
    return value, codes, failure, files


def check(case, directory, report, seconds=None):
    value, codes, failure, files = read(directory)
    wanted = case.reason if isinstance(case.reason, tuple) else (case.reason,)
    reason = failure["reason"] if failure else None
    problems = []
    if reason not in wanted:
        problems.append(f"ended as {failure}, not {wanted}; {str(value)[:600]}")
    else:
        try:
            problems = case.check(value, codes, files)
        except (KeyError, IndexError, TypeError) as error:
            problems = [f"{error!r} of {str(value)[:600]}"]
    report.check(case.name, problems, seconds)
