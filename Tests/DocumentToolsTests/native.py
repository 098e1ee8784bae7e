"""Runs document jobs in a chroot of the image's packages, as the guest would: forked from a warm Python.

`execute(request, inputs)` is all that the checks know; another module with the same function can run
the same checks in machines. Needs root, and scripts of the image's warm-up run once."""
import json
import os
import select
import shutil
import subprocess
import time

ROOT = os.environ.get("DOCUMENT_ROOT", "/work/docroot")

_SERVER = r"""
import json, os, sys
from mayfly_document import job
while True:
    line = sys.stdin.readline()
    if not line:
        break
    pid = os.fork()
    if pid == 0:
        request = os.memfd_create("request")
        os.write(request, line.encode())
        os.lseek(request, 0, 0)
        os.dup2(request, 0)
        sys.stdin = open(0)
        events = os.open("/work/.events", os.O_WRONLY | os.O_CREAT, 0o600)
        os.environ.clear()
        os.environ["MAYFLY_EVENTS"] = str(events)
        os.chdir("/work")
        job.main()
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    print(json.dumps(status), flush=True)
"""


class Native:
    def __init__(self, root=ROOT):
        self.root, self.work = root, os.path.join(root, "work")
        self.process = None

    def start(self):
        self.process = subprocess.Popen(
            ["chroot", "--userspec=1000:1000", self.root, "python3", "-c", _SERVER],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
        )

    def execute(self, request, inputs, timeout=120):
        """Answers (events as objects, files by name, seconds); inputs are (name, bytes) pairs."""
        if self.process is None:
            self.start()
        for name in os.listdir(self.work):
            path = os.path.join(self.work, name)
            shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)
        os.makedirs(os.path.join(self.work, "input"))
        described = []
        for number, (name, data) in enumerate(inputs, 1):
            described.append({"path": f"input/{number}", "name": name})
            with open(os.path.join(self.work, "input", str(number)), "wb") as file:
                file.write(data)
        os.chown(self.work, 1000, 1000)
        for folder, _, files in os.walk(self.work):
            for name in [folder] + [os.path.join(folder, file) for file in files]:
                os.chown(name, 1000, 1000)
        started = time.monotonic()
        self.process.stdin.write(json.dumps({**request, "inputs": described}).encode() + b"\n")
        self.process.stdin.flush()
        if not select.select([self.process.stdout], [], [], timeout)[0]:
            os.killpg(self.process.pid, 9)
            self.process = None
            raise TimeoutError(f"no end after {timeout} s")
        status = json.loads(self.process.stdout.readline())
        seconds = time.monotonic() - started
        if status != 0:
            raise AssertionError(f"the job's process ended with {status}")
        with open(os.path.join(self.work, ".events"), "rb") as file:
            events = [json.loads(line) for line in file]
        return events, self._files(), seconds

    def _files(self):
        out, top = {}, os.path.join(self.work, "out")
        for folder, _, files in os.walk(top):
            for name in files:
                path = os.path.join(folder, name)
                with open(path, "rb") as file:
                    out[os.path.relpath(path, top)] = file.read()
        return out

    def stop(self):
        if self.process is not None:
            self.process.stdin.close()
            self.process.wait()
