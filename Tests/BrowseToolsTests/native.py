#!/usr/bin/env python3
"""The same pages with a browser of this host's, without a machine: for work on the guest's program.

Usage: native.py --browser CHROMIUM [--only TEXT] [--no-sandbox], with a Python that has playwright."""
import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time

here = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [here, os.path.join(here, "..", "..", "Sources", "BrowseTools")]


def serve(home):
    from mayfly_browse import browser

    browser.HOME = home
    from mayfly_browse import server

    server.SOCKET = os.path.join(home, "socket")
    asyncio.run(server.main(is_ready=lambda: print("ready", flush=True)))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--browser", required=True)
    parser.add_argument("--only", default="")
    parser.add_argument("--no-sandbox", action="store_true")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ["MAYFLY_BROWSER"] = os.path.abspath(options.browser)
    if options.no_sandbox:
        os.environ["MAYFLY_BROWSER_SANDBOX"] = "no"
    if options.serve:
        return serve(options.serve)
    import batch
    import pages
    from checks import Report, check
    from mayfly_browse import browser

    report = Report()
    web = batch.serve_the_web()
    with tempfile.TemporaryDirectory() as home:
        os.makedirs(f"{home}/browser")
        command = [sys.executable, __file__, "--browser", options.browser, "--serve", f"{home}/browser"]
        child = subprocess.Popen(command, stdout=subprocess.PIPE)
        try:
            child.stdout.readline()
            browser.HOME = f"{home}/browser"
            from mayfly_browse import server

            server.SOCKET = f"{home}/browser/socket"
            for case in pages.usual() + pages.hostile():
                if options.only not in case.name:
                    continue
                place = os.path.join(home, case.name.replace("/", "_"))
                begin = time.monotonic()
                batch.run([json.loads(json.dumps(case.request))], place)
                check(case, f"{place}/0", report, time.monotonic() - begin)
        finally:
            child.terminate()
            child.wait()
    if web:
        web.shutdown()
    print(f"{report.passed} passed, {report.failed} failed")
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
