"""What a Python that waits for browse jobs imports: the job's program. An image names it."""

from . import job  # noqa: F401
