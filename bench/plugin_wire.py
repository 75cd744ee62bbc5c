#!/usr/bin/env python3
"""What the wire costs: PostgreSQL to SQLite in one process, and with a plugin at both ends.

The plugins are highwater itself (`highwater-postgresql serve`, `highwater-sqlite serve`), run by
`highwater sync` through `registry: local`. Both ways copy the same table with the same settings;
they take turns, and the least CPU of each way is compared. Prints wall and CPU seconds (of all
processes of highwater together, the server of PostgreSQL apart), peak memory of the largest process
and the ratio. Exits with 1 when a value differs between the two copies.

    bench/plugin_wire.py [--rows 1000000] [--rounds 3] [--mode append]
                         [--highwater target/release/highwater] [--keep]

Starts a PostgreSQL of its own on a free port and removes it afterwards. Needs Python's standard
library only.
"""

import argparse
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time

from round_trip import make_source
from suite.postgres import Postgres

CONFIG = """\
kind: source
spec:
  name: wire
  {source}
  tables: [{table}]
  destinations: [there]
  spec:
    connection_string: {url}
---
kind: destination
spec:
  name: there
  {destination}
  write_mode: {mode}
  metadata_columns: cloudquery
  spec:
    connection_string: {file}
"""


def write(path, text):
    with open(path, "w") as file:
        file.write(text)
    return path


def measure(command):
    """Runs a command; returns wall seconds, CPU seconds of it and its children, peak MiB."""
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.monotonic() - started
    if status != 0:
        sys.exit(f"{command}: status {os.waitstatus_to_exitcode(status)}\n{output}")
    return wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def same(first, second):
    connection = sqlite3.connect(first)
    connection.execute("ATTACH ? AS other", (second,))
    columns = [row[1] for row in connection.execute("PRAGMA table_info(orders)")]
    columns = ", ".join(column for column in columns if column != "_cq_sync_time")
    left, right = f"SELECT {columns} FROM main.orders", f"SELECT {columns} FROM other.orders"
    ask = lambda query: connection.execute(query).fetchone()[0]
    rows = ask("SELECT count(*) FROM main.orders"), ask("SELECT count(*) FROM other.orders")
    differ = ask(f"SELECT count(*) FROM ({left} EXCEPT {right})")
    differ += ask(f"SELECT count(*) FROM ({right} EXCEPT {left})")
    print(f"rows at both ends: {rows[0]} and {rows[1]}; rows that differ: {differ}")
    return rows[0] == rows[1] and differ == 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--mode", default="append", choices=["append", "overwrite"])
    parser.add_argument("--keep", action="store_true", help="keep the folder and the server")
    parser.add_argument("--highwater", default="target/release/highwater")
    arguments = parser.parse_args()
    highwater = os.path.abspath(arguments.highwater)
    folder = tempfile.mkdtemp(prefix="highwater-wire-")
    os.chmod(folder, 0o755)
    make_source(f"{folder}/shop.db", arguments.rows)
    postgres = Postgres(folder)
    ways = {}
    try:
        fill = [highwater, "sync", f"{folder}/shop.db", postgres.url, "--table", "orders"]
        measure([*fill, "--primary-key", "id", "--write-mode", "overwrite"])
        plugins = {}
        for kind in ["postgresql", "sqlite"]:
            os.symlink(highwater, f"{folder}/highwater-{kind}")
            plugins[kind] = f"registry: local\n  path: {folder}/highwater-{kind}"
        for way in ["in process", "plugins"]:
            kinds = {k: p if way == "plugins" else f"path: {k}" for k, p in plugins.items()}
            file = f"{folder}/{way.replace(' ', '-')}.db"
            text = CONFIG.format(
                source=kinds["postgresql"],
                destination=kinds["sqlite"],
                url=postgres.url,
                table="orders" if way == "plugins" else "{name: orders, primary_key: [id]}",
                file=file,
                mode=arguments.mode,
            )
            ways[way] = file, write(f"{folder}/{way.replace(' ', '-')}.yml", text), []
        for _ in range(arguments.rounds):
            for way, (file, config, results) in ways.items():
                for name in os.listdir(folder):
                    if name.startswith(os.path.basename(file)):
                        os.remove(f"{folder}/{name}")
                results.append(measure([highwater, "sync", config]))
        for way, (_, _, results) in ways.items():
            wall, cpu = min(r[0] for r in results), min(r[1] for r in results)
            print(
                f"{way:12} {wall:7.2f} s wall {cpu:7.2f} s CPU"
                f" {arguments.rows / wall:12,.0f} rows/s {max(r[2] for r in results):6.0f} MiB"
            )
        cpu = {way: min(r[1] for r in results) for way, (_, _, results) in ways.items()}
        print(f"the wire costs {cpu['plugins'] / cpu['in process']:.2f} times the CPU in process")
        equal = same(ways["in process"][0], ways["plugins"][0])
    finally:
        if not arguments.keep:
            postgres.stop()
        if not arguments.keep:
            shutil.rmtree(folder, ignore_errors=True)
    sys.exit(0 if equal else 1)


if __name__ == "__main__":
    main()
