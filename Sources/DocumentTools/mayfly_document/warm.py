"""The image's warm-up: LibreOffice started and used, every tool run once. Run as root or as uid 1000.

Leaves LibreOffice running, for the snapshot. Any fault ends with a line on stderr and status 1."""

import os
import shutil
import subprocess
import sys
import tempfile

from . import samples
from .operations import images, office
from .readers import pdf

USER = 1000


def become_user():
    os.makedirs(office.HOME, mode=0o700, exist_ok=True)
    if os.getuid() == 0:
        os.chown(office.HOME, USER, USER)
        os.setgroups([])
        os.setresgid(USER, USER, USER)
        os.setresuid(USER, USER, USER)


def convert_twice(directory):
    """Once to load the filters, and once more for what the first run leaves undone."""
    pairs = [("docx", "pdf"), ("xlsx", "pdf"), ("pptx", "pdf"), ("odt", "docx"), ("docx", "odt")]
    made = {}
    for kind, make in (("docx", samples.docx), ("xlsx", samples.xlsx), ("pptx", samples.pptx)):
        made[kind] = os.path.join(directory, f"warm.{kind}")
        with open(made[kind], "wb") as file:
            file.write(make())
    made["odt"] = os.path.join(directory, "made.odt")
    for kind, to in [("docx", "odt")] + pairs + pairs:
        target = os.path.join(directory, f"made.{to}")
        problem = office.convert(kind, made[kind], to, target)
        if problem or not os.path.getsize(target):
            raise OSError(f"LibreOffice did not convert {kind} to {to}: {problem}")
        if to == "pdf":
            shutil.copy(target, os.path.join(directory, f"{kind}.pdf"))
    return os.path.join(directory, "docx.pdf")


def run_tools(document, directory):
    picture = os.path.join(directory, "page.png")
    with pdf.open_document(document, None) as opened:
        images.draw(opened, 1, 2).convert("L").save(picture)
    commands = [["fc-match", "Calibri"], ["tesseract", picture, "-", "-l", "eng"]]
    for command in commands:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def rehearse():
    """For the parked Python, before it forks: what is compiled or loaded only when first used."""
    from PIL import Image

    from . import blocks, gate, job
    from .readers import docx, markup, pptx

    Image.init()
    events, limits = job.Events(os.open(os.devnull, os.O_WRONLY)), job.Limits()
    try:
        for kind, read in ((samples.docx, docx.read), (samples.pptx, pptx.read)):
            container = gate.Container(kind(), limits)
            container.check_office(events, True)
            read(container, events)
        made = markup.read_markdown("# Warm\n\n- *a*\n\n| a | b |\n|---|---|\n| 1 | 2 |\n", events)
        markup.to_html(blocks.markdown(made) + blocks.text(made), events)
    finally:
        os.close(events.descriptor)


def main():
    become_user()
    if not office.is_listening():
        office.write_profile()
        # Under software emulation the first start takes minutes.
        office.start(900)
    with tempfile.TemporaryDirectory(dir=f"{office.HOME}/tmp") as directory:
        run_tools(convert_twice(directory), directory)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Exception as error:
        print(f"document warm-up: {error!r}", file=sys.stderr)
        sys.exit(1)
