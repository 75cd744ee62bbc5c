#!/usr/bin/env python3
"""Replays a recorded read of an Airbyte source into SQLite, PostgreSQL and Parquet.

The recording (100,000 records of source-faker, 61 MB) is printed by `zcat`, so what is measured is
what highwater does: reading lines, parsing, writing, committing. Where PyAirbyte is installed (the
test command puts it below target/sdk), it replays the same into DuckDB.

    bench/airbyte_replay.py [--recording FILE.jsonl.gz] [--highwater target/release/highwater]

CPU seconds are those of highwater and what it starts, without those of `zcat`, which are measured
apart. PostgreSQL's own work is not in them ("client"). Needs Python's standard library, and a
PostgreSQL that it can start. Exits with 1 when rows are missing or values differ.
"""

import argparse
import gzip
import json
import os
import resource
import shutil
import sqlite3
import stat
import subprocess
import sys
import tempfile
import time

from suite.postgres import Postgres

HERE = os.path.dirname(os.path.abspath(__file__))
RECORDING = os.path.join(HERE, "../../shared/data/faker_users_100k.jsonl.gz")
TEXT = {"type": "string"}
TIME = {"type": "string", "format": "date-time", "airbyte_type": "timestamp_with_timezone"}
STREAM = {
    "name": "users",
    "json_schema": {
        "type": "object",
        "properties": {
            "id": {"type": "integer"},
            "created_at": TIME,
            "updated_at": TIME,
            "name": TEXT,
            "title": TEXT,
            "age": {"type": "integer"},
            "email": TEXT,
            "telephone": TEXT,
            "gender": TEXT,
            "language": TEXT,
            "academic_degree": TEXT,
            "nationality": TEXT,
            "occupation": TEXT,
            "height": TEXT,
            "blood_type": TEXT,
            "weight": {"type": "integer"},
            "address": {"type": "object"},
        },
    },
    "supported_sync_modes": ["full_refresh", "incremental"],
    "source_defined_cursor": True,
    "default_cursor_field": ["updated_at"],
    "source_defined_primary_key": [["id"]],
}
CONNECTOR = """#!/bin/sh
case "$1" in
spec) echo '{"type":"SPEC","spec":{"connectionSpecification":{"type":"object","properties":{}}}}' ;;
check) echo '{"type":"CONNECTION_STATUS","connectionStatus":{"status":"SUCCEEDED"}}' ;;
discover) cat "$(dirname "$0")/catalog.json" ;;
read) exec zcat "$(dirname "$0")/recording.gz" ;;
esac
"""
PEER = """
import pathlib, sys
import airbyte as ab
from airbyte.caches import DuckDBCache
source = ab.get_source("source-replay", config={}, local_executable=pathlib.Path(sys.argv[1]), streams="*")
print(sum(len(r) for r in source.read(cache=DuckDBCache(db_path=sys.argv[2]), force_full_refresh=True).values()))
"""


def connector(folder, recording):
    """A source that prints the recording."""
    os.symlink(os.path.abspath(recording), f"{folder}/recording.gz")
    with open(f"{folder}/catalog.json", "w", encoding="utf-8") as out:
        json.dump({"type": "CATALOG", "catalog": {"streams": [STREAM]}}, out)
        out.write("\n")
    path = f"{folder}/source-replay"
    with open(path, "w", encoding="utf-8") as out:
        out.write(CONNECTOR)
    os.chmod(path, os.stat(path).st_mode | stat.S_IXUSR)
    return path


def config(folder, source, name, path, spec, mode):
    file = f"{folder}/{name}.yml"
    with open(file, "w", encoding="utf-8") as out:
        out.write(
            f"kind: source\nspec:\n  name: replay\n  registry: airbyte\n  path: {source}\n"
            f"  tables: [users]\n  destinations: [{name}]\n  spec: {{}}\n---\n"
            f"kind: destination\nspec:\n  name: {name}\n  path: {path}\n  write_mode: {mode}\n"
            f"  spec: {json.dumps(spec)}\n"
        )
    return file


def measure(label, command, **options):
    """Runs a command; returns wall seconds, CPU seconds of it and its children, and its peak MiB."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.monotonic()
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, **options)
        peak = 0
        while process.poll() is None:
            peak = max(peak, peak_kib(process.pid))
            time.sleep(0.002)
        wall = time.monotonic() - started
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        output.seek(0)
        if process.returncode != 0:
            sys.exit(f"{label}: status {process.returncode}\n{output.read()}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"{label:24} {wall:7.2f} s wall {cpu:7.2f} s CPU {peak / 1024:6.0f} MiB", end="")
    return cpu


def peak_kib(pid):
    """The peak memory of one process so far, without those it has started."""
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8") as status:
            return next((int(line.split()[1]) for line in status if line.startswith("VmHWM:")), 0)
    except OSError:
        return 0


def records(recording):
    with gzip.open(recording, "rt", encoding="utf-8") as lines:
        for line in lines:
            if '"RECORD"' in line:
                yield json.loads(line)["record"]["data"]


def compare(path, recording):
    """Whether the SQLite table has exactly the records."""
    connection = sqlite3.connect(path)
    columns = [c for c in STREAM["json_schema"]["properties"] if "_at" not in c and c != "address"]
    query = f"SELECT {', '.join(columns)} FROM users ORDER BY id"
    differ = count = 0
    found = connection.execute(query)
    for record in sorted(records(recording), key=lambda record: record["id"]):
        count += 1
        row = found.fetchone()
        differ += row is None or list(row) != [record.get(column) for column in columns]
    extra = len(found.fetchall())
    print(f"records: {count}; rows that are missing or differ: {differ}; extra: {extra}")
    return differ == extra == 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recording", default=RECORDING)
    parser.add_argument("--highwater", default="target/release/highwater")
    parser.add_argument("--pyairbyte", default="target/sdk/pyairbyte/bin/python")
    parser.add_argument("--mode", default="append")
    arguments = parser.parse_args()
    highwater = os.path.abspath(arguments.highwater)
    folder = tempfile.mkdtemp(prefix="highwater-replay-")
    os.chmod(folder, 0o755)
    postgres = None
    try:
        source = connector(folder, arguments.recording)
        postgres = Postgres(folder)
        zcat = measure("zcat alone", ["sh", "-c", f"zcat {folder}/recording.gz > /dev/null"])
        print()
        targets = [
            ("sqlite", "sqlite", {"connection_string": f"{folder}/out.db"}),
            ("postgresql", "postgresql", {"connection_string": postgres.url}),
            ("parquet", "files", {"path": f"{folder}/lake/{{{{TABLE}}}}/{{{{UUID}}}}.parquet", "format": "parquet"}),
        ]
        for name, path, spec in targets:
            file = config(folder, source, name, path, spec, arguments.mode)
            cpu = measure(f"highwater -> {name}", [highwater, "sync", file], cwd=folder)
            print(f"   {cpu - zcat:5.2f} s CPU without zcat")
        equal = compare(f"{folder}/out.db", arguments.recording)
        if os.path.exists(arguments.pyairbyte):
            script = f"{folder}/peer.py"
            with open(script, "w", encoding="utf-8") as out:
                out.write(PEER)
            environment = {**os.environ, "AIRBYTE_OFFLINE_MODE": "1", "DO_NOT_TRACK": "1"}
            python = os.path.abspath(arguments.pyairbyte)
            command = [python, script, source, f"{folder}/peer.duckdb"]
            cpu = measure("PyAirbyte -> DuckDB", command, env=environment, cwd=folder)
            print(f"   {cpu - zcat:5.2f} s CPU without zcat")
        else:
            print("PyAirbyte is not installed: skipped (scripts/install-sdks)")
    finally:
        if postgres:
            postgres.stop()
        shutil.rmtree(folder, ignore_errors=True)
    sys.exit(0 if equal else 1)


if __name__ == "__main__":
    main()
