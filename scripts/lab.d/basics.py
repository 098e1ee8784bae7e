"""What every part of scripts/lab uses: where things stand, words, programs, directories made whole."""

import contextlib, fcntl, glob, hashlib, os, re, shutil, subprocess, sys, time

CHECKOUT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
PARTS = os.path.join(CHECKOUT, "scripts", "lab.d")
STATE = os.environ.get("MAYFLY_STATE_DIRECTORY") or (
    "/var/lib/mayfly" if os.geteuid() == 0 else os.path.expanduser("~/.local/state/mayfly"))
LAB = os.path.abspath(os.environ.get("MAYFLY_LAB_DIRECTORY") or f"{STATE}/lab")
# What its golden image has, and how its workers run.
CONFIG = os.path.abspath(os.environ.get("MAYFLY_LAB_CONFIG") or f"{PARTS}/worker.conf")
BEGIN = time.monotonic()


class LabError(Exception):
    """One sentence: what went wrong and what to do."""


class HostDied(LabError):
    """The lab host itself panicked or hung: its emulator's failure, and no command's."""


def twice(step):
    """What `step` returns; tried again, once, when the lab host died under it."""
    try:
        return step()
    except HostDied as error:
        say(f"{error}\nThe lab host itself died, which is no test's failure; once more from its snapshot")
        return step()


def say(text):
    print(f"lab [{time.monotonic() - BEGIN:6.1f} s] {text}", file=sys.stderr, flush=True)


def digest(*parts):
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:12]


def read(path, kind="r"):
    with open(path, kind) as file:
        return file.read()


def require(tools):
    """The named programs, installed when we may: {program: its Debian package}."""
    packages = sorted({package for tool, package in tools.items() if not shutil.which(tool)})
    if not packages:
        return
    command = ["apt-get", "install", "-y", "--no-install-recommends", *packages]
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise LabError(f"something is missing: sudo {' '.join(command)}")
    say(f"installing {' '.join(packages)}")
    subprocess.run(["apt-get", "update", "-q"], check=True, stdout=sys.stderr)
    subprocess.run(command, check=True, stdout=sys.stderr)


def as_root(command):
    """`command` as it must be run to own files of many users: as it is for root, else in a user
    namespace whose root is this user."""
    if os.geteuid() == 0:
        return command
    require({"newuidmap": "uidmap"})
    user = subprocess.run(["id", "-un"], capture_output=True, text=True).stdout.strip()
    for file in ["/etc/subuid", "/etc/subgid"]:
        if not re.search(rf"^({user}|{os.geteuid()}):", read(file) if os.path.exists(file) else "", re.M):
            raise LabError(f"{file} has no entry for {user}, so Debian cannot be installed without root; "
                           f"sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}")
    # --kill-child: nothing in the namespace outlives us.
    return ["unshare", "--user", "--map-root-user", "--map-auto", "--mount", "--pid", "--fork",
            "--mount-proc", "--kill-child", *command]


def run(command, environment=None, show=False):
    """Runs a step of the build; its output is shown when it fails."""
    done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL,
                          stdout=sys.stderr if show else subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode != 0:
        tail = b"" if show else b"\n".join(done.stdout.splitlines()[-15:])
        raise LabError(f"{' '.join(command[:6])} … failed ({done.returncode})\n{tail.decode(errors='replace')}")
    return b"" if show else done.stdout


@contextlib.contextmanager
def locked():
    """One builder at a time; runs share nothing that another one changes."""
    os.makedirs(LAB, exist_ok=True)
    with open(f"{LAB}/lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another scripts/lab")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def published(name, why):
    """A directory made under a hidden name and put in place by one rename; others of its kind go."""
    kind = name.split("-")[0]
    work = f"{LAB}/.{name}-{os.getpid()}"
    say(why)
    for left in glob.glob(f"{LAB}/.{kind}-*"):  # by a builder that was killed; we hold the lock
        remove(left)
    os.makedirs(work)
    try:
        yield work
        for old in glob.glob(f"{LAB}/{kind}-*"):
            remove(old)
        os.rename(work, f"{LAB}/{name}")
    finally:
        remove(work)


def remove(path):
    """Also what a user namespace's other users own."""
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path, ignore_errors=True)
        if os.path.exists(path):
            subprocess.run(as_root(["rm", "-rf", path]))
    elif os.path.lexists(path):
        os.unlink(path)
