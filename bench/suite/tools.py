"""The tools: what each does for a case, as a command.

A tool answers `job(case, world)` for the cases that begin anew in every run, and `story(variant,
table, world)` for those in which the same command runs again and again while the source changes.
`None`: the tool has nothing for it.
"""

import dataclasses
import json
import os
import shutil
import sys
from collections.abc import Callable

from . import data

HERE = os.path.dirname(os.path.abspath(__file__))


@dataclasses.dataclass
class World:
    """What jobs need to know: the server, folders, and how many rows."""

    postgres: object
    check: object
    scratch: str
    out: str
    rows: int

    @property
    def table(self):
        return data.name(self.rows)

    def files(self):
        return f"{self.scratch}/data"


@dataclasses.dataclass
class Job:
    """A command, and what its result has to be. `database` and `path` are made empty before it."""

    command: list
    check: Callable[[], str]
    database: str | None = None
    path: str | None = None
    env: dict = dataclasses.field(default_factory=dict)
    before: Callable[[], None] = lambda: None
    # What this job does differently from what the case says.
    note: str = ""
    # Whether the size of what is in `path` afterwards is of interest.
    sized: bool = False

    def prepare(self):
        if self.path:
            shutil.rmtree(self.path, ignore_errors=True)
            os.makedirs(self.path)
        self.before()


def shell(*commands):
    """Commands in a pipe, run by bash."""
    import shlex

    return ["bash", "-c", "set -o pipefail; " + " | ".join(shlex.join(c) for c in commands)]


class Limit:
    """What PostgreSQL itself can give and take, by its own client."""

    name = "limit"

    def version(self, world):
        return world.postgres.run("postgres", "show server_version")

    def job(self, case, world):
        postgres, table = world.postgres, world.table
        read = [*postgres.psql("src"), "-c", f"copy {table} to stdout (format binary)"]
        write = [*postgres.psql("dst"), "-c", "copy lineitem from stdin (format binary)"]

        def empty():
            postgres.run("dst", data.definition("lineitem"))

        def same():
            return world.check.table(table, "dst", "lineitem")

        if case == "L-read":
            return Job(["bash", "-c", shell(read)[2] + " > /dev/null"], lambda: "")
        if case == "L-write":
            file = data.binary(postgres, world.rows, world.files())
            return Job(["bash", "-c", f"{shell(write)[2]} < {file}"], same, "dst", before=empty)
        if case == "L-pipe":
            return Job(shell(read, write), same, "dst", before=empty)
        if case == "L-pipe-key":
            key = f"alter table lineitem add primary key ({', '.join(data.KEY)})"
            script = shell(read, write)[2] + " && " + shell([*postgres.psql("dst"), "-c", key])[2]
            return Job(["bash", "-c", script], same, "dst", before=empty)
        return None

    def story(self, variant, table, world):
        return None


SOURCE = """\
kind: source
spec:
  name: bench
  path: {path}
  tables:
    - {table}
  destinations: [there]
  spec: {spec}
---
kind: destination
spec:
  name: there
  path: {to}
  write_mode: {mode}
  metadata_columns: none
  spec: {there}
"""


class Highwater:
    """highwater, by a configuration file, as its users run it."""

    name = "highwater"
    # Where it says no before anything is read.
    refusals = (2, 4)

    def __init__(self, binary, duckdb_library=None):
        self.binary, self.env = binary, {}
        if duckdb_library:
            self.env["HIGHWATER_DUCKDB_LIB"] = duckdb_library

    def version(self, world):
        import subprocess

        done = subprocess.run([self.binary, "--version"], capture_output=True, text=True, check=True)
        return done.stdout.strip().removeprefix("highwater ")

    def _sync(self, world, name, path, spec, table, to, there, mode):
        file = f"{world.out}/highwater-{name}.yml"
        with open(file, "w", encoding="utf-8") as out:
            values = (json.dumps(value) for value in (table, spec, there))
            table, spec, there = values
            out.write(
                SOURCE.format(path=path, table=table, spec=spec, to=to, there=there, mode=mode)
            )
        return [self.binary, "sync", file]

    def job(self, case, world):
        postgres, table, check = world.postgres, world.table, world.check
        here = {"connection_string": postgres.database("src")}
        there = {"connection_string": postgres.database("dst")}
        full = {"name": table, "target": "lineitem", "read_mode": "full_refresh"}
        cursor = {**full, "read_mode": "incremental", "cursor": data.CURSOR}
        folder = f"{world.out}/highwater-{case}"

        def sync(*arguments):
            return self._sync(world, case, *arguments)

        def exact():
            return check.table(table, "dst", "lineitem", exact=True)

        def values():
            return check.table(table, "dst", "lineitem")

        if case == "A-full":
            command = sync("postgresql", here, full, "postgresql", there, "replace")
            return Job(command, exact, "dst")
        if case == "A-cursor":
            command = sync("postgresql", here, cursor, "postgresql", there, "overwrite")
            return Job(command, exact, "dst")
        if case in ("B", "F-csv-duckdb"):
            file = f"{folder}/lineitem.duckdb"
            duckdb = {"connection_string": file}
            if case == "B":
                command = sync("postgresql", here, full, "duckdb", duckdb, "replace")
            else:
                csv = {"path": data.csv(postgres, world.rows, world.files())}
                command = sync("files", csv, {**full, "name": table}, "duckdb", duckdb, "replace")
            return Job(
                command, lambda: check.duckdb(table, file, "lineitem"), path=folder, env=self.env,
                sized=True,
            )  # fmt: skip
        if case.startswith("C-"):
            spec = {
                "path": f"{folder}/{{{{TABLE}}}}/{{{{UUID}}}}.parquet",
                "format": "parquet",
                "format_spec": {"compression": case.removeprefix("C-")},
            }
            command = sync("postgresql", here, full, "files", spec, "replace")
            return Job(
                command, lambda: check.parquet(table, f"{folder}/**/*.parquet"), path=folder,
                sized=True,
            )  # fmt: skip
        if case == "F-csv-pg":
            spec = {"path": data.csv(postgres, world.rows, world.files())}
            return Job(sync("files", spec, full, "postgresql", there, "replace"), values, "dst")
        if case == "F-sqlite-pg":
            spec = {"connection_string": data.sqlite(postgres, world.rows, world.files())}
            return Job(sync("sqlite", spec, full, "postgresql", there, "replace"), values, "dst")
        return None

    def story(self, variant, table, world):
        database = f"story_highwater_{variant.replace('-', '_')}"
        entry = {"name": table, "target": "lineitem", "cursor": data.CURSOR}
        if variant == "reconcile":
            entry["deletes"] = "reconcile"
        command = self._sync(
            world, f"{table}-{variant}", "postgresql",
            {"connection_string": world.postgres.database("src")}, entry, "postgresql",
            {"connection_string": world.postgres.database(database)},
            "overwrite" if variant == "reconcile" else variant,
        )  # fmt: skip
        return Job(command, lambda: world.check.table(table, database, "lineitem"), database)


class DuckDb:
    """DuckDB as a mover of data: one statement from one attached database into another."""

    name = "duckdb"

    def __init__(self, python):
        self.python = python

    def version(self, world):
        return _version(self.python, "duckdb")

    def job(self, case, world):
        folder = f"{world.out}/duckdb-{case}"
        table, check = world.table, world.check
        request = {
            "case": case, "table": table, "out": folder,
            "source": world.postgres.database("src"), "destination": world.postgres.database("dst"),
        }  # fmt: skip
        if case.startswith("F-csv"):
            request["file"] = data.csv(world.postgres, world.rows, world.files())
        elif case == "F-sqlite-pg":
            request["file"] = data.sqlite(world.postgres, world.rows, world.files())
        elif case not in ("A-full", "A-key", "B", "C-zstd", "C-snappy"):
            return None

        def same():
            if case in ("B", "F-csv-duckdb"):
                return check.duckdb(table, f"{folder}/lineitem.duckdb", "lineitem")
            if case.startswith("C-"):
                return check.parquet(table, f"{folder}/lineitem.parquet")
            return check.table(table, "dst", "lineitem")

        command = [self.python, f"{HERE}/duckdb_mover.py", json.dumps(request)]
        note = "without the primary key" if case == "A-full" else ""
        sized = case in ("B", "F-csv-duckdb") or case.startswith("C-")
        return Job(command, same, "dst", folder, note=note, sized=sized)

    def story(self, variant, table, world):
        return None


class Sling:
    """Sling, whose wheel brings its program."""

    name = "sling"

    def __init__(self, binary, peers):
        self.binary, self.peers = binary, peers

    def version(self, world):
        import subprocess

        done = subprocess.run([self.binary, "--version"], capture_output=True, text=True, check=False)
        return done.stdout.strip().removeprefix("Version: ") or "?"

    def _env(self, world, database, folder):
        home = f"{self.peers}/home"
        os.makedirs(home, exist_ok=True)
        env = {
            "SLING_DISABLE_TELEMETRY": "TRUE", "HOME": home, "SLING_HOME_DIR": f"{home}/sling",
            "SRC": world.postgres.database("src") + "?sslmode=disable",
            "DST": world.postgres.database(database) + "?sslmode=disable",
            "DUCK": f"duckdb://{folder}/lineitem.duckdb",
            "LITE": f"sqlite://{world.files()}/{world.table}.sqlite",
        }  # fmt: skip
        client = f"{self.peers}/duckdb-cli/bin/duckdb"
        return {**env, "DUCKDB_PATH": client} if os.path.exists(client) else env

    def job(self, case, world):
        folder, table, check = f"{world.out}/sling-{case}", world.table, world.check
        stream = ["--src-conn", "SRC", "--src-stream", f"public.{table}"]
        to = ["--tgt-conn", "DST", "--tgt-object", "public.lineitem"]
        same, needs_client = (lambda: check.table(table, "dst", "lineitem")), False
        if case.startswith("F-csv"):
            stream = ["--src-stream", f"file://{data.csv(world.postgres, world.rows, world.files())}"]
        if case == "F-sqlite-pg":
            data.sqlite(world.postgres, world.rows, world.files())
            stream = ["--src-conn", "LITE", "--src-stream", f"main.{table}"]
        if case in ("B", "F-csv-duckdb"):
            to, needs_client = ["--tgt-conn", "DUCK", "--tgt-object", "main.lineitem"], True
            same = lambda: check.duckdb(table, f"{folder}/lineitem.duckdb", "lineitem")
        elif case == "C-snappy":
            to, needs_client = ["--tgt-object", f"file://{folder}/lineitem.parquet"], True
            same = lambda: check.parquet(table, f"{folder}/lineitem.parquet")
        elif case not in ("A-full", "F-csv-pg", "F-sqlite-pg"):
            return None
        env = self._env(world, "dst", folder)
        if needs_client and "DUCKDB_PATH" not in env:
            return None
        command = [self.binary, "run", *stream, *to, "--mode", "full-refresh"]
        note = "without the primary key" if case == "A-full" else ""
        return Job(command, same, "dst", folder, env, note=note, sized=needs_client)

    def story(self, variant, table, world):
        if variant != "overwrite":
            return None
        database = "story_sling"
        command = [
            self.binary, "run", "--src-conn", "SRC", "--src-stream", f"public.{table}",
            "--tgt-conn", "DST", "--tgt-object", "public.lineitem", "--mode", "incremental",
            "--primary-key", ",".join(data.KEY), "--update-key", data.CURSOR,
        ]  # fmt: skip
        env = self._env(world, database, world.out)
        return Job(command, lambda: world.check.table(table, database, "lineitem"), database, env=env)


class Dlt:
    """dlt with its fast way of reading, Arrow tables made from the driver's rows."""

    name = "dlt"

    def __init__(self, python):
        self.python = python

    def version(self, world):
        return _version(self.python, "dlt")

    def _job(self, world, label, what, database, folder, check):
        home = f"{world.out}/dlt-home-{label}"
        request = {
            "source": world.postgres.database("src"), "destination": world.postgres.database(database),
            "out": folder, "pipeline": label.replace("-", "_"), **what,
        }  # fmt: skip
        env = {
            "DLT_DATA_DIR": home, "RUNTIME__DLTHUB_TELEMETRY": "false", "RUNTIME__LOG_LEVEL": "ERROR",
        }  # fmt: skip
        command = [self.python, f"{HERE}/dlt_mover.py", json.dumps(request)]
        return Job(
            command, check, database, folder, env,
            before=lambda: shutil.rmtree(home, ignore_errors=True),
        )  # fmt: skip

    def job(self, case, world):
        folder, table, check = f"{world.out}/dlt-{case}", world.table, world.check
        what = {"table": table, "to": "postgres", "mode": "replace"}
        same = lambda: check.table(table, "dst", "bench.lineitem")
        if case == "B":
            what["to"] = "duckdb"
            same = lambda: check.duckdb(
                table, f"{folder}/lineitem.duckdb", "bench.lineitem", self.python
            )
        elif case == "C-snappy":
            what["to"] = "parquet"
            same = lambda: check.parquet(table, f"{folder}/bench/lineitem/*.parquet")
        elif case == "F-sqlite-pg":
            what["file"] = data.sqlite(world.postgres, world.rows, world.files())
        elif case != "A-full":
            return None
        job = self._job(world, case, what, "dst", folder, same)
        job.note = "without the primary key" if case == "A-full" else ""
        job.sized = what["to"] != "postgres"
        return job

    def story(self, variant, table, world):
        if variant != "overwrite":
            return None
        what = {"table": table, "to": "postgres", "mode": "merge", "key": data.KEY, "cursor": data.CURSOR}
        check = lambda: world.check.table(table, "story_dlt", "bench.lineitem")
        return self._job(world, table, what, "story_dlt", f"{world.out}/dlt-story", check)


class Ingestr:
    """ingestr, where its program is found on the path."""

    name = "ingestr"
    env = {"DISABLE_TELEMETRY": "true", "INGESTR_DISABLE_TELEMETRY": "true"}

    def __init__(self, binary):
        self.binary = binary

    def version(self, world):
        import subprocess

        done = subprocess.run([self.binary, "--version"], capture_output=True, text=True, check=False)
        return done.stdout.strip() or "?"

    def _command(self, world, table, to, into, *more):
        source = world.postgres.database("src") + "?sslmode=disable"
        return [
            self.binary, "ingest", "--yes", "--source-uri", source, "--source-table",
            f"public.{table}", "--dest-uri", to, "--dest-table", into, *more,
        ]  # fmt: skip

    def job(self, case, world):
        folder, table, check = f"{world.out}/ingestr-{case}", world.table, world.check
        if case == "A-full":
            to = world.postgres.database("dst") + "?sslmode=disable"
            command = self._command(world, table, to, "public.lineitem")
            same = lambda: check.table(table, "dst", "lineitem")
            return Job(command, same, "dst", env=self.env, note="without the primary key")
        if case == "B":
            file = f"{folder}/lineitem.duckdb"
            command = self._command(world, table, f"duckdb:///{file}", "main.lineitem")
            return Job(command, lambda: check.duckdb(table, file, "lineitem"), path=folder, env=self.env)
        return None

    def story(self, variant, table, world):
        if variant != "overwrite":
            return None
        keys = [word for column in data.KEY for word in ("--primary-key", column)]
        command = self._command(
            world, table, world.postgres.database("story_ingestr") + "?sslmode=disable",
            "public.lineitem", "--incremental-strategy", "merge", "--incremental-key", data.CURSOR,
            *keys,
        )  # fmt: skip
        check = lambda: world.check.table(table, "story_ingestr", "lineitem")
        return Job(command, check, "story_ingestr", env=self.env)


def _version(python, package):
    import subprocess

    code = f"from importlib.metadata import version; print(version({package!r}))"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "?"


if __name__ == "__main__":
    sys.exit("run bench/run")
