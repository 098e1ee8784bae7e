"""The operation pages: merge, split, rotate, decrypt, by qpdf's library."""

from ..events import Failure
from ..ranges import page_numbers

ACTIONS = ("merge", "split", "rotate", "decrypt")


def _open(job, path, name):
    import pikepdf

    try:
        document = pikepdf.open(path, password=job.password or "")
        if not len(document.pages):
            raise Failure("document_damaged", f"{name!r} has no pages")
        return document
    except pikepdf.PasswordError:
        if job.password:
            raise Failure("wrong_password", f"the `password` does not open {name!r}")
        raise Failure("document_encrypted", f"{name!r} is encrypted; give its `password`")
    except pikepdf.PdfError as error:
        raise Failure("document_damaged", f"{name!r} cannot be opened: {str(error)[:200]}")


def run(job):
    from .metadata import pdf_facts

    action = job.request.get("do")
    if action not in ACTIONS:
        raise Failure("invalid_payload", f"`do` is {action!r}; use one of {', '.join(ACTIONS)}")
    for path, name in job.inputs[1:]:
        if job.detect(path, name).format != "pdf":
            raise Failure("unsupported_format", f"{name!r} is no PDF; convert it first")
    if job.detected.format != "pdf":
        raise Failure("unsupported_format", f"{job.name!r} is no PDF; convert it first")
    pdf_facts(job)
    return {"merge": _merge, "split": _split, "rotate": _rotate, "decrypt": _decrypt}[action](job)


def _save(document, job, name):
    document.save(
        job.output(name),
        deterministic_id=True,
        encryption=False,
        linearize=bool(job.options.get("linearize")),
    )
    return name


def _wanted(job, document):
    numbers = page_numbers(job.request.get("pages"), len(document.pages))
    if len(numbers) > job.limits.pages:
        job.events.warn(
            "pages_skipped", f"the first {job.limits.pages} of {len(numbers)} pages are taken"
        )
    return numbers[: job.limits.pages]


def _merge(job):
    import pikepdf

    count = 0
    with pikepdf.new() as target:
        for path, name in job.inputs:
            with _open(job, path, name) as document:
                for number in _wanted(job, document):
                    target.pages.append(document.pages[number - 1])
                    count += 1
        return {"pages": count, "files": [_save(target, job, "merged.pdf")]}


def _split(job):
    import pikepdf

    files = []
    with _open(job, job.path, job.name) as document:
        numbers = _wanted(job, document)
        if len(numbers) > job.limits.output_files:
            job.events.warn("pages_skipped", f"at most {job.limits.output_files} files")
        for number in numbers[: job.limits.output_files]:
            with pikepdf.new() as target:
                target.pages.append(document.pages[number - 1])
                files.append(_save(target, job, f"page-{number:04}.pdf"))
            job.events.page({"page": number, "file": files[-1]})
        return {"pages": len(document.pages), "files": files}


def _rotate(job):
    angle = job.options.get("angle", 90)
    if angle not in (90, 180, 270, -90):
        raise Failure("invalid_payload", f"`options.angle` is {angle!r}; use 90, 180 or 270")
    with _open(job, job.path, job.name) as document:
        for number in _wanted(job, document):
            document.pages[number - 1].rotate(angle, relative=True)
        return {"pages": len(document.pages), "files": [_save(document, job, "rotated.pdf")]}


def _decrypt(job):
    with _open(job, job.path, job.name) as document:
        return {"pages": len(document.pages), "files": [_save(document, job, "decrypted.pdf")]}
