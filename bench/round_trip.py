#!/usr/bin/env python3
"""Copies a table SQLite -> PostgreSQL -> Parquet -> SQLite and compares every value.

Prints wall and CPU seconds, peak memory and rows per second of each step, then the time of a
second sync of the unchanged source. Exits with 1 when a value differs.

    bench/round_trip.py [--rows 1000000] [--highwater target/release/highwater] [--keep]

Starts a PostgreSQL of its own (initdb as the user `postgres` when run as root) on a free port and
removes it afterwards. Needs Python's standard library only.
"""

import argparse
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time

from suite.postgres import Postgres


def make_source(path, rows):
    """Orders with integers, exact decimals, text with quotes and emoji, times, NULLs."""
    chance = random.Random(7)
    connection = sqlite3.connect(path)
    connection.execute(
        "CREATE TABLE orders (id INTEGER PRIMARY KEY, customer TEXT NOT NULL, amount DECIMAL_TEXT(18,4),"
        " weight DOUBLE, paid BOOLEAN NOT NULL, note TEXT, photo BLOB, updated_at TIMESTAMP NOT NULL)"
    )

    def row(i):
        return (
            i,
            f"customer {chance.randrange(50_000)}",
            None if i % 97 == 0 else f"{chance.randrange(-(10**13), 10**13)}.{i % 10000:04d}",
            None if i % 89 == 0 else chance.uniform(-1e9, 1e9),
            i % 2,
            [None, "", 'a "quoted", text\nin two lines', "snow \u2603 and \U0001f680"][i % 4],
            None if i % 5 else i.to_bytes(8, "big"),
            f"2026-{1 + i % 12:02d}-{1 + i % 28:02d} {i % 24:02d}:{i % 60:02d}:00.{i % 1000000:06d}",
        )

    connection.executemany("INSERT INTO orders VALUES (?,?,?,?,?,?,?,?)", map(row, range(1, rows + 1)))
    connection.commit()
    connection.close()


def measure(label, rows, command):
    """Runs a command and prints what it cost; returns its standard output."""
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    output, errors = process.stdout.read(), process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.monotonic() - started
    if status != 0:
        sys.exit(f"{label}: status {os.waitstatus_to_exitcode(status)}\n{output}\n{errors}")
    cpu = usage.ru_utime + usage.ru_stime
    print(
        f"{label:24} {wall:7.2f} s wall {cpu:7.2f} s CPU (client)"
        f" {rows / wall:12,.0f} rows/s {usage.ru_maxrss / 1024:6.0f} MiB"
    )
    return output


def compare(first, second):
    connection = sqlite3.connect(first)
    connection.execute("ATTACH ? AS other", (second,))
    left, right = "SELECT * FROM main.orders", "SELECT * FROM other.orders"
    count = "SELECT count(*) FROM"
    numbers = [
        connection.execute(f"{count} main.orders").fetchone()[0],
        connection.execute(f"{count} other.orders").fetchone()[0],
        connection.execute(f"{count} ({left} EXCEPT {right})").fetchone()[0],
        connection.execute(f"{count} ({right} EXCEPT {left})").fetchone()[0],
    ]
    print("rows at both ends: {} and {}; missing: {}; extra: {}".format(*numbers))
    return numbers[0] == numbers[1] and numbers[2] == numbers[3] == 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--highwater", default="target/release/highwater")
    parser.add_argument("--keep", action="store_true", help="keep the folder with the data")
    arguments = parser.parse_args()
    highwater = os.path.abspath(arguments.highwater)
    folder = tempfile.mkdtemp(prefix="highwater-round-trip-")
    os.chmod(folder, 0o755)
    source, back = f"{folder}/shop.db", f"{folder}/back.db"
    make_source(source, arguments.rows)
    postgres = Postgres(folder)
    try:
        incremental = ["--table", "orders", "--cursor", "updated_at", "--primary-key", "id"]
        first = [highwater, "sync", source, postgres.url, *incremental, "--write-mode", "overwrite"]
        measure("SQLite -> PostgreSQL", arguments.rows, first)
        print(measure("the same again", arguments.rows, first).strip())
        parquet = f"{folder}/lake/{{{{TABLE}}}}/{{{{UUID}}}}.parquet"
        measure(
            "PostgreSQL -> Parquet",
            arguments.rows,
            [highwater, "sync", postgres.url, parquet, "--table", "orders", "--write-mode", "append"],
        )
        measure(
            "Parquet -> SQLite",
            arguments.rows,
            [highwater, "sync", f"{folder}/lake/orders/*.parquet", back, "--write-mode", "append"],
        )
        equal = compare(source, back)
    finally:
        postgres.stop()
        if not arguments.keep:
            shutil.rmtree(folder, ignore_errors=True)
    sys.exit(0 if equal else 1)


if __name__ == "__main__":
    main()
