"""The cases, and one round of them."""

import dataclasses

from . import data
from .check import size
from .measure import measure

CASES = {
    "L-read": "the limit: psql reads, COPY BINARY",
    "L-write": "the limit: psql writes, COPY BINARY, no index",
    "L-pipe": "the limit: psql | psql, COPY BINARY, no index",
    "L-pipe-key": "the limit: the same, then the primary key",
    "A-full": "PostgreSQL → PostgreSQL, full refresh",
    "A-key": "PostgreSQL → PostgreSQL, then the primary key by hand",
    "A-cursor": "PostgreSQL → PostgreSQL, first sync with a cursor",
    "B": "PostgreSQL → DuckDB file",
    "C-zstd": "PostgreSQL → Parquet, zstd",
    "C-snappy": "PostgreSQL → Parquet, snappy",
    "D-overwrite": "1 % updated, 1 % new, into PostgreSQL",
    "D-append-dedup": "the same with its history",
    "E-overwrite": "nothing changed",
    "E-append-dedup": "nothing changed, with history",
    "F-csv-pg": "CSV → PostgreSQL",
    "F-sqlite-pg": "SQLite → PostgreSQL",
    "F-csv-duckdb": "CSV → DuckDB file",
    "G-deleted": "100 rows deleted, found by reconciliation",
    "G-unchanged": "nothing changed, with reconciliation",
    "H-overwrite": "D's rows changed in a table of a tenth",
    "H-append-dedup": "the same with its history",
}
LIMITS = ("L-read", "L-write", "L-pipe", "L-pipe-key")
STORIES = {"overwrite": "DE", "append-dedup": "DE", "reconcile": "G"}
DELETED = 100
REPEATS_UNCHANGED = 5


@dataclasses.dataclass
class Line:
    """A run as it is written down."""

    rows: int
    case: str
    tool: str
    round: int
    measured: object
    result: str
    note: str = ""


class Round:
    """Runs cases and hands each line to `record`."""

    def __init__(self, world, tools, chosen, logs, number, record):
        self.world, self.tools, self.chosen = world, tools, chosen
        self.logs, self.number, self.record = logs, number, record

    def run(self):
        """One round: every case, and in every case all tools one after the other."""
        for case in CASES:
            if case in self.chosen and case[0] not in "DEGH":
                for tool in self.turns():
                    self._anew(tool, case)
        if any(case[0] in "DEG" for case in self.chosen):
            self._stories(self.world.rows, "D", "E")
        if any(case[0] == "H" for case in self.chosen):
            self._stories(self.world.rows // 10, "H", None)
        if "L-pipe" in self.chosen and self.number >= 0:
            # Once more at the end: shows whether the machine has stayed the same.
            for tool in self.tools:
                if tool.name == "limit":
                    self._anew(tool, "L-pipe")

    def turns(self):
        """The tools, each round beginning with another one."""
        start = self.number % len(self.tools)
        return self.tools[start:] + self.tools[:start]

    def _anew(self, tool, case):
        job = tool.job(case, self.world)
        if job is None:
            return
        if job.database:
            self.world.postgres.fresh(job.database)
        job.prepare()
        self._measure(tool, case, job)
        if job.database:
            self.world.postgres.fresh(job.database)

    def _measure(self, tool, case, job, check=True):
        self.world.postgres.settle()
        log = f"{self.logs}/{case}.{tool.name}.{self.world.rows}.{self.number}.log"
        measured = measure(job.command, log, self.world.postgres, job.env, self.world.out)
        if measured.status in getattr(tool, "refusals", ()):
            result = "not supported"
        elif measured.status != 0:
            result = f"FAILED: status {measured.status}, see {log}"
        else:
            result = job.check() if check else ""
        # Case H has a smaller table, but the changes of this one.
        note = f"{size(job.path):.0f} MiB" if job.sized and measured.status == 0 else job.note
        line = Line(self.world.rows, case, tool.name, self.number, measured, result, note)
        self.record(line)
        return measured.status == 0

    def _stories(self, rows, changed, unchanged):
        """The same command again and again, while the source changes."""
        world = dataclasses.replace(self.world, rows=rows)
        letters = changed + (f"{unchanged}G" if unchanged else "")
        table, begun = f"changing_{rows}", []
        count = self.world.rows // 100
        data.source(world.postgres, rows)
        data.changing(world.postgres, rows, table)
        world.check.changed(table)
        for tool in self.turns():
            for variant, phases in STORIES.items():
                wanted = any(
                    case[0] in phases.replace("D", changed) and case[0] in letters
                    and (case[0] == "G" or case.endswith(f"-{variant}"))
                    for case in self.chosen
                )  # fmt: skip
                job = tool.story(variant, table, world) if wanted else None
                if job and self._begin(world, tool, f"{changed}0-{variant}", job):
                    begun.append((tool, variant, job))
        data.change(world.postgres, rows, table, count)
        world.check.changed(table)
        for tool, variant, job in begun:
            case = f"{changed}-{variant}"
            self._measure(tool, case if variant != "reconcile" else "G0-changed", job)
        if unchanged:
            for tool, variant, job in begun:
                case = f"{unchanged}-{variant}" if variant != "reconcile" else "G-unchanged"
                repeats = REPEATS_UNCHANGED if variant != "reconcile" else 1
                for repeat in range(repeats if case in self.chosen else 0):
                    self._measure(tool, case, job, check=repeat == repeats - 1)
            self._deleted(world, rows, table, begun)
        for _, _, job in begun:
            world.postgres.fresh(job.database)
        world.postgres.run("src", f"drop table {table}")

    def _begin(self, world, tool, case, job):
        world.postgres.fresh(job.database)
        job.prepare()
        return self._measure(tool, case, job)

    def _deleted(self, world, rows, table, begun):
        reconciling = [(tool, job) for tool, variant, job in begun if variant == "reconcile"]
        if reconciling:
            data.delete(world.postgres, rows, table, DELETED)
            world.check.changed(table)
        for tool, job in reconciling:
            self._measure(tool, "G-deleted", job)
