"""One `document` job: the request from stdin, events out, one value or one failure at the end."""

import json
import os
import sys

# Everything that a job may use is imported with this module: a parked Python forks with all of it.
import charset_normalizer  # noqa: F401
import markdown_it  # noqa: F401
import nh3  # noqa: F401
import olefile  # noqa: F401
import pikepdf  # noqa: F401
import python_calamine  # noqa: F401

from . import (  # noqa: F401
    decrypt,
    facts,
    gate,
    kinds,
    result,
)
from .events import Events, Failure, encode, log
from .limits import Limits, isolated
from .operations import (  # noqa: F401
    convert,
    docxwriter,
    fonts,
    images,
    metadata,
    ocr,
    office,
    pages,
    reading,
)
from .ranges import page_numbers
from .readers import (  # noqa: F401
    archives,
    docx,
    layout,
    mail,
    markup,
    odf,
    pdf,
    pptx,
    ruled,
    sheets,
)

# How often a document is read again without the page that killed the reader.
MAX_RESUMES = 5
OPERATIONS = {
    "text": reading.run,
    "markdown": reading.run,
    "tables": reading.run,
    "metadata": metadata.run,
    "render": images.run,
    "convert": convert.run,
    "ocr": ocr.run,
    "pages": pages.run,
}


class Job:
    """What an operation sees."""

    def __init__(self, request, events, root, skipped):
        self.request, self.events = request, events
        self.root, self.out = root, os.path.join(root, "out")
        self.scratch = os.path.join(root, ".document")
        self.limits = Limits.of(request.get("limits"))
        self.limits.pages = min(
            self.limits.pages, int(request.get("max_pages") or self.limits.pages)
        )
        self.operation = request["operation"]
        self.to, self.password = request.get("to"), request.get("password")
        self.options = request.get("options") or {}
        self.inputs = [
            (os.path.join(root, item["path"]), item["name"]) for item in request["inputs"]
        ]
        self.path, self.name = self.inputs[0]
        self.skipped, self.detected, self.attachments = skipped, None, []
        for directory in (self.out, self.scratch):
            os.makedirs(directory, exist_ok=True)

    def at(self, page):
        """Says which page is read next: if that kills the reader, it is left out."""
        self.events.send("at", page)

    def part(self, name, content):
        """What the result has already, should there be no more of it."""
        self.events.send("part", {name: content})

    def wanted(self, count):
        """The pages to read, from 1, of a document with `count`; a Failure without any."""
        wanted = page_numbers(self.request.get("pages"), count)
        if len(wanted) > self.limits.pages:
            self.events.warn(
                "pages_skipped",
                f"{len(wanted)} pages asked for; the first {self.limits.pages} are read",
            )
            wanted = wanted[: self.limits.pages]
        return wanted

    def attach(self, name, type, data):
        """Lists an attachment; it is a file too, if those were asked for."""
        number = len(self.attachments) + 1
        entry = {"name": name, "type": type, "size": len(data), "file": None}
        if self.request.get("attachments") and number <= self.limits.output_files:
            entry["file"] = f"attachments/{number}"
            with open(self.output(entry["file"]), "wb") as file:
                file.write(data)
        self.attachments.append(entry)

    def attached(self):
        return {"attachments": self.attachments} if self.attachments else {}

    def output(self, name):
        path = os.path.join(self.out, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return path

    def detect(self, path=None, name=None, with_media=False):
        """The type, with everything that the gate refuses refused and warned of."""
        found = kinds.detect(path or self.path, name or self.name, self.limits, self.events)
        if found.format in kinds.OFFICE_ZIPS and isinstance(found.container, gate.Container):
            found.container.check_office(self.events, with_media)
            if found.format == "xlsx":
                sheets.check_xlsx(found.container, self.limits, self.events)
            elif found.format == "ods":
                sheets.check_ods(found.container, self.limits)
        facts.warn(found, path or self.path, self.events)
        return found


def perform(request, descriptor, root, skipped):
    """In the child: the operation; its own failure is an event, not an exit code."""
    events = Events(descriptor)
    try:
        job = Job(request, events, root, skipped)
        for page, why in sorted(skipped.items()):
            events.warn("pages_skipped", f"page {page} cannot be read: {why}", page)
        job.detected = job.detect(with_media=job.operation in ("render", "convert", "ocr"))
        if (
            isinstance(job.detected.container, kinds.EncryptedOffice)
            and job.operation != "metadata"
        ):
            job.path = decrypt.package(job.path, job.password, job.scratch)
            job.detected = job.detect(with_media=True)
            job.password = None
        job.part("format", job.detected.format)
        job.part("detected", job.detected.mime)
        value = OPERATIONS[job.operation](job)
        events.send(
            "value", {"format": job.detected.format, "detected": job.detected.mime, **value}
        )
    except Failure as failure:
        events.send("failure", {"reason": failure.reason, "message": failure.message})
    except MemoryError:
        raise
    except RecursionError:
        events.send(
            "failure", {"reason": "expansion_limit", "message": "the document nests too deep"}
        )
    except OSError as error:
        if error.errno not in (27, 28):
            raise
        events.send("failure", {"reason": "output_limit", "message": "an output file is too large"})


class Recorder:
    """In the parent: passes the child's lines on, and keeps what a failed job still returns."""

    def __init__(self, descriptor, limits):
        self.descriptor, self.limits = descriptor, limits
        self.parts, self.pages = {}, {}
        self.at, self.value, self.failure = None, None, None
        self._warned = set()

    def line(self, data):
        member, content = next(iter(json.loads(data).items()))
        if member == "at":
            self.at = content
        elif member == "part":
            self.parts.update(content)
        elif member == "value":
            self.value = content
        elif member == "office":
            office.restart(self.limits)
        elif member == "failure":
            self.failure = content
        elif member == "warning":
            key = (content["code"], content["page"])
            if key not in self._warned:
                self._warned.add(key)
                self._write(data)
        elif member == "page":
            if content["page"] not in self.pages:
                self.pages[content["page"]] = content
                self._write(data)
        else:
            self._write(data)

    def _write(self, data):
        while data:
            data = data[os.write(self.descriptor, data) :]

    def send(self, member, content):
        self._write(encode(member, content))

    def partial(self):
        """The value of a job that failed: the pages that were done."""
        done = [self.pages[number] for number in sorted(self.pages)]
        out = dict(self.parts)
        out["pages_done"] = [page["page"] for page in done]
        texts = [page["text"] for page in done if page.get("text")]
        if texts:
            out["text"] = "\n\n".join(texts)
        return out

    def finish(self, out):
        """The last lines; `out` is where files stand, whole or as far as they got."""
        if self.value is not None:
            self.send("value", self.value)
            return
        if self.parts or self.pages:
            value = self.partial()
            for name in ("text.txt", "text.md"):
                path = os.path.join(out, name)
                if os.path.exists(path) and not os.path.getsize(path):
                    os.unlink(path)
                elif os.path.exists(path):
                    value["text_file"] = name
            self.send("value", value)
        self.send("failure", self.failure)


_ENDS = {
    "memory": ("out_of_memory", "the document takes more memory than a job's tool may use"),
    "cpu": ("timeout", "the document takes more processor time than a job's tool may use"),
    "exception": ("document_damaged", "the reader gave up on the document"),
}


def run(request, descriptor, root="/work"):
    """The job in a child of its own, again without the page that killed it."""
    limits = Limits.of(request.get("limits"))
    recorder = Recorder(descriptor, limits)
    skipped = {}
    while True:
        recorder.at = None
        end = isolated(lambda d: perform(request, d, root, skipped), limits, recorder.line)
        if recorder.value is not None or recorder.failure is not None:
            break
        reason, message = _ENDS.get(end, ("converter_crashed", f"the reader died of {end}"))
        page = recorder.at
        if page is not None:
            message += f", on page {page}"
        log(f"reader ended: {end}, page {page}")
        if page is None or page in skipped or len(skipped) >= MAX_RESUMES:
            recorder.failure = {"reason": reason, "message": message}
            break
        skipped[page] = {"memory": "too much memory", "cpu": "too much time"}.get(
            end, "it is damaged"
        )
    recorder.finish(os.path.join(root, "out"))


def main():
    request = json.load(sys.stdin)
    run(request, int(os.environ["MAYFLY_EVENTS"]))
