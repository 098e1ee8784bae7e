"""The virtual host: QEMU's software emulation of a processor with AMD-V and nested paging, booted
once, saved, and restored for every run. It knows nothing of what runs in it."""

import contextlib, ctypes, json, mmap, os, secrets, signal, socket, struct, subprocess, tempfile, time

from basics import CHECKOUT, LAB, HostDied, digest, published, read, require, run, say

# One processor: with two, QEMU 7.2 and 10.0 now and then deliver an interrupt from the other one between
# a guest's exit and the restoring of the kernel's own registers, and the lab's kernel panics (seen three
# times in 2000 restores of machines). A periodic tick (nohz=off highres=off), because a timer interrupt
# that the emulation loses now and then must not be the last.
MEMORY_GIB, CPUS, DISK_GIB = 4, 1, 6
BOOT_SECONDS, SILENCE_SECONDS = 400, 120
KERNEL_LINE = ("root=/dev/vda rootfstype=ext4 rootflags=noload ro fsck.mode=skip init=/sbin/lab-init "
               "console=ttyS0 quiet panic=-1 mitigations=off no_timer_check tsc=reliable "
               "init_on_alloc=0 hardened_usercopy=off apparmor=0 audit=0 nohz=off highres=off")


def machine(root, memory, is_shared, payload):
    """QEMU's arguments but for the descriptors; what a snapshot depends on."""
    share = "on" if is_shared else "off"
    return ["qemu-system-x86_64", "-M", "q35,memory-backend=memory", "-accel", "tcg,thread=multi,tb-size=1024",
            "-cpu", "max,la57=off,erms=off,fsrm=off", "-smp", f"{CPUS}", "-m", f"{MEMORY_GIB}G", "-object",
            f"memory-backend-file,id=memory,size={MEMORY_GIB}G,mem-path={memory},share={share}",
            "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
            "-drive", f"if=none,id=root,file={root}/root.ext4,format=raw,readonly=on,file.locking=off",
            "-device", "virtio-blk-pci,drive=root",
            "-drive", f"if=none,id=payload,file={payload},format=raw,readonly=on,file.locking=off",
            "-device", "virtio-blk-pci,drive=payload",
            "-device", "virtio-serial-pci", "-device", "virtserialport,chardev=lab,name=mayfly.lab",
            "-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"]


class Host:
    """A running lab host; gone, with everything in it, when the `with` block ends."""

    def __init__(self, arguments, passed=()):
        require({"qemu-system-x86_64": "qemu-system-x86"})
        ours, theirs = socket.socketpair()
        monitor, its_monitor = socket.socketpair()
        descriptors = [theirs.fileno(), its_monitor.fileno(), *passed]
        self.console = tempfile.TemporaryFile()
        libc = ctypes.CDLL(None)
        self.process = subprocess.Popen(
            [*arguments, "-chardev", f"socket,id=lab,fd={theirs.fileno()}",
             "-chardev", f"socket,id=qmp,fd={its_monitor.fileno()}", "-mon", "chardev=qmp,mode=control"],
            stdin=subprocess.DEVNULL, stdout=self.console, stderr=self.console, pass_fds=descriptors,
            start_new_session=True,  # Ctrl-C is ours to handle …
            preexec_fn=lambda: libc.prctl(1, signal.SIGKILL))  # … and kill -9 of us is its end, too
        theirs.close(), its_monitor.close()
        self.port, self.monitor, self.answers = ours, monitor, monitor.makefile("rb")

    def __enter__(self):
        try:
            self.monitor.settimeout(SILENCE_SECONDS)
            self.answer()  # the greeting
            self.command("qmp_capabilities")
            # The memory file is the snapshot's memory as it is; only devices' state is saved and loaded.
            self.command("migrate-set-capabilities",
                         {"capabilities": [{"capability": "x-ignore-shared", "state": True}]})
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.console.close()

    def failure(self, what):
        self.process.poll()
        self.console.seek(0)
        tail = "\n  ".join(self.console.read().decode(errors="replace").splitlines()[-15:])
        return HostDied(f"{what}; the lab host's console ends with:\n  {tail}")

    def command(self, name, arguments=None, descriptor=None):
        request = json.dumps({"execute": name, "arguments": arguments or {}}).encode() + b"\n"
        socket.send_fds(self.monitor, [request], [] if descriptor is None else [descriptor])
        while line := self.answer():
            answer = json.loads(line)
            if "error" in answer:
                raise self.failure(f"QEMU refuses {name}: {answer['error'].get('desc')}")
            if "return" in answer:
                return answer["return"]
        raise self.failure("QEMU ended")

    def answer(self):
        try:
            return self.answers.readline()
        except socket.timeout:
            raise self.failure("QEMU's monitor does not answer") from None

    def begin(self, command, terminal=None, environment=None):
        """Makes a restored copy this run's own and starts `command`; `terminal` is [rows, columns]."""
        self.send(b"R", json.dumps({
            "command": command, "directory": CHECKOUT, "environment": environment or {},
            "terminal": terminal, "time": time.time_ns(), "seed": secrets.token_hex(64)}).encode())
        # It says every few seconds that it lives, whatever its command does.
        self.port.settimeout(SILENCE_SECONDS)

    def relay(self, output=1):
        """The command's streams to ours, until its exit code comes."""
        targets = {b"1": output, b"2": 2}
        while True:
            kind, data = self.receive()
            if kind == b"X":
                return int(data)
            while kind in targets and data:
                data = data[os.write(targets[kind], data):]

    # The frames of lab.d/init: a byte of kind, four of length, the bytes.

    def send(self, kind, data=b""):
        self.port.sendall(kind + struct.pack(">I", len(data)) + data)

    def receive(self):
        head = self.exactly(5)
        return head[:1], self.exactly(struct.unpack(">I", head[1:])[0])

    def exactly(self, count):
        data = b""
        while len(data) < count:
            try:
                more = self.port.recv(count - len(data))
            except socket.timeout:
                raise self.failure("the lab host does not answer") from None
            if not more:
                raise self.failure("the lab host ended")
            data += more
        return data


# ---- Booted once -------------------------------------------------------------------------------

def tsc_khz():
    """The rate of this processor's time stamp counter, which the emulated one shows, too. The lab's
    kernel cannot calibrate it under emulation; told a wrong rate, its clock runs away."""
    code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(bytes.fromhex("0f3148c1e2204809d0c3"))  # rdtsc; shl rdx, 32; or rax, rdx; ret
    place = ctypes.c_char.from_buffer(code)
    rdtsc = ctypes.CFUNCTYPE(ctypes.c_uint64)(ctypes.addressof(place))
    begin, first = time.monotonic_ns(), rdtsc()
    time.sleep(0.2)
    end, last = time.monotonic_ns(), rdtsc()
    return round((last - first) * 1_000_000 / (end - begin))


def snapshot_name(root):
    """For the root file system in directory `root`, which decides together with QEMU."""
    version = run(["qemu-system-x86_64", "--version"]).split(b"\n")[0].decode()
    return "snapshot-" + digest("snapshot-3", os.path.basename(root), version, *machine("R", "M", True, "P"),
                                DISK_GIB, KERNEL_LINE)


def has_snapshot(root):
    """Whether there is one for this host, whose clock goes at the rate that it was told."""
    path = f"{LAB}/{snapshot_name(root)}/tsc_khz"
    return os.path.exists(path) and abs(int(read(path)) / tsc_khz() - 1) < 0.005


def ensure_snapshot(root):
    """The booted lab host as memory and state: its directory."""
    require({"qemu-system-x86_64": "qemu-system-x86"})
    name = snapshot_name(root)
    if has_snapshot(root):
        return f"{LAB}/{name}"
    with published(name, "booting the lab host once, to be restored for every run") as work:
        with open(f"{work}/payload", "wb") as payload:
            payload.truncate(DISK_GIB << 30)
        rate = tsc_khz()
        arguments = machine(root, f"{work}/memory", True, f"{work}/payload")
        arguments += ["-kernel", f"{root}/kernel", "-initrd", f"{root}/initrd",
                      "-append", f"{KERNEL_LINE} tsc_early_khz={rate}"]
        with Host(arguments) as host, open(f"{work}/state", "wb") as state:
            host.port.settimeout(BOOT_SECONDS)
            host.receive()
            say("it is up; saving it")
            # Not stopped first: a snapshot of a running machine runs as soon as it is loaded.
            host.command("getfd", {"fdname": "state"}, state.fileno())
            host.command("migrate", {"uri": "fd:state"})
            while (status := host.command("query-migrate").get("status")) != "completed":
                if status in ("failed", "cancelled"):
                    raise host.failure("the lab host cannot be saved")
                time.sleep(0.05)
            host.command("quit")
            host.process.wait()
        os.unlink(f"{work}/payload")
        with open(f"{work}/tsc_khz", "w") as file:
            file.write(f"{rate}\n")
    return f"{LAB}/{name}"


# ---- Restored for every run ----------------------------------------------------------------------

@contextlib.contextmanager
def restored(root, snapshot, payload):
    """A copy of the booted lab host, with this disk; it waits for `begin`."""
    arguments = [*machine(root, f"{snapshot}/memory", False, payload), "-incoming", "defer"]
    with open(f"{snapshot}/state", "rb") as state, Host(arguments, [state.fileno()]) as host:
        host.command("migrate-incoming", {"uri": f"fd:{state.fileno()}"})  # and goes on by itself
        yield host
