"""A PostgreSQL cluster of the benchmark's own: made, started, asked, measured, stopped.

It listens on a free port of 127.0.0.1 only. PostgreSQL refuses to run as root; root starts it as
the user `postgres`.
"""

import contextlib
import glob
import os
import shutil
import socket
import subprocess
import time

TICK = os.sysconf("SC_CLK_TCK")
SETTINGS = {
    "listen_addresses": "'127.0.0.1'",
    "shared_buffers": "1GB",
    "max_wal_size": "8GB",
    "checkpoint_timeout": "30min",
    "maintenance_work_mem": "256MB",
    "work_mem": "64MB",
    "max_prepared_transactions": "8",
    # Nothing is to start on its own account in the middle of a run.
    "autovacuum": "off",
    "timezone": "'UTC'",
}


def binaries():
    """The folder of the newest PostgreSQL that is installed, or of `PGBIN`."""
    found = sorted(
        glob.glob("/usr/lib/postgresql/*/bin"), key=lambda path: float(path.split("/")[4])
    )
    chosen = os.environ.get("PGBIN") or (found[-1] if found else "")
    if not chosen and shutil.which("initdb"):
        chosen = os.path.dirname(shutil.which("initdb"))
    return chosen


class Postgres:
    """A cluster in `FOLDER/postgres`. One that is there already is started as it is."""

    def __init__(self, folder, user="postgres", password=None):
        self.binaries = binaries()
        self.data = os.path.join(folder, "postgres")
        self.user, self.password = user, password
        self.prefix = []
        if os.getuid() == 0:
            self.prefix = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        if not os.path.exists(f"{self.data}/PG_VERSION"):
            self._create()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._start()
        self.url = self.database("postgres")

    def _create(self):
        os.makedirs(self.data)
        if self.prefix:
            shutil.chown(self.data, "postgres", "postgres")
        command = ["initdb", "-D", self.data, "-U", self.user, "-E", "UTF8", "--locale=C.UTF-8"]
        if self.password is None:
            self.command(*command, "-A", "trust", "--no-sync")
        else:
            secret = f"{self.data}.secret"
            with open(secret, "w", encoding="utf-8") as file:
                file.write(self.password)
            os.chmod(secret, 0o644)
            self.command(*command, "-A", "scram-sha-256", f"--pwfile={secret}")
            os.remove(secret)
        with open(f"{self.data}/postgresql.conf", "a", encoding="utf-8") as file:
            file.writelines(f"{key}={value}\n" for key, value in SETTINGS.items())
            file.write(f"unix_socket_directories='{self.data}'\n")

    def _start(self):
        left_over = f"{self.data}/postmaster.pid"
        if os.path.exists(left_over):
            # A run before this one was killed, and its server goes on.
            with contextlib.suppress(subprocess.CalledProcessError):
                self.stop()
        command = ["pg_ctl", "-D", self.data, "-w", "-l", f"{self.data}/log"]
        self.command(*command, "-o", f"-p {self.port}", "start")
        with open(left_over, encoding="utf-8") as file:
            self.pid = int(file.readline())

    def command(self, name, *arguments):
        """Runs one of PostgreSQL's programs as the user that the server runs as."""
        program = os.path.join(self.binaries, name)
        command = [*self.prefix, program, *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd="/")

    def stop(self):
        """Ends the server."""
        self.command("pg_ctl", "-D", self.data, "-m", "fast", "-w", "stop")

    def database(self, name):
        """The URL of a database."""
        secret = f":{self.password}" if self.password else ""
        return f"postgresql://{self.user}{secret}@127.0.0.1:{self.port}/{name}"

    def psql(self, database):
        """The command that every limit and every statement is run by."""
        return [
            f"{self.binaries}/psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", self.database(database),
        ]  # fmt: skip

    def run(self, database, *statements):
        """Runs statements, each in its own transaction; returns what they print."""
        command = [*self.psql(database), "-A", "-t"]
        for statement in statements:
            command += ["-c", statement]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{statements[0][:200]}\n{done.stderr}")
        return done.stdout.strip()

    def fresh(self, name):
        """An empty database of that name."""
        self.run(
            "postgres", f"drop database if exists {name} with (force)", f"create database {name}"
        )

    def settle(self):
        """The same start for every run: all that was written before is on disk."""
        self.run("postgres", "checkpoint")
        os.sync()

    def children(self):
        """The processes of the server."""
        with open(f"/proc/{self.pid}/task/{self.pid}/children", encoding="utf-8") as file:
            return set(file.read().split())

    def wait_for_end_of_others(self, before):
        """Waits until the server has only the processes that it had before."""
        end = time.monotonic() + 5
        while self.children() - before and time.monotonic() < end:
            time.sleep(0.01)

    def cpu_seconds(self):
        """What the server has used so far: the postmaster, those that it has reaped, and those
        that live."""
        ticks = sum(_stat(self.pid)[11:15])
        ticks += sum(sum(_stat(child)[11:13]) for child in self.children())
        return ticks / TICK


def _stat(pid):
    """The numbers of a process after its name; zeros where it has just ended."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return [0, *(int(field) for field in file.read().rsplit(")", 1)[1].split()[1:])]
    except OSError:
        return [0] * 50
