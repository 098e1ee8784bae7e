"""Runs document jobs in a chroot of the image's packages, forked from a warm Python as in the guest.

`execute_many(items)` is all that the checks know; another class with the same method can run the same
checks in machines: `batch.py` is the program for there. Needs root, and the image's warm-up done."""

import json
import os
import shutil
import subprocess
import tempfile


class Ended:
    """What became of one job: its events, its files, how long it took."""

    def __init__(self, events, files, seconds, status, log):
        self.events, self.files, self.seconds, self.status, self.log = (
            events,
            files,
            seconds,
            status,
            log,
        )
        self.value = next((e["value"] for e in reversed(events) if "value" in e), {})
        self.failure = next((e["failure"] for e in reversed(events) if "failure" in e), None)
        self.warnings = {e["warning"]["code"] for e in events if "warning" in e}

    @property
    def reason(self):
        return self.failure["reason"] if self.failure else None

    def text(self):
        if self.value.get("text_file"):
            return self.files[self.value["text_file"]].decode()
        return self.value.get("text") or ""


class Native:
    def __init__(self, root):
        self.root = root

    def execute(self, request, inputs, timeout=120):
        """One job; inputs are (name, bytes) pairs."""
        return self.execute_many([(request, inputs, timeout)])[0]

    def execute_many(self, items):
        """Ended for each (request, inputs, timeout)."""
        top = tempfile.mkdtemp(dir=os.path.join(self.root, "work"))
        try:
            return self._run(top, items)
        finally:
            shutil.rmtree(top)

    def _run(self, top, items):
        inside = top[len(self.root) :]
        written = []
        for number, (request, inputs, timeout) in enumerate(items):
            folder = os.path.join(top, str(number), "input")
            os.makedirs(folder)
            described = []
            for place, (name, data) in enumerate(inputs, 1):
                described.append({"path": f"input/{place}", "name": name})
                with open(os.path.join(folder, str(place)), "wb") as file:
                    file.write(data)
            written.append(
                {
                    "root": f"{inside}/{number}",
                    "timeout": timeout,
                    "request": {**request, "inputs": described},
                }
            )
        with open(os.path.join(top, "batch.json"), "w") as file:
            json.dump({"items": written}, file)
        shutil.copy(os.path.join(os.path.dirname(__file__), "batch.py"), top)
        subprocess.run(["chown", "-R", "1000:1000", top], check=True)
        subprocess.run(
            [
                "chroot",
                "--userspec=1000:1000",
                self.root,
                "python3",
                f"{inside}/batch.py",
                f"{inside}/batch.json",
            ],
            check=True,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"},
        )
        return [self._ended(os.path.join(top, str(number))) for number in range(len(items))]

    @staticmethod
    def _ended(folder):
        def read(name):
            path = os.path.join(folder, name)
            if not os.path.exists(path):
                return b""
            with open(path, "rb") as file:
                return file.read()

        ended = json.loads(read("ended"))
        events = [json.loads(line) for line in read("events").splitlines()]
        files, out = {}, os.path.join(folder, "out")
        for base, _, names in os.walk(out):
            for name in names:
                path = os.path.join(base, name)
                with open(path, "rb") as file:
                    files[os.path.relpath(path, out)] = file.read()
        return Ended(
            events,
            files,
            ended["seconds"],
            ended["status"],
            read("stderr").decode("utf-8", "replace"),
        )
