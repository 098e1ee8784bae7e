#!/usr/bin/env python3
"""Runs code in Mayfly from Python, waits for the result, and reads the files back.

Needs psycopg 3.1 or newer (Debian: python3-psycopg). Connects by $DATABASE_URL or libpq's PG* variables,
as a role that has mayfly_producer and was granted the tenant.

    python3 producer.py                       the job below
    python3 producer.py job.json --limit 60   a payload of your own

The result is printed as JSON, files are written to ./results. Exit code: 0 the job succeeded, 1 it ended
otherwise, 3 it did not end within the limit and was cancelled.
"""

import argparse
import json
import os
import pathlib
import select
import sys
import time
import uuid

import psycopg
from psycopg import sql

EXAMPLE = {
    "language": "python",
    "source": "print(6 * 7)\nopen('greeting.txt', 'w').write('hello from a microVM')",
    "outputs": ["*.txt"],
}


class NotInTime(Exception):
    """The job did not end within the limit. It was cancelled."""


class Mayfly:
    """One connection, made again whenever it breaks. Not to be shared between threads."""

    POLL = 2.0  # seconds: a notification is a hint that may get lost; looking again is the safety net

    def __init__(self, conninfo="", tenant=""):
        self.conninfo, self.tenant = conninfo, tenant
        self.db = None
        self.job = None  # the one that we wait for
        self.is_told = False  # a notification said that it has ended

    def run(self, payload, limit):
        """Runs one job and answers (state, result, error). Raises NotInTime after `limit` seconds."""
        deadline = time.monotonic() + limit
        # Names this request. Should the connection break while we enqueue, we find the job again by
        # it instead of making a second one.
        key = str(uuid.uuid4())
        job = self.job = self.retrying(deadline, lambda: self.enqueue(payload, key))
        self.is_told = False
        while True:
            # We listened before the job was made, and look before we wait: no end can be missed.
            ended = self.retrying(deadline, lambda: self.look(job))
            if ended:
                return ended
            if time.monotonic() >= deadline:
                break
            self.wait(min(self.POLL, deadline - time.monotonic()))
        # It may end at this very moment; then cancelling changes nothing, and we take its result.
        grace = time.monotonic() + 10
        self.retrying(grace, lambda: self.query("select mayfly.cancel(%s)", job))
        ended = self.retrying(grace, lambda: self.look(job))
        if ended and ended[0] != "cancelled":
            return ended
        raise NotInTime(f"job {job} did not end within {limit} seconds and was cancelled")

    def blob(self, sha256, limit=30):
        """The bytes of a file named by a result."""
        return bytes(self.retrying(time.monotonic() + limit,
                                   lambda: self.query("select mayfly.get_blob(%s)", sha256))[0])

    # The steps; each may be repeated after the connection broke.

    def enqueue(self, payload, key):
        row = self.query("select id from mayfly.job where unique_key = %s and tenant = %s"
                         " order by id limit 1", key, self.tenant)
        row = row or self.query("select mayfly.enqueue('code', %s, tenant => %s, unique_key => %s)",
                                json.dumps(payload), self.tenant, key)
        return row[0]

    def look(self, job):
        # State, result and error in one statement: never a state of now with a result of before.
        row = self.query("select state, result, error, finished_at from mayfly.get_job(%s)", job)
        if row is None:
            raise LookupError(f"there is no job {job}")
        return row[:3] if row[3] else None

    def wait(self, seconds):
        """Returns when the job is said to have ended, after `seconds`, or when the connection broke."""
        end = time.monotonic() + seconds
        try:
            while not self.is_told and (left := end - time.monotonic()) > 0:
                if select.select([self.db.fileno()], [], [], left)[0]:
                    self.db.pgconn.consume_input()
                    while note := self.db.pgconn.notifies():
                        self.hear(note.extra)
        except psycopg.OperationalError:
            self.close()
        self.is_told = False

    def hear(self, text):
        self.is_told = self.is_told or int(text) == self.job

    # The connection

    def query(self, text, *values):
        if self.db is None:
            # autocommit: each statement is a transaction of its own, so the job is visible to workers
            # at once, and no transaction stays open while we wait.
            # The two limits end what hangs on a network that swallows packets.
            self.db = psycopg.connect(self.conninfo, autocommit=True, connect_timeout=10,
                                      tcp_user_timeout=10_000)
            self.db.add_notify_handler(lambda note: self.hear(note.payload))
            channel, = self.db.execute("select mayfly.done_channel(%s)", [self.tenant]).fetchone()
            self.db.execute(sql.SQL("listen {}").format(sql.Identifier(channel)))
        return self.db.execute(text, values).fetchone()

    def retrying(self, deadline, step):
        """Does a step; when the connection is broken, makes a new one and does it again."""
        while True:
            try:
                return step()
            except psycopg.OperationalError as error:
                # 57P.. and 08..: the connection ends. Any other SQLSTATE is an answer.
                if error.sqlstate and not error.sqlstate.startswith(("57P", "08")):
                    raise
                self.close()
                if time.monotonic() >= deadline:
                    raise
                time.sleep(0.2)

    def close(self):
        if self.db is not None:
            self.db.close()
            self.db = None


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("payload", nargs="?", type=pathlib.Path)
    parser.add_argument("--limit", type=float, default=120, help="seconds")
    arguments = parser.parse_args()
    payload = json.loads(arguments.payload.read_text()) if arguments.payload else EXAMPLE

    mayfly = Mayfly(os.environ.get("DATABASE_URL", ""))
    try:
        state, result, error = mayfly.run(payload, arguments.limit)
    except NotInTime as late:
        print(late, file=sys.stderr)
        return 3
    print(json.dumps({"state": state, "result": result, "error": error}))
    for number, file in enumerate((result or {}).get("files", [])):
        # The name was chosen by the job: never use it as a path.
        path = pathlib.Path("results") / f"{number}.bin"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(mayfly.blob(file["sha256"]))
        print(f"{path}: {file['name']!r}, {file['size']} bytes", file=sys.stderr)
    return 0 if state == "succeeded" else 1


if __name__ == "__main__":
    sys.exit(main())
