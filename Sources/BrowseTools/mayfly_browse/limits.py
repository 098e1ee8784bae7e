"""Limits: what a page and a job may use. Bytes, counts and seconds."""

import dataclasses

MIB = 1 << 20


def is_emulated():
    """Whether this machine's processor is QEMU's software emulation."""
    try:
        with open("/proc/cpuinfo") as file:
            return "QEMU TCG" in file.read(4096)
    except OSError:
        return False


@dataclasses.dataclass
class Limits:
    """The host may send any of them under `limits`."""

    # Of the whole job, from when its program starts; what is left at the end is for the result.
    seconds: int = 50
    navigation_seconds: int = 30
    # A page whose scripts are busy for longer is stopped.
    call_seconds: int = 10
    # From a load to a page that counts as quiet, at most.
    quiet_seconds: int = 5
    pages: int = 4
    pages_opened: int = 20
    dialogs: int = 20
    # Navigations of the page's own between two actions.
    navigations: int = 20
    frames: int = 20
    inline_text: int = 256 << 10
    html: int = 8 * MIB
    values: int = 256 << 10
    snapshot: int = 64 << 10
    # Of a page that a snapshot describes.
    elements: int = 50_000
    links: int = 2000
    console: int = 200
    console_text: int = 2 << 10
    requests: int = 2000
    pixels: int = 40_000_000
    height: int = 16_384
    downloads: int = 20
    download: int = 100 * MIB
    downloads_all: int = 200 * MIB
    # Under software emulation everything takes longer.
    time_factor: int = dataclasses.field(default_factory=lambda: 8 if is_emulated() else 1)

    @classmethod
    def of(cls, given):
        known = {field.name for field in dataclasses.fields(cls)}
        return cls(**{k: int(v) for k, v in (given or {}).items() if k in known})

    def time(self, seconds):
        return seconds * self.time_factor
