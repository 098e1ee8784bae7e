"""A PostgreSQL cluster of the run's own: a Unix socket in the run's directory, no TCP; and sessions of
psql with it."""

import csv, glob, io, os, pwd, select, shutil, subprocess, threading, time

from basics import *

# Above any wait for a server that starts again; a statement that takes longer is a finding.
STATEMENT_SECONDS = 60


class Disconnected(Exception):
    """The server went away; whether the last statement was done is not known."""


class Refused(Exception):
    """The server refused a statement."""


class Cluster:
    def __init__(self, directory: str, environment: dict[str, str]):
        self.directory = f"{directory}/postgres"
        self.data = f"{self.directory}/data"
        self.environment = environment
        self.binaries = newest_binaries()
        self.prefix: list[str] = []
        self.is_up = False

    def create(self) -> None:
        os.mkdir(self.directory, 0o700)
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root
            user = unprivileged_user()
            os.chown(self.directory, user.pw_uid, user.pw_gid)
            self.prefix = ["setpriv", "--reuid", str(user.pw_uid), "--regid", str(user.pw_gid),
                           "--clear-groups"]
        self.control_program("initdb", "--pgdata", self.data, "--auth", "trust", "--username", "postgres",
                             "--encoding", "UTF8", "--locale", "C.UTF-8", "--no-sync")
        with open(f"{self.data}/postgresql.conf", "a") as file:
            # Without fsync a crash of the server loses nothing; one of the host's would.
            file.write(f"unix_socket_directories = '{self.directory}'\nlisten_addresses = ''\n"
                       "fsync = off\nmax_connections = 100\nshared_buffers = 64MB\n")
        self.start()

    def control(self, *words: str) -> None:
        self.control_program("pg_ctl", "--pgdata", self.data, "--wait", "--timeout", "60", "--silent",
                             "--log", f"{self.directory}/server.log", *words)

    def control_program(self, name: str, *words: str) -> None:
        # It must be able to stand in its working directory, which may be root's own.
        run(["env", "--chdir=/", *self.prefix, f"{self.binaries}/{name}", *words], self.environment)

    def crash(self) -> None:
        """Stops the server as a crash would."""
        self.is_up = False
        self.control("stop", "--mode", "immediate")

    def start(self) -> None:
        self.control("start")
        self.is_up = True

    def url(self, user: str, application: str) -> str:
        return f"host={self.directory} dbname=postgres user={user} application_name={application}"

    def table(self, query: str) -> list[dict[str, str]]:
        """The rows of a query, by a connection of its own; null is an empty text."""
        text = run(["psql", "-X", "-q", "-d", self.url("postgres", "checker"), "-v", "ON_ERROR_STOP=1",
                    "-c", f"copy ({query}) to stdout with (format csv, header)"], self.environment)
        csv.field_size_limit(1 << 30)
        return list(csv.DictReader(io.StringIO(text)))

    def execute(self, statements: str) -> None:
        run(["psql", "-X", "-q", "-d", self.url("postgres", "operator"), "-v", "ON_ERROR_STOP=1",
             "-c", statements], self.environment)

    def session(self, user: str, application: str) -> "Session":
        return Session(self.url(user, application), self.environment)


class Session:
    """A connection that stays: psql with pipes. Several statements may be one transaction."""

    def __init__(self, url: str, environment: dict[str, str]):
        self.process = subprocess.Popen(
            ["psql", "-X", "-q", "-A", "-t", "-d", url], env=environment, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True)
        self.rest = b""
        self.slowest = 0.0

    def ask(self, statement: str) -> str:
        """What the statement answers, as psql prints it."""
        begin = time.monotonic()
        end = "\\echo end-of-answer :ERROR :SQLSTATE :LAST_ERROR_MESSAGE\n"
        try:
            self.process.stdin.write(f"{statement};\n{end}".encode())
            self.process.stdin.flush()
        except OSError:
            raise Disconnected from None
        lines: list[str] = []
        while not (line := self.line(begin + STATEMENT_SECONDS, statement)).startswith("end-of-answer "):
            lines.append(line)
        self.slowest = max(self.slowest, time.monotonic() - begin)
        _, is_error, state, *message = line.split(" ")
        if is_error == "true":
            # The connection was ended under the statement; without a state, by libpq's own word.
            if not state or state.startswith(("57P", "08")):
                raise Disconnected
            raise Refused(f"{state} {' '.join(message)}: {statement[:200]}")
        return "\n".join(lines)

    def line(self, deadline: float, statement: str) -> str:
        while b"\n" not in self.rest:
            left = deadline - time.monotonic()
            if left <= 0:
                raise ChaosError(f"no answer within {STATEMENT_SECONDS} s to: {statement[:200]}")
            if not select.select([self.process.stdout], [], [], left)[0]:
                continue
            data = os.read(self.process.stdout.fileno(), 65536)
            if not data:
                raise Disconnected
            self.rest += data
        line, _, self.rest = self.rest.partition(b"\n")
        return line.decode(errors="replace")

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


def newest_binaries() -> str:
    found = [path for path in glob.glob("/usr/lib/postgresql/*/bin") if os.access(f"{path}/initdb", os.X_OK)]
    if found:
        return max(found, key=lambda path: int(path.split("/")[4]))
    initdb = shutil.which("initdb")
    if not initdb or not shutil.which("psql"):
        raise UsageError("PostgreSQL is not installed; run: apt-get install postgresql")
    return os.path.dirname(initdb)


def unprivileged_user() -> pwd.struct_passwd:
    for name in ["postgres", "nobody"]:
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise UsageError("there is no user postgres or nobody to run PostgreSQL as")
