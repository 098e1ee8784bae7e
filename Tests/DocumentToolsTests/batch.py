"""Many document jobs after each other in one process's place: for tests in chroots and in machines.

Reads {"items": [{"root": DIR, "request": {…}, "timeout": SECONDS}]} from the file named by the first
argument; each item's inputs stand below its root. Writes DIR/events, and DIR/ended with the exit
status and the seconds it took."""

import json
import os
import signal
import sys
import time


def main(path):
    from mayfly_document import job

    with open(path) as file:
        items = json.load(file)["items"]
    for item in items:
        started = time.monotonic()
        events = os.path.join(item["root"], "events")
        pid = os.fork()
        if pid == 0:
            os.setpgid(0, 0)
            descriptor = os.open(events, os.O_WRONLY | os.O_CREAT, 0o600)
            errors = os.open(os.path.join(item["root"], "stderr"), os.O_WRONLY | os.O_CREAT, 0o600)
            os.dup2(errors, 2)
            os.chdir(item["root"])
            job.run(item["request"], descriptor, item["root"])
            os._exit(0)
        status, end = None, started + item.get("timeout", 120)
        while status is None:
            done, code = os.waitpid(pid, os.WNOHANG)
            if done:
                status = code
            elif time.monotonic() > end:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                status = "timeout"
            else:
                time.sleep(0.002)
        with open(os.path.join(item["root"], "ended"), "w") as file:
            json.dump({"status": status, "seconds": time.monotonic() - started}, file)


if __name__ == "__main__":
    main(sys.argv[1])
