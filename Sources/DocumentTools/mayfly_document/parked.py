"""What a Python that waits for document jobs imports: the job's program, used once. An image names it."""

from . import job, warm  # noqa: F401

warm.rehearse()
