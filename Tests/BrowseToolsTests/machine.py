#!/usr/bin/env python3
"""The pages in real machines. Usage: machine.py --program MAYFLY [--all] [--only TEXT]...

First browse jobs, a machine each; then pages, many to a machine, for each restore costs seconds under
emulation. Their servers are on this host's loopback, behind the real proxy; port 80 there needs root.
--all takes every page instead of a sample. The last line counts: N passed, N failed."""
import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import pages  # noqa: E402
import web  # noqa: E402
from checks import Report, check  # noqa: E402

HERE = os.path.dirname(os.path.abspath(__file__))
BATCH = 12
# Where the names of the tests lead, and which of them jobs may reach.
ADDRESS = "127.0.0.80"
ALLOWED = ["site.test:80", "other.test:80", "down.test:443"]
FORM = """<title>Order</title><form onsubmit="event.preventDefault(); document.body.append('sent ' + n.value.length)">
<label>Word <input id=n></label><button>Send</button></form>"""


def mayfly(program, payload, *arguments, environment=None):
    """(exit code, what --json printed, what was said) of one run."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(payload, file)
        file.flush()
        ended = subprocess.run([program, "run", "--payload", file.name, "--json", *arguments],
                               capture_output=True, text=True, env={**os.environ, **(environment or {})})
    return ended.returncode, json.loads(ended.stdout) if ended.stdout else {}, ended.stderr


def files_below(top):
    found = {}
    for base, _, names in os.walk(top):
        for name in names:
            with open(os.path.join(base, name), "rb") as file:
                found[os.path.relpath(os.path.join(base, name), top)] = file.read()
    return found


def serve_the_web():
    """The tests' names and pages, for the host's end of the machines' network; answers its options."""
    server = web.serve(80, ADDRESS)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    names = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    names.bind((ADDRESS, 0))
    threading.Thread(target=web.answer_names, args=(names, ADDRESS), daemon=True).start()
    options = ["--network", ADDRESS + "/32", "--set", f"network.dns={ADDRESS}:{names.getsockname()[1]}"]
    return options + [word for rule in ALLOWED for word in ("--allow", rule)]


def run_batch(program, cases, network, report):
    files = []
    for name in ("batch.py", "web.py"):
        with open(os.path.join(HERE, name)) as file:
            files.append({"name": name, "text": file.read()})
    requests = []
    for case in cases:
        request = json.loads(json.dumps(case.request))
        # Emulation multiplies them; what never ends shall end soon.
        soon = {"call_seconds": 3, "navigation_seconds": 5} if case.reason else {}
        request["limits"] = {"seconds": 240, **soon, **request.get("limits", {})}
        requests.append(request)
    files.append({"name": "items.json", "text": json.dumps(requests)})
    payload = {"language": "python", "source": "import runpy, sys\nsys.argv = ['batch.py', 'items.json', '/work/made']\nrunpy.run_path('batch.py', run_name='__main__')\n",
               "files": files, "outputs": ["made/**"]}
    with tempfile.TemporaryDirectory() as top:
        code, _, said = mayfly(program, payload, "--timeout", "60min", "--out", top,
                               "--set", "code.image=browse", "--set", "code.output.files=1000", *network)
        for number, case in enumerate(cases):
            place = os.path.join(top, "made", str(number))
            if os.path.exists(os.path.join(place, "events")):
                check(case, place, report)
            else:
                report.check(case.name, [f"the machine ended with {code}: {said[-600:]}"])


def check_jobs(program, report):
    """What a producer sees: payload in, result and files out, each in a machine of its own."""
    shown = {}
    cases = [
        ("a form, filled with a secret and sent, on the page that waits",
         {"html": FORM, "actions": [{"type": ["label=Word", {"secret": "WORD"}]}, {"click": "text=Send"}, {"evaluate": "n.value"}],
          "return": ["text", "screenshot", "snapshot", "value"]}, None,
         lambda v, f: pages.needs(v, text="sent 11", page="waiting", value="***********")
         + pages.expect("hunter2" not in json.dumps(v) and f.get("screenshot.png", b"").startswith(b"\x89PNG"), str(v))),
        ("the browser's own sandbox, and every request by the proxy",
         {"html": "", "script": "import glob\n" "lines = [open(p, 'rb').read().decode() for p in glob.glob('/proc/[0-9]*/cmdline')]\n"
          "one, = [line for line in lines if 'remote-debugging-pipe' in line and '--type=' not in line]\n"
          "['--no-sandbox' in one, '--proxy-server=http://127.0.0.1:3128' in one, '--proxy-bypass-list=<-loopback>' in one]"}, None,
         lambda v, f: pages.expect(v["value"] == [[False, True, True]], str(v))),
        ("a page that no rule allows", {"url": "https://example.com/"}, "network_denied", lambda v, f: []),
        ("a file as an address", {"url": "file:///etc/passwd"}, "url_refused", None),
    ]
    for name, payload, reason, look in cases:
        with tempfile.TemporaryDirectory() as out:
            secrets = []
            if "secret" in name:
                payload["secrets"] = {}
                secrets = ["--secret", "WORD"]
            code, printed, said = mayfly(program, payload, "--kind", "browse", "--timeout", "5min", "--out", out, *secrets,
                                         environment={"WORD": "hunter2-abc"})
            shown = files_below(out)
        found = printed.get("error", {}).get("reason")
        if look is None:
            report.check(name, pages.expect(code == 2 and reason in said, f"{code}: {said[-300:]}"))
        elif found != reason:
            report.check(name, [f"{code}, {found}: {said[-500:]}"])
        else:
            report.check(name, look(printed["result"]["value"], shown))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", required=True)
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--only", action="append", default=[])
    options = parser.parse_args()
    report = Report()
    if not options.only:
        check_jobs(options.program, report)
    cases = [case for case in pages.usual() + pages.hostile()
             if any(text in case.name for text in options.only)
             or not options.only and (options.all or case.is_sample)]
    network = serve_the_web()
    for start in range(0, len(cases), BATCH):
        run_batch(options.program, cases[start:start + BATCH], network, report)
    print(f"{report.passed} passed, {report.failed} failed")
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
