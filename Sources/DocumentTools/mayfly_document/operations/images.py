"""The operation render, and pictures as input: bounded by pixels before anything is drawn."""

import os

from PIL import Image

from .. import kinds
from ..events import Failure
from ..readers import pdf

Image.MAX_IMAGE_PIXELS = None
FORMATS = ["PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP"]
_LEAST_DPI = 18
# The format's own limit.
WEBP_SIDE = 16383


def open_image(path, limits):
    """Pillow's image, its size checked; no decoder but those of the list."""
    try:
        image = Image.open(path, formats=FORMATS)
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise Failure("document_damaged", f"the picture cannot be read: {type(error).__name__}")
    if image.width * image.height > limits.image_pixels:
        raise Failure(
            "pixel_limit",
            f"the picture has {image.width} × {image.height} pixels; at most {limits.image_pixels} in all",
        )
    return image


def frames(job):
    """The pictures of a file, RGB, with their number and resolution."""
    with open_image(job.path, job.limits) as image:
        count = 1
        if job.detected.format == "tiff":
            count = _count(image, job.limits.pages)
        for number in job.wanted(count):
            try:
                image.seek(number - 1)
                if image.width * image.height > job.limits.image_pixels:
                    raise Failure("pixel_limit", f"picture {number} has too many pixels")
                image.load()
                dpi = image.info.get("dpi", (72, 72))[0]
                picture = _flat(image)
            except (OSError, ValueError, SyntaxError, EOFError) as error:
                raise Failure(
                    "document_damaged",
                    f"picture {number} cannot be decoded: {type(error).__name__}",
                )
            yield number, picture, float(dpi) if 30 <= float(dpi) <= 2400 else 72.0, count


def _count(image, limit):
    """How many pictures a TIFF has: its directories are walked no further than the limit."""
    count = 1
    try:
        while count < limit:
            image.seek(count)
            count += 1
    except (EOFError, OSError, ValueError, SyntaxError):
        pass
    image.seek(0)
    return count


def _flat(image):
    """On white, without transparency, turned as the camera was held."""
    from PIL import ImageOps

    image = ImageOps.exif_transpose(image)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        page = Image.new("RGB", image.size, "white")
        page.paste(image, mask=image.getchannel("A"))
        return page
    return image.convert("RGB")


def to_pdf(job):
    """The pictures as pages."""
    import io

    import pikepdf

    target = os.path.join(job.scratch, "pictures.pdf")
    with pikepdf.new() as document:
        for number, picture, dpi, _ in frames(job):
            data = io.BytesIO()
            picture.save(data, "PDF", resolution=dpi, quality=90)
            with pikepdf.open(io.BytesIO(data.getvalue())) as part:
                document.pages.extend(part.pages)
        document.save(target, deterministic_id=True)
    return target


class Budget:
    """The pixels that a job may draw in all."""

    def __init__(self, limits):
        self.limits, self.left = limits, limits.all_pixels

    def take(self, width, height):
        if width * height > self.left:
            return False
        self.left -= width * height
        return True


def scale_of(page_size, dpi, limits, number):
    """Pixels per point that fit the budget of a picture, and whether they are fewer than asked."""
    width, height = page_size
    scale = dpi / 72
    most = (limits.image_pixels / (width * height)) ** 0.5
    if scale <= most and max(width, height) * scale <= 32_000:
        return scale, False
    scale = min(most, 32_000 / max(width, height)) * 0.999
    if scale * 72 < _LEAST_DPI:
        raise Failure(
            "pixel_limit",
            f"page {number} of {width:.0f} × {height:.0f} pt is too large to draw at {_LEAST_DPI} dpi",
        )
    return scale, True


def draw(document, number, scale):
    """A page as a Pillow image."""
    page = document[number - 1]
    try:
        bitmap = page.render(scale=scale, may_draw_forms=False)
        picture = bitmap.to_pil().convert("RGB")
        bitmap.close()
        return picture
    finally:
        page.close()


def save(picture, job, number, to, options):
    name = f"page-{number:04}.{to}"
    quality = max(1, min(int(options.get("quality", 85)), 100))
    if to == "webp" and max(picture.size) > WEBP_SIDE:
        raise Failure(
            "pixel_limit", f"a side of page {number} has more than {WEBP_SIDE} pixels; use png"
        )
    if to in ("jpeg", "webp"):
        picture.save(job.output(name), to.upper(), quality=quality)
    else:
        picture.save(job.output(name), "PNG", compress_level=3)
    return name


def run(job):
    """Files `page-0001.png`, and an entry for each in `per_page`."""
    to = job.to or "png"
    if to not in ("png", "jpeg", "webp"):
        raise Failure("invalid_payload", f"`to` is {to!r}; render makes png, jpeg and webp")
    if job.detected.format in kinds.IMAGES:
        made, count = _pictures(job, to)
    else:
        made, count = _pages(job, to)
    return {
        "pages": count,
        "pages_done": [item["page"] for item in made],
        "per_page": made,
        "files": [item["file"] for item in made],
    }


def _pictures(job, to):
    made, count = [], 1
    budget = Budget(job.limits)
    for number, picture, _, count in frames(job):
        if not budget.take(*picture.size):
            job.events.warn("pages_skipped", "the pixels of all pages are at their limit")
            break
        made.append(_entry(job, picture, number, to))
    return made, count


def _entry(job, picture, number, to):
    name = save(picture, job, number, to, job.options)
    entry = {"page": number, "file": name, "width": picture.width, "height": picture.height}
    job.events.page(entry)
    return entry


def _pages(job, to):
    from .convert import pdf_of
    from .reading import open_pdf

    path = pdf_of(job)
    document = open_pdf(job, path) if path == job.path else pdf.open_document(path, None)
    count = len(document)
    job.part("pages", count)
    dpi = max(10, min(float(job.request.get("dpi") or 150), 1200))
    budget, made = Budget(job.limits), []
    wanted = [number for number in job.wanted(count) if number not in job.skipped]
    for number in wanted[: job.limits.output_files]:
        job.at(number)
        size = document.get_page_size(number - 1)
        if size[0] <= 0 or size[1] <= 0:
            job.events.warn("pages_skipped", f"page {number} cannot be loaded", number)
            continue
        scale, less = scale_of(size, dpi, job.limits, number)
        if less:
            job.events.warn(
                "screenshot_clipped", f"drawn at {scale * 72:.0f} dpi instead of {dpi:.0f}", number
            )
        if not budget.take(int(size[0] * scale) + 1, int(size[1] * scale) + 1):
            job.events.warn(
                "pages_skipped",
                f"from page {number} on: the pixels of all pages are at their limit",
            )
            break
        made.append(_entry(job, draw(document, number, scale), number, to))
        job.events.progress(len(made), len(wanted))
    job.at(None)
    document.close()
    return made, count
