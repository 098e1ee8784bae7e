#!/usr/bin/env python3
"""The checks of what a document job runs. Usage: run.py [--root DIR] [--peer PYTHON] [part…]

Parts: corpus, trips, hostile, links, stable, golden, office, shapes. The last line counts: N passed, N failed."""

import argparse
import http.server
import os
import signal
import sys
import threading

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import corpus  # noqa: E402
import golden  # noqa: E402
import hostile  # noqa: E402
import links  # noqa: E402
from native import Native  # noqa: E402


class Report:
    def __init__(self):
        self.passed, self.failed = 0, 0

    def check(self, name, problems):
        if problems:
            self.failed += 1
            print(f"FAILED {name}: {'; '.join(problems)}")
        else:
            self.passed += 1


def in_order(text, wanted):
    """What of `wanted` is not in the text, or not after what stands before it."""
    flat, at, missing = " ".join(text.split()), 0, []
    for part in wanted:
        found = flat.find(" ".join(part.split()), at)
        if found < 0:
            missing.append(f"{part!r} is missing")
        else:
            at = found + len(part)
    return missing


def faults(ended):
    """What no job may do: end by itself badly, or without a value or a reason."""
    out = []
    if ended.status != 0:
        out.append(f"ended with {ended.status}: {ended.log[-300:]}")
    if "Traceback" in ended.log:
        out.append("a traceback: " + ended.log.strip().splitlines()[-1])
    if not ended.value and ended.failure is None:
        out.append("neither value nor failure")
    return out


def check_corpus(runner, report):
    items = list(corpus.documents())
    ends = runner.execute_many([({"operation": "text"}, [(n, d)], 120) for n, d, _ in items])
    for (name, _, wanted), ended in zip(items, ends):
        problems = faults(ended) + ([f"{ended.failure}"] if ended.failure else [])
        report.check(f"text of {name}", problems or in_order(ended.text(), wanted))


def check_trips(runner, report):
    by_name = {name: (data, wanted) for name, data, wanted in corpus.documents()}
    trips = [
        (script, a, b)
        for a, b in corpus.ROUND_TRIPS
        for script in corpus.SENTENCES
        if (script, b) != ("emoji", "pdf")
    ]
    made = runner.execute_many(
        [
            ({"operation": "convert", "to": b}, [(f"a.{a}", by_name[f"{script}.{a}"][0])], 120)
            for script, a, b in trips
        ]
    )
    second = []
    for (script, a, b), ended in zip(trips, made):
        names = ended.value.get("files") or []
        if not names or ended.failure:
            report.check(f"{script}: {a} to {b}", [f"{ended.failure} {ended.log[-200:]}"])
        else:
            second.append((script, a, b, names[0], ended.files[names[0]]))
    ends = runner.execute_many(
        [({"operation": "text", "ocr": "never"}, [(name, data)], 120) for *_, name, data in second]
    )
    for (script, a, b, _, _), ended in zip(second, ends):
        wanted = by_name[f"{script}.{a}"][1]
        # In a PDF lines break where the page ends, and an emoji is a picture to some fonts.
        text = ended.text()
        if (a, b) == ("xlsx", "pdf"):
            # A column is as narrow as ever, and its text is cut where the next cell begins.
            wanted = ["1", "2.5"]
        if b == "pdf":
            text, wanted = "".join(text.split()), ["".join(w.split()) for w in wanted]
        report.check(f"{script}: {a} to {b} and back", faults(ended) or in_order(text, wanted))


def check_hostile(runner, report):
    cases = list(hostile.cases())
    ends = runner.execute_many([(c.request, [(c.name, c.data)], c.seconds) for c in cases])
    for case, ended in zip(cases, ends):
        problems = faults(ended)
        reason = ended.reason
        if case.reasons and reason not in case.reasons:
            problems.append(f"{reason} instead of {sorted(case.reasons)}")
        if not case.reasons and ended.failure:
            problems.append(f"failed: {ended.failure}")
        problems += [f"no warning {code}" for code in sorted(case.warnings - ended.warnings)]
        problems += [p for p in in_order(ended.text(), case.has)]
        everything = str(ended.events) + "".join(
            f.decode("utf-8", "replace") for f in ended.files.values()
        )
        problems += [f"{word!r} is in it" for word in case.lacks if word in everything]
        if case.request.get("password") and case.request["password"] in str(ended.events).replace(
            "`password`", ""
        ).replace("secret.", ""):
            problems.append("the password is in the result")
        report.check(
            f"hostile {case.name} ({reason or 'success'}, {ended.seconds * 1000:.0f} ms)", problems
        )
    slow = sorted(((e.seconds, c.name) for c, e in zip(cases, ends) if c.gate), reverse=True)
    print(
        "gate, slowest:", ", ".join(f"{name} {seconds * 1000:.0f} ms" for seconds, name in slow[:4])
    )


def check_links(runner, report):
    """Counts who comes to a listening socket, and looks for a local file in what is made."""
    seen = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            seen.append(self.path)
            self.send_error(404)

        do_HEAD = do_OPTIONS = do_PROPFIND = do_GET

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    local = "/usr/local/lib/mayfly/secret-picture.txt"
    with open(runner.root + local, "w") as file:
        file.write("LOCALSECRET")
    try:
        address = f"http://127.0.0.1:{server.server_address[1]}"
        items = list(links.linked(address, local))
        wanted = [{"operation": "convert", "to": "pdf"}, {"operation": "markdown"}]
        jobs = [(request, [(name, data)], 120) for name, data in items for request in wanted]
        jobs += [
            ({"operation": "convert", "to": "odt"}, [(n, d)], 120)
            for n, d in items
            if n.endswith((".docx", ".html", ".md"))
        ]
        ends = runner.execute_many(jobs)
        for (request, [(name, _)], _), ended in zip(jobs, ends):
            problems = faults(ended) + ([str(ended.failure)] if ended.failure else [])
            if any(b"LOCALSECRET" in data for data in ended.files.values()) or "LOCALSECRET" in str(
                ended.events
            ):
                problems.append("a local file is in the result")
            if not ended.warnings & {"external_references", "macros_present"} and not name.endswith(
                ".md"
            ):
                problems.append(f"not warned of: {sorted(ended.warnings)}")
            report.check(f"links of {name}, {request}", problems)
        report.check("connections", [f"{len(seen)} came: {seen[:5]}"] if seen else [])
        report.check("macro", ["it ran"] if os.path.exists(runner.root + local + ".macro") else [])
    finally:
        server.shutdown()
        os.unlink(runner.root + local)


def check_stable(runner, report):
    """The same document gives the same value and the same files."""
    items = [(n, d) for n, d, _ in corpus.documents() if n.startswith(("latin", "plain"))]
    requests = [
        {"operation": "text"},
        {"operation": "markdown", "layout": True},
        {"operation": "metadata"},
        {"operation": "tables"},
    ]
    jobs = [(request, [item], 120) for item in items for request in requests]
    jobs += [
        ({"operation": "convert", "to": "pdf"}, [item], 120)
        for item in items
        if not item[0].endswith(".pdf")
    ]
    for job, first, second in zip(jobs, runner.execute_many(jobs), runner.execute_many(jobs)):
        problems = (
            []
            if first.value == second.value and first.failure == second.failure
            else ["another value"]
        )
        # LibreOffice encrypts Type 1 fonts, as those of CJK become, beginning with random bytes.
        drawn = any(b"/Length3" in data for data in first.files.values())
        if first.files != second.files and not drawn:
            problems.append("other bytes in its files")
        report.check(f"twice {job[0]} of {job[1][0][0]}", problems)


def check_office(runner, report):
    """LibreOffice hangs, and is killed: one reason in time, and the next job has a new one."""
    data = corpus.m.docx(corpus.m.paragraph("Words"))
    request = {"operation": "convert", "to": "pdf"}

    def strike(number):
        with open(runner.root + "/var/lib/mayfly-office/pid") as file:
            os.kill(int(file.read()), number)

    strike(signal.SIGSTOP)
    ended = runner.execute({**request, "limits": {"tool_cpu": 6}}, [("a.docx", data)], 60)
    report.check(
        "a hanging office",
        faults(ended) + ([] if ended.reason == "timeout" else [f"{ended.failure}"]),
    )
    ended = runner.execute(request, [("a.docx", data)])
    report.check(
        "the job after it", faults(ended) + ([f"{ended.failure}"] if ended.failure else [])
    )
    strike(signal.SIGKILL)
    ended = runner.execute(request, [("a.docx", data)])
    report.check("a killed office", faults(ended) + ([f"{ended.failure}"] if ended.failure else []))


def check_shapes(runner, report):
    """What is cut and named, what becomes a file."""
    pdf = corpus.m.Pdf()
    for page in range(30):
        for row in range(40):
            pdf.text(
                72, 740 - 16 * row, 10, f"Page {page} row {row} with some words to fill the line up"
            )
        if page < 29:
            pdf.page()
    jobs = [
        ({"operation": "text", "limits": {"inline_text": 20_000}}, [("a.pdf", pdf.data())], 60),
        ({"operation": "pages", "do": "split"}, [("a.pdf", pdf.data())], 60),
        (
            {"operation": "render", "pages": "2-3", "to": "jpeg", "dpi": 20},
            [("a.pdf", pdf.data())],
            60,
        ),
    ]
    cut, split, drawn = runner.execute_many(jobs)
    text = cut.value["text"]
    problems = faults(cut)
    if len(text.encode()) > 20_000 or not text.endswith(
        "row 39 with some words to fill the line up"
    ):
        problems.append("not cut at a page's end")
    if (
        not cut.files.get("text.txt", b"").startswith(text.encode())
        or len(cut.files["text.txt"]) < 50_000
    ):
        problems.append("the whole is no file")
    report.check("a long text", problems)
    report.check(
        "pages apart",
        faults(split) + ([] if len(split.files) == 30 else [f"{len(split.files)} files"]),
    )
    names = sorted(drawn.files)
    report.check(
        "pages drawn",
        faults(drawn) + ([] if names == ["page-0002.jpeg", "page-0003.jpeg"] else [str(names)]),
    )


def check_golden(runner, report, peer=None):
    golden.check(runner, report, peer)


PARTS = {
    "corpus": check_corpus,
    "trips": check_trips,
    "hostile": check_hostile,
    "links": check_links,
    "stable": check_stable,
    "golden": check_golden,
    "office": check_office,
    "shapes": check_shapes,
}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--root",
        default=os.environ.get("DOCUMENT_ROOT"),
        required="DOCUMENT_ROOT" not in os.environ,
    )
    parser.add_argument("--peer", help="a Python that has markitdown, for its score beside ours")
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], metavar="part")
    options = parser.parse_args()
    runner, report = Native(options.root.rstrip("/")), Report()
    for name in options.parts or PARTS:
        before = report.passed, report.failed
        if name == "golden":
            check_golden(runner, report, options.peer)
        else:
            PARTS[name](runner, report)
        print(
            f"{name}: {report.passed - before[0]} passed, {report.failed - before[1]} failed",
            flush=True,
        )
    print(f"{report.passed} passed, {report.failed} failed")
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
