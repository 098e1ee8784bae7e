"""One `browse` job: the request from stdin to the browser's process, its events to the host."""

import json
import os
import socket
import sys

from . import server
from .events import encode


# The file of the authority by which the worker ends TLS for this job, where it does: the agent
# names it for Node, which wants that one alone.
_AUTHORITY = "NODE_EXTRA_CA_CERTS"


def _authority():
    """The image may name a file that is not there, as Node lets it: then there is none."""
    path = os.environ.get(_AUTHORITY)
    if path and os.path.isfile(path):
        with open(path, errors="replace") as file:
            return file.read()
    return None


def ask(request, root, take):
    """Gives each line of the answer to `take`. True when that came to its end."""
    whole = {"request": request, "root": root}
    if authority := _authority():
        whole["authority"] = authority
    data = json.dumps(whole).encode()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(server.SOCKET)
        connection.sendall(len(data).to_bytes(8, "little") + data)
        with connection.makefile("rb") as lines:
            for line in lines:
                if line == encode("end", True):
                    return True
                take(line)
    return False


def run(request, descriptor, root="/work"):
    def write(data):
        while data:
            data = data[os.write(descriptor, data) :]

    try:
        is_whole = ask(request, root, write)
    except OSError:
        is_whole = False
    if not is_whole:
        message = "the browser has ended, most likely for want of memory"
        write(encode("failure", {"reason": "out_of_memory", "message": message}))


def main():
    request = json.load(sys.stdin)
    run(request, int(os.environ["MAYFLY_EVENTS"]))
