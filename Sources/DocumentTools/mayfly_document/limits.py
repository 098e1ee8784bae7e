"""Limits: what a job may use, and how a tool or a parser is kept within them."""

import dataclasses
import os
import resource
import signal
import subprocess

from .events import Failure

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
    """Bytes, counts and seconds; the host may send any of them under `limits`."""

    unpacked: int = 512 * MIB
    ratio: int = 200
    ratio_from: int = 16 * MIB
    entries: int = 10_000
    nesting: int = 2
    mail_nesting: int = 5
    xml_part: int = 64 * MIB
    xml_depth: int = 256
    pages: int = 500
    cells: int = 1_000_000
    ocr_pages: int = 50
    ocr_seconds: int = 60
    image_pixels: int = 40_000_000
    all_pixels: int = 400_000_000
    inline_text: int = 256 << 10
    output_files: int = 600
    output_file: int = 200 * MIB
    output_all: int = 500 * MIB
    # Beside the office, which is in the machine already.
    tool_memory: int = 900 * MIB
    tool_cpu: int = 90
    # Under software emulation everything takes longer.
    time_factor: int = dataclasses.field(default_factory=lambda: 20 if is_emulated() else 1)

    @classmethod
    def of(cls, given):
        known = {field.name for field in dataclasses.fields(cls)}
        return cls(**{k: int(v) for k, v in (given or {}).items() if k in known})

    def cpu(self, seconds=None):
        return int((seconds or self.tool_cpu) * self.time_factor)


def environment(temporary):
    """An allow-list: nothing of the job's own environment reaches a tool."""
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "HOME": temporary,
        "TMPDIR": temporary,
        "TZ": "UTC",
        "OMP_THREAD_LIMIT": "1",
        "SOURCE_DATE_EPOCH": "946684800",
    }


def confine(memory, cpu, file_size):
    """In a new process, before the tool: its own session and what it may use."""
    os.setsid()
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    if cpu is not None:
        # One second more than the soft limit, so that SIGXCPU says what it was.
        resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu + 1))
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))


def kill_group(pid):
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass


class ToolResult:
    def __init__(self, status, output, error):
        self.status, self.output, self.error = status, output, error

    @property
    def crashed(self):
        return self.status < 0

    def last_line(self):
        lines = self.error.decode("utf-8", "replace").strip().splitlines()
        return lines[-1][:300] if lines else f"exit status {self.status}"


def run_tool(arguments, limits, work, cpu=None, wall=None, stdin=None, descriptors=()):
    """Runs a tool to its end in its own group; what it leaves behind is killed with it."""
    seconds = limits.cpu(cpu)
    out, err = (os.path.join(work, f".tool-{name}") for name in ("out", "err"))
    with open(out, "w+b") as output, open(err, "w+b") as error:
        process = subprocess.Popen(
            arguments,
            stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
            stdout=output,
            stderr=error,
            env=environment(work),
            cwd=work,
            pass_fds=descriptors,
            preexec_fn=lambda: confine(limits.tool_memory, seconds, limits.output_file),
        )
        try:
            process.communicate(stdin, timeout=limits.cpu(wall) if wall else seconds + 10)
        except subprocess.TimeoutExpired:
            kill_group(process.pid)
            process.wait()
            raise Failure("timeout", f"{os.path.basename(arguments[0])} took more than {seconds} s")
        finally:
            kill_group(process.pid)
        output.seek(0)
        error.seek(0)
        return ToolResult(process.returncode, output.read(limits.output_file), error.read(1 << 16))


def isolated(action, limits, sink, interval=0.002):
    """Runs `action(descriptor)` in a forked child; every line that it writes goes to `sink`.

    Answers how the child ended: None, or "memory", "cpu" or "signal N"."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(reader)
            confine(limits.tool_memory, limits.cpu(), limits.output_file)
            action(writer)
            code = 0
        except MemoryError:
            code = 3
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(writer)
    try:
        with os.fdopen(reader, "rb") as lines:
            for line in lines:
                if line.endswith(b"\n"):
                    sink(line)
    finally:
        kill_group(pid)
        status = os.waitpid(pid, 0)[1]
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        return "cpu" if number == signal.SIGXCPU else f"signal {number}"
    return {0: None, 3: "memory"}.get(os.WEXITSTATUS(status), "exception")
