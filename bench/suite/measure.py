"""Runs one command and measures it: time, CPU of it and of the server, memory, and what else the
machine was doing meanwhile."""

import dataclasses
import os
import resource
import subprocess
import threading
import time

MIB = 1024


@dataclasses.dataclass
class Measured:
    """One run of one command."""

    wall: float
    user: float
    system: float
    server: float
    peak_mib: float
    status: int
    load: float
    # CPU seconds that neither the command nor the server nor this program used in that time.
    others: float

    @property
    def client(self):
        return self.user + self.system

    @property
    def cpu(self):
        return self.client + self.server


def measure(command, log, postgres=None, env=None, cwd=None):
    """Runs the command with its output in the file `log`."""
    before = postgres.children() if postgres else set()
    server = postgres.cpu_seconds() if postgres else 0.0
    load, machine, own = os.getloadavg()[0], _machine(), _own()
    with open(log, "wb") as output:
        started = time.monotonic()
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            env={**os.environ, **(env or {})}, cwd=cwd,
        )  # fmt: skip
        memory = Memory(process.pid)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.monotonic() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    peak = memory.stop()
    if postgres:
        postgres.wait_for_end_of_others(before)
        server = postgres.cpu_seconds() - server
    client = usage.ru_utime + usage.ru_stime
    others = _machine() - machine - (_own() - own) - client - server
    return Measured(
        wall, usage.ru_utime, usage.ru_stime, server, peak, process.returncode, load,
        max(others, 0.0),
    )  # fmt: skip


class Memory:
    """The peak memory of a tree of processes, each by itself, added up.

    The kernel keeps the peak of a living process (`VmHWM`), so looking at it now and then misses
    only what grows in the last few milliseconds. What `wait4` reports is not used: it counts the
    memory of the process that has forked, which is this one.
    """

    def __init__(self, pid):
        self.pid, self.peaks = pid, {}
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()

    def _watch(self):
        pause, started = 0.002, time.monotonic()
        while not self.ended.wait(pause):
            for pid in _tree(self.pid):
                peak = _peak_kib(pid)
                if peak:
                    # The last one counts, not the greatest: before `exec` it is this program's.
                    self.peaks[pid] = peak
            if time.monotonic() - started > 0.5:
                pause = 0.01

    def stop(self):
        """The peak in MiB."""
        self.ended.set()
        self.thread.join()
        return sum(self.peaks.values()) / MIB


def _tree(pid):
    found = [pid]
    for process in found:
        try:
            for thread in os.listdir(f"/proc/{process}/task"):
                with open(f"/proc/{process}/task/{thread}/children", encoding="utf-8") as file:
                    found.extend(int(child) for child in file.read().split())
        except OSError:
            continue
    return found


def _peak_kib(pid):
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8") as file:
            return next((int(line.split()[1]) for line in file if line.startswith("VmHWM:")), 0)
    except OSError:
        return 0


def _machine():
    """CPU seconds that the machine has used so far; none of the idle, waiting or virtual ones."""
    with open("/proc/stat", encoding="utf-8") as file:
        user, nice, system, _, _, irq, softirq, steal = map(int, file.readline().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _own():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
